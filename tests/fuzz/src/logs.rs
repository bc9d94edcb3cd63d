//! Flow logs of mailflow, Suricata and Zeek.

use std::{path::Path, sync::LazyLock};

use mailflow_agent::{
    config,
    offline::flowlog::{
        FlowLog, LineOutcome, LogError, LogOrigin, LogRecord, ReadContext, RenamedColumn, read_lines,
        timeline::{FlowTimeline, RecordSorter, RecordTiming, SorterLimits, TimedRecord},
    },
    outputs::{eve::flow, gateway::Gateway},
    util::gzip_reader::MaybeGzip,
};
use mailflow_engine::{
    flow::RecordFields,
    flow::{DirectionStats, FlowRecord},
    settings::Services,
    time::{Time, WallClockOffset},
};
use serde_json::Value;

use crate::{budget::GZIP, pieces::Pieces};

/// Largest count in an accepted record.
const LARGEST: u64 = 1 << 48;
/// Longest text of an error in bytes, however long the line is.
const LONGEST: usize = 1_000;
/// One in this many inputs is read by several threads too: starting threads takes longer than reading.
const PARALLEL: usize = 32;

static SERVICES: LazyLock<Services> = LazyLock::new(|| config::load(None).unwrap().engine.services);
static RHYTHM: LazyLock<RecordTiming> = LazyLock::new(|| {
    let config = config::load(None).unwrap();
    RecordTiming { timeouts: config.engine.timeouts, poll_interval: config.poll_interval }
});
/// Renaming of a column that no log has: selects the code path for renamed columns.
static RENAMED: LazyLock<[RenamedColumn; 1]> = LazyLock::new(|| ["ts=no such column".parse().unwrap()]);

const NAME: &str = "log";

/// Contents of a log.
#[derive(Debug, Default)]
struct Found {
    lines: Vec<Result<LineOutcome, LogError>>,
    /// Reason why the log cannot be read to its end.
    error: Option<LogError>,
}

impl Found {
    fn entries(&self) -> impl Iterator<Item = &LogRecord> {
        self.lines.iter().filter_map(|line| match line {
            Ok(LineOutcome::Record(entry)) => Some(entry),
            _ => None,
        })
    }
}

fn open<'a>(contents: Pieces, columns: &'a [RenamedColumn]) -> Result<FlowLog<'a>, LogError> {
    let reading = ReadContext { services: &SERVICES, l2_overhead: None, columns };
    FlowLog::from_contents(Path::new(NAME), MaybeGzip::from_reader(contents).unwrap(), reading)
}

fn read(contents: Pieces, columns: &[RenamedColumn]) -> Found {
    let mut found = Found::default();
    let mut log = match open(contents, columns) {
        Ok(log) => log,
        Err(error) => return Found { error: Some(error), ..found },
    };
    loop {
        match log.next_line() {
            Ok(Some(line)) => found.lines.push(Ok(line)),
            Ok(None) => return found,
            Err(fault @ LogError::Line { .. }) => found.lines.push(Err(fault)),
            Err(error) => return Found { error: Some(error), ..found },
        }
    }
}

/// Reads a log of any format.
pub(crate) fn any(data: &[u8]) {
    let found = checked(data);
    let sum: usize = data.iter().map(|byte| usize::from(*byte)).sum();
    if sum % PARALLEL == 0 {
        by_threads(data, &found);
    }
}

/// Reads a log by several threads, and sorts its records with little memory. The result must equal that of
/// one thread and one list.
fn by_threads(data: &[u8], found: &Found) {
    const LITTLE: SorterLimits =
        SorterLimits { memory: 2_000, records_per_buffer: 7, merge_width: 3, active: 5 };
    let Ok(log) = open(Pieces::whole(data), &[]) else { return };
    let sorter = RecordSorter::new(*RHYTHM, LITTLE);
    let (mut records, mut faults) = (0, Vec::new());
    let error = read_lines(log, &sorter, |block| {
        records += block.records;
        faults.extend(block.errors.into_iter().map(|(line, error)| (line, error.column)));
        true
    });
    assert_eq!(error.err().map(|error| error.to_string()), found.error.as_ref().map(LogError::to_string));
    let places = found.lines.iter().filter_map(|line| match line {
        Err(LogError::Line { line, error, .. }) => Some((*line, error.column)),
        _ => None,
    });
    assert_eq!(faults, places.collect::<Vec<_>>());
    assert_eq!(records, found.entries().count() as u64);
    let mut history = FlowTimeline::new(*RHYTHM);
    found.entries().for_each(|entry| history.push(entry.clone()));
    let (ordered, repeated) = history.ordered();
    let mut arrivals = Vec::new();
    let (sorted, end) = sorter.sorted().unwrap();
    let left_out =
        sorted.for_each(|batch| arrivals.extend(batch.iter().map(|arrival| at_most(arrival, end)))).unwrap();
    assert_eq!((arrivals, left_out), (ordered, repeated));
}

/// Returns the record with its time limited to the end of the timeline.
fn at_most(arrival: &TimedRecord, end: Time) -> TimedRecord {
    TimedRecord { at: arrival.at.min(end), record: arrival.record.clone() }
}

/// Reads EVE lines.
pub(crate) fn eve(data: &[u8]) {
    let text = [b"{\"event_type\":\"stats\"}\n", data].concat();
    let found = checked(&text);
    // A space after the first brace selects the JSON parser, which must read the same.
    let mut spaced = Vec::with_capacity(text.len() + text.len() / 64);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let (brace, rest) = line.split_at(usize::from(line.starts_with(b"{")));
        spaced.extend([brace, if brace.is_empty() { b"" } else { b" " }, rest].concat());
    }
    let parsed = read(Pieces::whole(&spaced), &[]);
    assert_eq!(found.lines.len(), parsed.lines.len());
    for (quick, parsed) in found.lines.iter().zip(&parsed.lines) {
        if quick.is_ok() || parsed.is_ok() {
            assert_eq!(format!("{quick:?}"), format!("{parsed:?}"), "by the JSON parser");
        }
    }
}

