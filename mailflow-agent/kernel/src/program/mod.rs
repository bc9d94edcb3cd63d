//! The BPF program: its object, and loading it.

pub(crate) mod load;
pub(crate) mod log;
pub(crate) mod names;
pub(crate) mod object;
pub(crate) mod object_compat;
pub(crate) mod test_run;
