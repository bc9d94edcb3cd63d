//! Counter: the outcome of each frame.

use std::collections::{HashMap, HashSet};

use mailflow_common::Reason;

use super::{
    flow::{Flow, Silences, Tuple},
    packet::{FragmentOf, Headers, Link, Packet, Ports, Shown, Transport},
    parse,
};

/// Direction that a hook counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Toward {
    /// Packets to a watched port.
    Server,
    /// Packets from a watched port.
    Client,
    /// Both directions.
    Both,
}

/// Host filter of a hook, if roles `host` and `lan` are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Packets of any host.
    Any,
    /// Packets that the machine itself sends.
    Made,
    /// Packets of flows that the machine itself began.
    Received,
}

/// Hook of the reference data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Direction that the hook counts.
    pub toward: Toward,
    /// Host filter.
    pub whose: Whose,
}

/// Superseded flow.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The flow.
    pub flow: Flow,
    /// Time of the first packet of its successor.
    pub replaced: u64,
}

/// Sums of one direction over all flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Buffers.
    pub buffers: u64,
    /// Packets.
    pub packets: u64,
    /// IP bytes.
    pub bytes: u64,
}

/// Sums over all frames.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Client to server.
    pub up: Sum,
    /// Server to client.
    pub down: Sum,
    /// Buffers that were not counted, by reason.
    pub reasons: HashMap<Reason, u64>,
}

/// State of a fragmented packet.
enum Owner {
    /// The first fragment is missing: the waiting fragments, and where they say that the headers end.
    Unknown(Vec<Waiting>, Headers),
    /// The first fragment was counted to this tuple, up or down; the headers end there.
    Tuple(Tuple, bool, Headers),
    /// The first fragment was not counted.
    Refused(Reason),
}

/// Fragment that arrived before the first fragment.
struct Waiting {
    bytes: u64,
    payload: u64,
    units: HashSet<u64>,
}

/// Returns the units of eight bytes of which a fragment has at least four, among the first sixteen units.
fn units(begin: u64, bytes: u64) -> HashSet<u64> {
    (begin / 8..16).filter(|unit| begin + bytes >= unit * 8 + 4).collect()
}

/// Returns the header bytes in these units. A header may end within a unit.
fn headers_in(units: &HashSet<u64>, headers: Headers) -> u64 {
    let (Headers::At(end) | Headers::AtLeast(end)) = headers else { return 0 };
    units.iter().map(|unit| end.min(128).saturating_sub(unit * 8).min(8)).sum()
}

/// Counter behind all hooks.
pub struct Model {
    watched: HashSet<u16>,
    silences: Silences,
    /// Clock, in milliseconds.
    pub now: u64,
    /// Flows in the table.
    pub flows: HashMap<Tuple, Flow>,
    /// Superseded flows since this list was last emptied.
    pub ended: Vec<Ended>,
    /// Sums over all frames.
    pub totals: Totals,
    /// Zone in which a flow began, by its tuple without tags.
    zones: HashMap<Tuple, Vec<u16>>,
    /// Fragmented packets, by hook direction: fragments follow the outcome of their first fragment at the
    /// same hook.
    fragments: HashMap<(Toward, FragmentOf), Owner>,
}

impl Model {
    /// Creates an empty counter; the idle timeouts are closed, unanswered and idle.
    pub fn new(ports: &[u16], silences: [u64; 3]) -> Self {
        let [closed, unanswered, idle] = silences;
        Self {
            watched: ports.iter().copied().collect(),
            silences: Silences { closed, unanswered, idle },
            now: 0,
            flows: HashMap::new(),
            ended: Vec::new(),
            totals: Totals::default(),
            zones: HashMap::new(),
            fragments: HashMap::new(),
        }
    }

    /// Returns the number of fragmented packets so far.
    pub fn fragmented(&self) -> usize {
        self.fragments.len()
    }

