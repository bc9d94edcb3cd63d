//! The kernels that the program is for.

/// A line of kernels, and where Debian has it.
pub(super) struct Series {
    /// The column in `docs/understand/kernels.md`.
    pub(super) name: &'static str,
    /// What its versions begin with.
    pub(super) prefix: &'static str,
    /// Suites to look in: the newest kernel of all of them is taken.
    pub(super) suites: &'static [&'static str],
    /// Whether CI fails without it.
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
