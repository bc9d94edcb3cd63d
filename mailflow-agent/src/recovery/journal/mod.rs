//! The write-ahead journal and the history: their records, their files, and the offsets of output files.

pub(crate) mod input_log;
pub(crate) mod output_offsets;
pub(crate) mod record;
pub(crate) mod record_file;
