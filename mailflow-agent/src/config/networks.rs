//! `internal_networks`: inline prefixes and files of them.

use std::{collections::HashMap, net::IpAddr, path::Path, sync::Arc};

use ipnet::IpNet;

use super::{
    fault::{Collector, Fault, Place, Position, quote},
    file, overlap,
    read::{At, Fields},
    typed::{items, string},
};
use crate::engine::assets::{Network, Networks, canonical};

/// A network as it stands in a file.
pub(super) struct Listed {
    /// Where.
    pub(super) place: Place,
    /// The setting; empty in a file of networks.
    pub(super) path: String,
    /// What it says.
    pub(super) network: Network,
}

impl Listed {
    /// A remark about this network.
    pub(super) fn remark(&self, why: String) -> Fault {
        Fault {
            place: self.place.clone(),
            path: self.path.clone(),
            value: Some(quote(&self.network.line)),
            expected: why,
        }
    }
}

/// Reads the internal networks; files are relative to `directory`.
pub(super) fn read(at: &At<'_>, faults: &mut Collector, directory: &Path) -> Option<Networks> {
    // The list is one: a file that names networks of its own does not get the shipped ones as well.
    let at = &if at.is_own() { at.clone().over(None) } else { at.clone() };
    let before = faults.count();
    let (inline, filed) = Fields::read(at, faults, |fields| {
        let inline = fields.or("networks", Vec::new(), |at, faults| items(at, faults, inline));
        let filed = fields.or("files", Vec::new(), |at, faults| {
            items(at, faults, |item, faults| listed_in(item, faults, directory))
        });
        Some((inline.unwrap_or_default(), filed.unwrap_or_default()))
    })?;
    let listed: Vec<_> = inline.into_iter().chain(filed.into_iter().flatten().flatten()).flatten().collect();
    report_repeats(&listed, faults);
    if faults.count() > before {
        return None;
    }
    if listed.iter().all(|listed| listed.network.exclude) {
        return at.fault_inside(faults, "no network is internal, so no rule could ever match");
    }
    overlap::warn(&listed, faults);
    Some(Networks::new(listed.into_iter().map(|listed| listed.network).collect()))
}

/// An inline entry: `CIDR`, `!CIDR`, or a mapping with a group and a comment.
fn inline(at: &At<'_>, faults: &mut Collector) -> Option<Listed> {
    if at.text().is_some() {
        let line = string(at, faults)?;
        return listed(at, faults, line, None, None);
    }
    Fields::read(at, faults, |fields| {
        let group = fields.or("group", None, |at, faults| string(at, faults).map(Some));
        let comment = fields.or("comment", None, |at, faults| string(at, faults).map(Some));
        let cidr = fields.needed("cidr", |at, faults| Some((at.clone(), string(at, faults)?)));
        let ((at, cidr), group, comment) = (cidr?, group?, comment?);
        listed(&at, fields.faults, cidr, comment, group)
    })
}

fn listed(
    at: &At<'_>,
    faults: &mut Collector,
    cidr: &str,
    comment: Option<&str>,
    group: Option<&str>,
) -> Option<Listed> {
    let line = comment.map_or_else(|| cidr.to_owned(), |comment| format!("{cidr}  {comment}"));
    match network(cidr, line, group) {
        Ok(network) => Some(Listed { place: at.place(faults), path: at.path().to_owned(), network }),
        Err(expected) => at.fault(faults, expected),
    }
}

/// A file with one `CIDR  comment` a line; `#` begins a comment. A network that is wrong is `None`.
fn listed_in(at: &At<'_>, faults: &mut Collector, directory: &Path) -> Option<Vec<Option<Listed>>> {
    let path = directory.join(string(at, faults)?);
    let name: Arc<str> = path.display().to_string().into();
    let text = match file::read(&path) {
        Ok(text) => text,
        Err(no_text) if no_text.position.is_none() => {
            return at.fault(faults, format!("{name}: {}", no_text.why));
        }
        Err(no_text) => {
            faults.fault(no_text.fault(name));
            return None;
        }
    };
    let lines = text.trim_start_matches('\u{feff}').lines().enumerate();
    Some(lines.filter_map(|(index, line)| filed(&name, index + 1, line, faults)).collect())
}

