//! Rule test files: flows that are given, alerts that are expected.
//!
//! What is judged is the sections of a configuration, in the file itself or in one that it names; what is
//! left out is shipped. docs/rules/reference.md has the format.

use std::path::Path;

pub use super::expect::{Expected, written};
use super::moment::{moment_of_test, no_rule};
use crate::config::{
    Config,
    defaults::shipped,
    diagnostics::{Collector, Fault, Faults, Place},
    file, load,
    rules::allow::moment,
    settings::{Judged, judged},
    yaml::{
        get::{At, Fields},
        parse,
        values::{items, parsed, string},
    },
};
use mailflow_engine::{
    flow::FlowRecord,
    settings::{Rule, Settings},
    time::Time,
};

/// When a test begins that does not say: a Monday, 2026-01-05T00:00:00Z, in seconds since 1970.
const MONDAY: u64 = 1_767_571_200;

/// A file of tests.
#[derive(Debug)]
pub struct RuleTests {
    /// The tests.
    pub tests: Vec<RuleTest>,
    /// What is odd about the rules.
    pub warnings: Vec<Fault>,
}

/// What is to be judged, and what should come of it.
#[derive(Debug)]
pub struct RuleTest {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub place: Place,
    /// Its beginning, on a packet clock that counts from 1970.
    pub start: Time,
    /// Its end; `None` when the last record was made.
    pub until: Option<Time>,
    /// The rules, and all they are judged by.
    pub settings: Settings,
    /// The flows' records.
    pub records: Vec<FlowRecord>,
    /// The alerts that must come, and no others.
    pub alerts: Vec<Expected>,
}

/// Reads a file of rule tests.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read(path: &Path) -> Result<RuleTests, Faults> {
    let name = path.display().to_string();
    let text = file::read(path).map_err(|no_text| no_text.faults(&name))?;
    parse(&name, &text)
}

/// Reads rule tests; `name` is their file's name, in faults and for the files it names.
///
/// # Errors
/// Everything that is wrong with them.
pub fn parse(name: &str, text: &str) -> Result<RuleTests, Faults> {
    file::check(text).map_err(|no_text| no_text.faults(name))?;
    let directory = Path::new(name).parent().unwrap_or(Path::new(""));
    let mut faults = Collector::new(name);
    let tests = parse::read(text, &mut faults)
        .and_then(|node| tests(&At::root(&node, shipped()), &mut faults, directory));
    let (tests, warnings) = faults.finish(tests)?;
    Ok(RuleTests { tests, warnings })
}

fn tests(at: &At<'_>, faults: &mut Collector, directory: &Path) -> Option<Vec<RuleTest>> {
    Fields::read(at, faults, |fields| {
        let rules = match fields.own("config") {
            Some(at) => configured(&at, fields.faults, directory),
            None => judged(fields, directory).map(|Judged { settings, rules_off, .. }| (settings, rules_off)),
        };
        let settings = match fields.own("only") {
            Some(at) => only(&at, fields.faults, rules),
            None => rules.map(|(settings, _)| settings),
        };
        let start = fields.or("start", Time::from_nanos(MONDAY * 1_000_000_000), start);
        let tests = fields.needed("tests", |at, faults| {
            let tests = items(at, faults, |item, faults| test(item, faults, settings.as_ref(), start));
            tests?.into_iter().collect::<Option<Vec<_>>>()
        });
        // Without settings the tests were still read, so that what is wrong with them is told.
        settings.and(tests)
    })
}

/// The rules of another file, and those it has switched off.
fn configured(at: &At<'_>, faults: &mut Collector, directory: &Path) -> Option<(Settings, Vec<Rule>)> {
    let path = directory.join(string(at, faults)?);
    match load(Some(&path)) {
        Ok(Config { engine, rules_off, .. }) => Some((engine, rules_off)),
        Err(found) => {
            for fault in found.iter() {
                match fault.place.position {
                    Some(_) => faults.fault(fault.clone()),
                    // A file that cannot be read has no place of its own: it is wrong where it is named.
                    None => return at.fault(faults, fault),
                }
            }
            None
        }
    }
}

/// The rules that are named, switched off or not.
fn only(at: &At<'_>, faults: &mut Collector, rules: Option<(Settings, Vec<Rule>)>) -> Option<Settings> {
    let known = rules.as_ref().map(|(settings, off)| [&settings.rules[..], off].concat());
    let chosen = items(at, faults, |item, faults| {
        let name = string(item, faults)?;
        let known = known.as_ref()?;
        let found = known.iter().find(|rule| rule.name.as_ref() == name);
        found.cloned().or_else(|| no_rule(item, faults, known))
    })?;
    if chosen.is_empty() {
        return at.fault_inside(faults, "an empty list; left out, it is every rule that is on");
    }
    let (settings, _) = rules?;
    Some(Settings { rules: chosen.into_iter().collect::<Option<_>>()?, ..settings })
}

fn test(
    at: &At<'_>,
    faults: &mut Collector,
    settings: Option<&Settings>,
    start_of_all: Option<Time>,
) -> Option<RuleTest> {
    Fields::read(at, faults, |fields| {
        let name = fields.needed("name", |at, faults| string(at, faults).map(str::to_owned));
        let start = match fields.own("start") {
            Some(at) => start(&at, fields.faults),
            None => start_of_all,
        };
        let until = fields.or("until", None, |at, faults| moment_of_test(at, faults).map(Some));
        let records = fields
            .needed("flows", |at, faults| super::flow::read(at, faults, start.unwrap_or_default(), settings));
        let alerts = fields.needed("alerts", |at, faults| {
            let rules = settings.map(|settings| &settings.rules[..]);
            let alerts = items(at, faults, |item, faults| super::expect::read(item, faults, rules))?;
            alerts.into_iter().collect::<Option<Vec<_>>>()
        });
        let start = start?;
        Some(RuleTest {
            name: name?,
            place: at.place(fields.faults),
            start,
            until: until?.map(|until| start + until),
            settings: settings?.clone(),
            records: records?,
            alerts: alerts?,
        })
    })
}

fn start(at: &At<'_>, faults: &mut Collector) -> Option<Time> {
    let nanos = parsed(at, faults, "a date or a moment", moment)?;
    // Windows reach back behind it.
    const FIRST: u64 = 366 * 86_400 * 1_000_000_000;
    const LAST: u64 = 4_102_444_800 * 1_000_000_000;
    match u64::try_from(nanos) {
        Ok(nanos) if (FIRST..LAST).contains(&nanos) => Some(Time::from_nanos(nanos)),
        _ => at.fault(faults, "expected a moment between 1971-01-02 and 2099-12-31"),
    }
}
