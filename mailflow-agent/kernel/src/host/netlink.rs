//! Client of rtnetlink: XDP programs and filters of an interface, and notifications of changes. It reads only
//! the attributes that it needs: newer kernels add attributes that no parser knows.

use std::{io, net::IpAddr};

use netlink_packet_core::{
    DecodeError, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NlasIterator,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use tokio::io::{Interest, unix::AsyncFd};

use super::hook::Direction;

/// Size of the buffer for an answer; the kernel sends dumps in parts of at most 32 KiB.
const ANSWER_BUFFER_SIZE: usize = 64 << 10;
/// Lengths of `struct ifinfomsg`, `struct tcmsg` and `struct rtmsg` (linux/rtnetlink.h).
const LINK_HEAD_LENGTH: usize = 16;
const FILTER_HEAD_LENGTH: usize = 20;
const ROUTE_HEAD_LENGTH: usize = 12;
/// Attribute of a route that leaves by several interfaces (linux/rtnetlink.h).
const RTA_MULTIPATH: u16 = 9;
/// Attributes of a link, and those inside `IFLA_XDP` that hold a program's id (linux/if_link.h).
const IFLA_XDP: u16 = 43;
const IFLA_XDP_IDS: [u16; 4] = [4, 5, 6, 7];
/// Attributes of a filter (linux/rtnetlink.h), and inside its options a BPF filter's program
/// (linux/pkt_cls.h).
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_CHAIN: u16 = 11;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_ID: u16 = 11;
/// Multicast groups for links and addresses (linux/rtnetlink.h).
const MULTICAST_GROUPS: [u32; 3] = [1, 5, 9];
/// Length of `struct ifaddrmsg`, its attributes, and the widest scope (linux/if_addr.h, linux/rtnetlink.h).
const ADDRESS_HEAD_LENGTH: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RT_SCOPE_UNIVERSE: u8 = 0;
/// Attributes with a link's names, and the flag to leave out its counters (linux/if_link.h).
const IFLA_IFNAME: u16 = 3;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_PROP_LIST: u16 = 52;
const IFLA_ALT_IFNAME: u16 = 53;
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;

/// Link of this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkNames {
    /// Interface index.
    pub(crate) device: u32,
    /// Name, then alternative names.
    pub(crate) names: Vec<String>,
    /// True for a loopback, which carries only packets of this machine.
    pub(crate) loopback: bool,
}

/// Returns every link with all its names, in the order of the kernel.
pub(crate) fn links() -> io::Result<Vec<LinkNames>> {
    let mut head = [0; LINK_HEAD_LENGTH + 8];
    head[LINK_HEAD_LENGTH..LINK_HEAD_LENGTH + 2].copy_from_slice(&8_u16.to_ne_bytes());
    head[LINK_HEAD_LENGTH + 2..LINK_HEAD_LENGTH + 4].copy_from_slice(&IFLA_EXT_MASK.to_ne_bytes());
    head[LINK_HEAD_LENGTH + 4..].copy_from_slice(&RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
    let mut links = Vec::new();
    send_request(libc::RTM_GETLINK, NLM_F_DUMP, &head, |message| {
        let field = |at: usize| message.get(at..at + 4).and_then(read_u32).unwrap_or(0);
        let loopback = field(8) & libc::IFF_LOOPBACK as u32 != 0;
        let (mut names, mut alternative) = (Vec::new(), Vec::new());
        for attribute in attributes(message, LINK_HEAD_LENGTH) {
            let attribute = attribute?;
            match attribute.kind() {
                IFLA_IFNAME => names.push(read_text(attribute.value())),
                IFLA_PROP_LIST => {
                    let inner = NlasIterator::new(attribute.value()).flatten();
                    let inner = inner.filter(|inner| inner.kind() == IFLA_ALT_IFNAME);
                    alternative.extend(inner.map(|inner| read_text(inner.value())));
                }
                _ => {}
            }
        }
        names.append(&mut alternative);
        links.push(LinkNames { device: field(4), names, loopback });
        Ok(())
    })?;
    Ok(links)
}

/// Address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InterfaceAddress {
    /// Interface index.
    pub(crate) device: u32,
    /// Address of the machine.
    pub(super) local: IpAddr,
    /// Prefix of the network; on a point-to-point link the address of the other end.
    pub(crate) prefix: (IpAddr, u8),
    /// True if the scope is wider than the link.
    pub(super) global: bool,
}

/// Returns every address of this network namespace.
pub(crate) fn addresses() -> io::Result<Vec<InterfaceAddress>> {
    let mut addresses = Vec::new();
    send_request(libc::RTM_GETADDR, NLM_F_DUMP, &[0; ADDRESS_HEAD_LENGTH], |message| {
        let byte = |at: usize| message.get(at).copied().unwrap_or(0);
        let device = message.get(4..8).and_then(read_u32).unwrap_or(0);
        let (mut address, mut local) = (None, None);
        for attribute in attributes(message, ADDRESS_HEAD_LENGTH) {
            let attribute = attribute?;
            match attribute.kind() {
                IFA_ADDRESS => address = read_ip(attribute.value()),
                IFA_LOCAL => local = read_ip(attribute.value()),
                _ => {}
            }
        }
        if let Some(address) = address.or(local) {
            let local = local.unwrap_or(address);
            let global = byte(3) == RT_SCOPE_UNIVERSE;
            addresses.push(InterfaceAddress { device, local, prefix: (address, byte(1)), global });
        }
        Ok(())
    })?;
    Ok(addresses)
}

