//! Cost of `backtest` on a long log, compared with DuckDB's `read_json` of the same file. Prints a line of
//! JSON for each case.
//!
//! The log is generated once from a seed, in the target directory. Both programs run as processes; CPU time
//! and memory are the kernel's accounting of these processes.

#[path = "backtest/log.rs"]
mod log;

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use mailflow_test_support::lab::workspace;

/// Flows of the log, unless `MAILFLOW_BENCH_FLOWS` gives another number.
const FLOWS: u64 = 5_000_000;
/// Number of hosts that the flows come from.
const HOSTS: u32 = 60_000;
/// Minimum rate, in records per second on two CPUs.
const FLOOR: f64 = 300_000.0;

/// Maximum memory in MB: the pending records (docs/rules/backtest.md), the reader and the rules.
const MEMORY: f64 = 450.0;

/// Resources that a process used.
struct Cost {
    wall: f64,
    cpu: f64,
    /// Maximum resident memory, in MB.
    memory: f64,
}

fn main() -> Result<()> {
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let chosen = |case: &str| only.as_ref().is_none_or(|only| case.contains(only.as_str()));
    let flows =
        std::env::var("MAILFLOW_BENCH_FLOWS").ok().and_then(|text| text.parse().ok()).unwrap_or(FLOWS);
    let what = format!("backtest of {flows} flows of {HOSTS} hosts");
    if !chosen(&what) {
        return Ok(());
    }
    let place = workspace().join("target/bench");
    fs::create_dir_all(&place)?;
    let log = place.join(format!("flows-{flows}.json"));
    if !log.exists() {
        log::write(&log, flows, HOSTS)?;
    }
    let size = fs::metadata(&log)?.len();
    line("size of the log", "MB", size as f64 / 1e6, None, None);

    let agent = agent()?;
    let ours = cost(Command::new(agent).arg("backtest").arg(&log).args(["--alerts", "off"]))?;
    let records = flows as f64;
    line(&format!("{what}: records"), "a second", records / ours.wall, None, Some(FLOOR));
    line(&format!("{what}: CPU time of a record"), "us", ours.cpu / records * 1e6, None, None);
    line(&format!("{what}: CPUs used"), "", ours.cpu / ours.wall, None, None);
    line(&format!("{what}: memory"), "MB", ours.memory, Some(MEMORY), None);

    match duckdb(&place) {
        Err(error) => println!("DuckDB is left out: {error:#}"),
        Ok(python) => {
            let floor = cost(Command::new(python).arg("-c").arg(query(&log)))?;
            line(
                "the same by DuckDB's read_json: CPU time of a record",
                "us",
                floor.cpu / records * 1e6,
                None,
                None,
            );
            line(
                &format!("{what}: CPU time against DuckDB's reading"),
                "times",
                ours.cpu / floor.cpu,
                None,
                None,
            );
            line(
                &format!("{what}: elapsed time against DuckDB's reading"),
                "times",
                ours.wall / floor.wall,
                None,
                None,
            );
        }
    }
    Ok(())
}

/// Returns a query that reads the fields that the rules read, on two threads.
fn query(log: &Path) -> String {
    let columns = "{'timestamp': 'VARCHAR', 'event_type': 'VARCHAR', 'src_ip': 'VARCHAR', 'src_port': 'INTEGER', \
                   'dest_ip': 'VARCHAR', 'dest_port': 'INTEGER', 'proto': 'VARCHAR', 'app_proto': 'VARCHAR', \
                   'flow': 'STRUCT(pkts_toserver BIGINT, bytes_toserver BIGINT, pkts_toclient BIGINT, \
                   bytes_toclient BIGINT, \"start\" VARCHAR, \"end\" VARCHAR, state VARCHAR, reason VARCHAR)', \
                   'mailflow': 'STRUCT(payload_up BIGINT, payload_down BIGINT, messages_estimated BIGINT, \
                   syn BOOLEAN, synack BOOLEAN)'}";
    format!(
        "import duckdb\nc = duckdb.connect(config={{'threads': 2}})\n\
         print(c.execute(\"\"\"select count(*), sum(flow.bytes_toserver), sum(mailflow.messages_estimated), \
         count(distinct src_ip), max(flow.\"end\") from read_json('{}', format='newline_delimited', \
         columns={columns})\"\"\").fetchall())",
        log.display()
    )
}

/// Returns the path of a Python with DuckDB, in a virtual environment.
fn duckdb(place: &Path) -> Result<PathBuf> {
    let environment = place.join("duckdb");
    let python = environment.join("bin/python");
    let has = |python: &Path| {
        let mut import = Command::new(python);
        import.args(["-c", "import duckdb"]).stdout(Stdio::null()).stderr(Stdio::null());
        import.status().is_ok_and(|status| status.success())
    };
    if !has(&python) {
        run(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "duckdb"]))?;
    }
    ensure!(has(&python), "it cannot be imported");
    Ok(python)
}

/// Builds the agent as it is installed, and returns its path.
fn agent() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("MAILFLOW_BENCH_AGENT") {
        return Ok(path.into());
    }
    run(Command::new(env!("CARGO"))
        .args(["build", "--locked", "--quiet", "--package", "mailflow-agent", "--profile", "dist"])
        .current_dir(workspace()))?;
    Ok(workspace().join("target/dist/mailflow-agent"))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

/// Runs a process to its end, and returns what it used.
fn cost(command: &mut Command) -> Result<Cost> {
    let begin = Instant::now();
    let child = command.stdout(Stdio::null()).process_group(0).spawn()?;
    let pid = i32::try_from(child.id())?;
    let (mut status, mut usage) = (0, unsafe { std::mem::zeroed::<libc::rusage>() });
    // SAFETY: both pointers are to values of this frame. No other code waits for the child.
    let waited = unsafe { libc::wait4(pid, &mut status, 0, &mut usage) };
    ensure!(waited == pid && status == 0, "{command:?} ended with {status}");
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    Ok(Cost {
        wall: begin.elapsed().as_secs_f64(),
        cpu: seconds(usage.ru_utime) + seconds(usage.ru_stime),
        memory: usage.ru_maxrss as f64 * 1_024.0 / 1e6,
    })
}

fn line(case: &str, unit: &str, value: f64, bar: Option<f64>, floor: Option<f64>) {
    println!(
        "{}",
        serde_json::json!({ "case": case, "unit": unit, "value": value, "bar": bar, "floor": floor })
    );
}
