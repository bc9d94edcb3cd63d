//! Windows of event time: what a rule remembers of one group for one term, in bounded memory. The cost of the bound in
//! exactness is written at the top of each kind.

pub(crate) mod count;
pub(crate) mod distinct;
mod entries;
pub(crate) mod first_seen;
pub(crate) mod spec;
pub(crate) mod state;
pub(crate) mod sum;
pub mod value;
