//! JSON profiles: required fields of their schemas, and no loss of an EVE field.

use mailflow_agent::config::Profile;
use mailflow_common::{Scope, Vlans};
use serde_json::{Value, json};

use crate::{
    fixture::{EPOCH, key, record},
    peer::{SENTENCE, alert, format, resolved},
};

fn parse(line: serde_json::Result<String>) -> Value {
    serde_json::from_str(&line.unwrap()).unwrap()
}

fn flow(profile: Profile) -> Value {
    let mut record = record(key("10.0.0.9", 40_001, "192.0.2.1", 25));
    record.flow.key.scope = Scope::new(Vlans::default().push(20).push(30), 6, false);
    parse(format(profile).flow_line(&record, EPOCH))
}

fn alert_line(profile: Profile) -> Value {
    parse(format(profile).alert_line(&alert(7), EPOCH))
}

/// Checks the values at these paths.
fn has(line: &Value, expected: Value) {
    for (path, value) in expected.as_object().unwrap() {
        assert_eq!(line.pointer(path), Some(value), "{path} of {line:#}");
    }
}

#[test]
fn ecs() {
    let line = flow(Profile::Ecs);
    has(
        &line,
        json!({
            "/@timestamp": "2026-11-21T03:32:01.500000Z", "/ecs/version": "8.11.0",
            "/event/kind": "event", "/event/category": ["network"], "/event/type": ["end"],
            "/event/dataset": "mailflow.flow", "/event/start": "2026-11-21T03:31:00.123000Z",
            "/event/end": "2026-11-21T03:32:01.500000Z", "/event/duration": 61_377_000_000_u64,
            "/source/ip": "10.0.0.9", "/source/port": 40_001, "/source/mac": "02-00-00-00-AB-01",
            "/source/packets": 101, "/source/bytes": 102,
            "/destination/ip": "192.0.2.1", "/destination/port": 25, "/destination/packets": 201,
            "/destination/bytes": 202,
            "/network/transport": "tcp", "/network/type": "ipv4", "/network/protocol": "smtp",
            "/network/packets": 302, "/network/bytes": 304, "/network/vlan/id": "20",
            "/network/inner/vlan/id": "30", "/observer/name": "gw1.example",
            "/observer/ingress/interface/name": "lan0",
        }),
    );
    let eve = flow(Profile::Eve);
    assert_eq!(
        (&line["mailflow"], &line["network"]["community_id"]),
        (&eve["mailflow"], &eve["community_id"])
    );

    let (line, eve) = (alert_line(Profile::Ecs), alert_line(Profile::Eve));
    has(
        &line,
        json!({
            "/event/kind": "alert", "/event/dataset": "mailflow.alert", "/event/severity": 73,
            "/event/id": "0000000000000007", "/rule/name": "smtp-burst", "/rule/version": "3",
            "/threat/technique/id": ["T1048.003"], "/source/ip": "10.0.0.9", "/labels/team": "mail \"1\"",
            "/message": SENTENCE, "/observer/name": "gw1.example",
            "/observer/ingress/interface/name": "lan0", "/mailflow/interfaces": ["lan0"],
            "/mailflow/severity": "high", "/mailflow/alert/severity": 1,
        }),
    );
    assert_eq!((&line["mailflow"]["alert"], &line["mailflow"]["flows"]), (&eve["alert"], &eve["flows"]));
    for part in ["destinations", "like_a_relay"] {
        assert!(!eve["mailflow"][part].is_null());
        assert_eq!(line["mailflow"][part], eve["mailflow"][part]);
    }
}

#[test]
fn ocsf() {
    let line = flow(Profile::Ocsf);
    has(
        &line,
        json!({
            "/class_uid": 4_001, "/category_uid": 4, "/activity_id": 2, "/type_uid": 400_102,
            "/severity_id": 1, "/time": 1_795_231_921_500_u64, "/start_time": 1_795_231_860_123_u64,
            "/end_time": 1_795_231_921_500_u64, "/metadata/version": "1.4.0",
            "/metadata/product/name": "mailflow", "/src_endpoint/ip": "10.0.0.9",
            "/src_endpoint/port": 40_001, "/src_endpoint/mac": "02:00:00:00:ab:01",
            "/src_endpoint/vlan_uid": "20", "/dst_endpoint/ip": "192.0.2.1", "/dst_endpoint/port": 25,
            "/connection_info/protocol_num": 6, "/connection_info/protocol_name": "tcp",
            "/connection_info/direction_id": 2, "/traffic/packets_out": 101, "/traffic/bytes_out": 102,
            "/traffic/packets_in": 201, "/traffic/bytes_in": 202, "/traffic/packets": 302,
            "/device/hostname": "gw1.example", "/device/interface_name": "lan0",
        }),
    );
    let eve = flow(Profile::Eve);
    assert_eq!((&line["unmapped"]["flow"], &line["unmapped"]["mailflow"]), (&eve["flow"], &eve["mailflow"]));

    let (line, eve) = (alert_line(Profile::Ocsf), alert_line(Profile::Eve));
    has(
        &line,
        json!({
            "/class_uid": 2_004, "/category_uid": 2, "/activity_id": 2, "/type_uid": 200_402,
            "/severity_id": 4, "/status_id": 1, "/time": 1_795_231_865_000_u64,
            "/finding_info/uid": "0000000000000007-1795231864000", "/finding_info/title": "smtp burst",
            "/finding_info/analytic/name": "smtp-burst", "/finding_info/analytic/type_id": 1,
            "/finding_info/attacks/0/technique/uid": "T1048",
            "/finding_info/attacks/0/sub_technique/uid": "T1048.003",
            "/evidences/0/src_endpoint/ip": "10.0.0.9", "/device/hostname": "gw1.example",
            "/device/interface_name": "lan0", "/unmapped/mailflow/severity": "high",
        }),
    );
    for part in ["alert", "mailflow", "flows"] {
        assert_eq!(line["unmapped"][part], eve[part], "{part}");
    }
    let over = parse(format(Profile::Ocsf).alert_line(&resolved(&alert(7)), EPOCH));
    has(&over, json!({ "/activity_id": 3, "/status_id": 4, "/end_time": 1_795_231_869_000_u64 }));
}
