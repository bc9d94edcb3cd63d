//! mailflow-agent: parse the arguments, load the configuration, run.

use std::{
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    process::ExitCode,
};

use mailflow_agent::{
    agent::{
        self,
        backtest::Backtested,
        explain::Past,
        replay::{AtEnd, Replayed},
    },
    cli::{self, BacktestArgs, Command, Exit, LogArgs, ReplayArgs, RunArgs},
    clock,
    config::{self, Config},
    fault,
    kernel::Lookout,
    privileges,
};
use tracing::{error, warn};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let exit = match cli::parse() {
        Command::Run { config, args } => run(config, args),
        Command::Replay { config, args } => replay(config.as_deref(), args),
        Command::Backtest { config, args } => backtest(config.as_deref(), &args),
        Command::CheckConfig { files } => {
            printed(cli::config::check(&files, &mut io::stdout(), &mut io::stderr()))
        }
        Command::TestRules { files } => {
            printed(cli::rules::test(&files, &mut io::stdout(), &mut io::stderr()))
        }
        Command::PrintConfig { file } => {
            printed(cli::config::print(file.as_deref(), &mut io::stdout(), &mut io::stderr()))
        }
        Command::Status { config, args } => asked(config.as_deref(), &args.socket, |socket| {
            cli::ask::status(socket, &args, &mut io::stdout(), &mut io::stderr())
        }),
        Command::Top { config, args } => {
            asked(config.as_deref(), &args.socket, |socket| cli::top::run(socket, &args, &mut io::stderr()))
        }
        Command::Reload { config, args } => asked(config.as_deref(), &args, |socket| {
            cli::ask::reload(socket, &mut io::stdout(), &mut io::stderr())
        }),
        Command::Completions { shell } => printed(cli::pages::completions(shell, &mut io::stdout())),
        Command::Man { folder } => written(&folder, cli::pages::man(&folder)),
        Command::Explain { config, args } if !args.logs.logs.is_empty() => {
            past(config.as_deref(), &args.logs, |past| {
                let told = past.explain(args.source, args.flows);
                cli::explain::print(&args, &told, &mut io::stdout())
            })
        }
        Command::Suggest { config, args } if !args.logs.logs.is_empty() => {
            past(config.as_deref(), &args.logs, |past| cli::explain::yaml(&past.suggest(), &mut io::stdout()))
        }
        Command::Explain { config, args } => asked(config.as_deref(), &args.socket, |socket| {
            cli::explain::explain(socket, &args, &mut io::stdout(), &mut io::stderr())
        }),
        Command::Suggest { config, args } => asked(config.as_deref(), &args.socket, |socket| {
            cli::explain::suggest(socket, &mut io::stdout(), &mut io::stderr())
        }),
        Command::Doctor { config, args } => match config::load(config.as_deref()) {
            Ok(config) => printed(cli::doctor::run(config, &args, &mut io::stdout())),
            Err(faults) => {
                eprintln!("{faults}");
                Exit::Usage
            }
        },
        Command::Version => {
            println!("{}", cli::VERSION);
            Exit::Good
        }
    };
    exit.into()
}

/// The configuration, its warnings logged; faults go to standard error.
fn load(path: Option<&Path>) -> Result<Config, Exit> {
    log();
    let config = config::load(path).map_err(|faults| {
        eprintln!("{faults}");
        Exit::Usage
    })?;
    for warning in &config.warnings {
        warn!("{warning}");
    }
    Ok(config)
}

fn replay(path: Option<&Path>, args: ReplayArgs) -> Exit {
    let mut config = match load(path) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    cli::overrides::apply_replay(&mut config, &args);
    match agent::replay::run(&config, args.role, &args.captures, at_end(args.drain)) {
        Ok(Replayed { damaged: 0, .. }) => Exit::Good,
        Ok(_) => Exit::Failure,
        Err(error) => {
            error!("{}", fault::told(&error));
            Exit::Failure
        }
    }
}

fn backtest(path: Option<&Path>, args: &BacktestArgs) -> Exit {
    let mut config = match load(path) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    cli::overrides::apply_backtest(&mut config, args);
    match agent::backtest::run(&config, &args.logs, args.l2_overhead, at_end(args.drain)) {
        Ok(Backtested { unreadable: 0, damaged: 0, .. }) => Exit::Good,
        Ok(_) => Exit::Failure,
        Err(error) => {
            error!("{}", fault::told(&error));
            Exit::Failure
        }
    }
}

/// What is said of flow logs without an agent.
fn past(path: Option<&Path>, args: &LogArgs, tell: impl FnOnce(&Past) -> io::Result<()>) -> Exit {
    let config = match load(path) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    let past = Past::read(&config, &args.logs, args.l2_overhead);
    let whole = past.read.unreadable == 0 && past.read.damaged == 0;
    printed(tell(&past).map(|()| if whole { Exit::Good } else { Exit::Failure }))
}

const fn at_end(drain: bool) -> AtEnd {
    if drain { AtEnd::Drain } else { AtEnd::Stop }
}

fn run(path: Option<PathBuf>, args: RunArgs) -> Exit {
    // Before anything is read, and before there is a second thread.
    let lookout = Lookout::start();
    let mut config = match load(path.as_deref()) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    for warning in config.over(clock::unix_nanos()) {
        warn!("{warning}");
    }
    let lookout = lookout.inspect_err(|error| {
        warn!(%error, "no process looks at the hooks: whether another program comes before ours is not known");
    });
    if let Err(error) = cli::overrides::apply(&mut config, args.clone()) {
        eprintln!("{error}");
        return Exit::Usage;
    }
    let file = path.clone();
    let read = move || {
        let faults = |faults: config::Faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut config = config::load(path.as_deref()).map_err(faults)?;
        cli::overrides::apply(&mut config, args.clone()).map_err(|error| vec![error.to_string()])?;
        Ok(config)
    };
    let source = agent::Source { file, read: Box::new(read) };
    // What needs capabilities is done by this thread.
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().on_thread_start(privileges::give_up_all).build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(agent::run(config, source, lookout.ok())),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => Exit::Good,
        Err(error) => {
            error!("{}", fault::told(&error));
            Exit::Failure
        }
    }
}

/// What a command that asks the running agent ends with.
fn asked(config: Option<&Path>, args: &cli::SocketArgs, ask: impl FnOnce(&Path) -> io::Result<Exit>) -> Exit {
    match cli::ask::socket(config, args, &mut io::stderr()) {
        Ok(Some(socket)) => printed(ask(&socket)),
        Ok(None) => Exit::Usage,
        Err(error) => printed(Err(error)),
    }
}

/// What a command that only prints ends with; whoever reads may have gone before the end.
fn printed(result: io::Result<Exit>) -> Exit {
    match result {
        Ok(exit) => exit,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Good,
        Err(error) => {
            eprintln!("{error}");
            Exit::Failure
        }
    }
}

/// What a command that writes files ends with.
fn written(folder: &Path, result: io::Result<()>) -> Exit {
    match result {
        Ok(()) => Exit::Good,
        Err(error) => {
            eprintln!("{}: {error}", folder.display());
            Exit::Failure
        }
    }
}

/// Logs to standard error, which leaves standard output to alerts and flows; `RUST_LOG` sets the level.
/// What the kernel program says has been asked for by `--kernel-log`.
fn log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,kernel=trace"));
    let colours = io::stderr().is_terminal();
    let format = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_ansi(colours);
    format.with_writer(io::stderr).init();
}
