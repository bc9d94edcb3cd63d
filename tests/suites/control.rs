//! The control socket and hot reload: what a running agent is asked, and what it makes of a new configuration.

#[path = "attach/watched.rs"]
#[allow(dead_code)]
mod watched;

#[path = "control/asked.rs"]
mod asked;
#[path = "control/reload.rs"]
mod reload;
