//! A network of a thousand hosts over five days: people, machines that send mail because they should, and
//! some that send it because somebody took them over. Everything follows from a seed.
//!
//! The flows are real sessions (`scenarios/vectors.csv`, drawn from measured ones); who has them when is
//! made up, and written in `scenarios/benign.rs` and `scenarios/attacks.rs`.

mod attacks;
mod benign;
mod evaluate;
mod vectors;

use std::{net::Ipv4Addr, sync::Arc};

use fastrand::Rng;
use mailflow_engine::{
    flow::{FlowRecord, RecordReason},
    time::Time,
};

pub use attacks::Attack;
pub use benign::Role;
pub use evaluate::{Found, Lists, judge};
use vectors::Vectors;

/// Seconds of a day.
pub const DAY: u64 = 86_400;
/// How long the network is watched.
pub const DAYS: u64 = 5;
/// Its hosts.
pub const HOSTS: u32 = 1_000;

/// A record and the moment at which it is made.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// When the rules see it.
    pub at: Time,
    /// The record.
    pub record: Arc<FlowRecord>,
}

/// The network's history.
#[derive(Debug, Default)]
pub struct World {
    /// Records, in the order in which they are made.
    pub arrivals: Vec<Arrival>,
    /// What was done to the network.
    pub attacks: Vec<Incident>,
    /// Hosts that send mail by their purpose, and what that is.
    pub senders: Vec<(Ipv4Addr, Role)>,
}

/// A host that somebody took over.
#[derive(Clone, Copy, Debug)]
pub struct Incident {
    /// What it does.
    pub attack: Attack,
    /// Which host.
    pub host: Ipv4Addr,
    /// Since when, in seconds.
    pub begins: u64,
}

/// Makes a history.
pub fn world(seed: u64) -> World {
    let mut maker =
        Maker { rng: Rng::with_seed(seed), vectors: Vectors::read(), world: World::default(), port: 0 };
    benign::live(&mut maker);
    attacks::strike(&mut maker);
    let mut world = maker.world;
    world
        .arrivals
        .sort_by_key(|arrival| (arrival.at, arrival.record.time(), arrival.record.flow.key.client_port));
    world
}

/// Makes flows.
struct Maker {
    rng: Rng,
    vectors: Vectors,
    world: World,
    port: u16,
}

impl Maker {
    /// A session of one of these kinds, from `client` to `server`, which begins at `start`, in seconds.
    fn session(&mut self, client: Ipv4Addr, server: Ipv4Addr, start: f64, kinds: &[&str]) {
        let kind = kinds[self.rng.usize(..kinds.len())];
        let vector = self.vectors.pick(&mut self.rng, kind);
        self.port = self.port.wrapping_add(1).max(1_024);
        let flow = vector.flow((client, self.port), server, start);
        let silence = if vector.answered { 5 } else { 30 };
        self.record(vector.record(flow, RecordReason::Closed), silence);
    }

    /// A session that goes on: as `kind`, `times` over.
    fn long(&mut self, client: Ipv4Addr, server: Ipv4Addr, start: f64, kind: &str, times: u64) {
        let vector = self.vectors.pick(&mut self.rng, kind);
        self.port = self.port.wrapping_add(1).max(1_024);
        let seconds = vector.seconds * times as f64;
        for part in 1..=(seconds / 300.0) as u64 {
            let done = (times as f64 * part as f64 * 300.0 / seconds) as u64;
            let flow = vector.times(done.max(1)).flow((client, self.port), server, start);
            self.record(vector.record(flow, RecordReason::Active), 1);
        }
        let flow = vector.times(times).flow((client, self.port), server, start);
        self.record(vector.record(flow, RecordReason::Closed), 5);
    }

    fn record(&mut self, record: FlowRecord, silence: u64) {
        let at = record.time() + std::time::Duration::from_secs(silence);
        self.world.arrivals.push(Arrival { at, record: Arc::new(record) });
    }

    /// A moment of a working day, in seconds.
    fn working_hour(&mut self, day: u64) -> f64 {
        (day * DAY) as f64 + 8.0 * 3_600.0 + self.rng.f64() * 10.0 * 3_600.0
    }

    /// A mail server somewhere.
    fn anywhere(&mut self) -> Ipv4Addr {
        // 20.0.0.0 to 99.255.255.255 has no special use but 100.64.0.0/10, which is beyond.
        Ipv4Addr::from((20 << 24) + self.rng.u32(..80 << 24))
    }
}
