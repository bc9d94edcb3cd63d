//! Terms of a rule's condition.

use std::time::Duration;

use serde::Serialize;

use super::thresholds::Thresholds;
use crate::flow::{class::FlowClass, quantity::Quantity};

/// Term of a condition: a measure over a window, with thresholds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// Measure of the term.
    pub measure: Measure,
    /// Window of the term.
    pub window: Window,
    /// Thresholds of groups without an override.
    pub thresholds: Thresholds,
}

/// Window of event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Window {
    /// Length of the window.
    pub length: Duration,
    /// Kind of the window.
    pub kind: WindowKind,
}

/// Kind of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum WindowKind {
    /// Window (t - length, t] for every t.
    Sliding,
    /// Fixed windows [n * length, (n + 1) * length), for comparison with other systems.
    Tumbling,
}

/// Measure of a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Measure {
    /// Number of flows of a class.
    Count(FlowClass),
    /// Sum of a quantity over flows. Open flows count with their current value.
    Sum(Quantity),
    /// Number of distinct endpoints of flows of a class.
    Distinct {
        /// Endpoint to count.
        of: Endpoint,
        /// Class of the flows.
        among: FlowClass,
    },
    /// Ratio of flows of one class to flows of another, at most one. A ratio takes part in the start of an
    /// incident. The end depends on the other terms; without other terms, on the numerator.
    Ratio {
        /// Class of the numerator.
        of: FlowClass,
        /// Class of the denominator.
        to: FlowClass,
    },
    /// Number of endpoints that the group used for the first time within the window.
    FirstSeen {
        /// Endpoint to count.
        of: Endpoint,
        /// Duration without a flow after which an endpoint is new again.
        horizon: Duration,
        /// Learning period, in which no endpoint is new.
        learning: Duration,
    },
}

impl Measure {
    /// Returns the name in configuration, alerts and metrics.
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

    /// Returns the divisor of values and thresholds for display.
    pub const fn scale(&self) -> u64 {
        match self {
            Measure::Ratio { .. } => Thresholds::PARTS,
            _ => 1,
        }
    }
}

/// Returns the unit of a term by its name, in the plural; empty for a ratio.
pub fn unit(term: &str) -> &'static str {
    let mut words = term.split(' ');
    match (words.next(), words.next()) {
        (Some("count"), _) => "flows",
        (Some("sum"), Some(name)) => {
            let quantity = Quantity::ALL.into_iter().find(|quantity| quantity.name() == name);
            quantity.map_or("", Quantity::unit)
        }
        (Some("distinct" | "first_seen"), Some("source")) => "sources",
        (Some("distinct" | "first_seen"), Some("destination")) => "destinations",
        (Some("distinct" | "first_seen"), Some("port")) => "ports",
        _ => "",
    }
}

/// Endpoint of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Endpoint {
    /// Client; for IPv6, its prefix.
    Source,
    /// Server address.
    Destination,
    /// Server port.
    Port,
}

impl Endpoint {
    /// All endpoints.
    pub const ALL: [Endpoint; 3] = [Endpoint::Source, Endpoint::Destination, Endpoint::Port];

    /// Returns the name in configuration, alerts and metrics.
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
            assert_eq!(unit(&Measure::Sum(quantity).name()), quantity.unit());
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
