//! Outputs of a running agent, and of replays, with the programs at their other end.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]

mailflow_test_support::needs_root!();

mod alertmanager;
mod clock;
#[path = "../../common/fixture.rs"]
#[allow(dead_code, reason = "shared with the unprivileged suite `outputs`")]
mod fixture;
#[path = "../restart/gateway.rs"]
#[allow(dead_code, reason = "shared with the suite `restart`")]
mod gateway;
#[path = "../../common/http.rs"]
#[allow(dead_code, reason = "shared with the unprivileged suite `outputs`")]
mod http;
#[path = "../../common/http_proxy.rs"]
#[allow(dead_code, reason = "shared with the unprivileged suite `outputs`")]
mod http_proxy;
#[path = "../../common/ipfix_collector.rs"]
#[allow(dead_code, reason = "shared with the unprivileged suite `outputs`")]
mod ipfix_collector;
mod live;
mod logrotate;
mod nfcapd;
#[path = "../../common/peer.rs"]
#[allow(dead_code, reason = "shared with the unprivileged suite `outputs`")]
mod peer;
mod remote;
mod restart;
mod schemas;
mod secrets;
mod suricata;
