//! Frame table: the expected counters of each frame, through every loaded program.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use mailflow_common::{Reason, Totals};
use mailflow_engine::flow::{EvictOutcome, Flow};
use mailflow_kernel::Kernel;
use mailflow_kernel::clock;
use mailflow_test_support::frame::{FrameBuilder, Transport, flag::*, fragmented, short_extension};

use crate::report::{Report, same};

/// Directions that a program counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ways {
    Up,
    Down,
    Both,
}

/// First header of a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begins {
    Ethernet,
    Ip,
}

/// Frames of one flow, and their expected counters.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) frames: Vec<Vec<u8>>,
    /// Packets and IP bytes, up and down.
    pub(crate) counts: [(u64, u64); 2],
    /// VLAN tags, outer first.
    tags: Vec<u16>,
    /// Reasons and numbers of the frames that count to no flow.
    pub(crate) reasons: Vec<(Reason, u64)>,
    /// Client port that identifies the flow of this case.
    port: u16,
}

/// Client port of the first case; the other cases follow.
const FIRST_PORT: u16 = 20_000;

/// Returns the cases for a program, which counts one or both directions. `showing` must be unique: fragments
/// of an earlier run belong to other packets.
pub(crate) fn cases(ways: Ways, begins: Begins, showing: u16) -> Vec<Case> {
    let mut table = Table { ways, begins, showing, cases: Vec::new() };
    table.sessions();
    table.headers();
    if begins == Begins::Ethernet {
        table.links();
    }
    table.fragments();
    table.refusals();
    table.cases
}

struct Table {
    ways: Ways,
    begins: Begins,
    showing: u16,
    cases: Vec<Case>,
}

impl Table {
    /// Returns a packet of the next case's flow, in the direction that the program counts.
    fn packet(&self, v6: bool, flags: u8) -> FrameBuilder {
        let (up, down) = self.both(v6, flags);
        if self.ways == Ways::Down { down } else { up }
    }

    /// Returns a packet for each direction. BPF_PROG_TEST_RUN always reads an ethertype at byte 12. Without
    /// an Ethernet header that byte is in the source address, so these addresses contain the ethertypes of
    /// IPv4 and IPv6.
    fn both(&self, v6: bool, flags: u8) -> (FrameBuilder, FrameBuilder) {
        let port = FIRST_PORT + self.cases.len() as u16;
        let (client, server) = if v6 {
            (format!("[2001:db8:86dd::2]:{port}"), "[2a00:1450:86dd::25]:25")
        } else {
            (format!("8.0.0.2:{port}"), "8.0.1.25:25")
        };
        let ethernet =
            |frame: FrameBuilder| frame.with(|frame| frame.ethernet = self.begins == Begins::Ethernet);
        (
            ethernet(FrameBuilder::tcp(&client, server, flags)),
            ethernet(FrameBuilder::tcp(server, &client, flags)),
        )
    }

    /// Adds a case of frames that count once each, in their directions.
    fn counts(&mut self, name: &'static str, frames: &[FrameBuilder]) {
        let built = frames.iter().map(|frame| (frame.build(), frame.ip_bytes(), frame.ends[1].1 == 25));
        let tags = frames[0].tags.iter().map(|(_, control)| control & 0xfff).filter(|tag| *tag != 0);
        self.counts_as(name, tags.collect(), built.collect());
    }

    /// Adds a case of frames, given with their IP bytes and true for the direction to the server.
    fn counts_as(&mut self, name: &'static str, tags: Vec<u16>, frames: Vec<(Vec<u8>, u64, bool)>) {
        let mut counts = [(0, 0); 2];
        let mut unwatched = 0;
        for (_, bytes, up) in &frames {
            if self.ways == Ways::Both || (self.ways == Ways::Up) == *up {
                let side = &mut counts[usize::from(!up)];
                *side = (side.0 + 1, side.1 + bytes);
            } else {
                unwatched += 1;
            }
        }
        let frames = frames.into_iter().map(|(frame, ..)| frame).collect();
        self.push(name, frames, counts, tags, vec![(Reason::NotWatched, unwatched)]);
    }

    /// Adds a case of one frame that counts to no flow.
    fn refused(&mut self, name: &'static str, reason: Reason, frame: Vec<u8>) {
        self.push(name, vec![frame], [(0, 0); 2], Vec::new(), vec![(reason, 1)]);
    }

