//! The internal networks: which addresses are ours.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::special::{SpecialUse, special_use};

/// One line of a network list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// The prefix, host bits clear.
    pub net: IpNet,
    /// Whether the line takes its prefix out (`!10.9.0.0/16`) instead of putting it in.
    pub exclude: bool,
    /// The line as written, for evidence.
    pub line: String,
    /// The group it belongs to.
    pub group: Option<String>,
}

/// A set of networks; the longest match decides, of equal prefixes the later line.
#[derive(Clone, Debug, Default)]
pub struct Networks {
    networks: Vec<Network>,
    v4: Ranges,
    v6: Ranges,
}

impl Networks {
    /// A set of these lines. A v4-mapped prefix stands for the IPv4 prefix inside it.
    pub fn new(networks: Vec<Network>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (line, network) in networks.iter().enumerate() {
            match canonical(network.net) {
                IpNet::V4(net) => v4.push(Span::v4(net, line)),
                IpNet::V6(net) => v6.push(Span::v6(net, line)),
            }
        }
        Self { networks, v4: Ranges::new(v4), v6: Ranges::new(v6) }
    }

    /// The line that makes `ip` internal: the longest that matches, unless it excludes.
    pub fn find(&self, ip: IpAddr) -> Option<&Network> {
        let line = match ip.to_canonical() {
            IpAddr::V4(v4) => self.v4.find(u128::from(v4.to_bits())),
            IpAddr::V6(v6) => self.v6.find(v6.to_bits()),
        };
        self.networks.get(line?).filter(|network| !network.exclude)
    }

    /// The lines.
    pub fn networks(&self) -> &[Network] {
        &self.networks
    }

    /// Where `ip` is. The internal list goes first: what it names is inside, special use or not.
    pub fn place(&self, ip: IpAddr) -> Place {
        if self.find(ip).is_some() {
            return Place::Internal;
        }
        special_use(ip).map_or(Place::Internet, Place::Special)
    }
}

/// Where an address is, seen from inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the internal networks.
    Internal,
    /// Neither internal nor on the Internet.
    Special(&'static SpecialUse),
    /// Anywhere else.
    Internet,
}

/// The form in which prefixes are compared: a v4-mapped one as the IPv4 prefix inside it.
pub fn canonical(net: IpNet) -> IpNet {
    match (net, net.network().to_canonical()) {
        // A v4-mapped network address under a shorter prefix than /96 is more than IPv4.
        (IpNet::V6(v6), IpAddr::V4(network)) if v6.prefix_len() >= 96 => {
            Ipv4Net::new(network, v6.prefix_len() - 96).map_or(net, IpNet::V4)
        }
        _ => net,
    }
}

/// The addresses of one line.
#[derive(Clone, Copy)]
struct Span {
    first: u128,
    last: u128,
    line: usize,
}

impl Span {
    fn v4(net: Ipv4Net, line: usize) -> Self {
        let [first, last] = [net.network(), net.broadcast()].map(|ip| u128::from(ip.to_bits()));
        Self { first, last, line }
    }

    fn v6(net: Ipv6Net, line: usize) -> Self {
        let [first, last] = [net.network(), net.broadcast()].map(Ipv6Addr::to_bits);
        Self { first, last, line }
    }
}

/// Prefixes laid flat: where each range begins, ascending, and the line that decides from there on.
///
/// Prefixes nest and never cross, so n of them make at most 2n + 1 ranges, and one binary search
/// answers for any n.
#[derive(Clone, Debug, Default)]
struct Ranges(Vec<(u128, Option<usize>)>);

impl Ranges {
    fn new(mut spans: Vec<Span>) -> Self {
        // Outer before inner; of equal ones the later line lies on top.
        spans.sort_by_key(|span| (span.first, std::cmp::Reverse(span.last), span.line));
        let mut ranges = Self::default();
        let mut open: Vec<Span> = Vec::new();
        for span in spans {
            ranges.close(&mut open, Some(span.first));
            ranges.begin(span.first, Some(span.line));
            open.push(span);
        }
        ranges.close(&mut open, None);
        ranges
    }

