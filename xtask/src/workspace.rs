//! Root of the repository.

pub(crate) use mailflow_test_support::lab::workspace as root;