    /// Counts a frame. Returns the code paths if it was counted to a flow.
    ///
    /// # Errors
    /// The reason why it was not counted.
    pub fn count(&mut self, shown: &Shown<'_>, hook: Hook) -> Result<Vec<&'static str>, Reason> {
        let outcome = parse(shown).and_then(|packet| self.packet(shown, hook, packet));
        if let Err(reason) = outcome {
            *self.totals.reasons.entry(reason).or_default() += 1;
        }
        outcome
    }

    fn packet(
        &mut self,
        shown: &Shown<'_>,
        hook: Hook,
        mut packet: Packet,
    ) -> Result<Vec<&'static str>, Reason> {
        let Some(ports) = packet.ports.take() else { return self.later(hook.toward, packet) };
        let (to, from) = (self.watched.contains(&ports.destination), self.watched.contains(&ports.source));
        let wanted = match hook.toward {
            Toward::Server => to,
            Toward::Client => from,
            Toward::Both => to || from,
        };
        if !wanted {
            // L2TP, GTP-U, Teredo, LISP, GRE in UDP, VXLAN, VXLAN-GPE, CAPWAP, GUE, Geneve, MPLS in UDP,
            // VXLAN's old port.
            let tunnels = [1701, 2152, 3544, 4341, 4754, 4789, 4790, 5247, 6080, 6081, 6635, 8472];
            let tunnel = packet.protocol == 17 && tunnels.contains(&ports.destination);
            let reason = if tunnel { Reason::UdpTunnel } else { Reason::NotWatched };
            self.refuse(hook.toward, &packet, reason);
            return Err(reason);
        }
        let transport = ports.transport.clone()?;
        if hook.whose == Whose::Made && shown.forwarded {
            self.refuse(hook.toward, &packet, Reason::NotLocal);
            return Err(Reason::NotLocal);
        }
        let (tuple, up) = match self.flow(shown, hook, &mut packet, &ports, &transport) {
            Ok(found) => found,
            Err(reason) => {
                self.refuse(hook.toward, &packet, reason);
                return Err(reason);
            }
        };
        // A packet between two networks passes two hooks, either of which could count it.
        let straight = self.flows.get(&tuple).and_then(|flow| flow.straight);
        if hook.toward != Toward::Both
            && straight.is_some_and(|straight| (up == straight) != (hook.toward == Toward::Server))
        {
            self.refuse(hook.toward, &packet, Reason::NotWatched);
            return Err(Reason::NotWatched);
        }
        self.book(shown, &mut packet, &transport, &tuple, up);
        if let Some(fragment) = packet.fragment.take() {
            let headers = packet.piece.headers;
            self.claim((hook.toward, fragment), tuple, up, headers, &mut packet.path);
        }
        Ok(packet.path)
    }

    /// Returns the flow, created if necessary, and true if the packet goes up.
    fn flow(
        &mut self,
        shown: &Shown<'_>,
        hook: Hook,
        packet: &mut Packet,
        ports: &Ports,
        transport: &Transport,
    ) -> Result<(Tuple, bool), Reason> {
        let (source, destination) = ((packet.source, ports.source), (packet.destination, ports.destination));
        let flags = transport.tcp.map_or(0, |(_, flags)| flags);
        let (to, from) = (self.watched.contains(&destination.1), self.watched.contains(&source.1));
        let (mut up, is_opening) = match (flags & 0x02 != 0, flags & 0x10 != 0) {
            (true, acknowledged) => (!acknowledged, true),
            _ => match hook.toward {
                Toward::Server => (true, false),
                Toward::Client => (false, false),
                Toward::Both if to && from => (destination.1 <= source.1, false),
                Toward::Both => (to, false),
            },
        };
        let forward = Tuple {
            zone: packet.zone.clone(),
            protocol: packet.protocol,
            client: source,
            server: destination,
        };
        let mut tuple = if up { forward } else { forward.reversed() };
        packet.path.push(match (is_opening, flags & 0x10 != 0) {
            (true, false) => "direction by syn",
            (true, true) => "direction by syn-ack",
            _ if hook.toward == Toward::Both && to && from => "direction by the lower port",
            _ => "direction by port or hook",
        });
        let number = transport.tcp.filter(|(_, flags)| flags & 0x12 == 0x02).map(|(number, _)| number);
        let opened = |flow: &Flow| !is_opening || flow.opening(self.now, &self.silences);
        let other_way = |model: &Self, tuple: &Tuple| {
            model.lives(tuple, None) && model.flows.get(tuple).is_some_and(opened)
        };
        if !self.lives(&tuple, number) && other_way(self, &tuple.reversed()) {
            (tuple, up) = (tuple.reversed(), !up);
            packet.path.push(if is_opening {
                "the server opens too"
            } else {
                "direction by the flow there is"
            });
            packet.path.push("known flow");
            return Ok((tuple, up));
        }
        if self.lives(&tuple, number) {
            packet.path.push("known flow");
            return Ok((tuple, up));
        }
        let turns = [(tuple.clone(), up), (tuple.reversed(), !up)];
        let zone = self.zone(&turns);
        let reversed = zone
            .clone()
            .is_some_and(|zone| self.flows.get(&Tuple { zone, ..turns[1].0.clone() }).is_some_and(opened));
        let turns: Vec<_> = turns
            .into_iter()
            // A SYN begins its flow in its own direction.
            .zip([number.is_none(), reversed])
            .filter_map(|(turn, possible)| possible.then_some(turn))
            .collect();
        if let Some(found) = self.across(&turns, zone) {
            packet.path.push("known flow of another zone");
            return Ok(found);
        }
        if hook.whose == Whose::Received {
            return Err(Reason::NotLocal);
        }
        let mac = (shown.link == Link::Ethernet).then(|| {
            let mut mac = [0; 6];
            mac.copy_from_slice(if up { &shown.bytes[6..12] } else { &shown.bytes[..6] });
            mac
        });
        // Start times of two flows of a 5-tuple are distinct.
        let first = self.flows.get(&tuple).map_or(self.now, |old| self.now.max(old.first + 1));
        packet.path.push("new flow");
        let mut new = Flow::new(tuple.clone(), first, mac.filter(|mac| *mac != [0; 6]));
        if to && from && hook.toward != Toward::Both {
            new.straight = Some(up == (hook.toward == Toward::Server));
        }
        if !tuple.zone.is_empty() && !self.flows.contains_key(&tuple) {
            self.zones.insert(Tuple { zone: Vec::new(), ..tuple.clone() }, tuple.zone.clone());
        }
        if let Some(old) = self.flows.insert(tuple.clone(), new) {
            let silent = old.silent(self.now, &self.silences);
            packet.path.push(if silent { "new flow after silence" } else { "new flow by its syn" });
            self.ended.push(Ended { flow: old, replaced: self.now });
        }
        Ok((tuple, up))
    }

