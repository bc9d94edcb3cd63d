//! The columns of Zeek's conn.log that are read.

/// The columns that are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Ts,
    OrigH,
    OrigP,
    RespH,
    RespP,
    Proto,
    Service,
    Duration,
    ConnState,
    History,
    MissedBytes,
    OrigBytes,
    OrigPkts,
    OrigIpBytes,
    RespBytes,
    RespPkts,
    RespIpBytes,
    Vlan,
    InnerVlan,
    OrigL2Addr,
}

impl Field {
    pub(crate) const ALL: [(Field, &'static str); 20] = [
        (Field::Ts, "ts"),
        (Field::OrigH, "id.orig_h"),
        (Field::OrigP, "id.orig_p"),
        (Field::RespH, "id.resp_h"),
        (Field::RespP, "id.resp_p"),
        (Field::Proto, "proto"),
        (Field::Service, "service"),
        (Field::Duration, "duration"),
        (Field::ConnState, "conn_state"),
        (Field::History, "history"),
        (Field::MissedBytes, "missed_bytes"),
        (Field::OrigBytes, "orig_bytes"),
        (Field::OrigPkts, "orig_pkts"),
        (Field::OrigIpBytes, "orig_ip_bytes"),
        (Field::RespBytes, "resp_bytes"),
        (Field::RespPkts, "resp_pkts"),
        (Field::RespIpBytes, "resp_ip_bytes"),
        (Field::Vlan, "vlan"),
        (Field::InnerVlan, "inner_vlan"),
        (Field::OrigL2Addr, "orig_l2_addr"),
    ];
    /// As many as a line must have.
    pub(crate) const NEEDED: usize = 6;
}

/// The names in Zeek's logs of the columns that are looked at.
pub(crate) const NAMES: [&str; Field::ALL.len()] = {
    let mut names = [""; Field::ALL.len()];
    let mut number = 0;
    while number < names.len() {
        names[number] = Field::ALL[number].1;
        number += 1;
    }
    names
};
