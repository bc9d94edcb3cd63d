//! The repository itself: documents, comments, and what they claim.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]

mod applications;
mod documents;
mod isolation;
mod manual;
mod old_names;
mod prose;
mod readme;
