//! Cost of internal networks: reading lists of 100,000 prefixes, and looking up an address. The `prefix-trie`
//! crate does the same lookup for comparison. Prints a line of JSON for each case. Time is this thread's CPU
//! time.

use std::{
    fs,
    hint::black_box,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    time::Duration,
};

use anyhow::{Result, ensure};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use mailflow_agent::config;
use mailflow_engine::network::{Network, Networks};
use prefix_trie::PrefixMap;

/// Prefixes of a list.
const PREFIXES: u32 = 100_000;
/// Addresses looked up.
const LOOKUPS: u32 = 1_000_000;
/// Measured rounds; the fastest one is the result.
const ROUNDS: usize = 5;

fn main() -> Result<()> {
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let chosen = |case: &str| only.as_ref().is_none_or(|only| case.contains(only.as_str()));
    for (name, text) in [("lines", lines()), ("csv", csv()), ("netbox", netbox())] {
        let case = format!("internal networks: load 100,000 prefixes, {name}");
        if chosen(&case) {
            line(&case, "ms", load(name, &text)?.as_secs_f64() * 1e3, Some(1_000.0));
        }
    }
    for count in [5, 1_000, PREFIXES] {
        if chosen("internal networks: look-up") {
            lookups(count)?;
        }
    }
    Ok(())
}

fn line(case: &str, unit: &str, value: f64, bar: Option<f64>) {
    let value = (value * 10.0).round() / 10.0;
    println!("{}", serde_json::json!({ "case": case, "unit": unit, "value": value, "bar": bar }));
}

/// Returns a pseudo-random number that is the same in every run.
fn mixed(n: u32) -> u32 {
    n.wrapping_mul(0x9e37_79b9) ^ n.wrapping_mul(0x85eb_ca6b).rotate_right(15)
}

/// Returns network `n`: 16 to 4,096 addresses, four in five networks of IPv4, all of them different.
fn prefix(n: u32) -> IpNet {
    let bits = 4 + (mixed(n) % 9) as u8;
    let v4 = || Ipv4Net::new(Ipv4Addr::from(0x0a00_0000 + (n << 12)), 32 - bits).map(IpNet::V4);
    let v6 = || Ipv6Net::new(Ipv6Addr::from((0xfd00_u128 << 112) + (u128::from(n) << 64)), 64).map(IpNet::V6);
    if n % 5 == 4 { v6() } else { v4() }.unwrap_or_default()
}

fn lines() -> String {
    (0..PREFIXES).map(|n| format!("{}  office {n}\n", prefix(n))).collect()
}

fn csv() -> String {
    let row = |n| format!("{},group {},server,\"Rack {n}, upper half\"\n", prefix(n), n % 100);
    std::iter::once("cidr,group,role,comment\n".to_owned()).chain((0..PREFIXES).map(row)).collect()
}

/// Returns a NetBox answer with the prefixes and NetBox's further fields: about 1 kB for each prefix.
fn netbox() -> String {
    let entry = |n| {
        let object = |kind: &str, id| {
            serde_json::json!({ "id": id, "url": format!("https://netbox.example/api/{kind}/{id}/"),
                "display": format!("{kind} {id}"), "name": format!("{kind} {id}"), "slug": format!("{kind}-{id}"),
                "description": "" })
        };
        let mut entry = serde_json::json!({
            "id": n, "url": format!("https://netbox.example/api/ipam/prefixes/{n}/"), "prefix": prefix(n).to_string(),
            "family": { "value": 4, "label": "IPv4" }, "status": { "value": "active", "label": "Active" },
            "is_pool": false, "mark_utilized": false, "description": format!("office {n}"), "comments": "",
            "created": "2025-01-01T00:00:00Z", "last_updated": "2025-01-01T00:00:00Z", "children": 0, "_depth": 0,
        });
        entry["tenant"] = object("tenants", n % 100);
        entry["role"] = object("roles", n % 10);
        entry["role"]["slug"] = "server".into();
        entry["scope"] = object("sites", n % 50);
        entry
    };
    let results: Vec<_> = (0..PREFIXES).map(entry).collect();
    serde_json::json!({ "count": PREFIXES, "next": null, "previous": null, "results": results }).to_string()
}

/// Measures loading: from a configuration that names the file to the lookup structure.
fn load(format: &str, text: &str) -> Result<Duration> {
    let folder = std::env::temp_dir().join(format!("mailflow-bench-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let result = load_in(&folder, format, text);
    fs::remove_dir_all(&folder)?;
    result
}

fn load_in(folder: &Path, format: &str, text: &str) -> Result<Duration> {
    fs::write(folder.join("list"), text)?;
    let file = folder.join("gateway.yaml");
    fs::write(&file, format!("internal_networks: {{ files: [{{ path: list, format: {format} }}] }}"))?;
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let begin = spent()?;
        let config = config::load(Some(&file))?;
        best = best.min(spent()? - begin);
        ensure!(config.engine.internal.networks().len() == PREFIXES as usize && config.warnings.is_empty());
    }
    Ok(best)
}

/// Returns addresses inside and outside of the networks, in no order.
fn addresses(count: u32) -> Vec<IpAddr> {
    let address = |n: u32| {
        let prefix = prefix(mixed(n) % count);
        match prefix.network() {
            IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() + (mixed(n ^ 0xffff) & 0xfff)).into()),
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() + u128::from(mixed(n))).into()),
        }
    };
    (0..LOOKUPS).map(address).collect()
}

fn lookups(count: u32) -> Result<()> {
    let prefixes: Vec<IpNet> = (0..count).map(prefix).collect();
    let addresses = addresses(count);
    let networks = Networks::new(prefixes.iter().map(|net| Network::new(*net, net.to_string())).collect());
    let (mut v4, mut v6) = (PrefixMap::<Ipv4Net, usize>::new(), PrefixMap::<Ipv6Net, usize>::new());
    for (line, net) in prefixes.iter().enumerate() {
        match net {
            IpNet::V4(net) => v4.insert(*net, line),
            IpNet::V6(net) => v6.insert(*net, line),
        };
    }
    let trie = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => v4.get_lpm(&Ipv4Net::from(ip)).map(|(_, line)| *line),
        IpAddr::V6(ip) => v6.get_lpm(&Ipv6Net::from(ip)).map(|(_, line)| *line),
    };
    let net = |ip: IpAddr| networks.find(ip).map(|network| network.net);
    let different = addresses.iter().find(|ip| net(**ip) != trie(**ip).map(|line| prefixes[line]));
    ensure!(different.is_none(), "{different:?} is found differently");
    let case = |how: &str| format!("internal networks: look-up among {count} prefixes, {how}");
    line(&case("flat ranges"), "ns", fastest(&addresses, |ip| networks.find(ip))?, None);
    line(&case("prefix-trie"), "ns", fastest(&addresses, trie)?, None);
    Ok(())
}

/// Returns the nanoseconds per lookup of the fastest round.
fn fastest<T>(addresses: &[IpAddr], find: impl Fn(IpAddr) -> T) -> Result<f64> {
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let begin = spent()?;
        for ip in addresses {
            black_box(find(black_box(*ip)));
        }
        best = best.min(spent()? - begin);
    }
    Ok(best.as_secs_f64() * 1e9 / addresses.len() as f64)
}

/// Returns this thread's CPU time.
fn spent() -> Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec that lives through the call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    ensure!(result == 0, "no CPU time: {}", std::io::Error::last_os_error());
    Ok(Duration::new(time.tv_sec.try_into()?, time.tv_nsec.try_into()?))
}
