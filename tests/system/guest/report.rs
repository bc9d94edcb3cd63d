//! The report on the console.

use std::{
    fmt::Debug,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
};

use anyhow::{Result, ensure};
use mailflow_kernel::KernelVersion;
use mailflow_test_support::guest::Line;

/// Writes what is found out, as it is found out.
pub(crate) struct Report {
    /// The kernel that runs.
    pub(crate) version: KernelVersion,
}

impl Report {
    /// Begins with the kernel's name.
    pub(crate) fn begin() -> Result<Self> {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        println!("{}", Line::Kernel(release.trim().to_owned()));
        Ok(Self { version: KernelVersion::running()? })
    }

    /// Runs a check; whatever it comes to, the next one is run too.
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

    /// Names what is not checked on this kernel.
    pub(crate) fn absent(&mut self, what: impl Into<String>, why: impl Into<String>) {
        println!("{}", Line::Absent { what: what.into(), why: why.into() });
    }

    /// Says how this kernel does something.
    pub(crate) fn fact(&mut self, row: &str, cell: impl Into<String>) {
        println!("{}", Line::Fact { row: row.to_owned(), cell: cell.into() });
    }

    /// Says that a program was loaded.
    pub(crate) fn loaded(&mut self, program: &str, instructions: Option<u32>) {
        println!("{}", Line::Loaded { program: program.to_owned(), instructions });
    }

    /// Ends it.
    pub(crate) fn end(self) {
        println!("{}", Line::End);
    }
}

/// Fails unless two values are the same.
pub(crate) fn same<T: PartialEq + Debug>(what: &str, seen: T, expected: T) -> Result<()> {
    ensure!(seen == expected, "{what}: {seen:?} instead of {expected:?}");
    Ok(())
}
