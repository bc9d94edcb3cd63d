//! Entry points. Which of them an interface gets is the agent's choice: by role, hook, link type.

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
        Toward::{self, Both, Client, Server},
        Whose::{self, Any, Made, Received},
    },
};
use crate::maps;

/// TC_ACT_UNSPEC, TCX_NEXT: whoever comes next decides.
const NEXT: i32 = -1;

#[inline(always)]
fn at_xdp<const FRAGS: bool>(context: &XdpContext, toward: Toward, whose: Whose) -> u32 {
    count(Xdp::<FRAGS>::new(context.ctx), Ethernet, toward, whose);
    XDP_PASS
}

#[inline(always)]
fn at_tc(context: &TcContext, link: Link, toward: Toward, whose: Whose) -> i32 {
    count(Skb::new(context.skb.skb), link, toward, whose);
    NEXT
}

macro_rules! entries {
    (xdp: $($name:ident $frags:ident = $toward:expr, $whose:expr;)*) => { $(
        #[xdp]
        pub fn $name(context: XdpContext) -> u32 {
            at_xdp::<false>(&context, $toward, $whose)
        }

        #[xdp(frags)]
        pub fn $frags(context: XdpContext) -> u32 {
            at_xdp::<true>(&context, $toward, $whose)
        }
    )* };
    (tc: $($name:ident $ip:ident = $toward:expr, $whose:expr;)*) => { $(
        #[classifier]
        pub fn $name(context: TcContext) -> i32 {
            at_tc(&context, Ethernet, $toward, $whose)
        }

        #[classifier]
        pub fn $ip(context: TcContext) -> i32 {
            at_tc(&context, Ip, $toward, $whose)
        }
    )* };
}

entries! { xdp:
    xdp_lan xdp_lan_frags = Server, Any;
    xdp_host xdp_host_frags = Client, Received;
    xdp_mirror xdp_mirror_frags = Both, Any;
}

entries! { tc:
    tc_lan_in tc_lan_in_ip = Server, Any;
    tc_lan_out tc_lan_out_ip = Client, Any;
    tc_host_in tc_host_in_ip = Client, Received;
    tc_host_out tc_host_out_ip = Server, Made;
    tc_mirror tc_mirror_ip = Both, Any;
}

/// Notes the kernel's jiffies, so that the agent can tell what time a tick is.
#[xdp]
pub fn ticks(_: XdpContext) -> u32 {
    maps::note_ticks();
    XDP_PASS
}

/// Takes flows out of the table: the frame is the agent's list of them, and comes back with answers.
#[xdp]
pub fn remove_flows(context: XdpContext) -> u32 {
    evict::all(context.data(), context.data_end());
    XDP_PASS
}
