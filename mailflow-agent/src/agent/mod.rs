//! Wiring of kernel, engine and outputs in the poll loop. No other module depends on all of them.

mod network_lists;
mod pin_watch;
pub(super) mod pipeline;
pub(super) mod poll;
pub(super) mod program_load;
mod reload;
mod run;
pub(crate) mod startup;
mod systemd;

pub use self::{
    reload::{ConfigSource, ReadConfig},
    run::run,
};
