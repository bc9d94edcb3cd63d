//! Root of the repository.

pub(crate) use mailflow_tests::lab::workspace as root;
