//! `cargo xtask demo`: from packets on a gateway to an alert about real mail, on this machine alone.

mod alert;
mod interrupt;
mod show;

use std::{
    net::SocketAddr,
    os::linux::net::SocketAddrExt,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use mailflow_tests::lab::{
    self, Agent, Family, Lab, LabOptions, Mail, Mode, Package, Postfix, PostfixOptions, send_mail, wait_for,
};

use crate::{
    agent::{self, Profile},
    setup::{self, Purpose},
    terminal::{self, Steps, dot, end_dots, say},
    workspace,
};

/// The lab's name: its namespaces are `mfdemo-client`, `mfdemo-gateway` and `mfdemo-server`.
const NAME: &str = "mfdemo";
/// Mails, each in a connection of its own; the default rule speaks at the tenth.
const MAILS: usize = 12;
/// A closed flow's record comes 5 s after its end by default, the alert a poll later.
const PATIENCE: Duration = Duration::from_secs(30);

/// Arguments of `cargo xtask demo`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Leave the lab up, with the agent running, to look around in it
    #[arg(long)]
    keep: bool,
    /// Remove the lab that `--keep` left, and do nothing else
    #[arg(long, conflicts_with = "keep")]
    clean: bool,
    /// Run the agent as it was built last, without a build
    #[arg(long, hide = true)]
    built: bool,
}

/// Runs the demo; 130 and the like when it was interrupted.
pub(crate) fn run(args: &Args) -> ExitCode {
    interrupt::catch();
    let result = if args.clean { clean() } else { demo(args) };
    match (result, interrupt::exit_code()) {
        (Ok(()), None) => ExitCode::SUCCESS,
        (_, Some(code)) => {
            eprintln!("\ninterrupted; what the demo made is removed");
            ExitCode::from(code)
        }
        (Err(error), None) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn clean() -> Result<()> {
    if !terminal::is_root() {
        bail!("the lab is root's; run `{}`", as_root("demo --clean")?);
    }
    let _only = only_one()?;
    let removed = lab::remove(NAME)?;
    println!("removed: {} namespaces, {} processes", removed.namespaces, removed.processes);
    Ok(())
}

fn demo(args: &Args) -> Result<()> {
    println!("mailflow: from packets on a gateway to an alert about real mail, on this machine alone\n");
    let mut steps = Steps::new(8);
    steps.next("Tools");
    setup::prepare(Purpose::Demo)?;
    interrupt::check()?;

    steps.next("Mail server: the distribution's Postfix, unpacked and not installed");
    let package = Package::unpack()?;
    say(format!("postfix {} in {}", package.version(), short(package.root())));

    steps.next("Agent: build");
    let binary = if args.built { agent::binary(Profile::Dev)? } else { agent::build(Profile::Dev)? };
    say(short(&binary));
    interrupt::check()?;
    if !terminal::is_root() {
        bail!(
            "the rest makes network namespaces and loads programs into the kernel; run it as root:\n  {}",
            as_root(if args.keep { "demo --built --keep" } else { "demo --built" })?
        );
    }

    let lab_began = Instant::now();
    steps.next("Network: client, gateway with source NAT, server, each in a namespace");
    let _only = only_one()?;
    let earlier = lab::remove(NAME)?;
    if earlier.namespaces > 0 {
        say("removed the lab that an earlier demo had left");
    }
    let folder = fresh_folder()?;
    let lab = Lab::named(NAME, &LabOptions::default())?;
    show::network(&lab);
    interrupt::check()?;

    steps.next("Mail server: start");
    let options = PostfixOptions::default();
    let postfix = Postfix::start(&lab.server, &package, &folder, &options)?;
    say(format!(
        "{} answers on 25, 465 and 587, takes mail for {} and discards it",
        options.hostname, options.domain
    ));
    interrupt::check()?;

    steps.next("Agent: on the gateway's LAN side, with the shipped default configuration");
    let agent = Agent::start(&lab.gateway, &binary, &folder, "agent", "--interface lan0")?;
    say("mailflow-agent run --interface lan0");
    show::attached(&agent);
    interrupt::check()?;

    steps.next(&format!(
        "Mail: {MAILS} messages from {}, each in a connection of its own",
        lab.client_ip(Family::V4, 0)
    ));
    send(&lab)?;
    let sent = Instant::now();

    steps.next("Alert");
    say("a flow's record is made 5 s after its end, the alert with the tenth that qualifies");
    let line = wait_for("an alert", PATIENCE, || {
        interrupt::check()?;
        std::thread::sleep(Duration::from_millis(100));
        Ok(agent.alerts().into_iter().next())
    })
    .with_context(|| format!("{}\nthe agent's log:\n{}", show::totals(&agent), agent.log()))?;
    say(format!("after {:.1} s:", sent.elapsed().as_secs_f64()));
    show::alert(&line, agent.alert_file())?;
    // The window's gauge shows all flows once the next polls are through.
    std::thread::sleep(Duration::from_secs(1));
    show::metrics(&agent, &lab, &folder)?;
    show::next(&lab, args.keep);

    if args.keep {
        agent.leave();
        postfix.leave();
        lab.keep();
        println!("\nDone in {:.0} s; the lab is up.", lab_began.elapsed().as_secs_f64());
        return Ok(());
    }
    drop((agent, postfix));
    drop(lab);
    for part in ["postfix/etc", "postfix/queue", "postfix/data"] {
        std::fs::remove_dir_all(folder.join(part))?;
    }
    println!(
        "\nDone in {:.0} s, {:.0} s of it in the lab. Removed: the namespaces and all that ran in them. \
         Logs and the alert: {}",
        steps.elapsed().as_secs_f64(),
        lab_began.elapsed().as_secs_f64(),
        short(&folder)
    );
    Ok(())
}

fn send(lab: &Lab) -> Result<()> {
    let server = SocketAddr::new(lab.server_ip(Family::V4), 587);
    for number in 0..MAILS {
        send_mail(&lab.client, &Mail::to(server, Mode::StartTls))?;
        dot(number == 0);
        interrupt::check()?;
    }
    end_dots(format!("{MAILS} accepted by {server} (submission, STARTTLS, 2 kB each)"));
    Ok(())
}

/// Held while a demo runs: there is one lab of this name on a machine. An abstract socket leaves no file and
/// goes with the process.
fn only_one() -> Result<UnixListener> {
    let name = std::os::unix::net::SocketAddr::from_abstract_name("mailflow-demo")?;
    UnixListener::bind_addr(&name).context("another demo is running on this machine")
}

/// The demo's folder, empty.
fn fresh_folder() -> Result<PathBuf> {
    let folder = workspace::root().join("target/lab").join(NAME);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    Ok(folder)
}

/// The command that runs this very program as root.
fn as_root(arguments: &str) -> Result<String> {
    Ok(format!("sudo {} {arguments}", std::env::current_exe()?.display()))
}

/// A path from the repository's root.
fn short(path: &Path) -> String {
    path.strip_prefix(workspace::root()).unwrap_or(path).display().to_string()
}
