//! Where the project lies.

pub(crate) use mailflow_test_support::lab::workspace as root;