/// An IPv4 or IPv6 address in network order.
fn read_ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// Returns the ids of the XDP programs of a device, in any mode.
pub(crate) fn xdp_programs(device: u32) -> io::Result<Vec<u32>> {
    let mut head = [0; LINK_HEAD_LENGTH];
    head[4..8].copy_from_slice(&device.to_ne_bytes());
    let mut ids = Vec::new();
    send_request(libc::RTM_GETLINK, 0, &head, |message| {
        for attribute in attributes(message, LINK_HEAD_LENGTH) {
            let attribute = attribute?;
            if attribute.kind() == IFLA_XDP {
                for inner in NlasIterator::new(attribute.value()) {
                    let inner = inner?;
                    let id = read_u32(inner.value()).filter(|_| IFLA_XDP_IDS.contains(&inner.kind()));
                    // A program is reported both by itself and by its mode.
                    ids.extend(id.filter(|id| !ids.contains(id)));
                }
            }
        }
        Ok(())
    })?;
    Ok(ids)
}

/// Filter of clsact.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TcFilter {
    /// Handle among those of its priority.
    pub(crate) handle: u32,
    pub(crate) priority: u16,
    /// Id and name of its program, if it is a BPF filter.
    pub(crate) program: Option<u32>,
    pub(crate) name: Option<String>,
}

