//! Events in the Elastic Common Schema. Fields that the schema does not define are under `mailflow`, with the
//! names of the EVE lines.

use mailflow_common::PROTOCOL_UDP;
use serde_json::{Map, Value, json};

use super::{
    community_id::CommunityId,
    eve::{alert::AlertLine, common::EveTimestamp, flow::FlowLine},
    gateway::Gateway,
    summary::summary,
};
use mailflow_engine::{
    event::{Alert, Severity},
    flow::RecordFields,
    flow::{FlowRecord, RecordReason},
    time::WallClockOffset,
};

/// ECS version of the fields.
const ECS_VERSION: &str = "8.11.0";

/// Returns a flow record.
pub(crate) fn flow(
    record: &FlowRecord,
    epoch: WallClockOffset,
    gateway: &Gateway,
) -> serde_json::Result<Value> {
    let flow = &record.flow;
    let mut line = serde_json::to_value(FlowLine::of(record, epoch, gateway))?;
    let (start, end) = (flow.first, flow.last());
    let event_type = if record.reason == RecordReason::Active { "connection" } else { "end" };
    let mut source = json!({ "ip": flow.client(), "port": flow.key.client_port });
    let mut destination = json!({ "ip": flow.server(), "port": flow.key.server_port });
    if let Some(mac) = flow.mac {
        // Format of RFC 7042.
        source["mac"] = mac.map(|byte| format!("{byte:02X}")).join("-").into();
    }
    let udp = flow.key.scope.protocol() == PROTOCOL_UDP;
    let mut network = json!({
        "transport": if udp { "udp" } else { "tcp" },
        "type": if flow.client().is_ipv4() { "ipv4" } else { "ipv6" },
        "protocol": record.app.name(),
        "community_id": CommunityId::of(&flow.key),
    });
    // Unknown fields are omitted.
    for (input, name, up, down) in [
        (RecordFields::PACKETS, "packets", flow.up.packets, flow.down.packets),
        (RecordFields::BYTES, "bytes", flow.up.bytes, flow.down.bytes),
    ] {
        if record.fields.contains(input) {
            source[name] = up.into();
            destination[name] = down.into();
            network[name] = up.saturating_add(down).into();
        }
    }
    let mut tags = flow.key.scope.vlans().tags();
    if let Some(outer) = tags.next() {
        network["vlan"] = json!({ "id": outer.to_string() });
    }
    if let Some(inner) = tags.next() {
        network["inner"] = json!({ "vlan": { "id": inner.to_string() } });
    }
    Ok(json!({
        "@timestamp": EveTimestamp::of(record.time(), epoch).rfc3339(),
        "ecs": { "version": ECS_VERSION },
        "event": {
            "kind": "event", "category": ["network"], "type": [event_type], "module": "mailflow",
            "dataset": "mailflow.flow", "action": "network_flow", "reason": record.reason.name(),
            "start": EveTimestamp::of(start, epoch).rfc3339(), "end": EveTimestamp::of(end, epoch).rfc3339(),
            "duration": end.since(start).as_nanos() as u64,
        },
        "source": source,
        "destination": destination,
        "network": network,
        "observer": observer(gateway, line["in_iface"].take()),
        "mailflow": line["mailflow"].take(),
    }))
}

/// Returns an alert event.
pub(crate) fn alert(
    alert: &Alert,
    epoch: WallClockOffset,
    gateway: &Gateway,
    flows: usize,
) -> serde_json::Result<Value> {
    let mut line = serde_json::to_value(AlertLine::of(alert, epoch, gateway, flows))?;
    let mut event = json!({
        "kind": "alert", "category": ["network", "intrusion_detection"], "type": ["info"],
        "module": "mailflow", "dataset": "mailflow.alert", "action": alert.state.name(),
        "severity": severity(alert.severity), "id": alert.fingerprint,
        "start": EveTimestamp::of_start(alert).rfc3339(),
    });
    if let Some(end) = EveTimestamp::of_end(alert, epoch) {
        event["end"] = end.rfc3339().into();
    }
    let mut mailflow = line["mailflow"].take();
    if let Some(mailflow) = mailflow.as_object_mut() {
        mailflow.insert("alert".into(), line["alert"].take());
        mailflow.insert("flows".into(), line["flows"].take());
    }
    let labels: Map<String, Value> =
        alert.labels.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
    let mut source = json!({ "ip": line["src_ip"].take() });
    for (input, name, sum) in [
        (RecordFields::PACKETS, "packets", alert.sums.up.packets),
        (RecordFields::BYTES, "bytes", alert.sums.up.bytes),
    ] {
        if alert.tells(input) {
            source[name] = sum.into();
        }
    }
    Ok(json!({
        "@timestamp": EveTimestamp::of(alert.time, epoch).rfc3339(),
        "ecs": { "version": ECS_VERSION },
        "message": summary(alert),
        "event": event,
        "rule": { "name": &*alert.rule, "version": alert.rule_version.to_string() },
        "threat": { "framework": "MITRE ATT&CK", "technique": { "id": alert.attack } },
        "source": source,
        "labels": labels,
        "observer": observer(gateway, line["in_iface"].take()),
        "mailflow": mailflow,
    }))
}

/// Returns the description of the gateway.
fn observer(gateway: &Gateway, interface: Value) -> Value {
    let mut observer = json!({ "name": &**gateway.name(), "vendor": "mailflow", "product": "mailflow" });
    if !interface.is_null() {
        observer["ingress"] = json!({ "interface": { "name": interface } });
    }
    observer
}

/// Returns a number that grows with the severity.
const fn severity(severity: Severity) -> u8 {
    match severity {
        Severity::Low => 21,
        Severity::Medium => 47,
        Severity::High => 73,
        Severity::Critical => 99,
    }
}
