//! Two gateways with agents, under the mail of several internal hosts, and a Prometheus that scrapes both.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use mailflow_test_support::lab::{
    self, Agent, Family, Lab, LabOptions, Mail, Mode, Ns, Package, Postfix, PostfixOptions, Prometheus,
    send_mails,
};

use crate::{interrupt, terminal::say, workspace};

/// Names of the gateways: `host` of their events, and label `instance` of their metrics.
const NAMES: [&str; 2] = ["gw1", "gw2"];
/// Port of the agents' metrics, on the link between the gateways.
const PORT: u16 = 10825;
/// Number of the host that is on the allow-list: 10.20.0.3.
const RELAY: u8 = 1;
/// Number of the host that sends too much: 10.20.0.4.
const LOUD: u8 = 2;

/// Mail of an internal host.
struct Sender {
    gateway: usize,
    /// Number of the host: 0 is 10.20.0.2.
    host: u8,
    family: Family,
    mode: Mode,
    port: u16,
    /// Bytes of a mail, and mails in a connection.
    size: usize,
    mails: usize,
    /// Number of connections.
    connections: u32,
    /// Parts of the whole time, in percent, between which the connections are spread.
    from: u32,
    to: u32,
}

const OFFICE: Sender = Sender {
    gateway: 0,
    host: 0,
    family: Family::V4,
    mode: Mode::StartTls,
    port: 587,
    size: 6_000,
    mails: 1,
    connections: 3,
    from: 5,
    to: 95,
};

/// Senders: only the stolen account reaches a threshold.
const SENDERS: &[Sender] = &[
    OFFICE,
    // The mail relay: most of the traffic, and known.
    Sender { host: RELAY, port: 25, size: 12_000, connections: 110, from: 0, to: 100, ..OFFICE },
    Sender { host: RELAY, gateway: 1, port: 25, size: 8_000, connections: 50, from: 0, to: 100, ..OFFICE },
    // A stolen account from the middle on.
    Sender { host: LOUD, size: 3_000, connections: 90, from: 45, to: 100, ..OFFICE },
    // A scanner that sends pages.
    Sender { host: 3, mode: Mode::Tls, port: 465, size: 1_200_000, connections: 6, ..OFFICE },
    Sender { host: 4, connections: 5, ..OFFICE },
    // An application behind both gateways: eight flows in all.
    Sender { host: 5, connections: 5, from: 10, ..OFFICE },
    Sender { host: 5, gateway: 1, connections: 3, from: 30, ..OFFICE },
    // A newsletter: many mails in few connections.
    Sender { host: 6, mode: Mode::Tls, port: 465, mails: 12, connections: 3, from: 20, ..OFFICE },
    Sender { host: 7, connections: 2, from: 40, ..OFFICE },
    Sender { host: 8, gateway: 1, mode: Mode::Tls, port: 465, size: 40_000, connections: 4, ..OFFICE },
    Sender { host: 9, gateway: 1, connections: 6, from: 10, ..OFFICE },
    Sender { host: 3, family: Family::V6, connections: 4, from: 15, ..OFFICE },
];

/// Running gateways.
pub(super) struct Gateways {
    prometheus: Prometheus,
    // In the order of their end: agents before the namespaces.
    agents: Vec<Agent>,
    _servers: Vec<Postfix>,
    labs: Vec<Lab>,
}

impl Gateways {
    /// Starts both, after removing those of a killed run.
    pub(super) fn start(binary: &Path) -> Result<Self> {
        let options = LabOptions { sources: 10, ..LabOptions::default() };
        let labs = NAMES.map(|name| -> Result<Lab> {
            let name = format!("mfpictures-{name}");
            lab::remove(&name)?;
            let folder = workspace::root().join("target/lab").join(&name);
            if folder.exists() {
                fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
            }
            Lab::named(&name, &options)
        });
        let labs = labs.into_iter().collect::<Result<Vec<_>>>()?;
        let addresses = connect(&labs)?;
        let package = Package::unpack()?;
        // Postfix must not slow down senders.
        let options = PostfixOptions { settings: "in_flow_delay = 0\n", ..PostfixOptions::default() };
        let servers = labs
            .iter()
            .map(|lab| Postfix::start(&lab.server, &package, lab.folder(), &options))
            .collect::<Result<Vec<_>>>()?;
        let agents = labs
            .iter()
            .zip(NAMES)
            .zip(&addresses)
            .map(|((lab, name), address)| {
                let config = lab.folder().join("mailflow.yaml");
                fs::write(&config, configuration(lab, name))?;
                let options = format!("--config {} --metrics {address}", config.display());
                Agent::start(&lab.gateway, binary, lab.folder(), "agent", &options)
            })
            .collect::<Result<Vec<_>>>()?;
        let rules = ["mailflow-agent.rules.yml", "mailflow-fleet.rules.yml"]
            .map(|name| workspace::root().join("config/prometheus").join(name));
        let targets: Vec<_> = NAMES.map(str::to_owned).into_iter().zip(addresses).collect();
        let prometheus = Prometheus::start_named(&labs[0].gateway, labs[0].folder(), &targets, &rules)?;
        for (name, address) in &targets {
            say(format!("{name}: mailflow-agent run --config mailflow.yaml, scraped at {address}"));
        }
        Ok(Self { prometheus, agents, _servers: servers, labs })
    }

