//! Histories of single 5-tuples, as packets with times in milliseconds.

use mailflow_test_support::{
    frame::{FrameBuilder, flag::*},
    pcap::Stamped,
};

/// Start of the history, in milliseconds since 1970.
const BEGIN: u64 = 1_700_000_000_000;
/// First client port.
const PORTS: u16 = 20_000;

/// Direction of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Up,
    Down,
}
use Way::{Down, Up};

#[derive(Clone, Copy, Debug)]
pub(super) struct Packet {
    pub(super) at: u64,
    pub(super) way: Way,
    pub(super) flags: u8,
    pub(super) sequence: u32,
    pub(super) payload: usize,
}

/// Packets between one client port and port 25.
#[derive(Clone, Debug)]
pub(super) struct Conversation {
    pub(super) name: &'static str,
    pub(super) port: u16,
    pub(super) packets: Vec<Packet>,
    /// Packets up and down of each flow; empty if only the model gives them.
    pub(super) expected: Vec<(u64, u64)>,
}

impl Conversation {
    fn new(name: &'static str, number: usize, expected: &[(u64, u64)]) -> Self {
        let port = PORTS + number as u16;
        Self { name, port, packets: Vec::new(), expected: expected.to_vec() }
    }

    /// Adds a packet `gap` milliseconds after the last one.
    fn then(&mut self, gap: u64, way: Way, flags: u8, payload: usize) -> &mut Self {
        // Starts with different offsets to every poll interval.
        let begin = BEGIN + 1_037 * u64::from(self.port - PORTS);
        let at = self.packets.last().map_or(begin, |last| last.at) + gap;
        self.packets.push(Packet { at, way, flags, sequence: 1_000, payload });
        self
    }

    /// Adds a SYN with its sequence number.
    fn syn(&mut self, gap: u64, sequence: u32) -> &mut Self {
        self.then(gap, Up, SYN, 0);
        if let Some(packet) = self.packets.last_mut() {
            packet.sequence = sequence;
        }
        self
    }

    /// Adds SYN, SYN-ACK, ACK: 2 up, 1 down, within 2 ms.
    fn open(&mut self, gap: u64, sequence: u32) -> &mut Self {
        self.syn(gap, sequence).then(1, Down, SYN | ACK, 0).then(1, Up, ACK, 0)
    }

    /// Adds a command and its reply: 1 up, 1 down.
    fn talk(&mut self, gap: u64) -> &mut Self {
        self.then(gap, Up, ACK | PSH, 120).then(3, Down, ACK | PSH, 100)
    }

    /// Adds FIN, FIN, ACK: 2 up, 1 down.
    fn close(&mut self, gap: u64) -> &mut Self {
        self.then(gap, Up, FIN | ACK, 0).then(2, Down, FIN | ACK, 0).then(1, Up, ACK, 0)
    }

    pub(super) fn frames(&self) -> impl Iterator<Item = Stamped> {
        let (client, server) = (format!("10.20.0.2:{}", self.port), "93.184.215.25:25");
        self.packets.iter().map(move |packet| {
            let (from, to) = if packet.way == Up { (&*client, server) } else { (server, &*client) };
            let frame = FrameBuilder::tcp(from, to, packet.flags).sequence(packet.sequence);
            (packet.at * 1_000, frame.payload(vec![b'x'; packet.payload]).build())
        })
    }
}

/// Returns frames that are no mail, one every `every` milliseconds, up to `end` in microseconds.
pub(super) fn beats(end: u64, every: u64) -> impl Iterator<Item = Stamped> {
    let frame = FrameBuilder::tcp("10.20.0.9:5353", "10.20.0.8:53", 0).udp().build();
    (BEGIN..).step_by(every as usize).map(|at| at * 1_000).take_while(move |at| *at <= end).map(
        // Between whole milliseconds, which are the times of packets.
        move |at| (at + 500, frame.clone()),
    )
}

