//! Supported kernels.

/// Kernel series, with its location in Debian.
pub(super) struct Series {
    /// Column in `docs/understand/kernels.md`.
    pub(super) name: &'static str,
    /// Prefix of its versions.
    pub(super) prefix: &'static str,
    /// Suites to search: the newest kernel among them is used.
    pub(super) suites: &'static [&'static str],
    /// CI fails without this kernel.
    pub(super) required: bool,
}

pub(super) const SERIES: [Series; 4] = [
    Series { name: "5.10", prefix: "5.10.", suites: &["bullseye-security"], required: true },
    Series { name: "6.1", prefix: "6.1.", suites: &["bookworm-security"], required: true },
    Series {
        name: "6.12",
        prefix: "6.12.",
        suites: &["trixie-security", "bookworm-backports"],
        required: false,
    },
    Series { name: "newest", prefix: "", suites: &["sid", "trixie-backports"], required: true },
];
