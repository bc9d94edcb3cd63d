//! Log messages of the BPF program (`--kernel-log`).

use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use log::{Level, Log, Metadata, Record};
use tracing::{debug, error, info, trace, warn};

use crate::options::LogLevel;

/// Name of the ring buffer.
const LOG_MAP: &str = "AYA_LOGS";
/// Size of the ring buffer: some hundred messages.
const LOG_BUFFER_SIZE: u32 = 128 << 10;

/// Reader of the log messages.
pub(crate) struct KernelLog(Option<EbpfLogger<Tracing>>);

impl KernelLog {
    /// Sets the level of the program. Without one the verifier removes its logging code, and the buffer has
    /// the smallest size.
    pub(crate) fn configure<'a>(loader: &mut EbpfLoader<'a>, level: Option<LogLevel>, number: &'a u8) {
        let size = if level.is_some() { LOG_BUFFER_SIZE } else { page_size() };
        loader.override_global(aya_log::LEVEL, number, true).map_max_entries(LOG_MAP, size);
    }

    /// Returns the number of a level in the program; 0 for none.
    pub(crate) fn number(level: Option<LogLevel>) -> u8 {
        match level {
            None => 0,
            Some(LogLevel::Error) => 1,
            Some(LogLevel::Warn) => 2,
            Some(LogLevel::Info) => 3,
            Some(LogLevel::Debug) => 4,
            Some(LogLevel::Trace) => 5,
        }
    }

    /// Opens the ring buffer. An error does not stop counting.
    pub(crate) fn open(ebpf: &mut Ebpf, level: Option<LogLevel>) -> Self {
        if level.is_none() {
            return Self(None);
        }
        let logger = EbpfLogger::init_with_logger(ebpf, Tracing);
        Self(logger.inspect_err(|error| warn!(%error, "what the program says cannot be read")).ok())
    }

    /// Logs the new messages.
    pub(crate) fn flush(&mut self) {
        if let Some(logger) = &mut self.0 {
            logger.flush();
        }
    }
}

/// Smallest size of a ring buffer: a page.
fn page_size() -> u32 {
    // SAFETY: takes a number and touches no memory of ours.
    u32::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4_096)
}

/// Forwards a message with its level, to the target `kernel`.
struct Tracing;

impl Log for Tracing {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let message = record.args();
        match record.level() {
            Level::Error => error!(target: "kernel", "kernel: {message}"),
            Level::Warn => warn!(target: "kernel", "kernel: {message}"),
            Level::Info => info!(target: "kernel", "kernel: {message}"),
            Level::Debug => debug!(target: "kernel", "kernel: {message}"),
            Level::Trace => trace!(target: "kernel", "kernel: {message}"),
        }
    }

    fn flush(&self) {}
}
