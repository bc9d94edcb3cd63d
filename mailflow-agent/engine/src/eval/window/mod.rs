//! Windows of event time: the state of one term for one group, in bounded memory. The documentation of each kind
//! states the error that the bound causes.

mod count;
pub(crate) mod distinct;
mod entries;
mod first_seen;
pub(crate) mod spec;
pub(crate) mod state;
mod sum;
pub mod value;
