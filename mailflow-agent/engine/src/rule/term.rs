//! What a rule looks at: the terms of its condition.

use std::time::Duration;

use super::thresholds::Thresholds;
use crate::flow::{class::FlowClass, quantity::Quantity};

/// One thing that a rule looks at: a number over a window, and when it is too high.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// What is measured.
    pub measure: Measure,
    /// Over which time.
    pub window: Window,
    /// When it is too much, for whom no other thresholds are named.
    pub thresholds: Thresholds,
}

/// A window of event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its length.
    pub length: Duration,
    /// How it moves.
    pub kind: WindowKind,
}

/// How a window moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WindowKind {
    /// (t - length, t] for every t.
    Sliding,
    /// Fixed windows [n * length, (n + 1) * length), for comparison with other systems.
    Tumbling,
}

/// What a term measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Measure {
    /// Flows of a kind.
    Count(FlowClass),
    /// A quantity, summed over flows. Open flows count with what they have so far.
    Sum(Quantity),
    /// Distinct ends of flows of a kind.
    Distinct {
        /// Which end.
        of: Endpoint,
        /// Of which flows.
        among: FlowClass,
    },
    /// Flows of one kind for each of another, at most one. It takes part in how an incident begins; its
    /// end follows from the other terms, or, where there are none, from the flows of the first kind.
    Ratio {
        /// Numerator.
        of: FlowClass,
        /// Denominator.
        to: FlowClass,
    },
    /// Ends that the subject was seen with for the first time within the window.
    FirstSeen {
        /// Which end.
        of: Endpoint,
        /// What was not seen for this long is new again.
        horizon: Duration,
        /// Nothing is new before the rule has watched for this long.
        learning: Duration,
    },
}

impl Measure {
    /// The name in configuration, alerts and metrics.
    pub fn name(&self) -> String {
        match self {
            Measure::Count(FlowClass::Flows) => "count".to_owned(),
            Measure::Count(kind) => format!("count {}", kind.name()),
            Measure::Sum(quantity) => format!("sum {}", quantity.name()),
            Measure::Distinct { of, among: FlowClass::Flows } => format!("distinct {}", of.name()),
            Measure::Distinct { of, among } => format!("distinct {} among {}", of.name(), among.name()),
            Measure::Ratio { of, to } => format!("ratio {}/{}", of.name(), to.name()),
            Measure::FirstSeen { of, .. } => format!("first_seen {}", of.name()),
        }
    }

    /// What its values and thresholds are divided by to be shown.
    pub const fn scale(&self) -> u64 {
        match self {
            Measure::Ratio { .. } => Thresholds::PARTS,
            _ => 1,
        }
    }
}

/// Returns the unit of a term's values by the term's name, in the plural; nothing for a ratio, which has none.
pub fn unit(term: &str) -> &'static str {
    let mut words = term.split(' ');
    match (words.next(), words.next()) {
        (Some("count"), _) => "flows",
        (Some("sum"), Some("messages")) => "messages",
        (Some("sum"), Some("packets_up" | "packets_down")) => "packets",
        (Some("sum"), _) => "bytes",
        (Some("distinct" | "first_seen"), Some("source")) => "sources",
        (Some("distinct" | "first_seen"), Some("destination")) => "destinations",
        (Some("distinct" | "first_seen"), Some("port")) => "ports",
        _ => "",
    }
}

/// An end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// The client, IPv6 by prefix.
    Source,
    /// The server's address.
    Destination,
    /// The server's port.
    Port,
}

impl Endpoint {
    /// Every one.
    pub const ALL: [Endpoint; 3] = [Endpoint::Source, Endpoint::Destination, Endpoint::Port];

    /// The name in configuration, alerts and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Endpoint::Source => "source",
            Endpoint::Destination => "destination",
            Endpoint::Port => "port",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_measure_has_a_unit_by_its_name_but_ratios() {
        for quantity in Quantity::ALL {
            let expected = match quantity {
                Quantity::Messages => "messages",
                Quantity::PacketsUp | Quantity::PacketsDown => "packets",
                _ => "bytes",
            };
            assert_eq!(unit(&Measure::Sum(quantity).name()), expected);
        }
        for of in Endpoint::ALL {
            let expected = format!("{}s", of.name());
            let seen = Measure::FirstSeen { of, horizon: Duration::ZERO, learning: Duration::ZERO };
            assert_eq!(unit(&seen.name()), expected);
            for among in FlowClass::ALL {
                assert_eq!(unit(&Measure::Distinct { of, among }.name()), expected);
            }
        }
        for kind in FlowClass::ALL {
            assert_eq!(unit(&Measure::Count(kind).name()), "flows");
            assert_eq!(unit(&Measure::Ratio { of: kind, to: FlowClass::Flows }.name()), "");
        }
        assert_eq!((unit("count #2"), unit("sum payload_up #2"), unit("none")), ("flows", "bytes", ""));
    }
}
