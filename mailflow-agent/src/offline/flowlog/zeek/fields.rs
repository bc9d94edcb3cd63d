//! Columns of Zeek's conn.log that are read.

/// Column that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ZeekField {
    Ts,
    OrigH,
    OrigP,
    RespH,
    RespP,
    LogProtocol,
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

impl ZeekField {
    pub(crate) const ALL: [(ZeekField, &'static str); 20] = [
        (ZeekField::Ts, "ts"),
        (ZeekField::OrigH, "id.orig_h"),
        (ZeekField::OrigP, "id.orig_p"),
        (ZeekField::RespH, "id.resp_h"),
        (ZeekField::RespP, "id.resp_p"),
        (ZeekField::LogProtocol, "proto"),
        (ZeekField::Service, "service"),
        (ZeekField::Duration, "duration"),
        (ZeekField::ConnState, "conn_state"),
        (ZeekField::History, "history"),
        (ZeekField::MissedBytes, "missed_bytes"),
        (ZeekField::OrigBytes, "orig_bytes"),
        (ZeekField::OrigPkts, "orig_pkts"),
        (ZeekField::OrigIpBytes, "orig_ip_bytes"),
        (ZeekField::RespBytes, "resp_bytes"),
        (ZeekField::RespPkts, "resp_pkts"),
        (ZeekField::RespIpBytes, "resp_ip_bytes"),
        (ZeekField::Vlan, "vlan"),
        (ZeekField::InnerVlan, "inner_vlan"),
        (ZeekField::OrigL2Addr, "orig_l2_addr"),
    ];
    /// Number of the first columns that every line must have.
    pub(crate) const REQUIRED: usize = 6;
}

/// Zeek's names of the columns.
pub(crate) const COLUMN_NAMES: [&str; ZeekField::ALL.len()] = {
    let mut names = [""; ZeekField::ALL.len()];
    let mut number = 0;
    while number < names.len() {
        names[number] = ZeekField::ALL[number].1;
        number += 1;
    }
    names
};
