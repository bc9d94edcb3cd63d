//! Rule tests: given flows through the engine in simulated time, its alerts against the expected ones.

pub(crate) mod expect;
pub mod file;
pub(crate) mod flow;
pub(crate) mod kinds;
pub(crate) mod moment;
pub(crate) mod records;

use self::file::{Expected, RuleTest};
use super::flowlog::{
    Entry, Origin,
    history::{History, Rhythm},
};
use mailflow_engine::{Engine, event::Alert, time::Time};

/// What a test found.
#[derive(Debug, Default)]
pub struct Tested<'a> {
    /// Alerts that came as expected.
    pub met: usize,
    /// Alerts that were expected and did not come.
    pub missing: Vec<&'a Expected>,
    /// Alerts that came and were not expected, in their order.
    pub unexpected: Vec<Alert>,
}

impl Tested<'_> {
    /// Returns true if all is as expected.
    pub fn good(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty()
    }
}

/// Runs a test. The rules see each record when the agent would have made it.
pub fn run(test: &RuleTest) -> Tested<'_> {
    let mut tested = Tested { unexpected: alerts(test), ..Tested::default() };
    for expected in &test.alerts {
        match tested.unexpected.iter().position(|alert| expected.fits(alert, test.start)) {
            Some(place) => {
                tested.unexpected.remove(place);
                tested.met += 1;
            }
            None => tested.missing.push(expected),
        }
    }
    tested
}

fn alerts(test: &RuleTest) -> Vec<Alert> {
    let timeouts = test.settings.timeouts;
    // Nothing here is read from a kernel: records come at their own moments.
    let mut history = History::new(Rhythm { timeouts, poll_interval: std::time::Duration::ZERO });
    for record in &test.records {
        history.push(Entry { record: record.clone(), origin: Origin::Mailflow });
    }
    let end = test.until.unwrap_or_else(|| history.end());
    let until = |moment: Time| moment <= end;
    let mut engine = Engine::new(test.settings.clone());
    let mut alerts = engine.tick(test.start).alerts;
    let (arrivals, _) = history.ordered();
    for arrival in arrivals.into_iter().take_while(|arrival| until(arrival.at)) {
        alerts.extend(engine.ingest_record(arrival.at, &arrival.record).alerts);
    }
    alerts.extend(engine.tick(end).alerts);
    alerts
}
