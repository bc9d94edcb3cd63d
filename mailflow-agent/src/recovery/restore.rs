//! Going on where an agent before stopped, however it did.

use std::{collections::HashSet, io, sync::Arc};

use anyhow::Result;
use mailflow_common::SourceOverflowKey;
use tracing::{info, warn};

use super::{
    checkpointer::Keeper,
    redo::{self, Hearers, Tables},
    store::{Recovered, State, Told, Written},
};
use crate::outputs::router::Sinks;
use mailflow_engine::{
    Engine, Known,
    event::{Alert, Effects},
    flow::{Finished, Flow},
    spill::Spill,
    time::{Epoch, Time},
};
use mailflow_kernel::clock;
use mailflow_kernel::{Kernel, MapOrigin};

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Resumed {
    /// Records that the rules judged again.
    pub(crate) judged: usize,
    /// Alerts that had not been told.
    pub(crate) alerts: usize,
    /// Flows that were booked from the journal.
    pub(crate) booked: usize,
}

/// Brings the kernel's seam, the engine and the outputs to where the agent before was, and does what it had
/// begun and not finished.
pub(crate) fn resume(
    kernel: &mut Kernel,
    begun: MapOrigin,
    engine: &mut Engine,
    sinks: &Sinks,
    keeper: &mut Keeper,
    recovered: Recovered,
) -> Result<Resumed> {
    let Recovered { state: Some(mut state), journal, history, mut written, .. } = recovered else {
        return Ok(Resumed::default());
    };
    if begun != MapOrigin::Fresh {
        engine.know(&known(&mut state));
    }
    sinks.resume_alerts(state.firing);
    if state.rules.is_readable() {
        for rule in engine.restore(state.rules).forgotten {
            info!(%rule, "the rule is gone or means something else now: its windows begin anew");
        }
    } else {
        warn!("what the rules of the agent before knew has another format: windows begin anew");
    }
    let (behind, none) = (HashSet::new(), Written::default());
    let mut teller = Teller { sinks, keeper, behind, written: none, alerts: 0 };
    let judged = redo::judge_again(engine, &history, &mut teller);
    engine.set_epoch(clock::epoch());
    // What is delivered since the state was kept is in the history.
    let delivered = redo::told(&history);
    state.untold.retain(|untold| !delivered.contains(&Told::of(&untold.event.event().0)));
    teller.behind = state.untold.iter().flat_map(|untold| untold.sinks.clone()).collect();
    teller.keeper.tell(state.untold.iter().map(|untold| Told::of(&untold.event.event().0)));
    sinks.outputs().write_untold(&state.untold, &mut written);
    teller.written = written;
    let mut resumed = Resumed { judged: judged.number, ..Resumed::default() };
    let tables = (begun != MapOrigin::Fresh).then_some(kernel);
    let journal = (journal, Time::from_nanos(state.now));
    resumed.booked = redo::finish(engine, tables, journal, judged, (&mut teller, clock::epoch()))?;
    resumed.alerts = state.untold.len() + teller.alerts;
    // Whoever must know what fires has heard it from a process that is gone.
    let now = clock::epoch();
    let firing = engine.firing().into_iter().map(|alert| (Arc::new(alert), now));
    sinks.outputs().remind(firing);
    info!(
        records = resumed.judged,
        alerts = resumed.alerts,
        flows = resumed.booked,
        "went on where the agent before stopped"
    );
    Ok(resumed)
}

fn known(state: &mut State) -> Known {
    Known { now: Time::from_nanos(state.seen), seeds: state.seeds, flows: std::mem::take(&mut state.flows) }
}

impl Tables for Kernel {
    fn holds(&self, flow: &Flow) -> io::Result<bool> {
        self.has_flow(flow)
    }

    fn holds_finished(&self, flow: &Flow) -> io::Result<bool> {
        self.has_superseded_flow(flow)
    }

    fn holds_spill(&self, key: &SourceOverflowKey) -> io::Result<bool> {
        self.has_source(key)
    }

    fn book_removed(&mut self, flow: &Flow) {
        self.account_evicted(flow);
    }

    fn book_finished(&mut self, finished: &Finished, sums: &[u8]) {
        self.account_superseded(finished, sums);
    }

    fn book_spilled(&mut self, spill: &Spill) {
        self.account_evicted_source(spill);
    }
}

/// Hands over what may not have been told.
struct Teller<'a> {
    sinks: &'a Sinks,
    keeper: &'a mut Keeper,
    /// Sinks that had not delivered all.
    behind: HashSet<String>,
    /// What the files have already.
    written: Written,
    /// How many alerts there were.
    alerts: usize,
}

impl Hearers for Teller<'_> {
    fn told(&mut self, alerts: &[Alert]) {
        self.sinks.told(alerts);
    }

    fn book(&mut self, now: Time, effects: &Effects) {
        self.sinks.book(now, effects);
    }

    fn tell(&mut self, effects: Effects, epoch: Epoch) {
        self.keeper.tell(effects.alerts.iter().map(Told::of));
        let behind = |name: &str| self.behind.contains(name);
        self.sinks.outputs().write_missing(&effects, epoch, &mut self.written, &behind);
        self.alerts += effects.alerts.len();
    }
}
