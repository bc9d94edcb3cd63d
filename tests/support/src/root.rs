//! The refusal of suites to run without root.

/// Makes the test binary end at its start, with a clear message, if it does not run as root.
#[macro_export]
macro_rules! needs_root {
    () => {
        #[used]
        #[unsafe(link_section = ".init_array")]
        static NEEDS_ROOT: extern "C" fn() = $crate::root::check;
    };
}

/// Ends the process if it does not run as root. Runs before `main`.
pub extern "C" fn check() {
    // SAFETY: geteuid(2) has no arguments and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!(
            "error: this suite needs root, for network namespaces and BPF programs; run it by\n  \
             sudo --preserve-env=HOME env \"PATH=$PATH\" cargo xtask test NAME\n\
             Suites that need no root: cargo xtask check"
        );
        std::process::exit(1);
    }
}
