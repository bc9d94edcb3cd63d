//! Comparison of the kernel's maps with the model's.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Write,
    num::NonZeroU32,
};

use mailflow_common::{Address, DirectionTotals, FlowKey, Reason, Scope, Vlans};
use mailflow_engine::flow::{DirectionStats, Flow};
use mailflow_kernel::Kernel;
use mailflow_test_support::reference_dataplane::{self, Model};

use crate::run::moment;

/// Returns the differences as text; `None` if both sides are equal. Superseded flows are compared once.
pub(crate) fn difference(kernel: &mut Kernel, model: &mut Model) -> Option<String> {
    let mut text = String::new();
    totals(&mut text, kernel, model);
    let snapshot = kernel.snapshot(moment(model.now)).unwrap();
    if !snapshot.overflow.is_empty() {
        writeln!(text, "no flow of the model lacks a place: {:?}", snapshot.overflow).unwrap();
    }
    let expected: HashMap<_, _> = model.flows.values().map(expected).map(|flow| (flow.key, flow)).collect();
    let counted: HashMap<_, _> = snapshot.flows.into_iter().map(|flow| (flow.key, flow)).collect();
    report(&mut text, "living", &counted, &expected);
    let mut expected: HashMap<_, _> = HashMap::new();
    for ended in model.ended.drain(..) {
        let flow = self::expected(&ended.flow);
        expected.insert((flow.key, flow.first), (flow, moment(ended.replaced)));
    }
    let counted: HashMap<_, _> = snapshot
        .superseded
        .into_iter()
        .map(|ended| ((ended.flow.key, ended.flow.first), (ended.flow, ended.superseded_at)))
        .collect();
    report(&mut text, "finished", &counted, &expected);
    (!text.is_empty()).then_some(text)
}

fn totals(text: &mut String, kernel: &Kernel, model: &Model) {
    let counted = kernel.totals().unwrap();
    for (name, counted, expected) in
        [("up", counted.up, model.totals.up), ("down", counted.down, model.totals.down)]
    {
        let counted = reference_dataplane::Sum {
            buffers: counted.buffers,
            packets: counted.packets,
            bytes: counted.bytes,
        };
        if counted != expected {
            writeln!(text, "totals {name}: program {counted:?}, model {expected:?}").unwrap();
        }
    }
    let nowhere = [counted.unattributed_up, counted.unattributed_down];
    if nowhere != [DirectionTotals::default(); 2] || counted.merged != 0 {
        writeln!(text, "unattributed {nowhere:?}, merged {}", counted.merged).unwrap();
    }
    for reason in Reason::ALL {
        let expected = model.totals.reasons.get(&reason).copied().unwrap_or(0);
        if counted.reason(reason) != expected {
            writeln!(text, "{}: program {}, model {expected}", reason.name(), counted.reason(reason))
                .unwrap();
        }
    }
}

/// Converts the model's flow to the agent's type.
fn expected(flow: &reference_dataplane::Flow) -> Flow {
    let side = |side: &reference_dataplane::Side| DirectionStats {
        packets: side.packets,
        bytes: side.bytes,
        payload: side.payload,
        data_packets: side.data_packets,
        data_bytes: side.data_bytes,
        last: side.last.map(moment),
    };
    let tuple = &flow.tuple;
    let zone = tuple.zone.iter().fold(Vlans::default(), |zone, tag| zone.push(*tag));
    Flow {
        key: FlowKey {
            client: Address::from(tuple.client.0),
            server: Address::from(tuple.server.0),
            client_port: tuple.client.1,
            server_port: tuple.server.1,
            scope: Scope::new(zone, tuple.protocol, tuple.client.0.is_ipv6()),
        },
        up: side(&flow.up),
        down: side(&flow.down),
        first: moment(flow.first),
        messages: flow.messages,
        rejected: flow.rejected,
        mac: flow.mac,
        // BPF_PROG_TEST_RUN presents frames as received by the loopback interface, which is the first one.
        interface: NonZeroU32::new(1),
        facts: flow.facts,
    }
}

fn report<K: Copy + Eq + std::hash::Hash, V: PartialEq + std::fmt::Debug>(
    text: &mut String,
    what: &str,
    counted: &HashMap<K, V>,
    expected: &HashMap<K, V>,
) {
    let keys = counted.keys().chain(expected.keys()).copied();
    let keys: std::collections::HashSet<K> = keys.collect();
    let mut lines = BTreeSet::new();
    for key in keys {
        let (counted, expected) = (counted.get(&key), expected.get(&key));
        if counted != expected {
            lines.insert(format!("{what}:\n  program {counted:?}\n  model   {expected:?}"));
        }
    }
    for line in lines {
        writeln!(text, "{line}").unwrap();
    }
}
