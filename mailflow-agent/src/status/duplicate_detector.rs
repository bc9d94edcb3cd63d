//! Detector of duplicate packets: a mirror may deliver a packet both where it enters and where it leaves.

use mailflow_common::{HandshakeCounters, Totals};
use tracing::{info, warn};

/// Smallest number of handshake packets for a decision.
const MIN_HANDSHAKE_PACKETS: u64 = 20;

/// Detector of duplicate packets by SYNs and SYN-ACKs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DuplicateDetector {
    /// Counters at the last decision.
    seen: HandshakeCounters,
    delivered_twice: bool,
}

impl DuplicateDetector {
    /// Decides once there are enough packets, and logs a change. Returns true if packets are delivered twice.
    pub(crate) fn update(&mut self, totals: &Totals) -> bool {
        let now = HandshakeCounters {
            all: totals.syns.all + totals.syn_acks.all,
            copies: totals.syns.copies + totals.syn_acks.copies,
        };
        let (all, copies) = (now.all - self.seen.all, now.copies - self.seen.copies);
        if all < MIN_HANDSHAKE_PACKETS {
            return self.delivered_twice;
        }
        self.seen = now;
        // If every packet comes twice, half are copies. Some of them are lost, or arrive in another tick.
        let delivered_twice = copies * 5 >= all * 2;
        if delivered_twice != self.delivered_twice {
            self.delivered_twice = delivered_twice;
            if delivered_twice {
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
        delivered_twice
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
    fn half_copies_are_double_delivery() {
        let mut detector = DuplicateDetector::default();
        assert!(!detector.update(&totals((10, 5), (9, 5))), "too few to tell");
        assert!(detector.update(&totals((10, 5), (10, 5))));
        assert!(detector.update(&totals((19, 5), (20, 5))), "too few to change that");
        assert!(!detector.update(&totals((20, 5), (20, 5))), "none of the last twenty");
    }

    #[test]
    fn a_retry_here_and_there_is_none() {
        assert!(!DuplicateDetector::default().update(&totals((100, 20), (100, 0))));
    }
}