    /// Sends all mail within `duration`, and runs `meanwhile` at the same time.
    pub(super) fn send(&self, duration: Duration, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
        let begin = Instant::now();
        std::thread::scope(|scope| {
            let senders: Vec<_> = SENDERS
                .iter()
                .map(|sender| scope.spawn(move || sender.send(&self.labs[sender.gateway], begin, duration)))
                .collect();
            let result = meanwhile();
            for sender in senders {
                sender.join().map_err(|_| anyhow!("a sender panicked"))??;
            }
            result
        })
    }

    pub(super) fn prometheus(&self) -> &Prometheus {
        &self.prometheus
    }

    /// Returns the namespace of Prometheus.
    pub(super) fn namespace(&self) -> &Ns {
        &self.labs[0].gateway
    }

    /// Returns the control socket of the agent that sees the stolen account.
    pub(super) fn socket(&self) -> PathBuf {
        self.agents[0].socket().to_owned()
    }

    /// Returns the number of sources that this agent sees.
    pub(super) fn sources(&self) -> usize {
        let mut sources: Vec<_> = SENDERS
            .iter()
            .filter(|sender| sender.gateway == 0)
            .map(|sender| (sender.host, sender.family == Family::V6))
            .collect();
        sources.sort_unstable();
        sources.dedup();
        sources.len()
    }

    pub(super) fn firing_source(&self) -> String {
        self.labs[0].client_ip(Family::V4, LOUD).to_string()
    }
}

impl Sender {
    fn send(&self, lab: &Lab, begin: Instant, duration: Duration) -> Result<()> {
        let server = SocketAddr::new(lab.server_ip(self.family), self.port);
        let source = Some(lab.client_ip(self.family, self.host));
        let mail = Mail { size: self.size, source, ..Mail::to(server, self.mode) };
        let period = duration * (self.to - self.from) / 100 / self.connections;
        for number in 0..self.connections {
            let due = begin + duration * self.from / 100 + period * number;
            interrupt::sleep_until(due)?;
            send_mails(&lab.client, &mail, self.mails)?;
        }
        Ok(())
    }
}

/// Returns the configuration of a gateway: the shipped one with its name, its interface and the known relay.
fn configuration(lab: &Lab, name: &str) -> String {
    let flows = lab.folder().join("flows.json");
    format!(
        "gateway_name: {name}\ninterfaces: [{{ name: lan0, role: lan }}]\ninternal_networks:\n  networks:\n    \
         - {{ cidr: 10.0.0.0/8, comment: RFC 1918 }}\n    - {{ cidr: \"fc00::/7\", comment: RFC 4193 }}\n    \
         - {{ cidr: {}, role: mta, comment: mail relay }}\nallow:\n  \
         - {{ source: \"role:mta\", reason: our mail relay }}\noutputs:\n  flow_log: {}\n",
        lab.client_ip(Family::V4, RELAY),
        flows.display()
    )
}

/// Connects the gateways by a management link, and returns the addresses of their metrics.
fn connect(labs: &[Lab]) -> Result<Vec<SocketAddr>> {
    let [first, second] = labs else { return Err(anyhow!("two gateways, not {}", labs.len())) };
    first.gateway.ip(&format!("link add mon0 type veth peer name mon0 netns {}", second.gateway.name()))?;
    let mut addresses = Vec::new();
    for (lab, last) in labs.iter().zip(1..) {
        lab.gateway.ip(&format!("address add 10.99.0.{last}/30 dev mon0"))?;
        lab.gateway.ip("link set mon0 up")?;
        addresses.push(SocketAddr::from(([10, 99, 0, last], PORT)));
    }
    Ok(addresses)
}
