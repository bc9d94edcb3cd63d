//! Files that logrotate rotates under a running agent, with the configuration that the package installs.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use mailflow_test_support::lab::{self, With, command, output, wait_for};
use serde_json::Value;

use crate::gateway::Gateway;

const PATIENCE: Duration = Duration::from_secs(60);
/// Number of rotations: fewer than the configuration keeps of each file.
const ROTATIONS: usize = 8;
/// Minimum number of connections meanwhile.
const CONNECTIONS: usize = 40;

/// Writes the configuration as installed, with another folder and user.
fn configuration(folder: &Path) -> PathBuf {
    let mut text = include_str!("../../../config/debian/logrotate").to_owned();
    let own = format!("{}/", folder.display());
    for (installed, here) in [
        ("/var/log/mailflow/", own.as_str()),
        ("su mailflow mailflow", "su root root"),
        ("create 0640 mailflow mailflow", "create 0640 root root"),
    ] {
        assert_eq!(text.matches(installed).count(), 1, "{installed}");
        text = text.replace(installed, here);
    }
    let path = folder.with_file_name("logrotate.conf");
    fs::write(&path, text).unwrap();
    path
}

/// Returns the lines of a file and of its rotated files.
fn lines(folder: &Path, name: &str) -> Vec<Value> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let (file, path) = (entry.file_name().into_string().unwrap(), entry.path());
        if file != name && !file.starts_with(&format!("{name}.")) {
            continue;
        }
        let text = match file.ends_with(".gz") {
            // During compression both files exist.
            true if path.with_extension("").exists() => continue,
            true => output(command("zcat").arg(&path)).unwrap(),
            false => fs::read_to_string(&path).unwrap(),
        };
        let parsed = |line: &str| serde_json::from_str(line).unwrap_or_else(|_| panic!("{file}: {line}"));
        lines.extend(text.lines().map(parsed));
    }
    lines
}

#[test]
fn rotation_loses_and_repeats_no_line() {
    let package = lab::unpack("logrotate", With::Libraries).unwrap();
    let gateway = Gateway::new(5);
    let log = gateway.lab.folder().join("log");
    fs::create_dir(&log).unwrap();
    let outputs = format!(
        "outputs:\n  alerts: {{ type: file, path: {log}/alerts.json }}\n  flow_log: {{ type: file, path: {log}/flows.json }}\n",
        log = log.display()
    );
    gateway.configure(5, &outputs);
    let mut agent = gateway.start_as_configured();

    let config = configuration(&log);
    let rotate = || {
        let mut logrotate = Command::new(package.root.join("usr/sbin/logrotate"));
        logrotate.env("LD_LIBRARY_PATH", package.libraries().unwrap().join(":"));
        // Rotates now, whatever the schedule.
        logrotate.args(["--force", "--state"]).arg(log.with_file_name("rotated")).arg(&config);
        output(&mut logrotate).unwrap();
    };
    let mut sent = 0;
    thread::scope(|scope| {
        let rotating = scope.spawn(|| {
            for _ in 0..ROTATIONS {
                // logrotate leaves an empty file as it is.
                let has_line = || fs::metadata(log.join("flows.json")).is_ok_and(|file| file.len() > 0);
                wait_for("a line in the new file", PATIENCE, || Ok(has_line().then_some(()))).unwrap();
                rotate();
            }
        });
        // Until the rotations end, and at least this many.
        while sent < CONNECTIONS || !rotating.is_finished() {
            gateway.send();
            sent += 1;
        }
    });
    let flows = || lines(&log, "flows.json");
    let all = wait_for("every flow is in a file", PATIENCE, || {
        let ended = flows().into_iter().filter(|line| line["flow"]["reason"] != "active").count();
        Ok((ended >= sent).then_some(()))
    });
    all.unwrap_or_else(|error| panic!("{error:#}: {} of {sent}\n{}", flows().len(), agent.log()));
    assert!(agent.stop().unwrap().success());

    let flows = flows();
    let names: BTreeSet<String> = flows.iter().map(|line| line["flow_id"].to_string()).collect();
    assert_eq!((flows.len(), names.len()), (sent, sent), "one line a flow");
    let fired = lines(&log, "alerts.json");
    assert_eq!(fired.len(), 1, "{fired:#?}");
    let files = fs::read_dir(&log).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    let mut files: Vec<_> = files.filter(|file| file.starts_with("flows.json")).collect();
    files.sort();
    // All but the newest file are compressed; an empty file is not rotated.
    assert!(files.iter().filter(|file| file.ends_with(".gz")).count() >= 2, "{files:?}");
    println!("{sent} flows in {files:?}");
}
