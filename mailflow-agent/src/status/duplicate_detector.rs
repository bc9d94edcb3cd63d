//! Whether what is shown comes once: a mirror may deliver a packet where it enters and where it leaves.

use mailflow_common::{HandshakeCounters, Totals};
use tracing::{info, warn};

/// Handshake packets to judge by.
const ENOUGH: u64 = 20;

/// How packets are delivered, judged by SYNs and SYN-ACKs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delivery {
    /// Up to the last judgement.
    seen: HandshakeCounters,
    twice: bool,
}

impl Delivery {
    /// Judges once enough has been seen, and says when it changes. Returns whether packets come twice.
    pub(crate) fn judge(&mut self, totals: &Totals) -> bool {
        let now = HandshakeCounters {
            all: totals.syns.all + totals.syn_acks.all,
            copies: totals.syns.copies + totals.syn_acks.copies,
        };
        let (all, copies) = (now.all - self.seen.all, now.copies - self.seen.copies);
        if all < ENOUGH {
            return self.twice;
        }
        self.seen = now;
        // Where every packet comes twice, half are copies; some are lost, or come as the clock ticks.
        let twice = copies * 5 >= all * 2;
        if twice != self.twice {
            self.twice = twice;
            if twice {
                warn!(
                    copies,
                    of = all,
                    "packets are delivered twice, and counted so: a mirror should send what enters its \
                     ports, or what leaves them, not both; elsewhere watch a bridge or its ports, not both"
                );
            } else {
                info!(copies, of = all, "packets are delivered once");
            }
        }
        twice
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
        let mut delivery = Delivery::default();
        assert!(!delivery.judge(&totals((10, 5), (9, 5))), "too few to tell");
        assert!(delivery.judge(&totals((10, 5), (10, 5))));
        assert!(delivery.judge(&totals((19, 5), (20, 5))), "too few to change that");
        assert!(!delivery.judge(&totals((20, 5), (20, 5))), "none of the last twenty");
    }

    #[test]
    fn a_retry_here_and_there_is_none() {
        assert!(!Delivery::default().judge(&totals((100, 20), (100, 0))));
    }
}
