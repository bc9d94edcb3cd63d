//! Outputs and test receivers that close, refuse and delay.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]

mod alertmanager;
mod collector;
#[allow(dead_code, reason = "shared with the suite `sink`")]
mod events;
#[path = "../../common/fixture.rs"]
#[allow(dead_code, reason = "shared with other suites")]
mod fixture;
#[path = "../../common/http.rs"]
#[allow(dead_code, reason = "shared with other suites")]
mod http;
#[path = "../../common/http_proxy.rs"]
mod http_proxy;
#[path = "../../common/ipfix_collector.rs"]
#[allow(dead_code, reason = "shared with the system suite `outputs`")]
mod ipfix_collector;
mod lines;
mod logs;
#[path = "../../common/peer.rs"]
#[allow(dead_code, reason = "shared with other suites")]
mod peer;
mod profiles;
mod proxy;
mod tls;
mod webhook;
