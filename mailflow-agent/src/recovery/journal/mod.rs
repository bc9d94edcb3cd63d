//! The write-ahead journal and the history: their records, their files, and the offsets of output files.

pub(crate) mod file;
pub(crate) mod history;
pub(crate) mod output_offsets;
pub(crate) mod record;