/// Returns the named cases.
pub(super) fn cases() -> Vec<Conversation> {
    let mut cases: Vec<Conversation> = Vec::new();
    let mut case = |name, expected: &[(u64, u64)], fill: &dyn Fn(&mut Conversation)| {
        let mut conversation = Conversation::new(name, cases.len(), expected);
        fill(&mut conversation);
        cases.push(conversation);
    };
    case("a gap of 299 s", &[(6, 4)], &|c| {
        c.open(0, 7).talk(20).talk(299_000).close(40);
    });
    case("a gap of 301 s", &[(3, 2), (3, 2)], &|c| {
        c.open(0, 7).talk(20).talk(301_000).close(40);
    });
    case("the client's FIN, the server's 200 s later", &[(5, 3)], &|c| {
        c.open(0, 7).talk(20).close(30);
        let late = c.packets.len() - 2;
        c.packets[late..].iter_mut().for_each(|packet| packet.at += 200_000);
    });
    case("the client's FIN, the server's 301 s later", &[(4, 2), (1, 1)], &|c| {
        c.open(0, 7).talk(20).close(30);
        let late = c.packets.len() - 2;
        c.packets[late..].iter_mut().for_each(|packet| packet.at += 301_000);
    });
    case("both FINs after 301 s of silence", &[(3, 2), (2, 1)], &|c| {
        c.open(0, 7).talk(20).close(301_000);
    });
    case("a FIN repeated within 5 s of the end", &[(6, 3)], &|c| {
        c.open(0, 7).talk(20).close(30).then(4_900, Up, FIN | ACK, 0);
    });
    case("a FIN repeated after 5 s of the end", &[(5, 3), (1, 0)], &|c| {
        c.open(0, 7).talk(20).close(30).then(5_100, Up, FIN | ACK, 0);
    });
    case("three connections in 100 ms", &[(5, 3), (5, 3), (5, 3)], &|c| {
        for sequence in [7, 70_000, 7_000_000] {
            c.open(4, sequence).talk(8).close(8);
        }
    });
    case("again a millisecond after a RST", &[(3, 3), (5, 3)], &|c| {
        c.open(0, 7).talk(8).then(1, Down, RST, 0).open(1, 9).talk(8).close(8);
    });
    case("a SYN repeated for 29 s", &[(6, 0)], &|c| {
        c.syn(0, 7).syn(1_000, 7).syn(2_000, 7).syn(4_000, 7).syn(8_000, 7).syn(29_000, 7);
    });
    case("a SYN repeated after 31 s", &[(2, 0)], &|c| {
        c.syn(0, 7).syn(31_000, 7);
    });
    case("a SYN repeated as Linux does, for 63 s", &[(7, 0)], &|c| {
        c.syn(0, 7);
        for seconds in [1, 2, 4, 8, 16, 32] {
            c.syn(seconds * 1_000, 7);
        }
    });
    case("a SYN repeated after 126 s", &[(2, 0)], &|c| {
        c.syn(0, 7).syn(126_000, 7);
    });
    case("a SYN repeated after 128 s", &[(1, 0), (1, 0)], &|c| {
        c.syn(0, 7).syn(128_000, 7);
    });
    case("a SYN with another number after 2 s", &[(1, 0), (1, 0)], &|c| {
        c.syn(0, 7).syn(2_000, 9);
    });
    case("a server that answers with a SYN", &[(5, 4)], &|c| {
        c.syn(0, 7).then(1, Down, SYN, 0).then(1, Up, SYN | ACK, 0).then(1, Down, ACK, 0).talk(8).close(8);
    });
    case("a SYN that was answered after 29 s", &[(5, 3)], &|c| {
        c.syn(0, 7).then(29_000, Down, SYN | ACK, 0).then(1, Up, ACK, 0).talk(8).close(8);
    });
    case("1,000 s", &[(24, 22)], &|c| {
        c.open(0, 7);
        for _ in 0..20 {
            c.talk(49_900);
        }
        c.close(8);
    });
    case("598 s in two halves", &[(5, 3)], &|c| {
        c.open(0, 7).talk(299_000).close(299_000);
    });
    case("seen from the middle, and again after 301 s", &[(1, 1), (1, 1)], &|c| {
        c.talk(0).talk(301_000);
    });
    cases
}

/// Returns sessions of one host to one server, each of which the shipped rule counts.
pub(super) fn burst(count: usize) -> Vec<Conversation> {
    let session = |number| {
        let mut conversation = Conversation::new("a session", number, &[]);
        conversation.open(0, 7);
        for _ in 0..9 {
            conversation.talk(20);
        }
        conversation.close(8);
        conversation
    };
    (0..count).map(session).collect()
}

/// Returns 5-tuples with random packets and random gaps, on both sides of each timeout.
pub(super) fn random(count: usize) -> Vec<Conversation> {
    const GAPS: [u64; 15] =
        [1, 1, 2, 5, 20, 90, 700, 4_900, 5_100, 29_000, 31_000, 126_000, 128_000, 299_000, 301_000];
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    // xorshift64 (Marsaglia 2003): the same history in every run.
    let mut below = move |limit: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % limit
    };
    let tuple = |number: usize| {
        let mut c = Conversation::new("random", number, &[]);
        let (mut sequence, mut whole) = (7, true);
        c.syn(0, sequence);
        for _ in 0..below(24) {
            let gap = GAPS[below(GAPS.len() as u64) as usize];
            whole &= gap < 4_900;
            match below(12) {
                // A retransmitted SYN: a flow that lost its start to an idle timeout accepts none.
                0 if whole => c.syn(gap, sequence),
                1 => c.then(gap, Down, SYN | ACK, 0),
                2 => c.then(gap, Up, ACK, 0),
                3 => c.then(gap, Up, FIN | ACK, 0),
                4 => c.then(gap, Down, FIN | ACK, 0),
                5 => c.then(gap, if below(2) == 0 { Up } else { Down }, RST, 0),
                6 | 7 => {
                    // A new connection is possible only after the old one has closed.
                    (sequence, whole) = (sequence + 1_000, true);
                    c.close(gap).open(1 + below(6_000), sequence)
                }
                8 | 9 => c.then(gap, Down, ACK | PSH, 1 + below(1_400) as usize),
                _ => c.then(gap, Up, ACK | PSH, 1 + below(1_400) as usize),
            };
        }
        c
    };
    (0..count).map(tuple).collect()
}
