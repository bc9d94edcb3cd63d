//! Entry points. The agent attaches one by role, hook and link type of the interface.

use aya_ebpf::{
    bindings::xdp_action::XDP_PASS,
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use mailflow_ebpf::Link::{self, Ethernet, Ip};

use super::{
    context::{Skb, Xdp},
    count::count,
    evict,
    hook::{
        Direction::{self, Both, FromServer, ToServer},
        HostFilter::{self, Any, LocalIn, LocalOut},
    },
};
use crate::maps;

/// TC_ACT_UNSPEC and TCX_NEXT: the next program decides.
const NEXT: i32 = -1;

#[inline(always)]
fn at_xdp<const FRAGS: bool>(context: &XdpContext, direction: Direction, host_filter: HostFilter) -> u32 {
    count(Xdp::<FRAGS>::new(context.ctx), Ethernet, direction, host_filter);
    XDP_PASS
}

#[inline(always)]
fn at_tc(context: &TcContext, link: Link, direction: Direction, host_filter: HostFilter) -> i32 {
    count(Skb::new(context.skb.skb), link, direction, host_filter);
    NEXT
}

macro_rules! entries {
    (xdp: $($name:ident $frags:ident = $direction:expr, $host_filter:expr;)*) => { $(
        #[xdp]
        pub fn $name(context: XdpContext) -> u32 {
            at_xdp::<false>(&context, $direction, $host_filter)
        }

        #[xdp(frags)]
        pub fn $frags(context: XdpContext) -> u32 {
            at_xdp::<true>(&context, $direction, $host_filter)
        }
    )* };
    (tc: $($name:ident $ip:ident = $direction:expr, $host_filter:expr;)*) => { $(
        #[classifier]
        pub fn $name(context: TcContext) -> i32 {
            at_tc(&context, Ethernet, $direction, $host_filter)
        }

        #[classifier]
        pub fn $ip(context: TcContext) -> i32 {
            at_tc(&context, Ip, $direction, $host_filter)
        }
    )* };
}

entries! { xdp:
    xdp_lan xdp_lan_frags = ToServer, Any;
    xdp_host xdp_host_frags = FromServer, LocalIn;
    xdp_mirror xdp_mirror_frags = Both, Any;
}

entries! { tc:
    tc_lan_in tc_lan_in_ip = ToServer, Any;
    tc_lan_out tc_lan_out_ip = FromServer, Any;
    tc_host_in tc_host_in_ip = FromServer, LocalIn;
    tc_host_out tc_host_out_ip = ToServer, LocalOut;
    tc_mirror tc_mirror_ip = Both, Any;
}

/// Publishes the kernel's jiffies, from which the agent calibrates the tick clock.
#[xdp]
pub fn ticks(_: XdpContext) -> u32 {
    maps::publish_ticks();
    XDP_PASS
}

/// Evicts flows from the fallback map. The frame is the list of removals of the agent; the program writes the
/// outcome of each into it.
#[xdp]
pub fn remove_flows(context: XdpContext) -> u32 {
    evict::evict_batch(context.data(), context.data_end());
    XDP_PASS
}