    fn push(
        &mut self,
        name: &'static str,
        frames: Vec<Vec<u8>>,
        counts: [(u64, u64); 2],
        tags: Vec<u16>,
        reasons: Vec<(Reason, u64)>,
    ) {
        let port = FIRST_PORT + self.cases.len() as u16;
        self.cases.push(Case { name, frames, counts, tags, reasons, port });
    }

    fn sessions(&mut self) {
        for (name, v6) in [("a session", false), ("a session over IPv6", true)] {
            let (up, down) = self.both(v6, ACK);
            let flags = |frame: &FrameBuilder, bits: u8| {
                frame.clone().with(|frame| {
                    if let Transport::Tcp { flags, .. } = &mut frame.transport {
                        *flags = bits;
                    }
                })
            };
            let frames = [
                flags(&up, SYN).sequence(99).tcp_options(&[2, 4, 5, 0xb4]),
                flags(&down, SYN | ACK).sequence(499),
                up.clone().sequence(100).with(|frame| frame.padding = 6),
                down.clone().sequence(500).payload("220 mx.example ESMTP\r\n"),
                up.clone().sequence(100).payload(vec![b'x'; 421]),
                down.clone().sequence(522).payload("250 2.0.0 Ok: queued\r\n"),
                flags(&up, FIN | ACK).sequence(521),
                flags(&down, FIN | ACK).sequence(544),
            ];
            self.counts(name, &frames);
        }
        let (up, down) = self.both(false, 0);
        // BPF_PROG_TEST_RUN takes 14 bytes for an Ethernet header, and requires an IP header after them.
        self.counts("UDP", &[up.udp().payload("an answer is due"), down.udp().payload("here it is")]);
    }

    fn headers(&mut self) {
        let frame = self.packet(false, ACK).with(|frame| frame.options = vec![1; 40]).payload("x");
        self.counts("40 bytes of IPv4 options", &[frame]);
        let frame = self.packet(false, ACK).tcp_options(&[1; 40]).payload("x");
        self.counts("40 bytes of TCP options", &[frame]);
        let four: Vec<_> = [0, 60, 43, 60].map(|kind| (kind, short_extension())).to_vec();
        let frame = self.packet(true, ACK).with(|frame| frame.extensions = four).payload("y");
        self.counts("four IPv6 extension headers", &[frame]);
        let frame = self.packet(true, ACK).with(|frame| frame.extensions = vec![(44, vec![0; 7])]);
        self.counts("an atomic IPv6 fragment", &[frame]);
        let authentication = vec![(51, [vec![4], vec![0; 22]].concat())];
        let frame = self.packet(true, ACK).with(|frame| frame.extensions = authentication);
        self.counts("an IPv6 authentication header", &[frame]);
    }

    fn links(&mut self) {
        let frame = self.packet(false, ACK).tag(0x8100, 7);
        self.counts("a VLAN tag", &[frame]);
        let frame = self.packet(false, ACK).tag(0x88a8, 9).tag(0x8100, 8);
        self.counts("QinQ", &[frame]);
        let frame = self.packet(true, ACK).tag(0x88a8, 9).tag(0x8100, 8).payload("z");
        self.counts("QinQ, IPv6", &[frame]);
        let frame = self.packet(false, ACK).tag(0x8100, 0xe000);
        self.counts("a priority tag", &[frame]);
        for (name, v6, protocol) in [("PPPoE", false, 0x0021_u16), ("PPPoE, IPv6", true, 0x0057)] {
            let frame = self.packet(v6, ACK).payload("p");
            let (bytes, up) = (frame.ip_bytes(), frame.ends[1].1 == 25);
            let built = frame.build();
            // RFC 2516, 4: version and type, code, session, length; then PPP's protocol (RFC 1661, 2).
            let header = [
                &[0x88, 0x64, 0x11, 0, 0, 1][..],
                &(bytes as u16 + 2).to_be_bytes(),
                &protocol.to_be_bytes(),
            ];
            let frame = [&built[..12], &header.concat(), &built[14..]].concat();
            self.counts_as(name, Vec::new(), vec![(frame, bytes, up)]);
        }
    }

