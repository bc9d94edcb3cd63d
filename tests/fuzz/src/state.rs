//! State directory: checkpoint, journal and input log.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use flate2::Crc;
use mailflow_agent::{
    config,
    recovery::state_dir::{
        Checkpoint, InputLogRecord, PendingDelivery, RecoveredState, StateDir, WriteFailurePolicy,
    },
    util::disk::FileLimits,
};
use mailflow_engine::{Engine, checkpoint::FlowTableCheckpoint, flow::FlowRecord, settings::Settings, time::WallClockOffset};

use crate::logs;

/// Separator of the frames of an input. The target adds lengths and checksums, which no mutation would keep
/// valid.
const SEPARATOR: [u8; 2] = [0xa5, 0x5a];
/// Name of the input log file that an input may stand for.
const HISTORY: &str = "history-000000000000";
/// Variant number of the journal record that names output files.
const WRITTEN: u32 = 7;
/// Flows of the checkpoint that inputs modify: enough for an alert of the shipped rules.
const FLOWS: u32 = 14;
const SECOND: u64 = 1_000_000_000;

static SETTINGS: LazyLock<Settings> = LazyLock::new(|| config::load(None).unwrap().engine);

/// Working directory of this process: three state directories and an output file.
struct Place(PathBuf);

impl Place {
    fn directory(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn output(&self) -> PathBuf {
        self.0.join("output.json")
    }
}

static PLACE: LazyLock<Mutex<Place>> = LazyLock::new(|| {
    let path = std::env::temp_dir().join(format!("mailflow-fuzz-{}", std::process::id()));
    fs::create_dir_all(&path).unwrap();
    // A path in an input may be relative.
    std::env::set_current_dir(&path).unwrap();
    Mutex::new(Place(path))
});

/// Frames of a checkpoint file: head, state, machine.
static TEMPLATE: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let path = std::env::temp_dir().join(format!("mailflow-fuzz-template-{}", std::process::id()));
    let (mut store, _) = StateDir::open(&path, FileLimits::NONE, 1).unwrap();
    store.write_checkpoint(&template()).unwrap();
    let frames = split(&fs::read(path.join("state")).unwrap());
    fs::remove_dir_all(path).unwrap();
    assert_eq!(frames.len(), 3);
    frames
});

/// Returns the checkpoint of an engine with one source above a threshold and others below.
fn template() -> Checkpoint {
    let mut engine = Engine::new(SETTINGS.clone());
    let line = |n: u32| {
        let (host, second) = (2 + n % 2 * (n / 6), 10 + n);
        format!(
            r#"{{"timestamp":"2026-11-21T03:31:{second}.000000+0000","event_type":"flow","src_ip":"10.0.0.{host}","src_port":{},"dest_ip":"93.184.215.{n}","dest_port":25,"proto":"TCP","app_proto":"smtp","vlan":[{n}],"flow":{{"pkts_toserver":30,"bytes_toserver":30000,"pkts_toclient":30,"bytes_toclient":30000,"start":"2026-11-21T03:31:{second}.000000+0000","end":"2026-11-21T03:31:{second}.500000+0000","state":"closed","reason":"closed"}},"mailflow":{{"payload_up":20000,"payload_down":2000,"data_packets_up":9,"data_packets_down":9,"data_bytes_up":9000,"data_bytes_down":900,"messages_estimated":1,"complete":true,"syn":true,"synack":true}}}}"#,
            4000 + n
        ) + "\n"
    };
    let records: Vec<FlowRecord> = logs::from_own(&(0..FLOWS).map(line).collect::<String>());
    let mut alerts = Vec::new();
    for record in &records {
        alerts.extend(engine.ingest_record(record.time(), record).alerts);
    }
    let now = records.last().unwrap().time() + Duration::from_secs(60);
    alerts.extend(engine.tick(now).alerts);
    assert!(!alerts.is_empty() && !engine.firing().is_empty(), "the template has no alert");
    let untold = alerts.into_iter().map(|alert| PendingDelivery {
        alert: Arc::new(alert),
        epoch: WallClockOffset::default(),
        sinks: vec!["alerts".to_owned()],
    });
    Checkpoint {
        flow_table_id: Some(3),
        kernel: Default::default(),
        now: now.as_nanos(),
        flows: FlowTableCheckpoint { now, seeds: [1, 2], flows: vec![[1, 2, 3, 4, 5]] },
        rules: engine.save(),
        pending_deliveries: untold.collect(),
    }
}