    /// Ends the open spans that lie before `until`; what encloses each decides again behind it.
    fn close(&mut self, open: &mut Vec<Span>, until: Option<u128>) {
        while let Some(inner) = open.pop_if(|span| until.is_none_or(|until| span.last < until)) {
            if let Some(next) = inner.last.checked_add(1) {
                self.begin(next, open.last().map(|outer| outer.line));
            }
        }
    }

    fn begin(&mut self, at: u128, line: Option<usize>) {
        // A range that would be empty is replaced.
        self.0.pop_if(|(start, _)| *start == at);
        self.0.push((at, line));
    }

    fn find(&self, ip: u128) -> Option<usize> {
        let behind = self.0.partition_point(|(start, _)| *start <= ip);
        self.0.get(behind.checked_sub(1)?)?.1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network(line: &str) -> Network {
        let net: IpNet = line.trim_start_matches('!').parse().unwrap();
        Network { net, exclude: line.starts_with('!'), line: line.to_owned(), group: None }
    }

    fn found<'a>(networks: &'a Networks, ip: &str) -> Option<&'a str> {
        networks.find(ip.parse().unwrap()).map(|network| network.line.as_str())
    }

    #[test]
    fn the_longest_match_decides_and_may_exclude() {
        let networks = Networks::new(
            ["10.0.0.0/8", "!10.9.0.0/16", "10.9.8.0/24", "fd00::/8", "!fd00:1::/32"].map(network).to_vec(),
        );
        assert_eq!(found(&networks, "10.8.255.255"), Some("10.0.0.0/8"));
        assert_eq!(found(&networks, "10.9.0.0"), None);
        assert_eq!(found(&networks, "10.9.8.255"), Some("10.9.8.0/24"));
        assert_eq!(found(&networks, "10.9.9.0"), None);
        assert_eq!(found(&networks, "10.10.0.0"), Some("10.0.0.0/8"));
        assert_eq!(found(&networks, "11.0.0.0"), None);
        assert_eq!(found(&networks, "::ffff:10.1.2.3"), Some("10.0.0.0/8"));
        assert_eq!(found(&networks, "fd00::1"), Some("fd00::/8"));
        assert_eq!(found(&networks, "fd00:1::1"), None);
    }

    #[test]
    fn whole_families_and_mapped_prefixes() {
        let networks = Networks::new(["0.0.0.0/0", "::/0", "::ffff:192.168.0.0/112"].map(network).to_vec());
        assert_eq!(found(&networks, "255.255.255.255"), Some("0.0.0.0/0"));
        assert_eq!(found(&networks, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), Some("::/0"));
        assert_eq!(found(&networks, "192.168.3.4"), Some("::ffff:192.168.0.0/112"));
        assert_eq!(Networks::default().find(IpAddr::V6(Ipv6Addr::LOCALHOST)), None);
    }

    #[test]
    fn internal_goes_before_special_use() {
        let networks = Networks::new(vec![network("198.18.0.0/24")]);
        let place = |ip: &str| networks.place(ip.parse().unwrap());
        assert_eq!(place("198.18.0.7"), Place::Internal);
        assert!(matches!(place("198.18.1.7"), Place::Special(special) if special.name == "benchmarking"));
        assert_eq!(place("9.9.9.9"), Place::Internet);
        assert_eq!(place("10.0.0.1"), Place::Internet, "a neighbour's");
    }

    proptest! {
        #[test]
        fn finds_what_a_walk_over_all_lines_finds(
            lines in prop::collection::vec((0u32..64, 24u8..=32, any::<bool>()), 0..24),
            host in 0u32..300,
        ) {
            let networks: Vec<Network> = lines.iter().map(|(base, length, exclude)| {
                let net = Ipv4Net::new((0x0a00_0000 + base * 4).into(), *length).unwrap().trunc();
                Network { net: net.into(), exclude: *exclude, line: net.to_string(), group: None }
            }).collect();
            let ip = IpAddr::V4((0x0a00_0000 + host).into());
            let walked = networks
                .iter()
                .filter(|network| network.net.contains(&ip))
                .max_by_key(|network| network.net.prefix_len())
                .filter(|network| !network.exclude);
            let indexed = Networks::new(networks.clone());
            prop_assert_eq!(indexed.find(ip), walked);
        }
    }
}
