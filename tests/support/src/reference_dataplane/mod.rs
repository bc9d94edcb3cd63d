//! Reference implementation of the data plane, as simple as possible: from the documentation, the RFCs and
//! the meaning of each [`Reason`]. It shares the terms of the ABI with the program, and no code.
//!
//! A frame may deserve several reasons: headers are followed in the order of the frame, from the outside in,
//! and the first fault is the reason.
//!
//! 1. The link layer. An incomplete header is [`Reason::Truncated`], here and below.
//! 2. The IP header: its version and its length.
//! 3. IPv6's extension headers, up to a limit.
//! 4. The protocol after them.
//! 5. The total length: shorter than the headers so far, or longer than the frame.
//! 6. The ports: the hook must count them.
//! 7. The rest of the transport header: its length, and the total length must contain it.

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
