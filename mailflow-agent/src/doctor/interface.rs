//! Checks of the watched interfaces.

use std::{fs, net::IpAddr, process::Command};

use super::Finding;
use crate::{
    config::{Config, Interface, Role},
    control::{WatchedEntryStatus, WatchedInterface},
};
use mailflow_engine::network::{AddressScope, Networks};
use mailflow_kernel::{self, InterfaceReport};

/// Returns the findings about the interfaces that an entry of the configuration names.
pub(super) fn of_config(entry: &Interface, config: &Config, ask_bpf: bool) -> Vec<Finding> {
    let Some(pattern) = entry.pattern() else { return examine(&entry.name, entry.role, config, ask_bpf) };
    let named = |name: &str| config.interfaces.iter().any(|other| other.name == name);
    let earlier = |name: &str| {
        let before = config.interfaces.iter().take_while(|other| other.name != entry.name);
        before.filter_map(Interface::pattern).any(|pattern| pattern.matches(name))
    };
    let (others, matching): (Vec<String>, Vec<String>) = mailflow_kernel::matching_interfaces(&pattern)
        .into_iter()
        .partition(|name| named(name) || earlier(name));
    let mut findings = vec![matches(&entry.name, &matching, &others)];
    findings.extend(matching.iter().flat_map(|name| examine(name, entry.role, config, ask_bpf)));
    findings
}

/// Returns the findings about the interfaces that the running agent watches by one of its entries.
pub(super) fn of_agent(entry: &WatchedEntryStatus, config: &Config, ask_bpf: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    if entry.pattern {
        let names: Vec<String> = entry.interfaces.iter().map(|interface| interface.name.clone()).collect();
        findings.push(matches(&entry.entry, &names, &[]));
    } else if entry.interfaces.is_empty() {
        findings.extend(examine(&entry.entry, Role::Auto, config, ask_bpf));
    }
    for WatchedInterface { name, role } in &entry.interfaces {
        let role = Role::ALL.into_iter().find(|known| known.name() == role).unwrap_or_default();
        findings.extend(examine(name, role, config, ask_bpf));
    }
    findings
}

/// Returns the finding about the interfaces that a pattern is bound to.
fn matches(pattern: &str, bound: &[String], others: &[String]) -> Finding {
    let others = match others {
        [] => String::new(),
        others => format!("; an earlier entry, or one with the name, applies to {}", others.join(", ")),
    };
    match bound {
        [] => Finding::warn(
            pattern,
            format!("no interface matches the pattern{others}"),
            "a matching interface is watched when it appears; `ip link` lists the existing ones",
        ),
        bound => Finding::ok(pattern, format!("matches {}{others}", bound.join(", "))),
    }
}

/// Returns the findings about an interface.
fn examine(name: &str, role: Role, config: &Config, ask_bpf: bool) -> Vec<Finding> {
    let examined = match mailflow_kernel::report_interface(name, ask_bpf) {
        Ok(examined) => examined,
        Err(error) => {
            return vec![Finding::bad(
                name,
                error.to_string(),
                "the agent starts without it and watches it when it appears; correct the name if it is wrong",
            )];
        }
    };
    let role = if role == Role::Auto { examined.role } else { role };
    let internal = &config.engine.internal;
    let mut findings = vec![
        check_role(name, role, &examined, internal),
        xdp(name, &examined),
        hooks(name, &examined),
        check_losses(name, role, &examined),
    ];
    findings.extend(networks(name, role, &examined, internal));
    findings.extend(bridge(name, &examined));
    findings.extend(check_offloads(name));
    findings
}

/// Checks that the internal hosts are on the side that the role expects.
fn check_role(name: &str, role: Role, examined: &InterfaceReport, internal: &Networks) -> Finding {
    let what = format!("{name} role");
    let reason = &examined.reason;
    let inside = "watch the interface on the inside; role: host counts the machine's own mail";
    let public = |address: &&IpAddr| internal.resolve(**address).scope == AddressScope::Internet;
    match role {
        Role::Lan if examined.default_route => Finding::warn(
            what,
            "lan, but this machine's default route leaves here: behind source NAT the internal hosts cannot be told apart",
            inside,
        ),
        Role::Lan if !examined.forwards => Finding::warn(
            what,
            "lan, but this machine forwards nothing",
            "role: host for the machine's own mail, mirror for copies; or switch forwarding on",
        ),
        Role::Lan => match (source_nat(name), examined.addresses.iter().find(public)) {
            (Some(rule), _) => Finding::warn(
                what,
                format!("lan, but source NAT hides the internal hosts from what leaves here: {rule}"),
                inside,
            ),
            (None, Some(address)) => Finding::warn(
                what,
                format!("lan, but its address {address} is public and in no internal network"),
                format!("{inside}; if its network is yours, add it to internal_networks"),
            ),
            (None, None) => Finding::ok(what, format!("lan: {reason}")),
        },
        Role::Mirror if !examined.promiscuous => Finding::warn(
            what,
            "mirror, but the interface is not in promiscuous mode: a NIC drops frames for others",
            format!("ip link set {name} promisc on"),
        ),
        _ => Finding::ok(what, format!("{}: {reason}", role.name())),
    }
}

