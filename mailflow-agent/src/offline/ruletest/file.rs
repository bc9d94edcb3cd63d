//! Rule test files: flows, and the alerts that they must cause.
//!
//! The tested rules are in sections of a configuration, in the file itself or in one that it names. Omitted
//! sections are those of the built-in configuration. docs/rules/reference.md has the format.

use std::path::Path;

pub use super::expect::{ExpectedAlert, format_alert};
use super::offset::{test_offset, unknown_rule};
use crate::config::{
    Config,
    defaults::shipped,
    diagnostics::{Diagnostic, DiagnosticSink, Diagnostics, SourceLocation},
    file, load,
    rules::allow::parse_timestamp,
    settings::{EngineSections, read_engine_sections},
    yaml::{
        get::{Cursor, MappingReader},
        parse,
        values::{items, parsed, string},
    },
};
use mailflow_engine::{
    flow::FlowRecord,
    settings::{Rule, Settings},
    time::Time,
};

/// Default start of a test: a Monday, 2026-01-05T00:00:00Z, in seconds since 1970.
const DEFAULT_START_SECONDS: u64 = 1_767_571_200;

/// Rule test file.
#[derive(Debug)]
pub struct RuleTests {
    /// Tests.
    pub tests: Vec<RuleTest>,
    /// Warnings about the rules.
    pub warnings: Vec<Diagnostic>,
}

/// Flows to evaluate, and expected alerts.
#[derive(Debug)]
pub struct RuleTest {
    /// Name of the test.
    pub name: String,
    /// Location in the file.
    pub place: SourceLocation,
    /// Start of the test, since 1970.
    pub start: Time,
    /// End of the test; `None` for the time of the last record.
    pub until: Option<Time>,
    /// Rules and engine settings.
    pub settings: Settings,
    /// Flow records.
    pub records: Vec<FlowRecord>,
    /// Expected alerts. Any other alert is an error.
    pub alerts: Vec<ExpectedAlert>,
}

/// Reads a file of rule tests.
///
/// # Errors
/// Returns all faults of the file.
pub fn read(path: &Path) -> Result<RuleTests, Diagnostics> {
    let name = path.display().to_string();
    let text = file::read(path).map_err(|no_text| no_text.into_diagnostics(&name))?;
    parse(&name, &text)
}

/// Parses rule tests; `name` is the name of their file, for faults and for relative paths.
///
/// # Errors
/// Returns all faults of the text.
pub fn parse(name: &str, text: &str) -> Result<RuleTests, Diagnostics> {
    file::check(text).map_err(|no_text| no_text.into_diagnostics(name))?;
    let directory = Path::new(name).parent().unwrap_or(Path::new(""));
    let mut faults = DiagnosticSink::new(name);
    let tests = parse::read(text, &mut faults)
        .and_then(|node| tests(&Cursor::root(&node, shipped()), &mut faults, directory));
    let (tests, warnings) = faults.finish(tests)?;
    Ok(RuleTests { tests, warnings })
}

fn tests(at: &Cursor<'_>, faults: &mut DiagnosticSink, directory: &Path) -> Option<Vec<RuleTest>> {
    MappingReader::read(at, faults, |fields| {
        let rules = match fields.explicit("config") {
            Some(at) => load_settings(&at, fields.diagnostics, directory),
            None => read_engine_sections(fields, directory)
                .map(|EngineSections { settings, disabled_rules, .. }| (settings, disabled_rules)),
        };
        let settings = match fields.explicit("only") {
            Some(at) => select_rules(&at, fields.diagnostics, rules),
            None => rules.map(|(settings, _)| settings),
        };
        let start =
            fields.optional("start", Time::from_nanos(DEFAULT_START_SECONDS * 1_000_000_000), parse_start);
        let tests = fields.required("tests", |at, faults| {
            let tests = items(at, faults, |item, faults| test(item, faults, settings.as_ref(), start));
            tests?.into_iter().collect::<Option<Vec<_>>>()
        });
        // The tests are read without valid settings too, so that their faults are reported.
        settings.and(tests)
    })
}

/// Reads the rules of another file, and those that are switched off there.
fn load_settings(
    at: &Cursor<'_>,
    faults: &mut DiagnosticSink,
    directory: &Path,
) -> Option<(Settings, Vec<Rule>)> {
    let path = directory.join(string(at, faults)?);
    match load(Some(&path)) {
        Ok(Config { engine, disabled_rules, .. }) => Some((engine, disabled_rules)),
        Err(found) => {
            for fault in found.iter() {
                match fault.location.position {
                    Some(_) => faults.report(fault.clone()),
                    // A fault of the whole file has no location, so it is reported where the file is named.
                    None => return at.reject(faults, fault),
                }
            }
            None
        }
    }
}

/// Returns the named rules, also ones that are switched off.
fn select_rules(
    at: &Cursor<'_>,
    faults: &mut DiagnosticSink,
    rules: Option<(Settings, Vec<Rule>)>,
) -> Option<Settings> {
    let known = rules.as_ref().map(|(settings, off)| [&settings.rules[..], off].concat());
    let chosen = items(at, faults, |item, faults| {
        let name = string(item, faults)?;
        let known = known.as_ref()?;
        let found = known.iter().find(|rule| rule.name.as_ref() == name);
        found.cloned().or_else(|| unknown_rule(item, faults, known))
    })?;
    if chosen.is_empty() {
        return at.reject_contents(faults, "an empty list; left out, it is every rule that is on");
    }
    let (settings, _) = rules?;
    Some(Settings { rules: chosen.into_iter().collect::<Option<_>>()?, ..settings })
}

fn test(
    at: &Cursor<'_>,
    faults: &mut DiagnosticSink,
    settings: Option<&Settings>,
    default_start: Option<Time>,
) -> Option<RuleTest> {
    MappingReader::read(at, faults, |fields| {
        let name = fields.required("name", |at, faults| string(at, faults).map(str::to_owned));
        let start = match fields.explicit("start") {
            Some(at) => parse_start(&at, fields.diagnostics),
            None => default_start,
        };
        let until = fields.optional("until", None, |at, faults| test_offset(at, faults).map(Some));
        let records = fields.required("flows", |at, faults| {
            super::flow::read(at, faults, start.unwrap_or_default(), settings)
        });
        let alerts = fields.required("alerts", |at, faults| {
            let rules = settings.map(|settings| &settings.rules[..]);
            let alerts = items(at, faults, |item, faults| super::expect::read(item, faults, rules))?;
            alerts.into_iter().collect::<Option<Vec<_>>>()
        });
        let start = start?;
        Some(RuleTest {
            name: name?,
            place: at.location(fields.diagnostics),
            start,
            until: until?.map(|until| start + until),
            settings: settings?.clone(),
            records: records?,
            alerts: alerts?,
        })
    })
}

fn parse_start(at: &Cursor<'_>, faults: &mut DiagnosticSink) -> Option<Time> {
    let nanos = parsed(at, faults, "a date or a time", parse_timestamp)?;
    // Windows begin before the start of a test.
    const MIN_NANOS: u64 = 366 * 86_400 * 1_000_000_000;
    const MAX_NANOS: u64 = 4_102_444_800 * 1_000_000_000;
    match u64::try_from(nanos) {
        Ok(nanos) if (MIN_NANOS..MAX_NANOS).contains(&nanos) => Some(Time::from_nanos(nanos)),
        _ => at.reject(faults, "expected a moment between 1971-01-02 and 2099-12-31"),
    }
}
