//! Somebody removes what the agent keeps, while it runs: it is made again, and the next agent knows all.

use std::{fs, time::Duration};

use mailflow_tests::lab::{Agent, wait_for};

use crate::gateway::{Gateway, add, kill};

/// As long as it may take until it is noticed.
const A_MINUTE: Duration = Duration::from_secs(60);

fn wait(what: &str, agent: &Agent, mut done: impl FnMut() -> bool) {
    wait_for(what, A_MINUTE, || Ok(done().then_some(())))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", agent.log()));
}

#[test]
fn a_state_directory_and_pins_that_are_removed_are_made_again() {
    let gateway = Gateway::new(100);
    let agent = gateway.start("", &[]);
    let mut open = gateway.open();
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
    // One table's pin, then all that there is.
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
    // What was made again is as good as what was there before.
    std::thread::sleep(Duration::from_secs(2));
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
fn a_damaged_state_is_named_and_the_agent_starts() {
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
