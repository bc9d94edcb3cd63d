//! `cargo xtask screenshots`: the pictures in `docs/pictures`, of the running agent under real mail.
//!
//! Two gateways pass mail of several internal hosts for four minutes. Then `top` and `explain` run in a terminal,
//! and the Grafana dashboards are drawn from a Prometheus that scraped both gateways. A panel that cannot be drawn
//! fails the task.

mod dashboard;
mod gateways;
mod svg;
mod terminal;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};

use self::{
    dashboard::{Range, Renderer},
    gateways::Gateways,
    terminal::{Capture, End},
};
use crate::{
    agent::{self, Profile},
    demo, interrupt,
    setup::{self, Purpose},
    terminal::{Steps, is_root, say},
    workspace,
};

/// Folder of the pictures, in the repository.
const PICTURES: &str = "docs/pictures";
/// Largest size of a picture, in bytes.
const MAX_BYTES: u64 = 150_000;
/// Columns of the terminal of `top`, for which its lines are made.
const TOP_COLUMNS: u16 = 80;
/// Columns of the terminal of the demo and of `explain`.
const WIDE_COLUMNS: u16 = 132;
/// Second of a minute at which the mail ends.
const END_SECOND: u64 = 40;
/// Rows of a terminal that shows a whole output.
const LONG_ROWS: u16 = 200;

/// Arguments of `cargo xtask screenshots`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Duration of the mail; less leaves the dashboard emptier
    #[arg(long, value_name = "SECONDS", default_value_t = 240, value_parser = clap::value_parser!(u64).range(60..=3600))]
    seconds: u64,
    /// Only draw; do not replace the pictures of the documentation: they go to `target/pictures`
    #[arg(long)]
    check: bool,
}

/// Draws all pictures.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut steps = Steps::new(6);
    steps.next("Tools");
    setup::prepare(Purpose::Screenshots)?;
    steps.next("Renderer: Grafana's panel components");
    let renderer = Renderer::build()?;
    steps.next("Agent: build");
    let binary = agent::build(Profile::Dev)?;
    if !is_root() {
        bail!("the rest makes network namespaces and loads programs into the kernel: run it as root");
    }
    let _only = demo::only_one("screenshots")?;
    // An interrupted step ends with an error, and its labs are removed.
    interrupt::catch();
    let folder = workspace::root().join(if args.check { "target/pictures" } else { PICTURES });
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;

    steps.next("Alert: the demo");
    alert(&folder)?;
    steps.next(&format!("Mail: two gateways, {} s", args.seconds));
    let gateways = Gateways::start(&binary)?;
    wait_for_minute(args.seconds)?;
    let started = Instant::now();
    let traffic = gateways.send(Duration::from_secs(args.seconds), || {
        // Near the end, while mail passes.
        interrupt::sleep_until(started + Duration::from_secs(args.seconds.saturating_sub(15)))?;
        top(&gateways, &binary, &folder)?;
        explain(&gateways, &binary, &folder)
    });
    traffic?;
    steps.next("Dashboards");
    let range = Range::until_now(started.elapsed(), gateways.prometheus().address());
    renderer.draw_all(gateways.namespace(), &range, &folder)?;
    sizes(&folder)?;
    say(format!("{:.0} s; the pictures are in {}", steps.elapsed().as_secs_f64(), folder.display()));
    Ok(())
}

/// Waits until the mail ends late in a minute: Grafana's last time label is cut where a minute has just begun.
fn wait_for_minute(seconds: u64) -> Result<()> {
    let end = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() + seconds;
    interrupt::sleep_until(Instant::now() + Duration::from_secs((END_SECOND + 60 - end % 60) % 60))
}

/// Draws the alert as `cargo xtask demo` prints it.
fn alert(folder: &Path) -> Result<()> {
    let mut demo = Command::new(std::env::current_exe().context("the path of xtask")?);
    demo.args(["demo", "--built"]).current_dir(workspace::root());
    let capture = Capture::run(&demo, (LONG_ROWS, WIDE_COLUMNS), End::Itself(Duration::from_secs(300)))?;
    let rows = capture.between(|line| line.contains("] Alert"), |line| line.starts_with("Metrics"))?;
    save(folder, "alert.svg", &svg::draw(&capture, rows, "cargo xtask demo"))
}

/// Draws `top` on the gateway of the source that fires.
fn top(gateways: &Gateways, binary: &Path, folder: &Path) -> Result<()> {
    let mut top = Command::new(binary);
    top.args(["top", "--sort", "counted", "--interval", "1s", "--socket"]).arg(gateways.socket());
    let rows = u16::try_from(gateways.sources() + 4)?;
    let end = End::Key { after: Duration::from_secs(5), key: b'q' };
    let capture = Capture::run(&top, (rows, TOP_COLUMNS), end)?;
    ensure!(capture.text(0).starts_with("mailflow: "), "top shows {:?}", capture.text(0));
    save(folder, "top.svg", &svg::draw(&capture, 0..rows, "mailflow-agent top --sort counted"))
}

/// Draws `explain` of the source that fires, with its newest flow.
fn explain(gateways: &Gateways, binary: &Path, folder: &Path) -> Result<()> {
    let source = gateways.firing_source();
    let mut explain = Command::new(binary);
    explain.args(["explain", &source, "--flows", "2", "--socket"]).arg(gateways.socket());
    let capture = Capture::run(&explain, (LONG_ROWS, WIDE_COLUMNS), End::Itself(Duration::from_secs(30)))?;
    ensure!(
        (0..LONG_ROWS).any(|row| capture.text(row).contains(": FIRING since ")),
        "{source} does not fire"
    );
    let rows = 0..capture.rows_in_use();
    save(
        folder,
        "explain.svg",
        &svg::draw(&capture, rows, &format!("mailflow-agent explain {source} --flows 2")),
    )
}

fn save(folder: &Path, name: &str, text: &str) -> Result<()> {
    let path = folder.join(name);
    fs::write(&path, text).with_context(|| path.display().to_string())?;
    say(format!("{name}: {} bytes", text.len()));
    Ok(())
}

fn sizes(folder: &Path) -> Result<()> {
    let files: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    for file in files {
        let size = file.metadata()?.len();
        ensure!(size <= MAX_BYTES, "{} has {size} bytes, more than {MAX_BYTES}", file.display());
    }
    Ok(())
}
