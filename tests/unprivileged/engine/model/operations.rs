//! Operations on an agent, and the records that its rules see.

use std::collections::{HashMap, HashSet};

use mailflow_common::{App, FlowKey};
use mailflow_engine::{
    flow::{Flow, RecordReason},
    settings::Settings,
};

use super::{Connection, Nanos, nanos};

/// Key and start of a flow: distinguishes two flows of a 5-tuple.
pub type Which = (FlowKey, Nanos);

/// Operation on an agent.
#[derive(Clone, Debug)]
pub enum Doing {
    /// Poll of the table. These flows are not seen, or cannot be evicted.
    Look(Nanos, HashSet<Which>),
    /// Final poll before the agent stops without keeping its maps: every open flow gets its last record.
    LastLook(Nanos),
    /// Tick: the rules see the records of the polls, and time advances.
    Tick(Nanos),
    /// Reload with other settings.
    Reload(Nanos, Box<Settings>),
    /// Change of the wall clock: offset of the monotonic clock from Unix time.
    Set(i128),
    /// Checkpoint.
    Keep,
    /// Restart: another process continues from the checkpoint.
    Restart,
}

/// State of a flow at one time.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) at: Nanos,
    /// Wall-clock offset at the poll that saw the flow.
    pub(super) epoch: i128,
    pub(super) flow: Flow,
    pub(super) app: App,
    /// Open flow that is evaluated because of its delta, without a record.
    pub(super) live: bool,
    pub(super) ended: bool,
}

/// Results of the polls.
#[derive(Default)]
pub(super) struct Course {
    done: HashSet<Which>,
    seen: HashMap<Which, Seen>,
    kept: HashMap<Which, Seen>,
    pending: Vec<Look>,
    /// Time of the last poll.
    last: Nanos,
    /// Current wall-clock offset.
    pub(super) epoch: i128,
}

#[derive(Clone)]
struct Seen {
    flow: Flow,
    /// Elapsed active intervals.
    intervals: u64,
    /// Counters at the last evaluation because of a delta.
    shown: [u64; 3],
}

impl Course {
    /// Does a poll; `live` is true if some rule evaluates open flows.
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

    /// Does the final poll.
    pub(super) fn look_last(&mut self, settings: &Settings, history: &[Connection], now: Nanos) {
        for connection in history {
            if connection.which().1 <= now && !self.done.contains(&connection.which()) {
                let (end, reason) = connection.end(settings);
                let (end, reason) = if end <= now { (end, reason) } else { (now, RecordReason::Shutdown) };
                self.last(connection, end, reason);
            }
        }
    }

    /// Returns the pending states, sorted by time.
    pub(super) fn arrived(&mut self) -> Vec<Look> {
        let mut looks = std::mem::take(&mut self.pending);
        looks.sort_by_key(|look| {
            let key = &look.flow.key;
            let ends = (key.client.ip(), key.client_port, key.server.ip(), key.server_port);
            (look.at, look.flow.last(), ends)
        });
        looks
    }

    /// Writes a checkpoint. It does not record which flows the last poll missed: it assumes that the poll saw
    /// them.
    pub(super) fn keep(&mut self, settings: &Settings) {
        self.kept.clone_from(&self.seen);
        for (which, seen) in &mut self.kept {
            seen.intervals = (self.last - which.1) / nanos(settings.timeouts.active);
        }
    }

    /// Continues from the checkpoint in a new process. The checkpoint has no state of evaluations because of
    /// a delta.
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
