//! Report on the console.

use std::{
    fmt::Debug,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
};

use anyhow::{Result, ensure};
use mailflow_kernel::KernelVersion;
use mailflow_test_support::guest::Line;

/// Writer of results, one line each.
pub(crate) struct Report {
    /// Version of the running kernel.
    pub(crate) version: KernelVersion,
}

impl Report {
    /// Starts the report with the kernel's name.
    pub(crate) fn begin() -> Result<Self> {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        println!("{}", Line::Kernel(release.trim().to_owned()));
        Ok(Self { version: KernelVersion::running()? })
    }

    /// Runs a check. A failure does not stop the run.
    pub(crate) fn check(&mut self, name: impl Into<String>, check: impl FnOnce() -> Result<()>) {
        let name = name.into();
        let line = match catch_unwind(AssertUnwindSafe(check)) {
            Ok(Ok(())) => Line::Held(name),
            Ok(Err(error)) => Line::Failed { check: name, why: format!("{error:#}") },
            Err(panic) => {
                let why = panic.downcast_ref::<String>().cloned();
                Line::Failed { check: name, why: why.unwrap_or_else(|| "it panicked".to_owned()) }
            }
        };
        println!("{line}");
    }

    /// Reports a check that is skipped on this kernel.
    pub(crate) fn absent(&mut self, what: impl Into<String>, why: impl Into<String>) {
        println!("{}", Line::Absent { what: what.into(), why: why.into() });
    }

    /// Reports a property of this kernel.
    pub(crate) fn fact(&mut self, row: &str, cell: impl Into<String>) {
        println!("{}", Line::Fact { row: row.to_owned(), cell: cell.into() });
    }

    /// Reports a loaded program.
    pub(crate) fn loaded(&mut self, program: &str, instructions: Option<u32>) {
        println!("{}", Line::Loaded { program: program.to_owned(), instructions });
    }

    /// Ends the report.
    pub(crate) fn end(self) {
        println!("{}", Line::End);
    }
}

/// Fails unless two values are equal.
pub(crate) fn same<T: PartialEq + Debug>(what: &str, seen: T, expected: T) -> Result<()> {
    ensure!(seen == expected, "{what}: {seen:?} instead of {expected:?}");
    Ok(())
}