/// Returns the rule of source NAT for packets that leave by an interface, as `nft` or `iptables-save` lists
/// it.
fn source_nat(name: &str) -> Option<String> {
    let commands: [(&str, &[&str]); 3] = [
        ("nft", &["list", "ruleset"]),
        ("iptables-save", &["-t", "nat"]),
        ("ip6tables-save", &["-t", "nat"]),
    ];
    commands.into_iter().find_map(|(command, arguments)| {
        let output = Command::new(command).args(arguments).output().ok();
        let output = output.filter(|output| output.status.success())?;
        source_nat_rule(&String::from_utf8_lossy(&output.stdout), name)
    })
}

/// Returns the first rule of a list that changes the source address of packets that leave by an interface.
fn source_nat_rule(rules: &str, name: &str) -> Option<String> {
    let changes = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let changes = words.iter().any(|word| matches!(*word, "masquerade" | "snat" | "MASQUERADE" | "SNAT"));
        changes && names_exit(&words, name)
    };
    rules.lines().map(str::trim).find(|line| changes(line)).map(str::to_owned)
}

/// Returns true if a rule of nftables or iptables applies to packets that leave by an interface. The rule may
/// name the interface, a set, a pattern, or excluded interfaces.
fn names_exit(words: &[&str], name: &str) -> bool {
    let exit = |word: &&str| matches!(*word, "oifname" | "oif" | "-o");
    let Some(at) = words.iter().position(exit) else { return false };
    let mut rest = words[at + 1..].iter().copied().peekable();
    let before = at.checked_sub(1).and_then(|before| words.get(before));
    let excludes = rest.next_if_eq(&"!=").is_some() || before == Some(&"!");
    let is_set = rest.next_if_eq(&"{").is_some();
    let listed: Vec<&str> =
        if is_set { rest.take_while(|word| *word != "}").collect() } else { rest.take(1).collect() };
    let matches = |word: &&str| {
        let word = word.trim_matches(['"', ',']);
        match word.strip_suffix(['*', '+']) {
            Some(prefix) => name.starts_with(prefix),
            None => word == name,
        }
    };
    listed.iter().any(matches) != excludes
}

/// Checks that the networks of an inside interface are in internal networks.
fn networks(name: &str, role: Role, examined: &InterfaceReport, internal: &Networks) -> Option<Finding> {
    if role != Role::Lan || examined.default_route {
        return None;
    }
    let what = format!("{name} networks");
    let uncovered =
        examined.prefixes.iter().filter(|prefix| internal.is_unlisted(prefix)).map(ToString::to_string);
    let uncovered: Vec<String> = uncovered.collect();
    Some(match uncovered.as_slice() {
        [] => Finding::ok(what, "its addresses are in internal networks"),
        uncovered => Finding::warn(
            what,
            format!("in no internal network: {}", uncovered.join(", ")),
            "add them to internal_networks: no rule with `source: internal` counts clients there",
        ),
    })
}

fn xdp(name: &str, examined: &InterfaceReport) -> Finding {
    let what = format!("{name} hook");
    match &examined.xdp_obstacle {
        Some(reason) => Finding::ok(what, format!("TC rather than XDP: {reason}")),
        None => Finding::ok(what, "native XDP is tried first"),
    }
}

fn hooks(name: &str, examined: &InterfaceReport) -> Finding {
    let what = format!("{name} others");
    match &examined.programs {
        Err(error) => {
            Finding::warn(what, format!("the programs at its hooks cannot be listed: {error}"), "run as root")
        }
        Ok(programs) if programs.is_empty() => Finding::ok(what, "no program is at its hooks"),
        Ok(programs) => {
            let all: Vec<_> = programs.iter().map(|program| program.text.as_str()).collect();
            let all = all.join(", ");
            if programs.iter().all(|program| program.is_own) {
                return Finding::ok(what, format!("at its hooks: {all}"));
            }
            Finding::warn(
                what,
                format!("at its hooks: {all}"),
                "the agent runs first and passes packets on; packets that an XDP program drops or redirects before TC are not seen",
            )
        }
    }
}

