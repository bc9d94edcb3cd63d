//! Outputs and their receivers: test servers that close, refuse and delay, and real programs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]

#[path = "outputs/alertmanager.rs"]
mod alertmanager;
#[path = "outputs/clock.rs"]
mod clock;
#[path = "outputs/collector.rs"]
mod collector;
#[path = "sink/fixture.rs"]
#[allow(dead_code, reason = "shared with the suite `sink`")]
mod fixture;
#[path = "life/gateway.rs"]
#[allow(dead_code, reason = "shared with the suite `life`")]
mod gateway;
#[path = "outputs/http.rs"]
mod http;
#[path = "outputs/live.rs"]
mod live;
#[path = "outputs/logrotate.rs"]
mod logrotate;
#[path = "outputs/logs.rs"]
mod logs;
#[path = "outputs/nfcapd.rs"]
mod nfcapd;
#[path = "outputs/peer.rs"]
mod peer;
#[path = "outputs/profiles.rs"]
mod profiles;
#[path = "outputs/proxy.rs"]
mod proxy;
#[path = "outputs/remote.rs"]
mod remote;
#[path = "outputs/restart.rs"]
mod restart;
#[path = "outputs/schemas.rs"]
mod schemas;
#[path = "outputs/secrets.rs"]
mod secrets;
#[path = "outputs/suricata.rs"]
mod suricata;
#[path = "outputs/tls.rs"]
mod tls;
#[path = "outputs/webhook.rs"]
mod webhook;
