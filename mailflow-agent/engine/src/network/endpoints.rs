//! Client and server of a flow, located against the internal networks.

use super::internal::{Networks, ResolvedAddress};
use crate::flow::Flow;

/// Where the two ends of a flow are. It is the same for every rule, so it is looked up once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints<'a> {
    /// The client.
    pub source: ResolvedAddress<'a>,
    /// The server.
    pub destination: ResolvedAddress<'a>,
}

impl<'a> Endpoints<'a> {
    /// The ends of `flow`.
    pub fn of(flow: &Flow, internal: &'a Networks) -> Self {
        Self { source: internal.resolve(flow.client()), destination: internal.resolve(flow.server()) }
    }
}
