//! The metrics port: what is scraped and probed, nothing that changes anything.

mod access;
mod auth;
mod compress;
mod listen;
mod password_queue;
mod peer;
mod routes;
mod server;
mod state;
mod timed;

pub use self::{
    access::Door,
    listen::is_assigned,
    server::{BindError, Listener, bind, serve},
    state::State,
    timed::Timed,
};