    /// Returns the other VLAN zone in which a packet's flow may be: without tags, or with the tags of its
    /// start.
    fn zone(&self, turns: &[(Tuple, bool)]) -> Option<Vec<u16>> {
        let tagged = turns.first().is_some_and(|(tuple, _)| !tuple.zone.is_empty());
        if tagged {
            return Some(Vec::new());
        }
        turns.iter().find_map(|(tuple, _)| self.zones.get(tuple)).cloned()
    }

    /// Returns the live flow in `zone` that the packet belongs to, in either direction. Tags may be visible
    /// in only one direction.
    fn across(&mut self, turns: &[(Tuple, bool)], zone: Option<Vec<u16>>) -> Option<(Tuple, bool)> {
        let zone = zone?;
        let takes = |(tuple, up): &(Tuple, bool)| {
            self.lives(tuple, None)
                && self.flows.get(tuple).is_some_and(|flow| {
                    flow.across || if *up { flow.up.packets == 0 } else { flow.down.packets == 0 }
                })
        };
        let there = |(tuple, up): &(Tuple, bool)| (Tuple { zone: zone.clone(), ..tuple.clone() }, *up);
        let found = turns.iter().map(there).find(takes)?;
        self.flows.get_mut(&found.0)?.across = true;
        Some(found)
    }

    /// Returns true if the tuple has a live flow that a packet, or a SYN with this number, can belong to.
    fn lives(&self, tuple: &Tuple, number: Option<u32>) -> bool {
        self.flows.get(tuple).is_some_and(|flow| {
            !flow.silent(self.now, &self.silences) && !number.is_some_and(|number| flow.foreign(number))
        })
    }

    fn book(
        &mut self,
        shown: &Shown<'_>,
        packet: &mut Packet,
        transport: &Transport,
        tuple: &Tuple,
        up: bool,
    ) {
        let headers = packet.ip_header + transport.header;
        let packets = packets(shown, transport.payload, &mut packet.path);
        let bytes = packet.length + (packets - 1) * headers;
        let now = self.now;
        let Some(flow) = self.flows.get_mut(tuple) else { return };
        if let Some(tcp) = transport.tcp {
            flow.note(tcp, transport.joins, up);
        }
        if transport.payload != 0 {
            let payload = &shown.bytes[transport.offset..];
            let payload = &payload[..payload.len().min(transport.payload as usize)];
            if up {
                flow.look(up, payload, transport.tcp);
                flow.sent(payload, transport.payload);
            } else {
                flow.answered(payload, transport.payload);
                flow.look(up, payload, transport.tcp);
            }
        }
        flow.add(up, packets, bytes, transport.payload, now);
        packet.path.push(if up { "up" } else { "down" });
        self.sum(up, 1, packets, bytes);
    }

