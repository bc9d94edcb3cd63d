//! Fields that a record must carry so that a rule, or one of its terms, can be evaluated.

use super::{
    filter::{Layer, Match, SizeKind, SizeTest},
    term::{Measure, Term},
};
use crate::flow::{class::FlowClass, fields::RecordFields, quantity::Quantity};

impl Match {
    /// Returns the fields that the match needs.
    pub fn required_fields(&self) -> RecordFields {
        let size = self.size.as_ref().map_or(RecordFields::empty(), SizeTest::required_fields);
        let session = if self.sessions_only {
            RecordFields::SYN | RecordFields::SYN_ACK
        } else {
            RecordFields::empty()
        };
        self.bounds.iter().fold(size | session, |fields, bound| fields | bound.of.required_fields())
    }
}

impl Term {
    /// Returns the fields that the term needs.
    pub fn required_fields(&self) -> RecordFields {
        match self.measure {
            Measure::Count(class) | Measure::Distinct { among: class, .. } => class.required_fields(),
            Measure::Sum(quantity) => quantity.required_fields(),
            Measure::Ratio { of, to } => of.required_fields() | to.required_fields(),
            Measure::FirstSeen { .. } => RecordFields::empty(),
        }
    }
}

impl FlowClass {
    /// Returns the fields that decide about the class.
    pub fn required_fields(self) -> RecordFields {
        match self {
            FlowClass::Flows => RecordFields::empty(),
            FlowClass::Attempts => RecordFields::SYN,
            FlowClass::Sessions => RecordFields::SYN | RecordFields::SYN_ACK,
            FlowClass::Failed | FlowClass::Delivering => {
                RecordFields::SYN | RecordFields::SYN_ACK | RecordFields::MESSAGES
            }
        }
    }
}

impl Quantity {
    fn required_fields(self) -> RecordFields {
        match self {
            Quantity::PayloadUp | Quantity::PayloadDown => RecordFields::PAYLOAD,
            Quantity::BytesUp | Quantity::BytesDown => RecordFields::BYTES,
            Quantity::PacketsUp | Quantity::PacketsDown => RecordFields::PACKETS,
            Quantity::Messages => RecordFields::MESSAGES,
            Quantity::DataPacketsUp | Quantity::DataPacketsDown => RecordFields::DATA_PACKETS,
        }
    }
}

impl SizeTest {
    fn required_fields(&self) -> RecordFields {
        match (self.kind, self.layer) {
            (SizeKind::DataRatio, Layer::L3) => RecordFields::DATA_PACKETS | RecordFields::DATA_BYTES,
            (SizeKind::DataRatio, Layer::Payload) => RecordFields::DATA_PACKETS | RecordFields::PAYLOAD,
            (_, Layer::L3) => RecordFields::PACKETS | RecordFields::BYTES,
            (_, Layer::Payload) => RecordFields::PACKETS | RecordFields::PAYLOAD,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fixture, rule::filter::Bound};

    #[test]
    fn a_match_needs_the_fields_it_tests() {
        let mut rule = fixture::rule();
        let mut needs = |kind, layer| {
            rule.matching.size = Some(SizeTest { kind, layer, up: 80, down: 80 });
            rule.matching.required_fields().to_string()
        };
        assert_eq!(needs(SizeKind::Ratio, Layer::L3), "packets, IP bytes");
        assert_eq!(needs(SizeKind::Count, Layer::Payload), "packets, payload bytes");
        assert_eq!(
            needs(SizeKind::DataRatio, Layer::L3),
            "packets with payload, IP bytes of packets with payload"
        );
        assert_eq!(needs(SizeKind::DataRatio, Layer::Payload), "payload bytes, packets with payload");
        rule.matching.size = None;
        assert_eq!(rule.matching.required_fields(), RecordFields::empty());
        let of = Quantity::DataPacketsDown;
        rule.matching.bounds = vec![Bound { of, at_least: 5, at_most: None, at_most_tls: None }];
        rule.matching.sessions_only = true;
        assert_eq!(rule.matching.required_fields().to_string(), "packets with payload, SYN, SYN-ACK");
    }

    #[test]
    fn a_term_needs_the_fields_it_measures() {
        let term =
            |measure| Term { measure, ..fixture::rule().terms[0].clone() }.required_fields().to_string();
        assert_eq!(term(Measure::Count(FlowClass::Flows)), "");
        assert_eq!(term(Measure::Sum(Quantity::PayloadUp)), "payload bytes");
        assert_eq!(term(Measure::Sum(Quantity::DataPacketsDown)), "packets with payload");
        let failed = Measure::Ratio { of: FlowClass::Failed, to: FlowClass::Attempts };
        assert_eq!(term(failed), "estimated messages, SYN, SYN-ACK");
    }
}
