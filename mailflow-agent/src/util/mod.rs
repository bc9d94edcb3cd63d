//! Helpers for files, sockets, signals and text, independent of mail and flows.

pub mod connection_limit;
pub mod disk;
pub mod error_chain;
pub mod gzip_reader;
pub mod signals;
pub mod terminal;
