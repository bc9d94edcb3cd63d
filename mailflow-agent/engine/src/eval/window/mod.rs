//! Windows of event time: what a rule remembers of one group for one term, in bounded memory. The cost of the bound in
//! exactness is written at the top of each kind.

mod count;
pub(crate) mod distinct;
mod entries;
mod first_seen;
pub(crate) mod spec;
pub(crate) mod state;
mod sum;
pub mod value;
