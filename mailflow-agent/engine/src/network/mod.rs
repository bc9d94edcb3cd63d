//! Networks: address sets, and addresses resolved against the internal networks and the special-use registries.

pub mod address_set;
pub mod endpoints;
pub mod internal;
pub(crate) mod lookup_cache;
mod range_table;
pub mod role;
pub mod special_use;

pub use self::{
    address_set::{AddressSet, Member},
    endpoints::Endpoints,
    internal::{AddressScope, Network, NetworkOrigin, Networks, ResolvedAddress, canonical},
    role::AssetRole,
};