/// A line of such a file; outer `None` where it names no network.
fn filed(name: &Arc<str>, number: usize, line: &str, faults: &mut Collector) -> Option<Option<Listed>> {
    let said = line.split('#').next().unwrap_or_default();
    let cidr = said.split_whitespace().next()?;
    let indent = said.chars().take_while(|c| c.is_whitespace()).count();
    let place = Place { file: name.clone(), position: Some(Position { line: number, column: indent + 1 }) };
    match network(cidr, line.trim().to_owned(), None) {
        Ok(network) => Some(Some(Listed { place, path: String::new(), network })),
        Err(expected) => {
            faults.fault(Fault { place, path: String::new(), value: Some(quote(cidr)), expected });
            Some(None)
        }
    }
}

fn network(cidr: &str, line: String, group: Option<&str>) -> Result<Network, String> {
    let (exclude, prefix) = cidr.strip_prefix('!').map_or((false, cidr), |prefix| (true, prefix));
    let net = self::prefix(prefix)?;
    Ok(Network { net, exclude, line, group: group.map(str::to_owned) })
}

/// `ADDRESS/LENGTH`, or an address that stands for itself; v4-mapped prefixes become IPv4 ones.
fn prefix(text: &str) -> Result<IpNet, String> {
    const EXPECTED: &str = "expected a network such as 10.0.0.0/8, fc00::/7 or an address";
    let (address, length) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
    let address: IpAddr = address.parse().map_err(|_| EXPECTED.to_owned())?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let length = match length {
        None => longest,
        Some(length) => length
            .parse::<u8>()
            .ok()
            .filter(|bits| *bits <= longest && bits.to_string() == length)
            .ok_or_else(|| format!("the prefix length of this address is 0 to {longest}"))?,
    };
    let net = IpNet::new(address, length).map_err(|_| EXPECTED.to_owned())?;
    if net.addr() != net.network() {
        return Err(format!("host bits set; did you mean {}?", net.trunc()));
    }
    Ok(canonical(net))
}

/// Reports networks that are listed twice.
fn report_repeats(listed: &[Listed], faults: &mut Collector) {
    let mut first: HashMap<IpNet, &Listed> = HashMap::new();
    for this in listed {
        let Some(before) = first.insert(this.network.net, this) else { continue };
        let how = if before.network.exclude == this.network.exclude { "" } else { "the other way " };
        faults.fault(this.remark(format!("this network was listed {how}before, at {}", before.place)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        for (text, net) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("192.0.2.1", "192.0.2.1/32"),
            ("fc00::/7", "fc00::/7"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("::/0", "::/0"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:192.0.2.1", "192.0.2.1/32"),
        ] {
            assert_eq!(prefix(text), Ok(net.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn what_is_no_prefix_says_why() {
        for (text, why) in [
            ("10.0.0.1/8", "host bits set; did you mean 10.0.0.0/8?"),
            ("2001:db8::1/64", "host bits set; did you mean 2001:db8::/64?"),
            ("10.0.0.0/33", "the prefix length of this address is 0 to 32"),
            ("fc00::/129", "the prefix length of this address is 0 to 128"),
            ("10.0.0.0/+8", "the prefix length of this address is 0 to 32"),
            ("10.0.0.0/08", "the prefix length of this address is 0 to 32"),
            ("10.0.0.0/", "the prefix length of this address is 0 to 32"),
        ] {
            assert_eq!(prefix(text), Err(why.to_owned()), "{text}");
        }
        for text in ["", "/8", "10.0.0/8", "010.0.0.0/8", "example.org", "fe80::1%eth0", "10.0.0.0-10.0.0.9"]
        {
            assert!(prefix(text).is_err_and(|why| why.starts_with("expected a network")), "{text}");
        }
    }
}
