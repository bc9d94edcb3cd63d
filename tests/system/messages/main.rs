//! Message estimate, compared with what a real Postfix accepted in each connection, and with sessions as
//! other servers have them.
//!
//! `cargo test -p mailflow-system-tests --test messages -- --nocapture` prints the tables of docs/understand/messages.md.

mailflow_test_support::needs_root!();

mod channel;
mod classes;
mod dialogue;
mod probes;
mod script;
mod scripted;
mod senders;
mod servers;
mod truth;
#[path = "../../common/under_test.rs"]
mod under_test;

use std::{collections::BTreeMap, path::Path, time::Duration};

use classes::{CLASSES, Judged};
use mailflow_test_support::lab::{
    Agent, Family, Lab, LabOptions, Package, Postfix, PostfixOptions, agent_binary, wait_for,
};
use senders::Setting;
use serde_json::Value;

/// Minimum share of exact estimates among the evaluated flows.
const BAR: f64 = 0.99;
/// Minimum number of evaluated flows.
const SESSIONS: usize = 600;

/// Results of a class.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    sessions: usize,
    accepted: u64,
    estimated: u64,
    exact: usize,
    over: usize,
    under: usize,
}

impl Row {
    fn add(&mut self, accepted: u64, estimated: u64) {
        self.sessions += 1;
        self.accepted += accepted;
        self.estimated += estimated;
        match estimated.cmp(&accepted) {
            std::cmp::Ordering::Equal => self.exact += 1,
            std::cmp::Ordering::Greater => self.over += 1,
            std::cmp::Ordering::Less => self.under += 1,
        }
    }

    fn join(&mut self, other: &Self) {
        self.sessions += other.sessions;
        self.accepted += other.accepted;
        self.estimated += other.estimated;
        self.exact += other.exact;
        self.over += other.over;
        self.under += other.under;
    }

    fn print(&self, name: &str) {
        let Self { sessions, accepted, estimated, exact, over, under } = self;
        println!("| {name} | {sessions} | {accepted} | {estimated} | {exact} | {over} | {under} |");
    }
}

/// Servers: one accepts the mail, and a relay on the client forwards it.
struct Servers {
    outside: Postfix,
    relay: Postfix,
}

impl Servers {
    fn start(lab: &Lab, package: &Package) -> Self {
        let server = lab.server_ip(Family::V4);
        let outside = PostfixOptions { domain: classes::DOMAINS, ..PostfixOptions::default() };
        let outside = Postfix::start(&lab.server, package, lab.folder(), &outside).unwrap();
        let settings =
            format!("{}transport_maps = inline:{{ {} }}\n", classes::RELAY, classes::routes(server));
        let relay = PostfixOptions {
            name: "relay",
            hostname: "relay.corp.example",
            domain: "corp.example",
            settings: &settings,
            services: classes::TRANSPORTS,
        };
        let relay = Postfix::start(&lab.client, package, lab.folder(), &relay).unwrap();
        Self { outside, relay }
    }
}

/// Returns the estimates of each class's flows, by the client's port, in the order of the flows' starts.
fn estimates(log: &Path) -> BTreeMap<(String, u16), Vec<u64>> {
    let text = std::fs::read_to_string(log).unwrap();
    let mut flows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    flows.retain(|flow| flow["flow"]["reason"] != "active");
    flows.sort_by_key(|flow| flow["flow"]["start"].to_string());
    let mut estimates: BTreeMap<_, Vec<u64>> = BTreeMap::new();
    for flow in flows {
        let client = flow["src_ip"].as_str().unwrap().to_owned();
        let port = flow["src_port"].as_u64().unwrap() as u16;
        let messages = flow["mailflow"]["messages_estimated"].as_u64().unwrap();
        estimates.entry((client, port)).or_default().push(messages);
    }
    estimates
}

#[test]
fn estimate_equals_messages_accepted_by_postfix() {
    let lab = Lab::new(&LabOptions { sources: CLASSES.len() as u8, ..LabOptions::default() }).unwrap();
    // Without NAT the server's log has the client's own address and port.
    lab.gateway.run("nft delete table inet lab").unwrap();
    let package = Package::unpack().unwrap();
    let servers = Servers::start(&lab, &package);
    let log = lab.folder().join("flows.jsonl");
    let options = format!("--interface lan0 --role lan --flow-log {}", log.display());
    let mut agent =
        Agent::start(&lab.gateway, &agent_binary().unwrap(), lab.folder(), "agent", &options).unwrap();

    for (number, class) in CLASSES.iter().enumerate() {
        let begin = std::time::Instant::now();
        let source = lab.client_ip(Family::V4, number as u8);
        // Every program sends from the class's address.
        lab.client.ip(&format!("route replace default via 10.20.0.1 src {source}")).unwrap();
        (class.sessions)(&Setting { lab: &lab, package: &package, relay: &servers.relay });
        println!("{}: {:.1} s", class.name, begin.elapsed().as_secs_f64());
    }
    let sessions = wait_for("the end of every connection", Duration::from_secs(120), || {
        Ok(truth::sessions(&servers.outside.log()))
    })
    .unwrap();
    assert!(agent.stop().unwrap().success());
    let estimated = estimates(&log);

    // Connections in the server's log and flows of the agent correspond one to one.
    let lengths = |of: &BTreeMap<(String, u16), Vec<u64>>| -> BTreeMap<_, usize> {
        of.iter().map(|(client, values)| (client.clone(), values.len())).collect()
    };
    assert_eq!(lengths(&sessions), lengths(&estimated), "connections and flows");
    judge(&lab, &sessions, &estimated);
}

/// Prints the table and compares the evaluated classes with the minimum.
fn judge(
    lab: &Lab,
    sessions: &BTreeMap<(String, u16), Vec<u64>>,
    estimated: &BTreeMap<(String, u16), Vec<u64>>,
) {
    println!("| class | flows | accepted | estimated | exact | over | under |");
    println!("|---|---|---|---|---|---|---|");
    let mut judged = Row::default();
    for (number, class) in CLASSES.iter().enumerate() {
        let source = lab.client_ip(Family::V4, number as u8).to_string();
        let mut row = Row::default();
        for (client, accepted) in sessions.iter().filter(|((address, _), _)| *address == source) {
            for (accepted, estimated) in accepted.iter().zip(&estimated[client]) {
                row.add(*accepted, *estimated);
                if class.judged == Judged::Yes {
                    judged.add(*accepted, *estimated);
                }
            }
        }
        row.print(class.name);
        assert!(row.sessions > 0, "{}: no session", class.name);
    }
    judged.print("all but the last three");
    assert!(judged.sessions >= SESSIONS, "{} sessions", judged.sessions);
    let share = judged.exact as f64 / judged.sessions as f64;
    assert!(share >= BAR, "{} of {} flows exact", judged.exact, judged.sessions);
}
