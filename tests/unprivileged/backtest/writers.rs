//! Writers of a session in each format.

use serde_json::{Value, json};

/// Time of the first session, in seconds since 1970.
pub(super) const BEGIN: u64 = 1_700_000_000;

/// Counters of one direction of a session.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Way {
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) payload: u64,
    pub(super) data_packets: u64,
    pub(super) data_bytes: u64,
}

/// TCP session.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) client: String,
    pub(super) client_port: u16,
    pub(super) server: String,
    pub(super) port: u16,
    /// Start, in microseconds since 1970.
    pub(super) start: u64,
    /// Duration, in microseconds.
    pub(super) duration: u64,
    pub(super) up: Way,
    pub(super) down: Way,
    pub(super) answered: bool,
    pub(super) messages: u64,
    pub(super) tags: u64,
}

impl Session {
    /// Creates a session that `smtp-burst` counts.
    pub(super) fn mail(client: &str, client_port: u16, start: u64) -> Self {
        let way = Way { packets: 10, bytes: 2_000, payload: 1_400, data_packets: 8, data_bytes: 1_900 };
        Self {
            client: client.to_owned(),
            client_port,
            server: "93.184.215.25".to_owned(),
            port: 25,
            start,
            duration: 1_500_000,
            up: way,
            down: way,
            answered: true,
            messages: 1,
            tags: 0,
        }
    }

    fn tls(&self) -> bool {
        [465, 994].contains(&self.port)
    }

    fn end(&self) -> u64 {
        self.start + self.duration
    }

    fn vlan(&self) -> Vec<u64> {
        (1..=self.tags).collect()
    }

    fn eve(&self, bytes: [u64; 2]) -> Value {
        let mut line = json!({
            "timestamp": moment(self.end()), "flow_id": 1, "event_type": "flow",
            "src_ip": self.client, "src_port": self.client_port,
            "dest_ip": self.server, "dest_port": self.port, "proto": "TCP",
            "flow": {
                "pkts_toserver": self.up.packets, "bytes_toserver": bytes[0],
                "pkts_toclient": self.down.packets, "bytes_toclient": bytes[1],
                "start": moment(self.start), "end": moment(self.end()),
                "age": self.duration / 1_000_000, "state": "closed"
            }
        });
        if self.tags > 0 {
            line["vlan"] = json!(self.vlan());
        }
        line
    }

    /// Returns mailflow's own line with this reason.
    pub(super) fn own(&self, reason: &str) -> String {
        let mut line = self.eve([self.up.bytes, self.down.bytes]);
        line["app_proto"] = json!(if self.tls() { "smtps" } else { "smtp" });
        line["flow"]["reason"] = json!(reason);
        line["flow"]["state"] = json!(if reason == "closed" { "closed" } else { "established" });
        line["mailflow"] = json!({
            "payload_up": self.up.payload, "payload_down": self.down.payload,
            "data_packets_up": self.up.data_packets, "data_packets_down": self.down.data_packets,
            "data_bytes_up": self.up.data_bytes, "data_bytes_down": self.down.data_bytes,
            "messages_estimated": self.messages, "app_evidence": "server_greeting", "complete": true,
            "syn": true, "synack": self.answered, "mac": null
        });
        line.to_string()
    }

    /// Returns Suricata's line, which counts whole frames.
    pub(super) fn suricata(&self) -> String {
        let frames = |way: &Way| way.bytes + way.packets * (14 + 4 * self.tags);
        let mut line = self.eve([frames(&self.up), frames(&self.down)]);
        line["app_proto"] = json!(if self.tls() { "tls" } else { "smtp" });
        line["flow"]["reason"] = json!("timeout");
        line["flow"]["alerted"] = json!(false);
        let down = if self.answered { "1b" } else { "14" };
        line["tcp"] = json!({ "tcp_flags": "1b", "tcp_flags_ts": "1b", "tcp_flags_tc": down, "syn": true });
        line.to_string()
    }

    /// Returns Zeek's line as JSON.
    pub(super) fn zeek(&self) -> String {
        let mut line = json!({
            "ts": self.start as f64 / 1e6, "uid": "C1", "id.orig_h": self.client,
            "id.orig_p": self.client_port, "id.resp_h": self.server, "id.resp_p": self.port,
            "proto": "tcp", "service": self.service(), "duration": self.duration as f64 / 1e6,
            "orig_bytes": self.up.payload, "resp_bytes": self.down.payload, "conn_state": "SF",
            "missed_bytes": 0, "history": self.history(),
            "orig_pkts": self.up.packets, "orig_ip_bytes": self.up.bytes,
            "resp_pkts": self.down.packets, "resp_ip_bytes": self.down.bytes
        });
        for (name, tag) in ["vlan", "inner_vlan"].iter().zip(self.vlan()) {
            line[name] = json!(tag);
        }
        line.to_string()
    }

    /// Returns Zeek's line as columns, for [`ZEEK_HEADER`].
    pub(super) fn columns(&self) -> String {
        let time = |micros: u64| format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
        [
            time(self.start),
            "C1".to_owned(),
            self.client.clone(),
            self.client_port.to_string(),
            self.server.clone(),
            self.port.to_string(),
            "tcp".to_owned(),
            self.service().to_owned(),
            time(self.duration),
            self.up.payload.to_string(),
            self.down.payload.to_string(),
            "SF".to_owned(),
            "-".to_owned(),
            "-".to_owned(),
            "0".to_owned(),
            self.history().to_owned(),
            self.up.packets.to_string(),
            self.up.bytes.to_string(),
            self.down.packets.to_string(),
            self.down.bytes.to_string(),
            "(empty)".to_owned(),
        ]
        .join("\t")
    }

    fn service(&self) -> &'static str {
        if self.tls() { "ssl" } else { "smtp" }
    }

    fn history(&self) -> &'static str {
        if self.answered { "ShADadFf" } else { "Sr" }
    }
}

/// Header of a conn.log with columns.
pub(super) const ZEEK_HEADER: &str = "#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n\
    #unset_field\t-\n#path\tconn\n#open\t2023-11-14-22-13-20\n\
    #fields\tts\tuid\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\tservice\tduration\torig_bytes\t\
    resp_bytes\tconn_state\tlocal_orig\tlocal_resp\tmissed_bytes\thistory\torig_pkts\torig_ip_bytes\t\
    resp_pkts\tresp_ip_bytes\ttunnel_parents\n\
    #types\ttime\tstring\taddr\tport\taddr\tport\tenum\tstring\tinterval\tcount\tcount\tstring\tbool\tbool\t\
    count\tstring\tcount\tcount\tcount\tcount\tset[string]\n";

/// Joins lines to a log.
pub(super) fn lines(lines: impl IntoIterator<Item = String>) -> String {
    lines.into_iter().map(|line| line + "\n").collect()
}

/// Returns a conn.log of columns.
pub(super) fn columns<'a>(sessions: impl IntoIterator<Item = &'a Session>) -> String {
    let rows = lines(sessions.into_iter().map(Session::columns));
    format!("{ZEEK_HEADER}{rows}#close\t2023-11-15-00-00-00\n")
}

/// Formats a time as an EVE timestamp.
fn moment(micros: u64) -> String {
    let time = jiff::Timestamp::from_microsecond(micros as i64).unwrap();
    time.strftime("%Y-%m-%dT%H:%M:%S.%6f+0000").to_string()
}
