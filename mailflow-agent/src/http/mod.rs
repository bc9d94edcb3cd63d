//! HTTP server of the metrics port. It only serves read-only pages.

mod access;
mod auth;
mod compress;
mod listen;
mod password_queue;
mod peer;
mod provider;
mod routes;
mod server;
mod timed_stream;

pub use self::{
    access::AccessControl,
    listen::is_assigned,
    provider::MetricsProvider,
    server::{HttpBindError, HttpListener, bind, serve},
    timed_stream::TimedStream,
};