/// Reads a journal, or an input log.
///
/// The first byte selects the file, and its form: raw, or frames with [`SEPARATOR`] between them.
pub(crate) fn journal(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let place = PLACE.lock().unwrap();
    let name = if kind & 1 == 0 { "journal" } else { HISTORY };
    let file = if kind & 2 == 0 {
        joined(&parts(rest).map(|frame| harmless(frame, &place.output())).collect::<Vec<_>>())
    } else {
        rest.to_vec()
    };
    // The reader would open and truncate the paths in such records.
    let mut frames = split(&file);
    if kind & 2 != 0 && frames.iter().any(|frame| variant(frame) == Some(WRITTEN)) {
        return;
    }
    frames.truncate(frames.len().min(10_000));
    let output = "one\ntwo\nand a half";
    fs::write(place.output(), output).unwrap();

    let directory = place.directory("journal");
    fill(&directory, &joined(&TEMPLATE), &[(name, &file)]);
    let first = open(&directory);
    assert!(first.checkpoint.is_some(), "{:?}", first.notes);
    let found = first.journal.len() + first.inputs.len();
    assert!(found <= frames.len(), "{found} entries of {} frames", frames.len());
    assert!(
        output.starts_with(&fs::read_to_string(place.output()).unwrap()),
        "another tool's lines were changed"
    );
    let second = open(&directory);
    assert_eq!((&first.journal, &first.inputs), (&second.journal, &second.inputs), "read again");

    // The records are written by a separate state directory.
    let directory = place.directory("again");
    fill(&directory, &joined(&TEMPLATE), &[]);
    let (mut store, _) = StateDir::open(&directory, FileLimits::NONE, 1).unwrap();
    store.append(first.journal.iter().cloned(), WriteFailurePolicy::Fail).unwrap();
    store.log_inputs(first.inputs.iter().cloned()).unwrap();
    drop(store);
    let third = open(&directory);
    assert_eq!(third.notes, Vec::<String>::new());
    assert_eq!(third.journal, first.journal, "written again");
    let now = third.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.now);
    assert_eq!(third.inputs, since(&first.inputs, now), "written again");
}

/// Returns the input log after the last mark of an existing checkpoint.
fn since(history: &[InputLogRecord], state: u64) -> &[InputLogRecord] {
    let mark =
        history.iter().rposition(|past| matches!(past, InputLogRecord::Checkpoint(now) if *now <= state));
    &history[mark.map_or(0, |mark| mark + 1)..]
}

/// Reads a checkpoint.
///
/// The first byte selects the form of the rest: a raw file, the frame of the state, or changes of the
/// template's.
pub(crate) fn state(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let place = PLACE.lock().unwrap();
    let file = match kind % 3 {
        0 => changed(joined(&TEMPLATE), rest),
        1 => joined(&[TEMPLATE[0].clone(), changed(TEMPLATE[1].clone(), rest), TEMPLATE[2].clone()]),
        _ => joined(&[TEMPLATE[0].clone(), rest.to_vec(), TEMPLATE[2].clone()]),
    };
    let directory = place.directory("state");
    fill(&directory, &file, &[]);
    let RecoveredState { checkpoint: state, notes, .. } = open(&directory);
    let Some(state) = state else {
        assert_eq!(notes.len(), 1, "a state that is not used is said to be so: {notes:?}");
        return;
    };
    let shown = format!("{state:?}");
    let directory = place.directory("again");
    let _ = fs::remove_dir_all(&directory);
    let (mut store, _) = StateDir::open(&directory, FileLimits::NONE, 1).unwrap();
    store.write_checkpoint(&state).unwrap();
    drop(store);
    let again = open(&directory).checkpoint.expect("a state that was written is read");
    assert_eq!(shown, format!("{again:?}"), "written again");
    go_on(again);
}

