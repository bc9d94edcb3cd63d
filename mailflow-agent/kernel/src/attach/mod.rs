//! Attaching: the programs at the hooks of the watched interfaces, supervised while the agent runs.

#[expect(clippy::module_inception, reason = "the folder is named after its main operation")]
pub(crate) mod attach;
pub(crate) mod attached_program;
pub(crate) mod clsact;
pub(crate) mod helper;
pub(crate) mod lan_interfaces;
pub(crate) mod pinned_link;
pub(crate) mod query;
pub(crate) mod status;
pub(crate) mod supervised_interface;
pub(crate) mod supervisor;
