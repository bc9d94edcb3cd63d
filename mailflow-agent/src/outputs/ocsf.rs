//! Events in the Open Cybersecurity Schema Framework: flows as Network Activity, alerts as Detection Finding.
//! Fields that the schema does not define are under `unmapped`, with the names of the EVE lines.

use mailflow_common::PROTOCOL_UDP;
use serde_json::{Value, json};

use super::{
    community_id::CommunityId,
    eve::{alert::AlertLine, flow::FlowLine},
    gateway::Gateway,
    summary::summary,
};
use mailflow_engine::{
    event::{Alert, AlertState, Severity},
    flow::RecordFields,
    flow::{FlowRecord, RecordReason},
    time::{Time, WallClockOffset},
};

/// First schema version with a field for Community IDs.
const OCSF_VERSION: &str = "1.4.0";
/// Class Network Activity, of the category Network Activity.
const NETWORK_ACTIVITY_CLASS: u32 = 4_001;
/// Class Detection Finding, of the category Findings.
const DETECTION_FINDING_CLASS: u32 = 2_004;

/// Returns a flow record.
pub(crate) fn flow(
    record: &FlowRecord,
    epoch: WallClockOffset,
    gateway: &Gateway,
) -> serde_json::Result<Value> {
    let flow = &record.flow;
    let mut line = serde_json::to_value(FlowLine::of(record, epoch, gateway))?;
    // 6 is Traffic (the flow goes on), 2 is Close.
    let activity = if record.reason == RecordReason::Active { 6 } else { 2 };
    let mut client = json!({ "ip": flow.client(), "port": flow.key.client_port });
    if let Some(mac) = flow.mac {
        client["mac"] = super::eve::common::EveMac(mac).to_string().into();
    }
    if let Some(tag) = flow.key.scope.vlans().tags().next() {
        client["vlan_uid"] = tag.to_string().into();
    }
    let protocol = flow.key.scope.protocol();
    // Unknown fields are omitted: the schema does not allow null.
    let mut traffic = json!({});
    for (input, [out, back, both], up, down) in [
        (RecordFields::PACKETS, ["packets_out", "packets_in", "packets"], flow.up.packets, flow.down.packets),
        (RecordFields::BYTES, ["bytes_out", "bytes_in", "bytes"], flow.up.bytes, flow.down.bytes),
    ] {
        if record.fields.contains(input) {
            traffic[out] = up.into();
            traffic[back] = down.into();
            traffic[both] = up.saturating_add(down).into();
        }
    }
    Ok(json!({
        "class_uid": NETWORK_ACTIVITY_CLASS, "category_uid": NETWORK_ACTIVITY_CLASS / 1_000, "activity_id": activity,
        "type_uid": NETWORK_ACTIVITY_CLASS * 100 + activity, "severity_id": 1,
        "time": millis(record.time(), epoch),
        "start_time": millis(flow.first, epoch), "end_time": millis(flow.last(), epoch),
        "duration": flow.last().since(flow.first).as_millis() as u64,
        "metadata": metadata("mailflow.flow"),
        "src_endpoint": client,
        "dst_endpoint": { "ip": flow.server(), "port": flow.key.server_port },
        "connection_info": {
            "uid": line["flow_id"].to_string(), "community_uid": CommunityId::of(&flow.key),
            "protocol_num": protocol, "protocol_name": if protocol == PROTOCOL_UDP { "udp" } else { "tcp" },
            "protocol_ver_id": if flow.client().is_ipv4() { 4 } else { 6 }, "direction_id": 2,
        },
        "traffic": traffic,
        "app_name": record.app.name(),
        "device": device(gateway, line["in_iface"].take()),
        "unmapped": { "flow": line["flow"].take(), "mailflow": line["mailflow"].take() },
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
    // A repeated event is an update of the finding that the first one created.
    let (activity, status) = match alert.state {
        AlertState::Firing if alert.time == alert.starts_at => (1, 1),
        AlertState::Firing => (2, 1),
        AlertState::Resolved => (3, 4),
    };
    let attacks: Vec<Value> = alert
        .attack
        .iter()
        .map(|id| json!({ "technique": { "uid": id.split('.').next() }, "sub_technique": { "uid": id }, "version": "16" }))
        .collect();
    let start = millis(Time::ZERO, WallClockOffset::from_unix_nanos(alert.starts_at_unix));
    let address = line["src_ip"].take();
    let mut event = json!({
        "class_uid": DETECTION_FINDING_CLASS, "category_uid": DETECTION_FINDING_CLASS / 1_000, "activity_id": activity,
        "type_uid": DETECTION_FINDING_CLASS * 100 + activity, "severity_id": severity(alert.severity), "status_id": status,
        "time": millis(alert.time, epoch),
        "start_time": start,
        "message": summary(alert),
        "metadata": metadata("mailflow.alert"),
        "finding_info": {
            "uid": format!("{}-{start}", alert.fingerprint),
            "title": line["alert"]["signature"], "desc": summary(alert),
            "first_seen_time": millis(alert.first, epoch), "last_seen_time": millis(alert.last, epoch),
            "analytic": {
                "name": &*alert.rule, "uid": &*alert.rule, "version": alert.rule_version.to_string(),
                "type_id": 1, "type": "Rule",
            },
            "attacks": attacks,
        },
        "device": device(gateway, line["in_iface"].take()),
        "evidences": [{ "src_endpoint": { "ip": address } }],
        "observables": [{ "name": "evidences[].src_endpoint.ip", "type_id": 2, "type": "IP Address", "value": address }],
        "unmapped": {
            "alert": line["alert"].take(), "mailflow": line["mailflow"].take(), "flows": line["flows"].take(),
        },
    });
    // Unknown fields are omitted: the schema does not allow null.
    if let Some(end) = alert.ends_at {
        event["end_time"] = millis(end, epoch).max(start).into();
    }
    Ok(event)
}

/// Returns the metadata of an event of this log.
fn metadata(log: &str) -> Value {
    json!({
        "version": OCSF_VERSION, "log_name": log, "profiles": ["host"],
        "product": { "name": "mailflow", "vendor_name": "mailflow", "version": env!("CARGO_PKG_VERSION") },
    })
}

/// Returns the description of the gateway. The schema has no device type for it.
fn device(gateway: &Gateway, interface: Value) -> Value {
    let mut device = json!({ "hostname": &**gateway.name(), "type_id": 99, "type": "Gateway" });
    if !interface.is_null() {
        device["interface_name"] = interface;
    }
    device
}

/// Converts a time to milliseconds since 1970.
fn millis(time: Time, epoch: WallClockOffset) -> i64 {
    i64::try_from(epoch.unix_nanos(time).div_euclid(1_000_000)).unwrap_or(i64::MAX)
}

/// Returns the severity_id of a severity.
const fn severity(severity: Severity) -> u8 {
    match severity {
        Severity::Low => 2,
        Severity::Medium => 3,
        Severity::High => 4,
        Severity::Critical => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_milliseconds() {
        let epoch = WallClockOffset::from_unix_nanos(1_795_231_860_000_000_000);
        assert_eq!(millis(Time::from_nanos(1_999_999), epoch), 1_795_231_860_001);
    }
}
