//! `cargo xtask demo`: from packets on a gateway to an alert about real mail, on this machine alone.

mod alert;
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
use mailflow_test_support::lab::{
    self, Agent, Family, Lab, LabOptions, Mail, Mode, Package, Postfix, PostfixOptions, send_mail, wait_for,
};

use crate::{
    agent::{self, Profile},
    interrupt,
    setup::{self, Purpose},
    terminal::{self, Steps, dot, end_dots, say},
    workspace,
};

/// Name of the lab: its namespaces are `mfdemo-client`, `mfdemo-gateway` and `mfdemo-server`.
const NAME: &str = "mfdemo";
/// Number of mails, each in its own connection; the default rule fires at the tenth.
const MAILS: usize = 12;
/// Timeout of the alert. By default a closed flow's record comes 5 s after its end, the alert a poll later.
const PATIENCE: Duration = Duration::from_secs(30);

/// Arguments of `cargo xtask demo`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Keep the lab and its running agent after the demo
    #[arg(long)]
    keep: bool,
    /// Only remove the lab that `--keep` left
    #[arg(long, conflicts_with = "keep")]
    clean: bool,
    /// Run the last built agent, without a build
    #[arg(long, hide = true)]
    built: bool,
}

/// Runs the demo; returns 128 plus the signal number after an interrupt.
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
    let _only = only_one("demo")?;
    let removed = lab::remove(NAME)?;
    println!("removed: {} namespaces, {} processes", removed.namespaces, removed.processes);
    Ok(())
}

fn demo(args: &Args) -> Result<()> {
    println!("mailflow: from packets on a gateway to an alert about real mail, on this machine alone\n");
    let mut steps = Steps::new(8);
    let (package, binary) = prepare(args, &mut steps)?;
    let _only = only_one("demo")?;
    let began = Instant::now();
    if lab::remove(NAME)?.namespaces > 0 {
        say("removed the lab that an earlier demo had left");
    }
    let folder = workspace::root().join("target/lab").join(NAME);
    clear(&folder)?;
    let shown = in_lab(args, &mut steps, &package, &binary);
    if args.keep && shown.is_ok() {
        println!("\nDone in {:.0} s; the lab is up.", began.elapsed().as_secs_f64());
        return Ok(());
    }
    // Only the log of the mail server is kept.
    for part in ["etc", "queue", "data", "mnt"] {
        clear(&folder.join("postfix").join(part))?;
    }
    shown.with_context(|| format!("the logs are in {}", short(&folder)))?;
    println!(
        "\nDone in {:.0} s, {:.0} s of it in the lab. Removed: the namespaces and all that ran in them. \
         The logs and the alert stay in {}",
        steps.elapsed().as_secs_f64(),
        began.elapsed().as_secs_f64(),
        short(&folder)
    );
    Ok(())
}

/// Does the steps that need no root: tools, Postfix, the agent. For another user it ends with the next
/// command.
fn prepare(args: &Args, steps: &mut Steps) -> Result<(Package, PathBuf)> {
    steps.next("Tools");
    setup::prepare(Purpose::Demo)?;
    interrupt::check()?;
    steps.next("Mail server: the distribution's Postfix, unpacked and not installed");
    let package = Package::unpack()?;
    say(format!("postfix {} in {}", package.version(), short(package.root())));
    interrupt::check()?;
    steps.next("Agent: build");
    let binary = if args.built { agent::binary(Profile::Dev)? } else { agent::build(Profile::Dev)? };
    say(short(&binary));
    interrupt::check()?;
    if !terminal::is_root() {
        let rest = as_root(if args.keep { "demo --built --keep" } else { "demo --built" })?;
        bail!(
            "the rest makes network namespaces and loads programs into the kernel. All is built; run:\n  {rest}"
        );
    }
    Ok((package, binary))
}

/// Does the steps in the lab, and removes the lab unless it is kept.
fn in_lab(args: &Args, steps: &mut Steps, package: &Package, binary: &Path) -> Result<()> {
    steps.next("Network: client, gateway with source NAT and server, each in a namespace");
    let lab = Lab::named(NAME, &LabOptions::default())?;
    show::network(&lab);
    interrupt::check()?;

    steps.next("Mail server: start");
    let options = PostfixOptions::default();
    let postfix = Postfix::start(&lab.server, package, lab.folder(), &options)?;
    let PostfixOptions { hostname, domain, .. } = options;
    say(format!("{hostname} answers on 25, 465 and 587, takes mail for {domain} and discards it"));
    interrupt::check()?;

    steps.next("Agent: on the gateway's LAN side, with the shipped default configuration");
    let agent = Agent::start(&lab.gateway, binary, lab.folder(), "agent", "--interface lan0")?;
    say("mailflow-agent run --interface lan0");
    show::attached(&agent);
    interrupt::check()?;

    let client = lab.client_ip(Family::V4, 0);
    steps.next(&format!("Mail: {MAILS} messages from {client}, each in a connection of its own"));
    send(&lab)?;

    steps.next("Alert");
    let line = first_alert(&agent)?;
    show::alert(&line, agent.alert_file())?;
    // The records of the last mails come a poll after the alert.
    std::thread::sleep(Duration::from_secs(1));
    show::metrics(&agent, &lab)?;
    show::next(&lab, args.keep);
    interrupt::check()?;
    if args.keep {
        agent.leave();
        postfix.leave();
        lab.keep();
    }
    Ok(())
}

/// Waits for the first alert.
fn first_alert(agent: &Agent) -> Result<String> {
    say(format!(
        "the rule smtp-burst fires at the tenth of {MAILS} flows; the agent evaluates a flow 5 s after its end"
    ));
    say("seconds are counted from the last mail; the alert has the time of the tenth flow");
    let sent = Instant::now();
    let line = wait_for("an alert", PATIENCE, || {
        interrupt::check()?;
        Ok(agent.alerts().into_iter().next())
    });
    interrupt::check()?;
    let line = line.with_context(|| format!("{}\nthe agent's log:\n{}", show::totals(agent), agent.log()))?;
    say(format!("after {:.1} s:", sent.elapsed().as_secs_f64()));
    Ok(line)
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

/// Locks a task whose labs have a name that is unique on a machine. An abstract socket leaves no file and ends with
/// the process.
pub(crate) fn only_one(task: &str) -> Result<UnixListener> {
    let name = std::os::unix::net::SocketAddr::from_abstract_name(format!("mailflow-{task}"))?;
    UnixListener::bind_addr(&name).with_context(|| format!("another {task} is running on this machine"))
}

fn clear(folder: &Path) -> Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}

/// Returns the command that runs this program as root.
fn as_root(arguments: &str) -> Result<String> {
    Ok(format!("sudo {} {arguments}", std::env::current_exe()?.display()))
}

/// Returns a path relative to the repository's root.
fn short(path: &Path) -> String {
    path.strip_prefix(workspace::root()).unwrap_or(path).display().to_string()
}
