//! A hundred thousand sources on the metrics page of a running agent.

mailflow_test_support::needs_root!();

use std::{collections::HashMap, fs, net::Ipv4Addr, thread, time::Duration};

use mailflow_test_support::{
    frame::{FrameBuilder, flag::*},
    lab::{Agent, Lab, LabOptions, agent_binary, wait_for},
    wire::Wire,
};

const SERVER: &str = "93.184.215.25:25";
const CAP: usize = 100;
const CONFIG: &str = "
poll_interval: 500ms
outputs: { metrics: { max_sources: 100 }, alerts: off }
";

/// Returns a hundred thousand clients. Many of their addresses give equal text if joined with another label
/// (1.1.1.11 and 11.1.1.1).
fn clients() -> Vec<Ipv4Addr> {
    let digits = [1, 11, 111];
    let joined = (0..81).map(|n| [n / 27, n / 9 % 3, n / 3 % 3, n % 3].map(|digit: usize| digits[digit]));
    let joined = joined.map(|parts| Ipv4Addr::from(parts.map(|part| part as u8)));
    let many = (0..100_000 - 81_u32).map(|n| Ipv4Addr::from(0x0c00_0000 + n * 7));
    joined.chain(many).collect()
}

/// Returns three packets of each client, of different sizes.
fn frames(clients: &[Ipv4Addr]) -> Vec<Vec<u8>> {
    let one = |client: &Ipv4Addr, index: usize| {
        let client = format!("{client}:40000");
        let payload = vec![b'x'; index % 97];
        [
            FrameBuilder::tcp(&client, SERVER, SYN).build(),
            FrameBuilder::tcp(SERVER, &client, SYN | ACK).build(),
            FrameBuilder::tcp(&client, SERVER, ACK | PSH).payload(payload).build(),
        ]
    };
    clients.iter().enumerate().flat_map(|(index, client)| one(client, index)).collect()
}

/// Returns the samples of the page by name and labels.
fn samples(page: &str) -> HashMap<String, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.map(|line| line.rsplit_once(' ').unwrap());
    pairs.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

/// Returns the sum of a family over the samples with the label.
fn sum(samples: &HashMap<String, f64>, family: &str, label: &str) -> f64 {
    let chosen = samples.iter().filter(|(name, _)| name.starts_with(family) && name.contains(label));
    chosen.map(|(_, value)| value).sum()
}

#[test]
fn sums_over_sources_equal_kernel_totals() {
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let config = lab.folder().join("capped.yaml");
    fs::write(&config, CONFIG).unwrap();
    let options = format!("--config {} --interface lan0 --role mirror", config.display());
    let mut agent =
        Agent::start(&lab.gateway, &agent_binary().unwrap(), lab.folder(), "agent", &options).unwrap();
    let clients = clients();
    let frames = frames(&clients);
    let sent: usize = frames.len();

    let mut before = HashMap::new();
    let mut scrapes = 0;
    let last = thread::scope(|scope| {
        let wire = Wire::open(&lab.client, "eth0").unwrap();
        scope.spawn(move || wire.send(&frames).unwrap());
        wait_for("all packets on the page", Duration::from_secs(60), || {
            let found = samples(&agent.metrics()?);
            for (series, value) in &found {
                let name = series.split('{').next().unwrap_or_default();
                let is_counter =
                    name.ends_with("_total") || name.ends_with("_count") || name.ends_with("_bucket");
                if is_counter && let Some(earlier) = before.insert(series.clone(), *value) {
                    assert!(*value >= earlier, "{series} fell from {earlier} to {value}");
                }
            }
            for family in ["packets", "bytes"] {
                for direction in ["direction=\"up\"", "direction=\"down\""] {
                    let by_source = sum(&found, &format!("mailflow_source_{family}_total"), direction);
                    assert_eq!(by_source, sum(&found, &format!("mailflow_{family}_total"), direction));
                }
            }
            assert!(found["mailflow_sources"] <= CAP as f64);
            scrapes += 1;
            let seen = sum(&found, "mailflow_source_packets_total", "");
            Ok((seen >= sent as f64).then_some(found))
        })
        .unwrap()
    });

    // Without traffic the kernel's own sums are equal, in packets and bytes.
    for family in ["packets", "bytes"] {
        for direction in ["direction=\"up\"", "direction=\"down\""] {
            let by_source = sum(&last, &format!("mailflow_source_{family}_total"), direction);
            assert_eq!(by_source, sum(&last, &format!("mailflow_kernel_{family}_total"), direction));
        }
    }
    assert_eq!(sum(&last, "mailflow_source_packets_total", ""), sent as f64);
    assert_eq!(sum(&last, "mailflow_source_flows_total", ""), clients.len() as f64);
    let series = last.keys().filter(|series| series.starts_with("mailflow_source_flows_total")).count();
    assert_eq!(series, CAP + 2, "the cap, `other` and `retired`");
    let others = last["mailflow_source_flows_total{source=\"other\"}"];
    assert_eq!(others, (clients.len() - CAP) as f64);
    println!("{scrapes} scrapes, {sent} packets of {} sources", clients.len());
    assert!(agent.stop().unwrap().success());
}
