//! Control socket and reload: requests to a running agent, and changes of its configuration.

#[path = "attach/watched.rs"]
#[allow(dead_code)]
mod watched;

#[path = "control/asked.rs"]
mod asked;
#[path = "control/reload.rs"]
mod reload;