    fn fragments(&mut self) {
        for (name, v6, order) in [
            ("fragments", false, [0, 1, 2]),
            ("fragments, the first one last", false, [2, 1, 0]),
            ("IPv6 fragments", true, [0, 2, 1]),
        ] {
            let identification = self.cases.len() as u16 + 100 * self.showing;
            let [from, to] = self.packet(v6, ACK).ends.map(|end| SocketAddr::from(end).to_string());
            let fragments = fragmented(&from, &to, identification).into_iter();
            let ethernet = self.begins == Begins::Ethernet;
            let fragments: Vec<_> =
                fragments.map(|frame| frame.with(|frame| frame.ethernet = ethernet)).collect();
            self.counts(name, &order.map(|index| fragments[index].clone()));
        }
    }

    fn refusals(&mut self) {
        let offset = |frame: &mut FrameBuilder| {
            if let Transport::Tcp { offset, .. } = &mut frame.transport {
                *offset = Some(4);
            }
        };
        let deep: Vec<_> = (0..8).map(|_| (60, short_extension())).collect();
        let v4 = |table: &Self| table.packet(false, ACK);
        let v6 = |table: &Self| table.packet(true, ACK);
        let other =
            |frame: FrameBuilder, number| frame.with(|frame| frame.transport = Transport::Other(number));
        let length = |frame: FrameBuilder, length| frame.with(|frame| frame.length = Some(length));
        for (name, reason, frame) in [
            ("ICMP", Reason::NotTransport, other(v4(self).payload(vec![0; 20]), 1)),
            ("GRE", Reason::Tunnel, other(v4(self).payload(vec![0; 20]), 47)),
            ("a TCP header of 16 bytes", Reason::Malformed, v4(self).with(offset)),
            ("a total length below the headers", Reason::Malformed, length(v4(self), 30)),
            ("a total length beyond the frame", Reason::ForgedLength, length(v4(self), 1400)),
            ("a payload length beyond the frame", Reason::ForgedLength, length(v6(self), 1400)),
            ("eight extension headers", Reason::TooDeep, v6(self).with(|frame| frame.extensions = deep)),
            ("a fragment without a first", Reason::Fragment, v4(self).with(|frame| frame.fragment = 100)),
        ] {
            self.refused(name, reason, frame.build());
        }
        if self.begins == Begins::Ip {
            return;
        }
        let three = v4(self).tag(0x88a8, 1).tag(0x8100, 2).tag(0x8100, 3);
        self.refused("three VLAN tags", Reason::TooDeep, three.build());
        self.refused("MPLS", Reason::Mpls, [vec![2; 12], vec![0x88, 0x47], vec![0; 46]].concat());
        self.refused("ARP", Reason::NotIp, [vec![2; 12], vec![0x08, 0x06], vec![0; 46]].concat());
        self.refused(
            "a frame that ends in its IP header",
            Reason::Truncated,
            v4(self).build()[..14 + 10].to_vec(),
        );
    }
}

/// Runs the whole table through every loaded program.
pub(crate) fn check(kernel: &mut Kernel, report: &mut Report) {
    let programs: Vec<String> = kernel.programs().map(str::to_owned).collect();
    for (showing, program) in (0..).zip(programs) {
        let Some((ways, begins)) = kind(&program) else { continue };
        let mut table = cases(ways, begins, showing);
        if program.starts_with("tc") {
            // BPF_PROG_TEST_RUN itself rejects a frame with an incomplete IP header.
            table.retain(|case| !case.reasons.contains(&(Reason::Truncated, 1)));
        }
        report.check(format!("frame table through {program}: {} cases", table.len()), || {
            take_all(kernel)?;
            let before = kernel.totals()?;
            for case in &table {
                for frame in &case.frames {
                    kernel.run(&program, frame, None).with_context(|| case.name)?;
                }
            }
            let flows = take_all(kernel)?;
            let after = kernel.totals()?;
            let frames: usize = table.iter().map(|case| case.frames.len()).sum();
            same("frames in a counter", after.shown() - before.shown(), frames as u64)?;
            compare(&table, &flows, &before, &after)
        });
    }
    report.absent(
        "TC: a frame that ends in its IP header",
        "BPF_PROG_TEST_RUN refuses it; it is sent over the wire",
    );
    merged(kernel, report);
    several_buffers(kernel, report);
}

