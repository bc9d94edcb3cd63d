//! The machine that the agent runs on: its kernel, capabilities, interfaces and clocks.

pub(crate) mod addresses;
pub(crate) mod bpf_probe;
pub mod capabilities;
pub mod clock;
pub(crate) mod device;
pub(crate) mod hook;
pub(crate) mod interface;
pub(crate) mod interface_report;
pub(crate) mod kernel_version;
pub(crate) mod memory;
pub(crate) mod name_pattern;
pub(crate) mod netlink;
pub(crate) mod roles;
pub mod sockets;
