//! Helpers of the unit tests.

use std::process::Command;

use crate::{
    host::kernel_version::KernelVersion,
    options::{LoadOptions, Programs, Role},
    program::{load::Loaded, object::OBJECT},
};
use mailflow_engine::settings::Timeouts;

/// Loads the program as on a kernel of this version, as far as attaching goes.
pub(crate) fn load_as_on(version: KernelVersion) -> Loaded {
    let options = LoadOptions {
        flows: 8,
        flows_per_source: 8,
        overflow: 8,
        half_open_percent: 100,
        ipv6_prefix: 64,
        local_only: false,
        external_clock: true,
        timeouts: Timeouts::default(),
        programs: Programs::Roles([Role::Lan, Role::Host].into()),
        kernel_log: None,
        hash_keys: None,
    };
    let mut loaded = Loaded::new(OBJECT, &options, None).unwrap();
    loaded.version = version;
    loaded
}

/// Runs a test on a thread in a network namespace of its own.
pub(crate) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let inside = || {
        // SAFETY: moves this thread alone into a network namespace of its own.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "this test needs root");
        test();
    };
    std::thread::spawn(inside).join().unwrap();
}

/// Runs a command in the thread's namespace.
pub(crate) fn run(line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the number of filters of the loopback.
pub(crate) fn filters() -> usize {
    let count = |side| run(&format!("tc filter show dev lo {side}")).matches("handle 0x").count();
    count("ingress") + count("egress")
}