/// Checks packet conservation: every counted packet is in a map or was evicted.
pub(crate) fn conserved(kernel: &mut Kernel) -> Result<()> {
    let before = kernel.totals()?;
    kernel.snapshot(clock::now())?;
    let after = kernel.totals()?;
    same("conservation difference", kernel.packet_audit().difference(&before, &after), Default::default())
}

/// Returns what an entry point counts, by its name; `None` for one that counts nothing.
fn kind(program: &str) -> Option<(Ways, Begins)> {
    let begins = if program.ends_with("_ip") { Begins::Ip } else { Begins::Ethernet };
    let ways = match program.trim_end_matches("_ip").trim_end_matches("_frags") {
        "xdp_lan" | "tc_lan_in" | "tc_host_out" => Ways::Up,
        "xdp_host" | "tc_host_in" | "tc_lan_out" => Ways::Down,
        "xdp_mirror" | "tc_mirror" => Ways::Both,
        _ => return None,
    };
    Some((ways, begins))
}

/// Evicts every flow from the table.
pub(crate) fn take_all(kernel: &mut Kernel) -> Result<Vec<Flow>> {
    let flows = kernel.snapshot(clock::now())?.flows;
    let fates = kernel.evict(&flows)?;
    ensure!(fates.iter().all(|fate| *fate == EvictOutcome::Evicted), "not all could be taken out: {fates:?}");
    Ok(flows)
}

/// Compares the counters with the table of cases.
pub(crate) fn compare(cases: &[Case], flows: &[Flow], before: &Totals, after: &Totals) -> Result<()> {
    let mut sums = [(0, 0); 2];
    let mut reasons = [0; 16];
    for case in cases {
        let counted = flows.iter().filter(|flow| flow.key.client_port == case.port);
        let seen: Vec<_> = counted
            .map(|flow| {
                let sides = [&flow.up, &flow.down].map(|side| (side.packets, side.bytes));
                (sides, flow.key.scope.vlans().tags().collect::<Vec<_>>())
            })
            .collect();
        let expected =
            if case.counts == [(0, 0); 2] { vec![] } else { vec![(case.counts, case.tags.clone())] };
        same(case.name, seen, expected)?;
        for (sum, side) in sums.iter_mut().zip(case.counts) {
            *sum = (sum.0 + side.0, sum.1 + side.1);
        }
        case.reasons.iter().for_each(|(reason, count)| reasons[*reason as usize] += count);
    }
    let totals = [(&before.up, &after.up), (&before.down, &after.down)]
        .map(|(before, after)| (after.packets - before.packets, after.bytes - before.bytes));
    same("total packets and bytes, up and down", totals, sums)?;
    for reason in Reason::ALL {
        let seen = after.reason(reason) - before.reason(reason);
        // A wire has other traffic too: neighbour discovery, multicast joins.
        if reason.is_loss() {
            same(reason.name(), seen, reasons[reason as usize])?;
        }
    }
    Ok(())
}

/// Checks a merged buffer by `struct __sk_buff`: gso_segs at 164, gso_size at 176.
fn merged(kernel: &mut Kernel, report: &mut Report) {
    let frame = FrameBuilder::tcp("8.0.0.2:30000", "8.0.1.25:25", ACK).payload(vec![0; 3000]);
    report.check("a merged buffer counts as the packets it stands for", || {
        let mut context = [0; 192];
        context[164..168].copy_from_slice(&3_u32.to_ne_bytes());
        context[176..180].copy_from_slice(&1000_u32.to_ne_bytes());
        kernel.run("tc_lan_in", &frame.build(), Some(&context))?;
        let flows = take_all(kernel)?;
        same("flows", flows.len(), 1)?;
        same("packets and bytes", (flows[0].up.packets, flows[0].up.bytes), (3, 3000 + 3 * 40))
    });
}

fn several_buffers(kernel: &mut Kernel, report: &mut Report) {
    const PROGRAM: &str = "xdp_mirror_frags";
    if !kernel.programs().any(|program| program == PROGRAM) {
        return;
    }
    let frame = FrameBuilder::tcp("8.0.0.2:30000", "8.0.1.25:25", ACK).payload(vec![0; 8900]);
    report.check("a frame in several buffers is whole", || {
        kernel.run(PROGRAM, &frame.build(), None)?;
        let flows = take_all(kernel)?;
        same("flows", flows.len(), 1)?;
        same("packets and bytes", (flows[0].up.packets, flows[0].up.bytes), (1, frame.ip_bytes()))
    });
}