/// Reads lines of conn.log as JSON.
pub(crate) fn zeek_json(data: &[u8]) {
    let text = [b"{\"id.orig_h\":\"10.0.0.1\",\"_path\":\"dns\"}\n", data].concat();
    let found = checked(&text);
    let renamed = read(Pieces::whole(&text), RENAMED.as_slice());
    assert_eq!(found.lines.len(), renamed.lines.len());
    // Invalid JSON in unread fields is skipped, except in lines with renamed columns.
    let strict = text.split(|byte| *byte == b'\n').all(|line| serde_json::from_slice::<Value>(line).is_ok());
    for (plain, renamed) in found.lines.iter().zip(&renamed.lines) {
        if plain.is_ok() && (strict || renamed.is_ok()) {
            assert_eq!(format!("{plain:?}"), format!("{renamed:?}"), "with renamed columns");
        }
    }
}

/// Reads conn.log as columns.
pub(crate) fn zeek_tsv(data: &[u8]) {
    checked(&[b"#separator \\x09\n", data].concat());
}

/// Reads a log whole and in pieces, and reads its records again from mailflow's own lines.
fn checked(text: &[u8]) -> Found {
    let found = read(Pieces::whole(text), &[]);
    let packed = text.starts_with(&GZIP);
    // The number of bytes unpacked before the damage depends on the pieces.
    if !packed || found.error.is_none() {
        assert_eq!(shown(&found), shown(&read(Pieces::small(text), &[])), "in pieces");
    }
    if !packed {
        places(&found, text);
    }
    for entry in found.entries() {
        let flow = &entry.record.flow;
        for way in [&flow.up, &flow.down] {
            let counts = [way.packets, way.bytes, way.payload, way.data_packets, way.data_bytes];
            assert!(counts.iter().all(|count| *count <= LARGEST), "{counts:?}");
        }
    }
    again(&found);
    found
}

/// Checks that errors lie in the file, and that their text is short.
fn places(found: &Found, text: &[u8]) {
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    let mut last = 0;
    for error in found.lines.iter().filter_map(|line| line.as_ref().err()) {
        let LogError::Line { line, error, .. } = error else { panic!("{error}") };
        assert!(*line > last, "line {line} after line {last}");
        last = *line;
        let length = usize::try_from(*line).ok().and_then(|line| lines.get(line - 1)).map(|line| line.len());
        let within = length.is_some_and(|length| (1..=length + 1).contains(&error.column));
        assert!(within, "outside of the file: {error}");
        let bytes = error.message.len() + error.field.len();
        assert!(bytes <= LONGEST, "a fault of {bytes} bytes: {error}");
    }
}

/// Writes the records as mailflow's own lines, and reads them back. The first time loses what such lines
/// cannot hold, such as nanoseconds; the second time must lose nothing.
fn again(found: &Found) {
    let before: Vec<&FlowRecord> = found.entries().map(|entry| &entry.record).collect();
    if before.is_empty() {
        return;
    }
    let first = from_own(&written(&before));
    assert_eq!(first.len(), before.len(), "records that cannot be read back");
    for (first, before) in first.iter().zip(before) {
        assert_eq!(known(first), known(before));
    }
    let text = written(&first.iter().collect::<Vec<_>>());
    let second = from_own(&text);
    assert_eq!(first, second, "read back");
    assert_eq!(text, written(&second.iter().collect::<Vec<_>>()), "written again");
}

/// Returns the parts of a record that mailflow's own line holds. A count of only one direction is written as
/// unknown.
fn known(record: &FlowRecord) -> impl PartialEq + std::fmt::Debug + use<> {
    let FlowRecord { flow, app, reason, complete, fields } = record;
    let way = |way: &DirectionStats| {
        let count = |input, count: u64| fields.contains(input).then_some(count);
        [
            count(RecordFields::PACKETS, way.packets),
            count(RecordFields::BYTES, way.bytes),
            count(RecordFields::PAYLOAD, way.payload),
            count(RecordFields::DATA_PACKETS, way.data_packets),
            count(RecordFields::DATA_BYTES, way.data_bytes),
        ]
    };
    ([way(&flow.up), way(&flow.down)], flow.key, flow.mac, *app, *reason, *complete, *fields)
}

fn written(records: &[&FlowRecord]) -> String {
    static GATEWAY: LazyLock<Gateway> = LazyLock::new(|| Gateway::new(Some("gateway")));
    let line = |record: &&FlowRecord| {
        flow::line(record, WallClockOffset::from_unix_nanos(0), &GATEWAY).unwrap() + "\n"
    };
    records.iter().map(line).collect()
}

pub(crate) fn from_own(text: &str) -> Vec<FlowRecord> {
    let found = read(Pieces::whole(text.as_bytes()), &[]);
    assert!(found.error.is_none(), "{:?}", found.error);
    let lines = found.lines.into_iter().zip(text.lines());
    let record = |(line, text): (Result<LineOutcome, LogError>, &str)| match line {
        Ok(LineOutcome::Record(LogRecord { record, origin: LogOrigin::Mailflow })) => record,
        other => panic!("{text}: {other:?}"),
    };
    lines.map(record).collect()
}

fn shown(found: &Found) -> Vec<String> {
    let lines = found.lines.iter().map(|line| match line {
        Ok(line) => format!("{line:?}"),
        Err(error) => error.to_string(),
    });
    lines.chain(found.error.as_ref().map(LogError::to_string)).collect()
}
