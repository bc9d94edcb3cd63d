//! Outputs of the agent: lines, metrics, and the HTTP server that is scraped.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]

#[path = "sink/events.rs"]
mod events;
#[path = "sink/fixture.rs"]
mod fixture;
#[path = "sink/http.rs"]
mod http;
#[path = "sink/ledger.rs"]
mod ledger;
#[path = "sink/lines.rs"]
mod lines;
#[path = "sink/page.rs"]
mod page;
#[path = "sink/web.rs"]
mod web;
