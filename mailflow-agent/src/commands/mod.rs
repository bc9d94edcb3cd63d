//! The commands: what was typed, done, and what it ends with.

mod offline;
mod run;

use std::{
    io::{self, IsTerminal, Write},
    path::Path,
};

use tracing::warn;
use tracing_subscriber::EnvFilter;

use self::offline::{backtest, past, replay};
use crate::{
    cli::{self, Command, Exit},
    config::{self, Config},
    fault::{self, EndedBy},
};

/// Does what a command says; whatever goes wrong is told on standard error.
#[must_use]
pub fn perform(command: Command) -> Exit {
    if !matches!(command, Command::Run { .. }) {
        fault::end_on_panic(EndedBy::Others);
    }
    match command {
        Command::Run { config, args } => run::run(config, args),
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
            past(config.as_deref(), &args.logs, |past| cli::explain::of_logs(past, &mut io::stdout()))
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
                fault::say(&faults);
                Exit::Usage
            }
        },
        Command::Version => printed(writeln!(io::stdout(), "{}", cli::VERSION).map(|()| Exit::Good)),
    }
}

/// The configuration, its warnings logged; faults go to standard error.
fn load(path: Option<&Path>) -> Result<Config, Exit> {
    log();
    let config = config::load(path).map_err(|faults| {
        fault::say(&faults);
        Exit::Usage
    })?;
    for warning in &config.warnings {
        warn!("{warning}");
    }
    Ok(config)
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
            fault::say(&error);
            Exit::Failure
        }
    }
}

/// What a command that writes files ends with.
fn written(folder: &Path, result: io::Result<()>) -> Exit {
    match result {
        Ok(()) => Exit::Good,
        Err(error) => {
            fault::say(format_args!("{}: {error}", folder.display()));
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
    // A line that cannot be written is lost: told of it, the subscriber would panic where it cannot say so either.
    format.log_internal_errors(false).with_writer(io::stderr).init();
}
