//! Size test of a rule, which selects flows that are large enough for a delivery.

use super::filter::{Layer, SizeKind, SizeTest};
use crate::flow::{DirectionStats, Flow};

/// Direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowDirection {
    /// Client to server.
    Up,
    /// Server to client.
    Down,
}

/// Measure of a size test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SizeMeasure {
    /// Bytes per packet.
    Ratio,
    /// Packets and bytes.
    Count,
}

/// Direction that fails a size test, with its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shortfall {
    /// Direction that fails.
    pub direction: FlowDirection,
    /// Measure of the test.
    pub measure: SizeMeasure,
    /// Bytes that were compared.
    pub bytes: u64,
    /// Packets that were compared.
    pub packets: u64,
    /// Threshold of the direction.
    pub threshold: u64,
}

impl SizeTest {
    /// Tests `flow`. The error is the first direction that fails. For [`SizeKind::Either`] the error is that of the
    /// ratio, as both tests failed.
    pub fn check(&self, flow: &Flow) -> Result<(), Shortfall> {
        match self.kind {
            SizeKind::Ratio | SizeKind::DataRatio => self.check_both(flow, SizeMeasure::Ratio),
            SizeKind::Count => self.check_both(flow, SizeMeasure::Count),
            SizeKind::Either => self
                .check_both(flow, SizeMeasure::Ratio)
                .or_else(|ratio| self.check_both(flow, SizeMeasure::Count).or(Err(ratio))),
            SizeKind::UpOnly => self.check_direction(flow, FlowDirection::Up, SizeMeasure::Ratio),
        }
    }

    fn check_both(&self, flow: &Flow, measure: SizeMeasure) -> Result<(), Shortfall> {
        self.check_direction(flow, FlowDirection::Up, measure)?;
        self.check_direction(flow, FlowDirection::Down, measure)
    }

    fn check_direction(
        &self,
        flow: &Flow,
        direction: FlowDirection,
        measure: SizeMeasure,
    ) -> Result<(), Shortfall> {
        let (counters, threshold) = match direction {
            FlowDirection::Up => (&flow.up, self.up),
            FlowDirection::Down => (&flow.down, self.down),
        };
        let (bytes, packets) = self.bytes_and_packets(counters);
        let enough = match measure {
            // A product, as a quotient would be rounded.
            SizeMeasure::Ratio => {
                packets > 0 && u128::from(bytes) >= u128::from(threshold) * u128::from(packets)
            }
            SizeMeasure::Count => packets >= threshold && bytes >= threshold,
        };
        if enough { Ok(()) } else { Err(Shortfall { direction, measure, bytes, packets, threshold }) }
    }

    fn bytes_and_packets(&self, counters: &DirectionStats) -> (u64, u64) {
        match (self.kind, self.layer) {
            (SizeKind::DataRatio, Layer::L3) => (counters.data_bytes, counters.data_packets),
            (SizeKind::DataRatio, Layer::Payload) => (counters.payload, counters.data_packets),
            (_, Layer::L3) => (counters.bytes, counters.packets),
            (_, Layer::Payload) => (counters.payload, counters.packets),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn flow(up: (u64, u64), down: (u64, u64)) -> Flow {
        let mut flow = fixture::flow("10.0.0.1:4000", "9.9.9.9:25");
        (flow.up.packets, flow.up.bytes) = up;
        (flow.down.packets, flow.down.bytes) = down;
        flow
    }

    fn test(kind: SizeKind) -> SizeTest {
        SizeTest { kind, layer: Layer::L3, up: 80, down: 80 }
    }

    #[test]
    fn ratio_is_exact_at_its_threshold_both_ways() {
        let ratio = test(SizeKind::Ratio);
        assert_eq!(ratio.check(&flow((3, 240), (7, 560))), Ok(()));
        let short = Shortfall {
            direction: FlowDirection::Up,
            measure: SizeMeasure::Ratio,
            bytes: 239,
            packets: 3,
            threshold: 80,
        };
        assert_eq!(ratio.check(&flow((3, 239), (7, 560))), Err(short));
        let short = Shortfall { direction: FlowDirection::Down, bytes: 559, packets: 7, ..short };
        assert_eq!(ratio.check(&flow((3, 240), (7, 559))), Err(short));
        assert!(ratio.check(&flow((3, 240), (0, 0))).is_err(), "no packet, no ratio");
    }

    #[test]
    fn ratio_does_not_overflow() {
        let huge = SizeTest { up: u64::MAX, ..test(SizeKind::Ratio) };
        assert!(huge.check(&flow((u64::MAX, u64::MAX), (1, 80))).is_err());
    }

    #[test]
    fn each_way_has_its_own_threshold() {
        let test = SizeTest { up: 500, down: 40, ..test(SizeKind::Ratio) };
        assert_eq!(test.check(&flow((2, 1_000), (2, 80))), Ok(()));
        assert!(test.check(&flow((2, 999), (2, 80))).is_err());
        assert!(test.check(&flow((2, 1_000), (2, 79))).is_err());
    }

    #[test]
    fn count_wants_packets_and_bytes() {
        let count = test(SizeKind::Count);
        assert_eq!(count.check(&flow((80, 4_000), (80, 3_200))), Ok(()));
        assert!(count.check(&flow((79, 99_999), (80, 3_200))).is_err());
        assert!(count.check(&flow((80, 4_000), (79, 3_200))).is_err());
        assert!(count.check(&flow((80, 79), (80, 3_200))).is_err());
    }

    #[test]
    fn either_takes_one_of_the_two_but_not_half_of_each() {
        let either = test(SizeKind::Either);
        assert_eq!(either.check(&flow((3, 240), (3, 240))), Ok(()));
        assert_eq!(either.check(&flow((80, 4_000), (80, 4_160))), Ok(()));
        assert!(either.check(&flow((10, 10_000), (80, 4_160))).is_err());
    }

    #[test]
    fn data_ratio_leaves_pure_acks_out() {
        let mut bulk = flow((100, 150_000), (50, 2_900));
        (bulk.up.data_packets, bulk.up.data_bytes, bulk.up.payload) = (98, 149_896, 144_800);
        (bulk.down.data_packets, bulk.down.data_bytes, bulk.down.payload) = (5, 560, 300);
        assert!(test(SizeKind::Ratio).check(&bulk).is_err());
        assert_eq!(test(SizeKind::DataRatio).check(&bulk), Ok(()));
        let payload = SizeTest { layer: Layer::Payload, ..test(SizeKind::DataRatio) };
        assert!(payload.check(&bulk).is_err(), "300 bytes of payload in 5 packets");
        bulk.down.payload = 400;
        assert_eq!(payload.check(&bulk), Ok(()));
    }

    #[test]
    fn payload_is_divided_by_all_packets() {
        let mut small = flow((10, 9_999), (10, 9_999));
        (small.up.payload, small.down.payload) = (800, 799);
        let payload = SizeTest { layer: Layer::Payload, ..test(SizeKind::Ratio) };
        assert!(payload.check(&small).is_err());
        small.down.payload = 800;
        assert_eq!(payload.check(&small), Ok(()));
    }

    #[test]
    fn up_only_does_not_look_down() {
        assert_eq!(test(SizeKind::UpOnly).check(&flow((3, 240), (0, 0))), Ok(()));
        assert!(test(SizeKind::UpOnly).check(&flow((3, 239), (1, 999))).is_err());
    }
}