/// Returns the filters of the clsact of a device in the order in which they run; none without clsact.
pub(crate) fn filters(device: u32, direction: Direction) -> io::Result<Vec<TcFilter>> {
    let parent = match direction {
        Direction::Ingress => 0xffff_fff2_u32,
        Direction::Egress => 0xffff_fff3,
    };
    let mut head = [0; FILTER_HEAD_LENGTH];
    head[4..8].copy_from_slice(&device.to_ne_bytes());
    head[12..16].copy_from_slice(&parent.to_ne_bytes());
    let mut filters = Vec::new();
    send_request(libc::RTM_GETTFILTER, NLM_F_DUMP, &head, |message| {
        let field = |at: usize| message.get(at..at + 4).and_then(read_u32).unwrap_or(0);
        // A handle of 0 announces a priority; the filters of other chains are not run by themselves.
        let mut filter =
            TcFilter { handle: field(8), priority: (field(16) >> 16) as u16, ..TcFilter::default() };
        let (mut chain, mut bpf) = (0, false);
        for attribute in attributes(message, FILTER_HEAD_LENGTH) {
            let attribute = attribute?;
            match attribute.kind() {
                TCA_CHAIN => chain = read_u32(attribute.value()).unwrap_or(0),
                // The kind precedes the options. Other kinds of filter use the same numbers for other options.
                TCA_KIND => bpf = read_text(attribute.value()) == "bpf",
                TCA_OPTIONS if bpf => {
                    for inner in NlasIterator::new(attribute.value()).flatten() {
                        match inner.kind() {
                            TCA_BPF_ID => filter.program = read_u32(inner.value()),
                            TCA_BPF_NAME => filter.name = Some(read_text(inner.value())),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        if filter.handle != 0 && chain == 0 {
            filters.push(filter);
        }
        Ok(())
    })?;
    Ok(filters)
}

/// Returns the interfaces of routes for all or half of the addresses, in any table, IPv4 first.
pub(super) fn default_routes() -> io::Result<Vec<u32>> {
    let mut devices = Vec::new();
    // Of IPv6 all unicast addresses are in 2000::/3 (RFC 4291, 2.4).
    for (family, widest) in [(libc::AF_INET, 1), (libc::AF_INET6, 3)] {
        let mut head = [0; ROUTE_HEAD_LENGTH];
        head[0] = family as u8;
        send_request(libc::RTM_GETROUTE, NLM_F_DUMP, &head, |message| {
            let field = |at: usize| message.get(at).copied().unwrap_or(u8::MAX);
            if field(0) != family as u8 || field(1) > widest || field(7) != libc::RTN_UNICAST {
                return Ok(());
            }
            for attribute in attributes(message, ROUTE_HEAD_LENGTH) {
                let attribute = attribute?;
                match attribute.kind() {
                    libc::RTA_OIF => devices.extend(read_u32(attribute.value())),
                    RTA_MULTIPATH => devices.extend(next_hops(attribute.value())),
                    _ => {}
                }
            }
            Ok(())
        })?;
    }
    devices.dedup();
    Ok(devices)
}

/// Returns the devices of `struct rtnexthop`s: length in 16 bits, flags, hops, device, and attributes.
fn next_hops(mut hops: &[u8]) -> Vec<u32> {
    let mut devices = Vec::new();
    while let (Some(length), Some(device)) = (hops.get(..2), hops.get(4..8).and_then(read_u32)) {
        devices.push(device);
        let length = usize::from(u16::from_ne_bytes([length[0], length[1]])).max(8).next_multiple_of(4);
        hops = hops.get(length..).unwrap_or_default();
    }
    devices
}

/// Notifications of changes of interfaces and addresses.
pub struct LinkChanges(AsyncFd<Socket>);

impl LinkChanges {
    /// Subscribes. Needs a tokio runtime.
    ///
    /// # Errors
    /// The system refuses the socket.
    pub fn listen() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        for group in MULTICAST_GROUPS {
            socket.add_membership(group)?;
        }
        socket.set_non_blocking(true)?;
        // SAFETY: the socket owns its descriptor, and the two are dropped together.
        Ok(Self(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?))
    }

    /// Returns after a change. The caller has to look up what has changed, as notifications may be lost.
    ///
    /// # Errors
    /// The socket has failed.
    pub async fn next(&self) -> io::Result<()> {
        let mut ready = self.0.readable().await?;
        let mut buffer = Vec::with_capacity(ANSWER_BUFFER_SIZE);
        // All that is there: one change comes as several messages.
        loop {
            buffer.clear();
            match self.0.get_ref().recv(&mut buffer, 0) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready.clear_ready();
                    return Ok(());
                }
                // The kernel dropped notifications for lack of space.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Sends a request, and calls `visit` with the payload of each answer.
fn send_request(
    kind: u16,
    flags: u16,
    head: &[u8],
    mut visit: impl FnMut(&[u8]) -> Result<(), DecodeError>,
) -> io::Result<()> {
    const HEADER_LENGTH: usize = 16;
    let mut request = vec![0; HEADER_LENGTH + head.len()];
    let mut packet = NetlinkBuffer::new(&mut request);
    packet.set_length((HEADER_LENGTH + head.len()) as u32);
    packet.set_message_type(kind);
    packet.set_flags(NLM_F_REQUEST | flags);
    packet.payload_mut().copy_from_slice(head);
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.send_to(&request, &SocketAddr::new(0, 0), 0)?;
    let mut buffer = Vec::with_capacity(ANSWER_BUFFER_SIZE);
    loop {
        buffer.clear();
        socket.recv(&mut buffer, 0)?;
        let mut rest = buffer.as_slice();
        while !rest.is_empty() {
            let message = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
            let payload = message.payload();
            match message.message_type() {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let errno = payload.get(..4).and_then(read_u32).unwrap_or(0) as i32;
                    return Err(io::Error::from_raw_os_error(-errno));
                }
                _ => visit(payload).map_err(io::Error::other)?,
            }
            let length = (message.length() as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
        if flags & NLM_F_DUMP == 0 {
            return Ok(());
        }
    }
}

fn attributes(message: &[u8], head: usize) -> NlasIterator<&[u8]> {
    NlasIterator::new(message.get(head..).unwrap_or_default())
}

/// Returns a zero-terminated string.
fn read_text(bytes: &[u8]) -> String {
    let read_text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(read_text).into_owned()
}

fn read_u32(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{in_namespace, run};

    #[test]
    fn loopback_has_no_xdp_and_a_missing_device_is_an_error() {
        assert!(xdp_programs(1).unwrap().is_empty());
        let error = xdp_programs(0x7fff_ffff).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        assert!(filters(0x7fff_ffff, Direction::Ingress).unwrap().is_empty());
    }

    #[test]
    fn links_have_all_their_names_and_addresses_their_prefixes() {
        in_namespace(|| {
            run("ip link add lan0 type veth peer name far");
            run("ip link property add dev lan0 altname inside altname office-of-a-long-name");
            run("ip link set lan0 up");
            run("ip link set far up");
            run("ip address add 192.0.2.1/24 dev lan0");
            run("ip address add 2001:db8::1/64 dev lan0 nodad");
            run("ip address add 198.51.100.1 peer 203.0.113.7 dev far");
            let links = links().unwrap();
            assert!(links.iter().any(|link| link.loopback && link.names == ["lo"]), "{links:?}");
            let lan0 = links.iter().find(|link| link.names[0] == "lan0").unwrap();
            assert_eq!(lan0.names, ["lan0", "inside", "office-of-a-long-name"]);
            let found: Vec<_> = addresses().unwrap().into_iter().filter(|found| found.global).collect();
            let on = |device: u32| {
                let found = found.iter().filter(move |found| found.device == device);
                found.map(|found| (found.local.to_string(), found.prefix.0.to_string(), found.prefix.1))
            };
            let pair = |local: &str, address: &str, bits| (local.to_owned(), address.to_owned(), bits);
            assert_eq!(
                on(lan0.device).collect::<Vec<_>>(),
                [pair("192.0.2.1", "192.0.2.1", 24), pair("2001:db8::1", "2001:db8::1", 64)]
            );
            let far = links.iter().find(|link| link.names[0] == "far").unwrap();
            assert_eq!(on(far.device).collect::<Vec<_>>(), [pair("198.51.100.1", "203.0.113.7", 32)]);
        });
    }
}
