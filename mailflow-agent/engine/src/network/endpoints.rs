//! Client and server of a flow, located against the internal networks.

use super::internal::{Networks, Site};
use crate::flow::Flow;

/// Where the two ends of a flow are. It is the same for every rule, so it is looked up once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends<'a> {
    /// The client.
    pub source: Site<'a>,
    /// The server.
    pub destination: Site<'a>,
}

impl<'a> Ends<'a> {
    /// The ends of `flow`.
    pub fn of(flow: &Flow, internal: &'a Networks) -> Self {
        Self { source: internal.locate(flow.client()), destination: internal.locate(flow.server()) }
    }
}
