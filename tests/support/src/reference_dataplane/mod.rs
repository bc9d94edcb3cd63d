//! The data plane once more, as slowly and simply as it can be said: from SPEC 1 and 2, the RFCs and
//! the meaning of each [`Reason`]. It shares the words of the ABI with the program and no code.
//!
//! Which reason a frame gets that deserves several: headers are followed as they stand in the frame,
//! from the outside in, and the first fault met is the reason.
//!
//! 1. The link layer. A header that the frame does not hold is [`Reason::Truncated`], here and below.
//! 2. The IP header itself: its version and its length.
//! 3. IPv6's extension headers, as far as they are followed.
//! 4. The protocol that stands behind them.
//! 5. The total length: shorter than the headers so far, or longer than the frame.
//! 6. The ports: whether the hook counts them.
//! 7. The rest of the transport header: its own length, and whether the total length holds it.

mod application;
mod estimate;
mod flow;
mod model;
mod packet;
mod parse;

pub use flow::{Facts, Flow, Side, Tuple};
pub use mailflow_common::Reason;
pub use model::{Ended, Hook, Model, Sum, Totals, Toward, Whose};
pub use packet::{FragmentOf, Headers, Link, Merged, Packet, Piece, Ports, Shown, Transport};
pub use parse::parse;
