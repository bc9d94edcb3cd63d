//! Helpers for files, sockets, signals and text that know nothing of mail or flows.

pub mod connection_limit;
pub mod disk;
pub mod error_chain;
pub mod gzip_reader;
pub mod signals;
pub mod terminal;
