//! Rule tests: evaluates flows in simulated time, and compares the alerts with the expected ones.

pub(crate) mod expect;
pub mod file;
pub(crate) mod flow;
pub(crate) mod flow_template;
pub(crate) mod offset;
pub(crate) mod records;

use self::file::{ExpectedAlert, RuleTest};
use super::flowlog::{
    LogOrigin, LogRecord,
    timeline::{FlowTimeline, RecordTiming},
};
use mailflow_engine::{Engine, event::Alert, time::Time};

/// Outcome of a test.
#[derive(Debug, Default)]
pub struct TestOutcome<'a> {
    /// Number of expected alerts that were emitted.
    pub matched: usize,
    /// Expected alerts that were not emitted.
    pub missing: Vec<&'a ExpectedAlert>,
    /// Emitted alerts that were not expected, in order.
    pub unexpected: Vec<Alert>,
}

impl TestOutcome<'_> {
    /// Returns true if all expected alerts were emitted, and no others.
    pub fn is_success(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty()
    }
}

/// Runs a test. The rules evaluate each record at the time at which the agent would have created it.
pub fn run(test: &RuleTest) -> TestOutcome<'_> {
    let mut outcome = TestOutcome { unexpected: alerts(test), ..TestOutcome::default() };
    for expected in &test.alerts {
        match outcome.unexpected.iter().position(|alert| expected.matches(alert, test.start)) {
            Some(place) => {
                outcome.unexpected.remove(place);
                outcome.matched += 1;
            }
            None => outcome.missing.push(expected),
        }
    }
    outcome
}

fn alerts(test: &RuleTest) -> Vec<Alert> {
    let timeouts = test.settings.timeouts;
    // No kernel is polled here, so records have their exact times.
    let mut timeline = FlowTimeline::new(RecordTiming { timeouts, poll_interval: std::time::Duration::ZERO });
    for record in &test.records {
        timeline.push(LogRecord { record: record.clone(), origin: LogOrigin::Mailflow });
    }
    let end = test.until.unwrap_or_else(|| timeline.end());
    let until = |moment: Time| moment <= end;
    let mut engine = Engine::new(test.settings.clone());
    let mut alerts = engine.tick(test.start).alerts;
    let (records, _) = timeline.ordered();
    for record in records.into_iter().take_while(|record| until(record.at)) {
        alerts.extend(engine.ingest_record(record.at, &record.record).alerts);
    }
    alerts.extend(engine.tick(end).alerts);
    alerts
}
