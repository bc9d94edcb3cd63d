//! Line outputs to real files, pipes and standard output.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Command, Stdio, exit},
    time::{Duration, Instant},
};

use mailflow_agent::{
    config::Target,
    metrics::AgentMetrics,
    outputs::{
        jsonl_file::{self, OpenError},
        worker::{SinkCounters, SinkWorker},
    },
};

const GRACE: Duration = Duration::from_secs(10);

fn counters() -> SinkCounters {
    AgentMetrics::new("test", 0.0).unwrap().sink_counters("test")
}

fn start(target: &Target, queue: usize, counters: SinkCounters) -> Result<SinkWorker<String>, OpenError> {
    jsonl_file::start("test", target, queue, counters, |line: &String| Ok(line.clone()))
}

/// Path in the temporary directory, removed on drop.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("mailflow-sink-{}-{name}", std::process::id()));
        let _ = fs::remove_file(&path);
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn file_lines_are_appended_in_order() {
    let file = Scratch::new("append");
    fs::write(&file.0, "from before\n").unwrap();
    let mut expected = "from before\n".to_owned();
    for run in ["a", "b"] {
        let sink = start(&Target::File(file.0.clone()), 10_000, counters()).unwrap();
        let counters = sink.counters().clone();
        for number in 0..5_000 {
            sink.push(format!("{run}{number}"));
            expected += &format!("{run}{number}\n");
        }
        assert_eq!(sink.close(GRACE), Ok(()));
        assert_eq!((counters.written.get(), counters.dropped.get(), counters.waiting.get()), (5_000, 0, 0));
    }
    assert_eq!(fs::read_to_string(&file.0).unwrap(), expected);
}

#[test]
fn lines_are_flushed_without_a_further_line() {
    let file = Scratch::new("prompt");
    let sink = start(&Target::File(file.0.clone()), 10, counters()).unwrap();
    sink.push("an alert".into());
    let deadline = Instant::now() + GRACE;
    while fs::read_to_string(&file.0).unwrap() != "an alert\n" {
        assert!(Instant::now() < deadline, "not written");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(sink.close(GRACE), Ok(()));
}

/// Waits until the output has written this many lines.
fn written(counters: &SinkCounters, lines: u64) {
    let deadline = Instant::now() + GRACE;
    while counters.written.get() < lines {
        assert!(Instant::now() < deadline, "{} of {lines}", counters.written.get());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Rotates by both of logrotate's methods, with lines that come meanwhile.
#[test]
fn rotated_file_loses_no_line() {
    let (file, old) = (Scratch::new("rotated"), Scratch::new("rotated.1"));
    let sink = start(&Target::File(file.0.clone()), 1_000, counters()).unwrap();
    let counters = sink.counters().clone();
    sink.push("before".into());
    written(&counters, 1);
    fs::rename(&file.0, &old.0).unwrap();
    sink.push("after".into());
    written(&counters, 2);
    assert_eq!(fs::read_to_string(&old.0).unwrap(), "before\n");
    assert_eq!(fs::read_to_string(&file.0).unwrap(), "after\n", "made anew");

    fs::rename(&file.0, &old.0).unwrap();
    fs::write(&file.0, "").unwrap();
    sink.push("created".into());
    written(&counters, 3);
    assert_eq!(fs::read_to_string(&file.0).unwrap(), "created\n", "logrotate's own new file");

    fs::copy(&file.0, &old.0).unwrap();
    fs::OpenOptions::new().write(true).open(&file.0).unwrap().set_len(0).unwrap();
    sink.push("truncated".into());
    written(&counters, 4);
    assert_eq!(fs::read_to_string(&file.0).unwrap(), "truncated\n", "no hole where the lines were");
    assert_eq!(sink.close(GRACE), Ok(()));
    assert_eq!(counters.errors.get(), 0);
}

#[test]
fn incomplete_line_of_killed_process_is_ended() {
    let file = Scratch::new("unfinished");
    fs::write(&file.0, "whole\n{\"half\":").unwrap();
    let sink = start(&Target::File(file.0.clone()), 10, counters()).unwrap();
    sink.push("next".into());
    assert_eq!(sink.close(GRACE), Ok(()));
    assert_eq!(fs::read_to_string(&file.0).unwrap(), "whole\n{\"half\":\nnext\n");
}

/// An unread pipe stands for a hanging disk: its writer blocks in the system call.
#[test]
fn hanging_target_delays_neither_push_nor_close() {
    let pipe = Scratch::new("pipe");
    assert!(Command::new("mkfifo").arg(&pipe.0).status().unwrap().success());
    let mut reader = fs::OpenOptions::new().read(true).write(true).open(&pipe.0).unwrap();
    let sink = start(&Target::File(pipe.0.clone()), 100, counters()).unwrap();
    let counters = sink.counters().clone();
    let line = "x".repeat(1_000);
    let begun = Instant::now();
    for _ in 0..10_000 {
        sink.push(line.clone());
    }
    let unwritten = sink.close(Duration::from_millis(300)).unwrap_err().0;
    assert!(begun.elapsed() < GRACE, "{:?}", begun.elapsed());
    assert!(counters.dropped.get() > 0);
    assert_eq!(counters.written.get() + counters.dropped.get() + unwritten, 10_000);
    // Reading the rest lets the writer's thread end.
    let mut rest = vec![0; 1_001 * usize::try_from(unwritten + counters.written.get()).unwrap()];
    reader.read_exact(&mut rest).unwrap();
    assert_eq!(rest.iter().filter(|byte| **byte == b'\n').count() * 1_001, rest.len());
}

/// Runs this test as a child whose standard output is closed, as under `| head`.
#[test]
fn closed_standard_output_does_not_panic() {
    const CHILD: &str = "MAILFLOW_TEST_SINK_CHILD";
    if env::var_os(CHILD).is_some() {
        let sink = start(&Target::Stdout, 10, counters()).unwrap();
        let counters = sink.counters().clone();
        sink.push("{\"line\":1}".into());
        // Until the parent has closed its end.
        let mut wait = String::new();
        std::io::stdin().read_line(&mut wait).unwrap();
        sink.push("{\"line\":2}".into());
        let unwritten = sink.close(GRACE).unwrap_err().0;
        let good = (counters.written.get(), unwritten) == (1, 1) && counters.errors.get() > 0;
        exit(if good { 42 } else { 1 });
    }
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "lines::closed_standard_output_does_not_panic", "--nocapture"])
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("{\"line\":1}\n") {
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "{line}");
    }
    drop(output);
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(42));
}
