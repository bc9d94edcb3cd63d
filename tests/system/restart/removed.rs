//! Removal of the state directory and of pins at run time: the agent creates them again, and its successor
//! has the complete state.

use std::{fs, time::Duration};

use mailflow_test_support::lab::{Agent, wait_for};

use crate::gateway::{Gateway, add, kill};

/// Timeout until the agent notices the removal.
const A_MINUTE: Duration = Duration::from_secs(60);

fn wait(what: &str, agent: &Agent, mut done: impl FnMut() -> bool) {
    wait_for(what, A_MINUTE, || Ok(done().then_some(())))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", agent.log()));
}

#[test]
fn removed_state_directory_and_pins_are_recreated() {
    let gateway = Gateway::new(100);
    let agent = gateway.start("", &[]);
    let open = gateway.open();
    open.talk();
    let mut sent = gateway.send();
    gateway.expect(&agent, sent);
    let (state, pins, tables) = (gateway.lab.folder().join("state"), gateway.pins(), gateway.tables(0));
    let pinned = || -> Vec<String> {
        let found = fs::read_dir(&tables).into_iter().flatten().flatten();
        let mut names: Vec<String> = found.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let all = pinned();
    fs::remove_dir_all(&state).unwrap();
    // The pin of one map, then all files.
    fs::remove_file(tables.join("FLOWS")).unwrap();
    wait("a state", &agent, || state.join("state").exists());
    wait("the pin", &agent, || pinned() == all);
    assert!(agent.log().contains("the state directory was removed or replaced"), "{}", agent.log());
    assert!(agent.log().contains("pins were removed by another process; created again"), "{}", agent.log());
    for name in &all {
        fs::remove_file(tables.join(name)).unwrap();
    }
    fs::remove_dir(&tables).unwrap();
    fs::remove_dir(&pins).unwrap();
    add(&mut sent, gateway.send());
    wait("all pins", &agent, || pinned() == all);
    gateway.expect(&agent, sent);
    // A checkpoint that follows the last records is complete.
    let written = || fs::metadata(state.join("state")).unwrap().modified().unwrap();
    let before = written();
    wait("a checkpoint", &agent, || written() > before);
    kill(agent);
    open.talk();
    add(&mut sent, gateway.send());
    let mut agent = gateway.start("", &[]);
    assert!(agent.log().contains("took over the link of the agent before"), "{}", agent.log());
    add(&mut sent, open.end());
    gateway.expect(&agent, sent);
    let metrics = agent.metrics().unwrap();
    for direction in ["up", "down"] {
        let line = format!("mailflow_conservation_difference_packets{{direction=\"{direction}\"}} 0");
        assert!(metrics.contains(&line), "{metrics}");
    }
    assert_eq!(agent.stop().unwrap().code(), Some(0), "{}", agent.log());
}

#[test]
fn damaged_checkpoint_is_reported_and_agent_starts() {
    let gateway = Gateway::new(100);
    let agent = gateway.start("", &[]);
    let mut sent = gateway.send();
    gateway.expect(&agent, sent);
    kill(agent);
    let file = gateway.lab.folder().join("state/state");
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, &bytes).unwrap();
    let agent = gateway.start("", &[]);
    let log = agent.log();
    assert!(log.contains("state cannot be used: wrong checksum of the record at byte "), "{log}");
    assert!(!log.contains("another boot"), "{log}");
    let aside = fs::read_dir(gateway.lab.folder().join("state")).unwrap().flatten();
    let aside = aside.map(|entry| entry.path()).find(|path| path.to_string_lossy().contains("state.aside-"));
    assert_eq!(fs::read(aside.unwrap()).unwrap(), bytes);
    add(&mut sent, gateway.send());
    gateway.expect(&agent, sent);
}
