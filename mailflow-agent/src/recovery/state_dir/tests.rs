//! Tests of the state directory: damaged, removed and refused files.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::PathBuf,
    thread,
    time::Duration,
};

use super::*;
use crate::{
    config,
    recovery::journal::{record::tests::some_flow, record_file},
    util::disk::Reserve,
};
use mailflow_engine::{Engine, checkpoint::FlowTableCheckpoint, flow::RecordReason, time::Time};

/// Directory that is removed when the value is dropped.
struct TempStateDir(PathBuf);

impl TempStateDir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mailflow-store-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Opens the directory. A test that starts a process in another thread has a copy of every descriptor until the
    /// process runs its program: for that moment the lock of a closed directory is still held.
    fn open(&self) -> (StateDir, RecoveredState) {
        let open = || StateDir::open(&self.0, FileLimits::NONE, 1_000);
        for _ in 0..2_000 {
            match open() {
                Err(StateError::InUse { .. }) => thread::sleep(Duration::from_millis(5)),
                opened => return opened.unwrap(),
            }
        }
        open().unwrap()
    }

    /// Reads the directory as another process does after a kill at this point.
    fn found(&self) -> RecoveredState {
        let directory = LockedDirectory::open_unlocked(&self.0);
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        RecoveredState::read(&directory, (boot.trim(), &MachineId::of_this_machine()), 1_000)
    }

    fn names(&self) -> Vec<String> {
        let records = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<String> =
            records.map(|record| record.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for TempStateDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn checkpoint(now: u64) -> Checkpoint {
    let engine = Engine::new(config::parse("f", "{}").unwrap().engine);
    Checkpoint {
        flow_table_id: Some(3),
        kernel: mailflow_kernel::ReaderCheckpoint::default(),
        now,
        flows: FlowTableCheckpoint { now: Time::from_nanos(now), seeds: [1, 2], flows: Vec::new() },
        rules: engine.save(),
        pending_deliveries: Vec::new(),
    }
}

fn poll(now: u64, port: u16) -> [JournalRecord; 3] {
    let at = Time::from_nanos(now);
    [
        JournalRecord::PollBegin { now: at, epoch: 0 },
        JournalRecord::FlowEnded(some_flow(port)),
        JournalRecord::PollEnd,
    ]
}

fn logged_input(port: u16) -> InputLogRecord {
    let at = Time::from_nanos(u64::from(port));
    InputLogRecord::Input(LoggedInput {
        at,
        flow: some_flow(port),
        reason: RecordReason::Closed,
        open: false,
    })
}

/// FileLimits that allow no write.
const FULL: FileLimits = FileLimits { max_size: u64::MAX, min_free: Reserve::Bytes(u64::MAX) };

/// Returns the ports of the flows that are redone: those of the journal after the checkpoint.
fn replayed(found: &RecoveredState) -> Vec<u16> {
    let checkpoint = found.checkpoint.as_ref().unwrap().now;
    let mark = found
        .journal
        .iter()
        .rposition(|record| matches!(record, JournalRecord::Checkpoint(now) if *now <= checkpoint));
    let since = &found.journal[mark.map_or(0, |mark| mark + 1)..];
    let ports = since.iter().filter_map(|record| match record {
        JournalRecord::FlowEnded(flow) => Some(flow.key.client_port),
        _ => None,
    });
    ports.collect()
}

#[test]
fn durability_returns_with_a_new_checkpoint_and_nothing_is_redone_twice() {
    let temp = TempStateDir::new("again");
    let (mut state_dir, first) = temp.open();
    assert!(first.checkpoint.is_none() && first.write_error.is_none() && first.notes.is_empty());
    state_dir.write_checkpoint(&checkpoint(10)).unwrap();
    state_dir.append(poll(11, 1), WriteFailurePolicy::Fail).unwrap();
    state_dir.log_inputs([logged_input(1)]).unwrap();
    assert_eq!(replayed(&temp.found()), [1]);

    // The disk is full. At first writes fail, then records are kept in memory.
    state_dir.set_limits(FULL);
    assert!(state_dir.append(poll(12, 2), WriteFailurePolicy::Fail).is_err());
    assert!(!state_dir.is_suspended() && state_dir.take_cause().is_none());
    state_dir.append(poll(13, 3), WriteFailurePolicy::KeepInMemory).unwrap();
    assert!(state_dir.is_suspended() && state_dir.take_cause().unwrap().contains("state.min_free"));
    state_dir.append(poll(14, 4), WriteFailurePolicy::Fail).unwrap();
    state_dir.log_inputs([logged_input(4)]).unwrap();
    assert!(state_dir.write_checkpoint(&checkpoint(14)).is_err());
    let found = temp.found();
    assert_eq!((found.checkpoint.as_ref().unwrap().now, replayed(&found)), (10, vec![1]));
    assert_eq!(found.inputs, [logged_input(1)]);

    // The disk has space again: first a new checkpoint, then the journal.
    state_dir.set_limits(FileLimits::NONE);
    state_dir.append(poll(15, 5), WriteFailurePolicy::Fail).unwrap();
    assert_eq!(replayed(&temp.found()), [1], "no entry before the state");
    state_dir.write_checkpoint(&checkpoint(16)).unwrap();
    assert!(!state_dir.is_suspended());
    state_dir.append(poll(17, 6), WriteFailurePolicy::Fail).unwrap();
    state_dir.log_inputs([logged_input(6)]).unwrap();
    let found = temp.found();
    assert_eq!((found.checkpoint.as_ref().unwrap().now, replayed(&found)), (16, vec![6]));
    assert_eq!(found.inputs, [logged_input(6)]);
    // The backlog has all records whose lines may not be written, also those of the suspension.
    let in_backlog = |port| {
        let wanted = JournalRecord::FlowEnded(some_flow(port));
        found.journal.iter().filter(|record| **record == wanted).count()
    };
    assert_eq!([1, 2, 3, 4, 5, 6].map(in_backlog), [1, 0, 1, 1, 1, 1]);
}

#[test]
fn a_checkpoint_that_cannot_be_written_leaves_the_previous_one() {
    let temp = TempStateDir::new("refused");
    let (mut state_dir, _) = temp.open();
    state_dir.write_checkpoint(&checkpoint(10)).unwrap();
    state_dir.append(poll(11, 1), WriteFailurePolicy::Fail).unwrap();
    let before = fs::read(temp.file(JOURNAL_FILE)).unwrap();
    // A directory of that name cannot be removed as a file.
    fs::create_dir(temp.file("state.new")).unwrap();
    for now in 12..20 {
        assert!(state_dir.write_checkpoint(&checkpoint(now)).is_err());
    }
    let found = temp.found();
    assert_eq!((found.checkpoint.as_ref().unwrap().now, replayed(&found)), (10, vec![1]));
    assert_eq!(fs::read(temp.file(JOURNAL_FILE)).unwrap(), before, "and nothing of the attempts");
    fs::remove_dir(temp.file("state.new")).unwrap();
    // The checkpoint can be replaced, the journal cannot.
    fs::create_dir(temp.file("journal.new")).unwrap();
    state_dir.append(poll(21, 2), WriteFailurePolicy::Fail).unwrap();
    state_dir.mark_written(&[]).unwrap();
    assert!(state_dir.write_checkpoint(&checkpoint(22)).is_err());
    assert_eq!(state_dir.checkpoint_time(), Some(22));
    let found = temp.found();
    assert_eq!((found.checkpoint.as_ref().unwrap().now, replayed(&found)), (22, vec![]));
    fs::remove_dir(temp.file("journal.new")).unwrap();
    state_dir.write_checkpoint(&checkpoint(23)).unwrap();
    assert_eq!(temp.found().checkpoint.unwrap().now, 23);
}

#[test]
fn sizes_are_bounded() {
    let temp = TempStateDir::new("size");
    let (mut state_dir, _) = temp.open();
    state_dir.write_checkpoint(&checkpoint(10)).unwrap();
    let size = state_dir.bytes();
    assert_eq!(
        size,
        temp.names().iter().map(|name| fs::metadata(temp.file(name)).unwrap().len()).sum::<u64>()
    );
    state_dir.set_limits(FileLimits { max_size: size + 10, ..FileLimits::NONE });
    let error = state_dir.append(poll(11, 1), WriteFailurePolicy::Fail).unwrap_err().to_string();
    assert!(error.starts_with(&format!("state.max_size is {}, and ", size + 10)), "{error}");
    let error = state_dir.write_checkpoint(&checkpoint(12)).unwrap_err().to_string();
    assert!(error.contains("bytes are needed, and state.max_size is"), "{error}");
    assert_eq!(temp.found().checkpoint.unwrap().now, 10);
}

/// Writes a checkpoint, changes its file, and opens the directory again. Returns the notes.
fn after(temp: &TempStateDir, change: impl Fn(Vec<u8>) -> Vec<u8>) -> Vec<String> {
    let (mut state_dir, _) = temp.open();
    state_dir.write_checkpoint(&checkpoint(10)).unwrap();
    state_dir.append(poll(11, 1), WriteFailurePolicy::Fail).unwrap();
    drop(state_dir);
    let bytes = fs::read(temp.file(CHECKPOINT_FILE)).unwrap();
    fs::write(temp.file(CHECKPOINT_FILE), change(bytes)).unwrap();
    let (mut state_dir, recovered) = temp.open();
    assert!(
        recovered.checkpoint.is_none() && recovered.journal.is_empty() && recovered.write_error.is_none()
    );
    state_dir.write_checkpoint(&checkpoint(20)).unwrap();
    recovered.notes
}

/// Returns a checkpoint file with another header.
fn headed(bytes: &[u8], head: &CheckpointHeader, machine: Option<&MachineId>) -> Vec<u8> {
    let found = record_file::parse(bytes);
    let mut new = RecordBuffer::default();
    new.add(head).unwrap();
    new.add(&mailflow_engine::checkpoint::codec::decode::<Checkpoint>(&found.records[1]).unwrap()).unwrap();
    if let Some(machine) = machine {
        new.add(machine).unwrap();
    }
    new.bytes().to_vec()
}

#[test]
fn a_damaged_checkpoint_is_set_aside_with_its_cause() {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned();
    let head = |version, boot: &str| CheckpointHeader { version, boot: boot.to_owned() };
    let elsewhere = MachineId("0123456789abcdef0123456789abcdef".to_owned());
    type Change<'a> = &'a dyn Fn(Vec<u8>) -> Vec<u8>;
    let changes: [(Change<'_>, &str); 8] = [
        (&|_| Vec::new(), "it is empty"),
        (&|bytes| bytes[..5].to_vec(), "truncated record at byte 0 of 5"),
        (&|bytes| bytes[..bytes.len() / 2].to_vec(), "truncated record at byte "),
        (
            &|mut bytes| {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 4;
                bytes
            },
            "wrong checksum of the record at byte ",
        ),
        (&|bytes| vec![b'x'; bytes.len()], "truncated record at byte 0 of "),
        (&|bytes| headed(&bytes, &head(77, &boot), None), "it has format 77, and this agent reads format "),
        (
            &|bytes| headed(&bytes, &head(FORMAT_VERSION, "other"), Some(&elsewhere)),
            "it belongs to another machine (machine id 0123456789abcdef0123456789abcdef)",
        ),
        (
            &|_| {
                let mut new = RecordBuffer::default();
                new.add(&head(FORMAT_VERSION, &boot)).unwrap();
                new.add(&"no state").unwrap();
                new.bytes().to_vec()
            },
            "it cannot be decoded: ",
        ),
    ];
    // A machine without an id cannot recognise another machine.
    let has_machine_id = !MachineId::of_this_machine().0.is_empty();
    let temp = TempStateDir::new("damaged");
    for (change, cause) in changes.iter().filter(|(_, cause)| has_machine_id || !cause.contains("machine")) {
        let notes = after(&temp, change);
        let [note] = notes.as_slice() else { panic!("{cause}: {notes:?}") };
        let file = temp.file(CHECKPOINT_FILE);
        assert!(note.starts_with(&format!("{} cannot be used: {cause}", file.display())), "{note}");
        assert!(
            note.contains("; set aside as state.aside-1000") && note.ends_with("; windows start empty"),
            "{note}"
        );
    }
    let aside = temp.names().iter().filter(|name| name.starts_with("state.aside-")).count();
    assert_eq!(aside, 3, "the newest are kept: {:?}", temp.names());
}

#[test]
fn a_reboot_is_no_damage() {
    let temp = TempStateDir::new("boot");
    let here = MachineId::of_this_machine();
    for machine in [Some(&here), None] {
        let head = CheckpointHeader { version: FORMAT_VERSION, boot: "the one before".to_owned() };
        assert_eq!(after(&temp, |bytes| headed(&bytes, &head, machine)), Vec::<String>::new());
    }
    assert!(!temp.names().iter().any(|name| name.contains("aside")), "{:?}", temp.names());
}

#[test]
fn damage_to_the_journal_or_the_input_log_loses_the_records_after_it() {
    let temp = TempStateDir::new("journal");
    let (mut state_dir, _) = temp.open();
    state_dir.write_checkpoint(&checkpoint(10)).unwrap();
    let after_checkpoint = fs::metadata(temp.file(JOURNAL_FILE)).unwrap().len() as usize;
    state_dir.append(poll(11, 1), WriteFailurePolicy::Fail).unwrap();
    let first = fs::metadata(temp.file(JOURNAL_FILE)).unwrap().len() as usize;
    state_dir.append(poll(12, 2), WriteFailurePolicy::Fail).unwrap();
    state_dir.log_inputs([logged_input(1), logged_input(2)]).unwrap();
    drop(state_dir);
    let inputs = temp.names().into_iter().find(|name| name.starts_with("history-")).unwrap();
    let journal = fs::read(temp.file(JOURNAL_FILE)).unwrap();

    // A truncated last record is no damage.
    fs::write(temp.file(JOURNAL_FILE), &journal[..journal.len() - 1]).unwrap();
    let found = temp.found();
    assert_eq!((replayed(&found), found.notes.len()), (vec![1, 2], 0));
    fs::write(temp.file(JOURNAL_FILE), &journal[..first + 3]).unwrap();
    assert_eq!((replayed(&temp.found()), temp.found().notes.len()), (vec![1], 0));

    let mut damaged = journal.clone();
    damaged[first + 9] ^= 1;
    fs::write(temp.file(JOURNAL_FILE), &damaged).unwrap();
    let bytes = fs::read(temp.file(&inputs)).unwrap();
    fs::write(temp.file(&inputs), [&bytes[..8], &[99], &bytes[9..]].concat()).unwrap();
    let found = temp.found();
    assert_eq!((replayed(&found), found.inputs.len()), (vec![1], 0));
    let [one, other] = found.notes.as_slice() else { panic!("{:?}", found.notes) };
    assert!(
        one.contains(&format!("journal cannot be used: wrong checksum of the record at byte {first} of ")),
        "{one}"
    );
    assert!(other.contains("wrong checksum of the record at byte 0 of "), "{other}");
    assert!(
        one.contains("set aside as journal.aside-1000") && other.contains("set aside as history.aside-1000")
    );
    assert_eq!(fs::read(temp.file("journal.aside-1000")).unwrap(), damaged);
    assert!(after_checkpoint < first);
}

#[test]
fn no_symbolic_link_is_followed() {
    let temp = TempStateDir::new("links");
    let victim = std::env::temp_dir().join(format!("mailflow-victim-{}", std::process::id()));
    fs::write(&victim, "precious").unwrap();
    let (mut state_dir, _) = temp.open();
    state_dir.write_checkpoint(&checkpoint(10)).unwrap();
    for name in ["state.new", "journal.new"] {
        symlink(&victim, temp.file(name)).unwrap();
    }
    state_dir.write_checkpoint(&checkpoint(11)).unwrap();
    drop(state_dir);
    for name in [CHECKPOINT_FILE, JOURNAL_FILE, "history-000000000007"] {
        fs::remove_file(temp.file(name)).unwrap_or_default();
        symlink(&victim, temp.file(name)).unwrap();
        let (mut state_dir, recovered) = temp.open();
        if name == CHECKPOINT_FILE {
            assert!(
                recovered.notes[0].contains("it cannot be read: state is a symbolic link"),
                "{:?}",
                recovered.notes
            );
        }
        state_dir.write_checkpoint(&checkpoint(12)).unwrap();
        state_dir.append(poll(13, 1), WriteFailurePolicy::Fail).unwrap();
        drop(state_dir);
        assert_eq!(temp.found().checkpoint.unwrap().now, 12);
    }
    // A hard link is not opened, and a FIFO does not block.
    fs::remove_file(temp.file(CHECKPOINT_FILE)).unwrap();
    fs::hard_link(&victim, temp.file(CHECKPOINT_FILE)).unwrap();
    assert!(temp.open().1.notes[0].contains("another name elsewhere"));
    rustix::fs::mknodat(
        rustix::fs::CWD,
        temp.file(CHECKPOINT_FILE),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    assert!(temp.open().1.notes[0].contains("no regular file"));
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    fs::remove_file(victim).unwrap();
}

#[test]
fn only_the_owner_may_write_there_and_only_the_owner_reads() {
    let temp = TempStateDir::new("modes");
    let (mut state_dir, _) = temp.open();
    state_dir.write_checkpoint(&checkpoint(10)).unwrap();
    state_dir.append(poll(11, 1), WriteFailurePolicy::Fail).unwrap();
    state_dir.log_inputs([logged_input(1)]).unwrap();
    drop(state_dir);
    let mode = |path: PathBuf| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(temp.0.clone()) & 0o027, 0);
    for name in temp.names() {
        assert_eq!(mode(temp.file(&name)), 0o600, "{name}");
    }
    let set = |mode| fs::set_permissions(&temp.0, fs::Permissions::from_mode(mode)).unwrap();
    set(0o777);
    drop(temp.open());
    assert_eq!(mode(temp.0.clone()), 0o755, "ours is made narrower");
    let io_error =
        |temp: &TempStateDir| StateDir::open(&temp.0, FileLimits::NONE, 0).unwrap_err().to_string();
    set(0o1777);
    assert!(io_error(&temp).contains("may be written to by others (mode 1777)"), "{}", io_error(&temp));
    set(0o750);
    chown(&temp.0, Some(54_321), None).unwrap();
    let error = io_error(&temp);
    assert!(
        error.contains("belongs to user 54321, and the agent runs as user 0"),
        "this test needs root: {error}"
    );
    chown(&temp.0, Some(0), None).unwrap();
    assert_eq!(temp.open().1.checkpoint.unwrap().now, 10);
}

#[test]
fn a_removed_directory_is_created_again_with_the_current_state() {
    let temp = TempStateDir::new("removed");
    let (mut state_dir, _) = temp.open();
    state_dir.write_checkpoint(&checkpoint(10)).unwrap();
    let before = std::env::temp_dir().join(format!("mailflow-moved-{}", std::process::id()));
    for (now, away) in [(20, None), (30, Some(&before))] {
        match away {
            None => fs::remove_dir_all(&temp.0).unwrap(),
            Some(elsewhere) => fs::rename(&temp.0, elsewhere).unwrap(),
        }
        assert!(!state_dir.is_in_place());
        state_dir.append(poll(now, 1), WriteFailurePolicy::Fail).unwrap();
        state_dir.write_checkpoint(&checkpoint(now)).unwrap();
        state_dir.append(poll(now + 1, 2), WriteFailurePolicy::Fail).unwrap();
        let found = temp.found();
        assert_eq!((found.checkpoint.as_ref().unwrap().now, replayed(&found)), (now, vec![2]));
        assert!(
            matches!(StateDir::open(&temp.0, FileLimits::NONE, 0), Err(StateError::InUse { .. })),
            "and locked"
        );
    }
    fs::remove_dir_all(before).unwrap();
    // The error names a file at the path of the directory.
    fs::remove_dir_all(&temp.0).unwrap();
    fs::write(&temp.0, "a file").unwrap();
    let error = state_dir.write_checkpoint(&checkpoint(40)).unwrap_err().to_string();
    assert!(error.contains(temp.0.to_str().unwrap()), "{error}");
    fs::remove_file(&temp.0).unwrap();
    state_dir.write_checkpoint(&checkpoint(50)).unwrap();
    assert_eq!(temp.found().checkpoint.unwrap().now, 50);
}
