//! Write-ahead journal and input log: records, files, and offsets of output files.

pub(crate) mod input_log;
pub(crate) mod output_offsets;
pub(crate) mod record;
pub(crate) mod record_file;
