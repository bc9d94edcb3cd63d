//! The store on a directory: what each way to damage, remove or refuse its files comes to.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::PathBuf,
};

use super::*;
use crate::{
    config,
    recovery::journal::{file, record::tests::some_flow},
    util::disk::Reserve,
};
use mailflow_engine::{Engine, flow::RecordReason, time::Time};

/// A directory that goes with the value.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mailflow-store-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn open(&self) -> (Store, Recovered) {
        Store::open(&self.0, FileLimits::NONE, 1_000).unwrap()
    }

    /// As another process finds it: what a kill at this moment leaves.
    fn found(&self) -> Recovered {
        let directory = Directory::open_unlocked(&self.0);
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        Recovered::read(&directory, (boot.trim(), &MachineId::of_this_machine()), 1_000)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn state(now: u64) -> State {
    let engine = Engine::new(config::parse("f", "{}").unwrap().engine);
    State {
        generation: Some(3),
        tables: Tables::default(),
        now,
        seen: now,
        seeds: [1, 2],
        flows: Vec::new(),
        rules: engine.save(),
        firing: Vec::new(),
        untold: Vec::new(),
    }
}

fn poll(now: u64, port: u16) -> [Entry; 3] {
    let at = Time::from_nanos(now);
    [Entry::Poll { now: at, epoch: 0 }, Entry::Ended(some_flow(port)), Entry::Over]
}

fn judged(port: u16) -> Past {
    let at = Time::from_nanos(u64::from(port));
    Past::Judged(Judged { at, flow: some_flow(port), reason: RecordReason::Closed, open: false })
}

/// Nothing may be written.
const FULL: FileLimits = FileLimits { max_size: u64::MAX, min_free: Reserve::Bytes(u64::MAX) };

/// Ports of the flows that are replayed: those of the journal that no state has.
fn replayed(found: &Recovered) -> Vec<u16> {
    let state = found.state.as_ref().unwrap().now;
    let kept = found.journal.iter().rposition(|entry| matches!(entry, Entry::Kept(now) if *now <= state));
    let since = &found.journal[kept.map_or(0, |kept| kept + 1)..];
    let ports = since.iter().filter_map(|entry| match entry {
        Entry::Ended(flow) => Some(flow.key.client_port),
        _ => None,
    });
    ports.collect()
}

#[test]
fn durability_begins_again_with_a_fresh_state_and_nothing_is_replayed_twice() {
    let place = Place::new("again");
    let (mut store, first) = place.open();
    assert!(first.state.is_none() && first.trouble.is_none() && first.notes.is_empty());
    store.keep(&state(10)).unwrap();
    store.note(poll(11, 1), Unwritable::Refused).unwrap();
    store.passed([judged(1)]).unwrap();
    assert_eq!(replayed(&place.found()), [1]);

    // The disk is full: first nothing is done, then without it.
    store.set_limits(FULL);
    assert!(store.note(poll(12, 2), Unwritable::Refused).is_err());
    assert!(!store.is_suspended() && store.take_cause().is_none());
    store.note(poll(13, 3), Unwritable::InMemory).unwrap();
    assert!(store.is_suspended() && store.take_cause().unwrap().contains("state.min_free"));
    store.note(poll(14, 4), Unwritable::Refused).unwrap();
    store.passed([judged(4)]).unwrap();
    assert!(store.keep(&state(14)).is_err());
    let found = place.found();
    assert_eq!((found.state.as_ref().unwrap().now, replayed(&found)), (10, vec![1]));
    assert_eq!(found.history, [judged(1)]);

    // There is room again: a fresh state, then the journal.
    store.set_limits(FileLimits::NONE);
    store.note(poll(15, 5), Unwritable::Refused).unwrap();
    assert_eq!(replayed(&place.found()), [1], "no entry before the state");
    store.keep(&state(16)).unwrap();
    assert!(!store.is_suspended());
    store.note(poll(17, 6), Unwritable::Refused).unwrap();
    store.passed([judged(6)]).unwrap();
    let found = place.found();
    assert_eq!((found.state.as_ref().unwrap().now, replayed(&found)), (16, vec![6]));
    assert_eq!(found.history, [judged(6)]);
    // Lines that the outputs may not have written are known, with those of the time without a disk.
    let known = |port| {
        let wanted = Entry::Ended(some_flow(port));
        found.journal.iter().filter(|entry| **entry == wanted).count()
    };
    assert_eq!([1, 2, 3, 4, 5, 6].map(known), [1, 0, 1, 1, 1, 1]);
}

#[test]
fn a_state_that_cannot_be_written_leaves_the_one_before() {
    let place = Place::new("refused");
    let (mut store, _) = place.open();
    store.keep(&state(10)).unwrap();
    store.note(poll(11, 1), Unwritable::Refused).unwrap();
    let before = fs::read(place.file(JOURNAL)).unwrap();
    // A directory in the way of the new file cannot be removed as a file is.
    fs::create_dir(place.file("state.new")).unwrap();
    for now in 12..20 {
        assert!(store.keep(&state(now)).is_err());
    }
    let found = place.found();
    assert_eq!((found.state.as_ref().unwrap().now, replayed(&found)), (10, vec![1]));
    assert_eq!(fs::read(place.file(JOURNAL)).unwrap(), before, "and nothing of the attempts");
    fs::remove_dir(place.file("state.new")).unwrap();
    // The state could be replaced, the journal could not.
    fs::create_dir(place.file("journal.new")).unwrap();
    store.note(poll(21, 2), Unwritable::Refused).unwrap();
    store.written(&[]).unwrap();
    assert!(store.keep(&state(22)).is_err());
    assert_eq!(store.state(), Some(22));
    let found = place.found();
    assert_eq!((found.state.as_ref().unwrap().now, replayed(&found)), (22, vec![]));
    fs::remove_dir(place.file("journal.new")).unwrap();
    store.keep(&state(23)).unwrap();
    assert_eq!(place.found().state.unwrap().now, 23);
}

#[test]
fn sizes_are_bounded() {
    let place = Place::new("size");
    let (mut store, _) = place.open();
    store.keep(&state(10)).unwrap();
    let size = store.bytes();
    assert_eq!(
        size,
        place.names().iter().map(|name| fs::metadata(place.file(name)).unwrap().len()).sum::<u64>()
    );
    store.set_limits(FileLimits { max_size: size + 10, ..FileLimits::NONE });
    let error = store.note(poll(11, 1), Unwritable::Refused).unwrap_err().to_string();
    assert!(error.starts_with(&format!("state.max_size is {}, and ", size + 10)), "{error}");
    let error = store.keep(&state(12)).unwrap_err().to_string();
    assert!(error.contains("bytes are needed, and state.max_size is"), "{error}");
    assert_eq!(place.found().state.unwrap().now, 10);
}

/// Writes a state, changes its file, and opens the directory again; the notes.
fn after(place: &Place, change: impl Fn(Vec<u8>) -> Vec<u8>) -> Vec<String> {
    let (mut store, _) = place.open();
    store.keep(&state(10)).unwrap();
    store.note(poll(11, 1), Unwritable::Refused).unwrap();
    drop(store);
    let bytes = fs::read(place.file(STATE)).unwrap();
    fs::write(place.file(STATE), change(bytes)).unwrap();
    let (mut store, recovered) = place.open();
    assert!(recovered.state.is_none() && recovered.journal.is_empty() && recovered.trouble.is_none());
    store.keep(&state(20)).unwrap();
    recovered.notes
}

/// A state's file with this head.
fn headed(bytes: &[u8], head: &Head, machine: Option<&MachineId>) -> Vec<u8> {
    let found = file::found(bytes);
    let mut new = Frames::default();
    new.add(head).unwrap();
    new.add(&postcard::from_bytes::<State>(&found.frames[1]).unwrap()).unwrap();
    if let Some(machine) = machine {
        new.add(machine).unwrap();
    }
    new.bytes().to_vec()
}

#[test]
fn a_damaged_state_is_set_aside_under_its_cause() {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned();
    let head = |version, boot: &str| Head { version, boot: boot.to_owned() };
    let elsewhere = MachineId("0123456789abcdef0123456789abcdef".to_owned());
    type Change<'a> = &'a dyn Fn(Vec<u8>) -> Vec<u8>;
    let changes: [(Change<'_>, &str); 8] = [
        (&|_| Vec::new(), "it is empty"),
        (&|bytes| bytes[..5].to_vec(), "it is cut off in the entry at byte 0 of 5"),
        (&|bytes| bytes[..bytes.len() / 2].to_vec(), "it is cut off in the entry at byte "),
        (
            &|mut bytes| {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 4;
                bytes
            },
            "the checksum is wrong of the entry at byte ",
        ),
        (&|bytes| vec![b'x'; bytes.len()], "it is cut off in the entry at byte 0 of "),
        (&|bytes| headed(&bytes, &head(77, &boot), None), "it has format 77, and this agent reads format "),
        (
            &|bytes| headed(&bytes, &head(VERSION, "other"), Some(&elsewhere)),
            "it is of another machine (machine id 0123456789abcdef0123456789abcdef)",
        ),
        (
            &|_| {
                let mut new = Frames::default();
                new.add(&head(VERSION, &boot)).unwrap();
                new.add(&"no state").unwrap();
                new.bytes().to_vec()
            },
            "it cannot be decoded: ",
        ),
    ];
    // A machine without an id cannot tell another one from itself.
    let known = !MachineId::of_this_machine().0.is_empty();
    let place = Place::new("damaged");
    for (change, cause) in changes.iter().filter(|(_, cause)| known || !cause.contains("machine")) {
        let notes = after(&place, change);
        let [note] = notes.as_slice() else { panic!("{cause}: {notes:?}") };
        let file = place.file(STATE);
        assert!(note.starts_with(&format!("{} cannot be used: {cause}", file.display())), "{note}");
        assert!(
            note.contains("; set aside as state.aside-1000") && note.ends_with("; windows begin anew"),
            "{note}"
        );
    }
    let aside = place.names().iter().filter(|name| name.starts_with("state.aside-")).count();
    assert_eq!(aside, 3, "the newest are kept: {:?}", place.names());
}

#[test]
fn a_boot_is_no_damage() {
    let place = Place::new("boot");
    let here = MachineId::of_this_machine();
    for machine in [Some(&here), None] {
        let head = Head { version: VERSION, boot: "the one before".to_owned() };
        assert_eq!(after(&place, |bytes| headed(&bytes, &head, machine)), Vec::<String>::new());
    }
    assert!(!place.names().iter().any(|name| name.contains("aside")), "{:?}", place.names());
}

#[test]
fn damage_to_the_journal_and_the_history_costs_what_follows_it() {
    let place = Place::new("journal");
    let (mut store, _) = place.open();
    store.keep(&state(10)).unwrap();
    let kept = fs::metadata(place.file(JOURNAL)).unwrap().len() as usize;
    store.note(poll(11, 1), Unwritable::Refused).unwrap();
    let first = fs::metadata(place.file(JOURNAL)).unwrap().len() as usize;
    store.note(poll(12, 2), Unwritable::Refused).unwrap();
    store.passed([judged(1), judged(2)]).unwrap();
    drop(store);
    let history = place.names().into_iter().find(|name| name.starts_with("history-")).unwrap();
    let journal = fs::read(place.file(JOURNAL)).unwrap();

    // A kill while it was written is no damage.
    fs::write(place.file(JOURNAL), &journal[..journal.len() - 1]).unwrap();
    let found = place.found();
    assert_eq!((replayed(&found), found.notes.len()), (vec![1, 2], 0));
    fs::write(place.file(JOURNAL), &journal[..first + 3]).unwrap();
    assert_eq!((replayed(&place.found()), place.found().notes.len()), (vec![1], 0));

    let mut damaged = journal.clone();
    damaged[first + 9] ^= 1;
    fs::write(place.file(JOURNAL), &damaged).unwrap();
    let bytes = fs::read(place.file(&history)).unwrap();
    fs::write(place.file(&history), [&bytes[..8], &[99], &bytes[9..]].concat()).unwrap();
    let found = place.found();
    assert_eq!((replayed(&found), found.history.len()), (vec![1], 0));
    let [one, other] = found.notes.as_slice() else { panic!("{:?}", found.notes) };
    assert!(
        one.contains(&format!(
            "journal cannot be used: the checksum is wrong of the entry at byte {first} of "
        )),
        "{one}"
    );
    assert!(other.contains("the checksum is wrong of the entry at byte 0 of "), "{other}");
    assert!(
        one.contains("set aside as journal.aside-1000") && other.contains("set aside as history.aside-1000")
    );
    assert_eq!(fs::read(place.file("journal.aside-1000")).unwrap(), damaged);
    assert!(kept < first);
}

#[test]
fn no_symbolic_link_is_followed() {
    let place = Place::new("links");
    let victim = std::env::temp_dir().join(format!("mailflow-victim-{}", std::process::id()));
    fs::write(&victim, "precious").unwrap();
    let (mut store, _) = place.open();
    store.keep(&state(10)).unwrap();
    for name in ["state.new", "journal.new"] {
        symlink(&victim, place.file(name)).unwrap();
    }
    store.keep(&state(11)).unwrap();
    drop(store);
    for name in [STATE, JOURNAL, "history-000000000007"] {
        fs::remove_file(place.file(name)).unwrap_or_default();
        symlink(&victim, place.file(name)).unwrap();
        let (mut store, recovered) = place.open();
        if name == STATE {
            assert!(
                recovered.notes[0].contains("it cannot be read: state is a symbolic link"),
                "{:?}",
                recovered.notes
            );
        }
        store.keep(&state(12)).unwrap();
        store.note(poll(13, 1), Unwritable::Refused).unwrap();
        drop(store);
        assert_eq!(place.found().state.unwrap().now, 12);
    }
    // Nor a hard link, nor a pipe that would never end.
    fs::remove_file(place.file(STATE)).unwrap();
    fs::hard_link(&victim, place.file(STATE)).unwrap();
    assert!(place.open().1.notes[0].contains("another name elsewhere"));
    rustix::fs::mknodat(
        rustix::fs::CWD,
        place.file(STATE),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    assert!(place.open().1.notes[0].contains("no regular file"));
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    fs::remove_file(victim).unwrap();
}

#[test]
fn only_the_owner_may_write_there_and_only_the_owner_reads() {
    let place = Place::new("modes");
    let (mut store, _) = place.open();
    store.keep(&state(10)).unwrap();
    store.note(poll(11, 1), Unwritable::Refused).unwrap();
    store.passed([judged(1)]).unwrap();
    drop(store);
    let mode = |path: PathBuf| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(place.0.clone()) & 0o027, 0);
    for name in place.names() {
        assert_eq!(mode(place.file(&name)), 0o600, "{name}");
    }
    let set = |mode| fs::set_permissions(&place.0, fs::Permissions::from_mode(mode)).unwrap();
    set(0o777);
    drop(place.open());
    assert_eq!(mode(place.0.clone()), 0o755, "ours is made narrower");
    let refused = |place: &Place| Store::open(&place.0, FileLimits::NONE, 0).unwrap_err().to_string();
    set(0o1777);
    assert!(refused(&place).contains("may be written to by others (mode 1777)"), "{}", refused(&place));
    set(0o750);
    chown(&place.0, Some(54_321), None).unwrap();
    let said = refused(&place);
    assert!(
        said.contains("belongs to user 54321, and the agent runs as user 0"),
        "this test needs root: {said}"
    );
    chown(&place.0, Some(0), None).unwrap();
    assert_eq!(place.open().1.state.unwrap().now, 10);
}

#[test]
fn a_directory_that_was_removed_is_made_again_with_all_that_is_known() {
    let place = Place::new("removed");
    let (mut store, _) = place.open();
    store.keep(&state(10)).unwrap();
    let before = std::env::temp_dir().join(format!("mailflow-moved-{}", std::process::id()));
    for (now, away) in [(20, None), (30, Some(&before))] {
        match away {
            None => fs::remove_dir_all(&place.0).unwrap(),
            Some(elsewhere) => fs::rename(&place.0, elsewhere).unwrap(),
        }
        assert!(!store.is_in_place());
        store.note(poll(now, 1), Unwritable::Refused).unwrap();
        store.keep(&state(now)).unwrap();
        store.note(poll(now + 1, 2), Unwritable::Refused).unwrap();
        let found = place.found();
        assert_eq!((found.state.as_ref().unwrap().now, replayed(&found)), (now, vec![2]));
        assert!(
            matches!(Store::open(&place.0, FileLimits::NONE, 0), Err(StateError::Held { .. })),
            "and locked"
        );
    }
    fs::remove_dir_all(before).unwrap();
    // A file in its place is named.
    fs::remove_dir_all(&place.0).unwrap();
    fs::write(&place.0, "a file").unwrap();
    let error = store.keep(&state(40)).unwrap_err().to_string();
    assert!(error.contains(place.0.to_str().unwrap()), "{error}");
    fs::remove_file(&place.0).unwrap();
    store.keep(&state(50)).unwrap();
    assert_eq!(place.found().state.unwrap().now, 50);
}
