//! Addresses, located against the internal networks and the special-use registries, and sets of addresses.

pub mod address_set;
pub mod endpoints;
pub mod internal;
pub(crate) mod lookup_cache;
mod range_table;
pub mod role;
pub mod special_use;

pub use self::{
    address_set::{Member, Set},
    endpoints::Ends,
    internal::{Network, Networks, Origin, Place, Site, canonical},
    role::AssetRole,
};
