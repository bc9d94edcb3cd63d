//! Endpoints of a flow, resolved against the internal networks.

use super::internal::{Networks, ResolvedAddress};
use crate::flow::Flow;

/// Resolved client and server of a flow. They are equal for every rule, so they are resolved once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints<'a> {
    /// Client.
    pub source: ResolvedAddress<'a>,
    /// Server.
    pub destination: ResolvedAddress<'a>,
}

impl<'a> Endpoints<'a> {
    /// Returns the resolved endpoints of `flow`.
    pub fn of(flow: &Flow, internal: &'a Networks) -> Self {
        Self { source: internal.resolve(flow.client()), destination: internal.resolve(flow.server()) }
    }
}
