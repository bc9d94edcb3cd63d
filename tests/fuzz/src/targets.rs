//! Fuzz targets: one for each parser of untrusted input. `cargo xtask fuzz` includes this file too.

/// Environment variable that selects the target.
pub(crate) const VARIABLE: &str = "MAILFLOW_FUZZ_TARGET";

/// Fuzz target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Frames,
    Pcap,
    Pcapng,
    FlowLog,
    Eve,
    ZeekJson,
    ZeekTsv,
    Csv,
    Lines,
    Netbox,
    Config,
    Web,
    Journal,
    State,
    Control,
    Http,
}

impl Target {
    /// Every target.
    pub(crate) const ALL: [Target; 16] = [
        Target::Frames,
        Target::Pcap,
        Target::Pcapng,
        Target::FlowLog,
        Target::Eve,
        Target::ZeekJson,
        Target::ZeekTsv,
        Target::Csv,
        Target::Lines,
        Target::Netbox,
        Target::Config,
        Target::Web,
        Target::Journal,
        Target::State,
        Target::Control,
        Target::Http,
    ];

    /// Returns the name of the target and of its corpus.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Target::Frames => "frames",
            Target::Pcap => "pcap",
            Target::Pcapng => "pcapng",
            Target::FlowLog => "flow_log",
            Target::Eve => "eve",
            Target::ZeekJson => "zeek_json",
            Target::ZeekTsv => "zeek_tsv",
            Target::Csv => "csv",
            Target::Lines => "lines",
            Target::Netbox => "netbox",
            Target::Config => "config",
            Target::Web => "web",
            Target::Journal => "journal",
            Target::State => "state",
            Target::Control => "control",
            Target::Http => "http",
        }
    }

    /// Returns the target with this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|target| target.name() == name)
    }
}