/// Continues an engine from a checkpoint.
fn go_on(state: Checkpoint) {
    if !state.rules.is_readable() {
        return;
    }
    for pending in &state.pending_deliveries {
        pending.epoch.unix_nanos(pending.alert.time);
    }
    let mut engine = Engine::new(SETTINGS.clone());
    engine.restore(state.rules);
    let firing = engine.firing().len();
    let mut again = Engine::new(SETTINGS.clone());
    again.restore(engine.save());
    assert_eq!(again.firing().len(), firing, "alerts that fire");
    let now = mailflow_engine::time::Time::from_nanos(state.now);
    for after in [0, 60, 3_600, 100_000] {
        let now = now + Duration::from_nanos(after * SECOND);
        engine.tick(now);
        engine.window_values(now);
    }
    engine.stats();
    engine.save();
}

fn open(directory: &Path) -> RecoveredState {
    StateDir::open(directory, FileLimits::NONE, 1).unwrap().1
}

/// Creates a directory with these files.
fn fill(directory: &Path, state: &[u8], files: &[(&str, &[u8])]) {
    let _ = fs::remove_dir_all(directory);
    fs::create_dir(directory).unwrap();
    for (name, bytes) in [("state", state)].iter().chain(files) {
        fs::write(directory.join(name), bytes).unwrap();
    }
}

/// Applies changes of four bytes each: an offset, an operation, and a byte.
fn changed(mut bytes: Vec<u8>, changes: &[u8]) -> Vec<u8> {
    for change in changes.chunks_exact(4) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % (bytes.len() + 1);
        match (change[2] % 4, bytes.get_mut(at)) {
            (0, Some(byte)) => *byte = change[3],
            (1, _) => bytes.insert(at, change[3]),
            (2, Some(_)) => drop(bytes.drain(at..(at + usize::from(change[3])).min(bytes.len()))),
            (3, Some(byte)) => *byte = byte.wrapping_add(change[3]),
            _ => {}
        }
    }
    bytes
}

fn parts(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let bytes = rest?;
        let at = bytes.windows(2).position(|window| window == SEPARATOR);
        rest = at.map(|at| &bytes[at + 2..]);
        Some(&bytes[..at.unwrap_or(bytes.len())])
    })
}

/// Returns the frame with the names of its output files replaced by `output`.
fn harmless(frame: &[u8], output: &Path) -> Vec<u8> {
    if variant(frame) != Some(WRITTEN) {
        return frame.to_vec();
    }
    let path = output.to_str().unwrap();
    let numbers = [frame.get(1), frame.get(2)].map(|byte| byte.copied().unwrap_or_default() & 0x7f);
    [&[WRITTEN as u8, 1, u8::try_from(path.len()).unwrap()][..], path.as_bytes(), &numbers].concat()
}

/// Returns the variant number of an enum value, in postcard's encoding.
fn variant(frame: &[u8]) -> Option<u32> {
    let mut number = 0;
    for (index, byte) in frame.iter().take(5).enumerate() {
        number |= u32::from(byte & 0x7f).checked_shl(7 * index as u32)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Splits a file into its frames: a length, a CRC-32, and the bytes.
fn split(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<8>() {
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let Some((frame, rest)) = rest.split_at_checked(word(0) as usize) else { break };
        if sum(frame) != word(4) {
            break;
        }
        frames.push(frame.to_vec());
        bytes = rest;
    }
    frames
}

fn joined(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for frame in frames {
        bytes.extend((frame.len() as u32).to_le_bytes());
        bytes.extend(sum(frame).to_le_bytes());
        bytes.extend(frame);
    }
    bytes
}

fn sum(bytes: &[u8]) -> u32 {
    let mut sum = Crc::new();
    sum.update(bytes);
    sum.sum()
}
