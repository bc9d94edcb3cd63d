//! Cases: packets, and the flows in the table while they pass.

use mailflow_test_support::frame::{FrameBuilder, flag::*};

use super::{driver::Order, sys::Kind};

/// Number of flows in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fill {
    /// 1,000 flows in a table of the default capacity.
    Few = 1_000,
    /// 100,000 flows in a table of the default capacity.
    Usual = 100_000,
    /// 1,000,000 flows.
    Many = 1_000_000,
}

impl Fill {
    /// Every number of flows.
    pub(crate) const ALL: [Fill; 3] = [Fill::Few, Fill::Usual, Fill::Many];

    /// Returns the capacity of the table: the default, or as much as a million flows need.
    pub(crate) fn capacity(self) -> u32 {
        match self {
            Fill::Few | Fill::Usual => 262_144,
            Fill::Many => 1_048_576,
        }
    }
}

/// The packets of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Visit {
    /// One frame, repeated.
    Same,
    /// Frames of the flows in the table.
    Known(Order),
    /// Each frame of a flow that is not in the table.
    New,
}

/// Measured case.
pub(crate) struct Case {
    /// Name of the case.
    pub(crate) name: String,
    /// Hook of the program.
    pub(crate) kind: Kind,
    /// The program under test.
    pub(crate) program: &'static str,
    /// Number of flows in the table.
    pub(crate) fill: Fill,
    /// Flows that the frames belong to.
    pub(crate) visit: Visit,
    /// Frame to run the program on.
    pub(crate) frame: Vec<u8>,
    /// Maximum nanoseconds per packet.
    pub(crate) bar: Option<f64>,
}

const CLIENT: &str = "10.0.0.1:40000";
const MAIL: &str = "93.184.215.25:25";
const WEB: &str = "93.184.215.25:443";
const CLIENT6: &str = "[fd20::2]:40000";
const MAIL6: &str = "[2a00:1450::25]:25";

/// Program that fills the table.
pub(crate) const FILLER: &str = "xdp_lan";

/// Builds a frame of an established flow.
pub(crate) fn known() -> Vec<u8> {
    FrameBuilder::tcp(CLIENT, MAIL, ACK).build()
}

/// Returns every case.
pub(crate) fn all() -> Vec<Case> {
    use Visit::{Known, New, Same};
    let data = FrameBuilder::tcp(CLIENT, MAIL, ACK | PSH).payload(vec![b'x'; 100]);
    let ack = FrameBuilder::tcp(CLIENT, MAIL, ACK);
    let syn = FrameBuilder::tcp(CLIENT, MAIL, SYN);
    let data6 = FrameBuilder::tcp(CLIENT6, MAIL6, ACK | PSH).payload(vec![b'x'; 100]);
    let web = FrameBuilder::tcp(CLIENT, WEB, ACK).payload(vec![b'x'; 100]);
    let web6 = FrameBuilder::tcp(CLIENT6, "[2a00:1450::25]:443", ACK).payload(vec![b'x'; 100]);
    let qinq = |frame: &FrameBuilder| frame.clone().tag(0x88a8, 7).tag(0x8100, 8);
    let mut cases = Vec::new();
    let mut add = |name: &str, fill: Fill, visit: Visit, frame: &FrameBuilder, bar: Option<f64>| {
        for (kind, hook, program) in [(Kind::Xdp, "XDP", FILLER), (Kind::Tc, "TC", "tc_lan_in")] {
            let name = format!("{name}, {hook}");
            cases.push(Case { name, kind, program, fill, visit, frame: frame.build(), bar });
        }
    };
    add("non-mail TCP", Fill::Few, Same, &web, Some(8.0));
    add("non-mail UDP", Fill::Few, Same, &web.clone().udp(), Some(8.0));
    add("non-mail TCP over IPv6", Fill::Few, Same, &web6, None);
    add("non-mail TCP in QinQ", Fill::Few, Same, &qinq(&web), None);
    for fill in Fill::ALL {
        let bar = (fill == Fill::Few).then_some(45.0);
        let name = format!("mail, one hot flow of {}", fill as u32);
        add(&format!("{name}, payload"), fill, Same, &data, bar);
        if fill == Fill::Few {
            add(&format!("{name}, no payload"), fill, Same, &ack, bar);
            add(&format!("{name}, IPv6"), fill, Same, &data6, None);
            add(&format!("{name}, QinQ"), fill, Same, &qinq(&data), None);
        }
    }
    for (fill, bar) in [(Fill::Few, Some(60.0)), (Fill::Usual, Some(330.0)), (Fill::Many, None)] {
        let flows = fill as u32;
        add(&format!("mail, {flows} flows in turn"), fill, Known(Order::Turn(flows)), &data, bar);
        add(&format!("mail, {flows} flows at random"), fill, Known(Order::Random(flows)), &data, bar);
    }
    for fill in Fill::ALL {
        add(&format!("mail, new flow beside {}", fill as u32), fill, New, &syn, Some(290.0));
    }
    cases
}
