//! Detector of duplicate packets: a mirror may deliver a packet both where it enters and where it leaves.

use mailflow_common::{HandshakeCounters, Totals};
use tracing::{info, warn};

/// Smallest number of handshake packets for a decision.
const MIN_HANDSHAKE_PACKETS: u64 = 20;

/// Detector of duplicate packets by SYNs and SYN-ACKs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DuplicateDetector {
    /// Counters at the last decision.
    decided_at: HandshakeCounters,
    duplicate_delivery: bool,
}

impl DuplicateDetector {
    /// Decides once there are enough packets, and logs a change. Returns true if packets are delivered twice.
    pub(crate) fn update(&mut self, totals: &Totals) -> bool {
        let handshakes = HandshakeCounters {
            all: totals.syns.all + totals.syn_acks.all,
            copies: totals.syns.copies + totals.syn_acks.copies,
        };
        let (all, copies) =
            (handshakes.all - self.decided_at.all, handshakes.copies - self.decided_at.copies);
        if all < MIN_HANDSHAKE_PACKETS {
            return self.duplicate_delivery;
        }
        self.decided_at = handshakes;
        // If every packet comes twice, half are copies. Some of them are lost, or arrive in another tick.
        let duplicate_delivery = copies * 5 >= all * 2;
        if duplicate_delivery != self.duplicate_delivery {
            self.duplicate_delivery = duplicate_delivery;
            if duplicate_delivery {
                warn!(
                    copies,
                    of = all,
                    "packets are delivered twice and counted twice: a mirror should send the packets that \
                     enter its ports or those that leave them, not both; elsewhere watch a bridge or its \
                     ports, not both"
                );
            } else {
                info!(copies, of = all, "packets are delivered once");
            }
        }
        duplicate_delivery
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(syns: (u64, u64), syn_acks: (u64, u64)) -> Totals {
        let openings = |(all, copies)| HandshakeCounters { all, copies };
        Totals { syns: openings(syns), syn_acks: openings(syn_acks), ..Totals::default() }
    }

    #[test]
    fn detects_duplicates_at_half_copies() {
        let mut detector = DuplicateDetector::default();
        assert!(!detector.update(&totals((10, 5), (9, 5))), "too few packets to decide");
        assert!(detector.update(&totals((10, 5), (10, 5))));
        assert!(detector.update(&totals((19, 5), (20, 5))), "too few packets to change the decision");
        assert!(!detector.update(&totals((20, 5), (20, 5))), "none of the last twenty");
    }

    #[test]
    fn ignores_occasional_retries() {
        assert!(!DuplicateDetector::default().update(&totals((100, 20), (100, 0))));
    }
}
