//! Where the project lies.

pub(crate) use mailflow_tests::lab::workspace as root;
