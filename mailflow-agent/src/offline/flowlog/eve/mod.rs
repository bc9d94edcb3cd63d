//! EVE flow lines, mailflow's own and Suricata's.

pub(crate) mod fast;
pub(crate) mod line;
pub(crate) mod mailflow;
pub(crate) mod read;
pub(crate) mod suricata;
