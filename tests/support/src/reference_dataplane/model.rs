//! The counter: what becomes of each frame.

use std::collections::{HashMap, HashSet};

use mailflow_common::Reason;

use super::{
    flow::{Flow, Silences, Tuple},
    packet::{FragmentOf, Headers, Link, Packet, Ports, Shown, Transport},
    parse,
};

/// Which packets a hook counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Toward {
    /// Those to a watched port.
    Server,
    /// Those from one.
    Client,
    /// Both.
    Both,
}

/// Whose packets a hook counts where `host` stands beside `lan`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Everybody's.
    Any,
    /// What the machine made.
    Made,
    /// What belongs to a flow that the machine began.
    Received,
}

/// What a hook counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Which packets.
    pub toward: Toward,
    /// Whose.
    pub whose: Whose,
}

/// A flow that another one on its tuple has followed.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The flow.
    pub flow: Flow,
    /// Time of the first packet of the other.
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
    /// Buffers not counted, by reason.
    pub reasons: HashMap<Reason, u64>,
}

/// What is known of a packet that comes in fragments.
enum Owner {
    /// Its first one has not come; these have, and what they tell of the headers.
    Nobody(Vec<Waiting>, Headers),
    /// Its first one was counted to this tuple, up or down; the headers end there.
    Tuple(Tuple, bool, Headers),
    /// Its first one was not counted.
    Refused(Reason),
}

/// A fragment that came before its packet's first one.
struct Waiting {
    bytes: u64,
    payload: u64,
    units: HashSet<u64>,
}

/// The units of eight bytes of which a fragment has at least four. The first sixteen are told apart.
fn units(begin: u64, bytes: u64) -> HashSet<u64> {
    (begin / 8..16).filter(|unit| begin + bytes >= unit * 8 + 4).collect()
}

/// How many bytes of these units are headers. A header may end amid one.
fn headers_in(units: &HashSet<u64>, headers: Headers) -> u64 {
    let (Headers::At(end) | Headers::AtLeast(end)) = headers else { return 0 };
    units.iter().map(|unit| end.min(128).saturating_sub(unit * 8).min(8)).sum()
}

/// The counter behind all hooks.
pub struct Model {
    watched: HashSet<u16>,
    silences: Silences,
    /// The clock, in milliseconds.
    pub now: u64,
    /// Flows in the table.
    pub flows: HashMap<Tuple, Flow>,
    /// Flows that another one has followed since this was emptied last.
    pub ended: Vec<Ended>,
    /// Sums.
    pub totals: Totals,
    /// Without tags: the zone in which the tuple's flow began.
    zones: HashMap<Tuple, Vec<u16>>,
    /// A fragment belongs to what the same hook made of its packet's first one.
    fragments: HashMap<(Toward, FragmentOf), Owner>,
}

impl Model {
    /// A counter that has seen nothing; the silences are closed, unanswered and idle.
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

    /// Packets that came in fragments so far.
    pub fn fragmented(&self) -> usize {
        self.fragments.len()
    }

    /// Counts a frame; tells the ways it went, if it was counted to a flow.
    ///
    /// # Errors
    /// Why it was not.
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
            // L2TP, GTP-U, Teredo, LISP, GRE in UDP, VXLAN, VXLAN-GPE, CAPWAP, GUE, Geneve, MPLS in UDP, VXLAN of old.
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
        // On the way between two networks both of whose hooks could count it.
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

    /// The flow, begun if need be, and whether the packet goes up.
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
        let (mut up, said) = match (flags & 0x02 != 0, flags & 0x10 != 0) {
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
        packet.path.push(match (said, flags & 0x10 != 0) {
            (true, false) => "direction by syn",
            (true, true) => "direction by syn-ack",
            _ if hook.toward == Toward::Both && to && from => "direction by the lower port",
            _ => "direction by port or hook",
        });
        let number = transport.tcp.filter(|(_, flags)| flags & 0x12 == 0x02).map(|(number, _)| number);
        let opened = |flow: &Flow| !said || flow.opening(self.now, &self.silences);
        let other_way = |model: &Self, tuple: &Tuple| {
            model.lives(tuple, None) && model.flows.get(tuple).is_some_and(opened)
        };
        if !self.lives(&tuple, number) && other_way(self, &tuple.reversed()) {
            (tuple, up) = (tuple.reversed(), !up);
            packet.path.push(if said { "the server opens too" } else { "direction by the flow there is" });
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
            // A SYN begins where it is.
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
        // Two flows of one tuple never begin at the same moment.
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

    /// Where else than in its own VLAN zone a packet's flow may be: without tags, or with those it began with.
    fn zone(&self, turns: &[(Tuple, bool)]) -> Option<Vec<u16>> {
        let tagged = turns.first().is_some_and(|(tuple, _)| !tuple.zone.is_empty());
        if tagged {
            return Some(Vec::new());
        }
        turns.iter().find_map(|(tuple, _)| self.zones.get(tuple)).cloned()
    }

    /// The living flow outside of a packet's own VLAN zone that the packet belongs to, as tags are visible in one
    /// direction only: that of one of these tuples in that `zone`.
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

    /// Whether the tuple has a flow that a packet, with this SYN's number, can belong to.
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

    /// A first fragment was counted: those that came before it are, too, as one sum.
    fn claim(
        &mut self,
        fragment: (Toward, FragmentOf),
        tuple: Tuple,
        up: bool,
        mut headers: Headers,
        path: &mut Vec<&'static str>,
    ) {
        if let Some(Owner::Nobody(waiting, told)) = self.fragments.remove(&fragment) {
            path.push("fragments that waited");
            *self.totals.reasons.entry(Reason::Fragment).or_default() -= waiting.len() as u64;
            if let (Headers::AtLeast(_), Headers::At(_)) = (headers, told) {
                headers = told;
            }
            // Copies of a fragment are the same headers.
            let units = waiting.iter().flat_map(|one| one.units.iter().copied()).collect();
            let bytes = waiting.iter().map(|one| one.bytes).sum();
            let payload = waiting.iter().map(|one| one.payload).sum::<u64>();
            let payload = payload.saturating_sub(headers_in(&units, headers));
            self.pieces(&tuple, up, waiting.len() as u64, bytes, payload);
        }
        self.fragments.insert(fragment, Owner::Tuple(tuple, up, headers));
    }

    /// A first fragment was not counted: nor are the others.
    fn refuse(&mut self, toward: Toward, packet: &Packet, reason: Reason) {
        let Some(fragment) = packet.fragment.clone() else { return };
        if let Some(Owner::Nobody(waiting, _)) =
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
        let told = packet.piece.headers;
        let known = self.fragments.entry((toward, fragment));
        match known.or_insert_with(|| Owner::Nobody(Vec::new(), Headers::Unknown)) {
            Owner::Nobody(waiting, headers) => {
                waiting.push(Waiting { bytes, payload, units });
                if *headers == Headers::Unknown {
                    *headers = told;
                }
                Err(Reason::Fragment)
            }
            Owner::Refused(reason) => Err(*reason),
            Owner::Tuple(tuple, up, headers) => {
                if let (Headers::AtLeast(_) | Headers::Unknown, Headers::At(_)) = (&headers, told) {
                    *headers = told;
                }
                let (tuple, up, headers) = (tuple.clone(), *up, *headers);
                let payload = payload.saturating_sub(headers_in(&units, headers));
                self.pieces(&tuple, up, 1, bytes, payload);
                Ok(packet.path)
            }
        }
    }

    /// Counts fragments to the flow that their first one's tuple has now.
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

/// Packets on the wire that a buffer stands for.
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
