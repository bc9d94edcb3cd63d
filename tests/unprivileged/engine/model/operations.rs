//! What was done to an agent, and what its rules get to see by that.

use std::collections::{HashMap, HashSet};

use mailflow_common::{App, FlowKey};
use mailflow_engine::{
    flow::{Flow, RecordReason},
    settings::Settings,
};

use super::{Connection, Nanos, nanos};

/// One of two flows of a tuple.
pub type Which = (FlowKey, Nanos);

/// What is done to an agent.
#[derive(Clone, Debug)]
pub enum Doing {
    /// The table is read; these are not shown, or cannot be taken out.
    Look(Nanos, HashSet<Which>),
    /// The agent stops, its tables end: every open flow gets its last record, and what follows is another one.
    LastLook(Nanos),
    /// The rules see what the readings brought, and time passes.
    Tick(Nanos),
    /// Other settings.
    Reload(Nanos, Box<Settings>),
    /// The wall clock is set: where the packet clock's beginning lies on it.
    Set(i128),
    /// The state is kept.
    Keep,
    /// Another process goes on.
    Restart,
}

/// What is known of a flow at some moment.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) at: Nanos,
    /// By the wall clock of the reading that showed it.
    pub(super) epoch: i128,
    pub(super) flow: Flow,
    pub(super) app: App,
    /// Open, and looked at because of what it gained: no record.
    pub(super) live: bool,
    pub(super) ended: bool,
}

/// What readings have shown.
#[derive(Default)]
pub(super) struct Course {
    done: HashSet<Which>,
    seen: HashMap<Which, Seen>,
    kept: HashMap<Which, Seen>,
    pending: Vec<Look>,
    /// The last reading.
    last: Nanos,
    /// The wall clock that is in force.
    pub(super) epoch: i128,
}

#[derive(Clone)]
struct Seen {
    flow: Flow,
    /// Active intervals that had passed.
    intervals: u64,
    /// What it had when it was last looked at for that.
    shown: [u64; 3],
}

impl Course {
    /// A reading; `live` tells whether some rule wants to see open flows.
    pub(super) fn look(
        &mut self,
        settings: &Settings,
        history: &[Connection],
        (now, missed): (Nanos, &HashSet<Which>),
        live: bool,
    ) {
        self.last = now;
        for connection in history {
            let which = connection.which();
            if which.1 > now || self.done.contains(&which) || missed.contains(&which) {
                continue;
            }
            let (end, reason) = connection.end(settings);
            if end <= now {
                self.last(connection, end, reason);
                continue;
            }
            let Some(flow) = connection.seen(now) else { continue };
            let before = self.seen.get(&which);
            let mut shown = before.map_or([0; 3], |before| before.shown);
            let gained = before.is_none_or(|before| before.flow != flow);
            let intervals = (now - which.1) / nanos(settings.timeouts.active);
            let record = intervals > before.map_or(0, |before| before.intervals);
            let has = [flow.up.bytes, flow.down.bytes, u64::from(flow.messages)];
            let enough =
                [65_536, 65_536, 4].into_iter().enumerate().any(|(n, least)| has[n] - shown[n] >= least);
            let look = !record && gained && live && enough;
            if look {
                shown = has;
            }
            let seen = Seen { flow: flow.clone(), intervals, shown };
            if record {
                let at = (which.1 + intervals * nanos(settings.timeouts.active)).max(flow.last().as_nanos());
                self.push(connection, at, flow, RecordReason::Active, false);
                self.kept.insert(which, seen.clone());
            } else if look {
                self.push(connection, now, flow, RecordReason::Active, true);
            }
            self.seen.insert(which, seen);
        }
    }

    /// The last reading.
    pub(super) fn look_last(&mut self, settings: &Settings, history: &[Connection], now: Nanos) {
        for connection in history {
            if connection.which().1 <= now && !self.done.contains(&connection.which()) {
                let (end, reason) = connection.end(settings);
                let (end, reason) = if end <= now { (end, reason) } else { (now, RecordReason::Shutdown) };
                self.last(connection, end, reason);
            }
        }
    }

    /// What was brought since, in the order of its moments.
    pub(super) fn arrived(&mut self) -> Vec<Look> {
        let mut looks = std::mem::take(&mut self.pending);
        looks.sort_by_key(|look| {
            let key = &look.flow.key;
            let ends = (key.client.ip(), key.client_port, key.server.ip(), key.server_port);
            (look.at, look.flow.last(), ends)
        });
        looks
    }

    /// The state is kept. It does not tell which flows the last reading did not show: it takes them for seen.
    pub(super) fn keep(&mut self, settings: &Settings) {
        self.kept.clone_from(&self.seen);
        for (which, seen) in &mut self.kept {
            seen.intervals = (self.last - which.1) / nanos(settings.timeouts.active);
        }
    }

    /// Another process knows what was kept. It does not know what was looked at because of its gains.
    pub(super) fn restart(&mut self) {
        self.kept.values_mut().for_each(|seen| seen.shown = [0; 3]);
        self.seen.clone_from(&self.kept);
        self.pending.retain(|look| !look.live);
    }

    fn last(&mut self, connection: &Connection, end: Nanos, reason: RecordReason) {
        self.done.insert(connection.which());
        if let Some(flow) = connection.seen(end) {
            self.push(connection, end, flow, reason, false);
        }
    }

    fn push(&mut self, connection: &Connection, at: Nanos, flow: Flow, reason: RecordReason, live: bool) {
        let ended = matches!(reason, RecordReason::Closed | RecordReason::Idle);
        let (app, epoch) = (connection.app(&flow), self.epoch);
        self.pending.push(Look { at, epoch, app, flow, live, ended });
    }
}