/// Warns about IP filters that change a bridge's packets before they are counted.
fn bridge(name: &str, examined: &InterfaceReport) -> Option<Finding> {
    examined.filtered_bridge.then(|| {
        Finding::warn(
            format!("{name} bridge"),
            "its packets pass the IP filters first: NAT splits flows, and fragments are reassembled",
            "watch its ports instead, or sysctl net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0",
        )
    })
}

fn check_losses(name: &str, role: Role, examined: &InterfaceReport) -> Finding {
    let what = format!("{name} losses");
    match examined.dropped {
        None => Finding::warn(what, "its counters cannot be read", "see `ip -s link`"),
        Some(0) => Finding::ok(what, "it has dropped nothing on receipt"),
        Some(dropped) if role == Role::Mirror => Finding::warn(
            what,
            format!("{dropped} packets were dropped on receipt: they are missing from the counts"),
            "larger rings (ethtool -G), more queues, or less traffic on the mirror port",
        ),
        Some(dropped) => Finding::ok(
            what,
            format!("{dropped} packets were dropped on receipt, and so neither forwarded nor counted"),
        ),
    }
}

/// Checks offloads of the NIC that bypass the kernel, if ethtool is installed.
fn check_offloads(name: &str) -> Vec<Finding> {
    let what = format!("{name} offloads");
    let features = Command::new("ethtool").args(["-k", name]).output();
    let Some(features) = features.ok().filter(|features| features.status.success()) else {
        return vec![Finding::warn(what, "unknown without ethtool", "install ethtool")];
    };
    let features = String::from_utf8_lossy(&features.stdout).into_owned();
    let on = |feature: &str| features.lines().any(|line| line.trim().starts_with(&format!("{feature}: on")));
    let mut findings = Vec::new();
    if on("hw-tc-offload") {
        findings.push(Finding::warn(
            &what,
            "hw-tc-offload is on: flows that the NIC forwards itself are invisible to every hook",
            format!("ethtool -K {name} hw-tc-offload off, and no `flags offload` in nftables' flowtables"),
        ));
    }
    if on("large-receive-offload") {
        findings.push(Finding::warn(
            &what,
            "large-receive-offload is on: packets are merged irreversibly, and XDP is refused",
            format!("ethtool -K {name} lro off"),
        ));
    }
    let flowtables = fs::read_to_string("/proc/net/nf_flowtable").unwrap_or_default();
    if flowtables.lines().any(|line| line.contains("OFFLOAD")) {
        findings.push(Finding::warn(
            &what,
            "flowtables are offloaded",
            "take `flags offload` out of nftables' flowtables",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(what, "GRO and TSO count exactly; nothing is forwarded by the NIC"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_nat_is_found_by_the_interface_it_leaves_by() {
        let nft = "table inet nat {\n\tchain post {\n\t\toifname \"wan0\" masquerade\n\t\toifname \"wan1\" accept\n\t}\n}";
        let tables = "*nat\n-A POSTROUTING -s 10.0.0.0/8 -o ppp0 -j MASQUERADE\n-A POSTROUTING -o eth1 -j SNAT --to-source 192.0.2.1\n";
        let set = "oifname { \"wan0\", \"ppp*\" } counter packets 0 bytes 0 masquerade";
        for (rules, name, found) in [
            (nft, "wan0", true),
            (nft, "wan1", false),
            (nft, "wan", false),
            (tables, "ppp0", true),
            (tables, "eth1", true),
            (tables, "eth0", false),
            (set, "wan0", true),
            (set, "ppp7", true),
            (set, "lan0", false),
            ("oifname != \"lan0\" masquerade", "wan0", true),
            ("oifname != \"lan0\" masquerade", "lan0", false),
            ("-A POSTROUTING ! -o br+ -j MASQUERADE", "eth0", true),
            ("-A POSTROUTING ! -o br+ -j MASQUERADE", "br0", false),
            ("ip saddr 10.0.0.0/8 masquerade", "eth0", false),
            ("oifname", "eth0", false),
            ("", "wan0", false),
        ] {
            assert_eq!(source_nat_rule(rules, name).is_some(), found, "{name}");
        }
    }
}