    fn sum(&mut self, up: bool, buffers: u64, packets: u64, bytes: u64) {
        let sum = if up { &mut self.totals.up } else { &mut self.totals.down };
        sum.buffers += buffers;
        sum.packets += packets;
        sum.bytes += bytes;
    }

    /// Counts the fragments that arrived before a counted first fragment, as one sum.
    fn claim(
        &mut self,
        fragment: (Toward, FragmentOf),
        tuple: Tuple,
        up: bool,
        mut headers: Headers,
        path: &mut Vec<&'static str>,
    ) {
        if let Some(Owner::Unknown(waiting, piece_headers)) = self.fragments.remove(&fragment) {
            path.push("fragments that waited");
            *self.totals.reasons.entry(Reason::Fragment).or_default() -= waiting.len() as u64;
            if let (Headers::AtLeast(_), Headers::At(_)) = (headers, piece_headers) {
                headers = piece_headers;
            }
            // Duplicate fragments contain the same headers.
            let units = waiting.iter().flat_map(|one| one.units.iter().copied()).collect();
            let bytes = waiting.iter().map(|one| one.bytes).sum();
            let payload = waiting.iter().map(|one| one.payload).sum::<u64>();
            let payload = payload.saturating_sub(headers_in(&units, headers));
            self.pieces(&tuple, up, waiting.len() as u64, bytes, payload);
        }
        self.fragments.insert(fragment, Owner::Tuple(tuple, up, headers));
    }

    /// Refuses the fragments of a first fragment that was not counted.
    fn refuse(&mut self, toward: Toward, packet: &Packet, reason: Reason) {
        let Some(fragment) = packet.fragment.clone() else { return };
        if let Some(Owner::Unknown(waiting, _)) =
            self.fragments.insert((toward, fragment), Owner::Refused(reason))
        {
            *self.totals.reasons.entry(Reason::Fragment).or_default() -= waiting.len() as u64;
            *self.totals.reasons.entry(reason).or_default() += waiting.len() as u64;
        }
    }

    fn later(&mut self, toward: Toward, mut packet: Packet) -> Result<Vec<&'static str>, Reason> {
        let fragment = packet.fragment.take().ok_or(Reason::Fragment)?;
        let (bytes, payload) = (packet.length, packet.length - packet.ip_header);
        let units = units(packet.piece.begin, payload);
        let piece_headers = packet.piece.headers;
        let known = self.fragments.entry((toward, fragment));
        match known.or_insert_with(|| Owner::Unknown(Vec::new(), Headers::Unknown)) {
            Owner::Unknown(waiting, headers) => {
                waiting.push(Waiting { bytes, payload, units });
                if *headers == Headers::Unknown {
                    *headers = piece_headers;
                }
                Err(Reason::Fragment)
            }
            Owner::Refused(reason) => Err(*reason),
            Owner::Tuple(tuple, up, headers) => {
                if let (Headers::AtLeast(_) | Headers::Unknown, Headers::At(_)) = (&headers, piece_headers) {
                    *headers = piece_headers;
                }
                let (tuple, up, headers) = (tuple.clone(), *up, *headers);
                let payload = payload.saturating_sub(headers_in(&units, headers));
                self.pieces(&tuple, up, 1, bytes, payload);
                Ok(packet.path)
            }
        }
    }

    /// Counts fragments to the current flow of their first fragment's tuple.
    fn pieces(&mut self, tuple: &Tuple, up: bool, count: u64, bytes: u64, payload: u64) {
        let now = self.now;
        let Some(flow) = self.flows.get_mut(tuple) else { return };
        flow.add(up, count, bytes, payload, now);
        if up {
            flow.sent_unread(payload);
        }
        self.sum(up, count, count, bytes);
    }
}

/// Returns the number of packets on the wire that a buffer stands for.
fn packets(shown: &Shown<'_>, payload: u64, path: &mut Vec<&'static str>) -> u64 {
    let merged = shown.merged;
    let (packets, name) = match (u64::from(merged.size), u64::from(merged.segments)) {
        (0, _) => (1, "one packet"),
        (size, 0) => (payload.div_ceil(size).max(1), "merged, segments not said"),
        (_, segments) => (segments, "merged, segments said"),
    };
    path.push(name);
    packets
}
