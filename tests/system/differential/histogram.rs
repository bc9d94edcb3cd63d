//! Histogram of frames and outcomes.

use std::{collections::BTreeMap, fmt};

use mailflow_common::Reason;

/// Number of each outcome, and of each code path that led to a flow.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    /// Frames that the program processed.
    pub(crate) frames: usize,
    reasons: BTreeMap<&'static str, usize>,
    paths: BTreeMap<&'static str, usize>,
    refused: usize,
}

/// Code paths through parser and counter that lead to a flow and that BPF_PROG_TEST_RUN can reach.
const PATHS: [&str; 50] = [
    "as many extensions as are followed",
    "atomic fragment",
    "authentication header",
    "destination options",
    "direction by port or hook",
    "direction by syn",
    "direction by syn-ack",
    "direction by the flow there is",
    "direction by the lower port",
    "down",
    "ethernet",
    "first fragment",
    "fragment header",
    "fragments that waited",
    "hip",
    "hop-by-hop options",
    "ipv4",
    "ipv4 with options",
    "ipv6",
    "ipv6 with extensions",
    "known flow",
    "known flow of another zone",
    "later fragment",
    "merged, segments not said",
    "merged, segments said",
    "mobility header",
    "new flow",
    "new flow after silence",
    "new flow by its syn",
    "no link header",
    "no payload",
    "no tag",
    "no total length",
    "one packet",
    "one tag",
    "padding behind the packet",
    "payload",
    "pppoe",
    "routing header",
    "shim6",
    "tcp",
    "tcp with options",
    "two tags",
    "udp",
    "up",
    "tc",
    "xdp",
    "xdp in several buffers",
    "tc without ethernet",
    "frame of more than a page",
];

impl Histogram {
    /// Counts one frame: its code paths, or its reason.
    pub(crate) fn note(
        &mut self,
        outcome: Result<Vec<&'static str>, Reason>,
        hook: &'static str,
        length: usize,
    ) {
        self.frames += 1;
        match outcome {
            Ok(path) => {
                let large = (length > 4096).then_some("frame of more than a page");
                for name in path.into_iter().chain([hook]).chain(large) {
                    *self.paths.entry(name).or_default() += 1;
                }
            }
            Err(reason) => *self.reasons.entry(reason.name()).or_default() += 1,
        }
    }

    /// Counts one frame that the kernel did not accept.
    pub(crate) fn refuse(&mut self) {
        self.refused += 1;
    }

    /// Adds the numbers of another histogram.
    pub(crate) fn add(&mut self, other: &Self) {
        self.frames += other.frames;
        self.refused += other.refused;
        for (mine, others) in [(&mut self.reasons, &other.reasons), (&mut self.paths, &other.paths)] {
            for (name, count) in others {
                *mine.entry(name).or_default() += count;
            }
        }
    }

    /// Returns the outcomes that occurred fewer times than this.
    pub(crate) fn rare(&self, times: usize) -> Vec<(&'static str, usize)> {
        let reasons = Reason::ALL.into_iter().map(|reason| (reason.name(), self.reasons.get(reason.name())));
        let paths = PATHS.into_iter().map(|path| (path, self.paths.get(path)));
        let met = reasons.chain(paths).map(|(name, count)| (name, count.copied().unwrap_or(0)));
        met.filter(|(_, count)| *count < times).collect()
    }
}

impl fmt::Display for Histogram {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{:>9} frames, and {} that the kernel refused", self.frames, self.refused)?;
        writeln!(out, "{:>9} not counted:", self.reasons.values().sum::<usize>())?;
        for (name, count) in &self.reasons {
            writeln!(out, "{count:>9}   {name}")?;
        }
        let counted = self.frames - self.reasons.values().sum::<usize>();
        write!(out, "{counted:>9} counted, by way:")?;
        for (name, count) in &self.paths {
            write!(out, "\n{count:>9}   {name}")?;
        }
        Ok(())
    }
}
