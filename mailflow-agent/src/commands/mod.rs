//! The commands: what was typed, done, and what it ends with.

mod offline;
mod run;

use std::{
    fmt,
    io::{self, IsTerminal, Write},
    path::Path,
};

use tracing::warn;
use tracing_subscriber::{EnvFilter, field::MakeExt, fmt::format};

use self::offline::{backtest, past, replay};
use crate::{
    cli::{self, Command, Exit},
    config::{self, Config, Faults},
    fault::{self, EndedBy},
    terminal,
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
            printed(cli::config::check(&files, &mut terminal::out(), &mut terminal::err()))
        }
        Command::TestRules { files } => {
            printed(cli::rules::test(&files, &mut terminal::out(), &mut terminal::err()))
        }
        Command::PrintConfig { file } => printed(print(file.as_deref())),
        Command::Status { config, args } => asked(config.as_deref(), &args.socket, |socket| {
            cli::ask::status(socket, &args, &mut terminal::out(), &mut terminal::err())
        }),
        Command::Top { config, args } => asked(config.as_deref(), &args.socket, |socket| {
            cli::top::run(socket, &args, &mut terminal::err())
        }),
        Command::Reload { config, args } => asked(config.as_deref(), &args, |socket| {
            cli::ask::reload(socket, &mut terminal::out(), &mut terminal::err())
        }),
        Command::Completions { shell } => printed(cli::pages::completions(shell, &mut io::stdout())),
        Command::Man { folder } => written(&folder, cli::pages::man(&folder)),
        Command::Explain { config, args } if !args.logs.logs.is_empty() => {
            past(config.as_deref(), &args.logs, |past| {
                let told = past.explain(args.source, args.flows);
                cli::explain::print(&args, &told, &mut terminal::out())
            })
        }
        Command::Suggest { config, args } if !args.logs.logs.is_empty() => {
            past(config.as_deref(), &args.logs, |past| cli::explain::of_logs(past, &mut terminal::out()))
        }
        Command::Explain { config, args } => asked(config.as_deref(), &args.socket, |socket| {
            cli::explain::explain(socket, &args, &mut terminal::out(), &mut terminal::err())
        }),
        Command::Suggest { config, args } => asked(config.as_deref(), &args.socket, |socket| {
            cli::explain::suggest(socket, &mut terminal::out(), &mut terminal::err())
        }),
        Command::Doctor { config, args } => match config::load(config.as_deref()) {
            Ok(config) => printed(cli::doctor::run(config, &args, &mut terminal::out())),
            Err(faults) => faulty(&faults),
        },
        Command::Version => printed(writeln!(io::stdout(), "{}", cli::VERSION).map(|()| Exit::Good)),
    }
}

/// The configuration, its warnings logged; faults go to standard error.
fn load(path: Option<&Path>) -> Result<Config, Exit> {
    log();
    let config = config::load(path).map_err(|faults| faulty(&faults))?;
    for warning in &config.warnings {
        warn!("{warning}");
    }
    Ok(config)
}

/// Prints what is wrong with a configuration.
fn faulty(faults: &Faults) -> Exit {
    faults.iter().for_each(|fault| say(format_args!("{fault}")));
    Exit::Usage
}

/// Prints a line on standard error.
fn say(line: fmt::Arguments<'_>) {
    // There is no other place to say that it cannot be written.
    let _ = writeln!(terminal::err(), "{line}");
}

/// `print-config`: byte for byte, but for a terminal, which would act on some of them.
fn print(file: Option<&Path>) -> io::Result<Exit> {
    let err = &mut terminal::err();
    if io::stdout().is_terminal() {
        cli::config::print(file, &mut terminal::out(), err)
    } else {
        cli::config::print(file, &mut io::stdout(), err)
    }
}

/// What a command that asks the running agent ends with.
fn asked(config: Option<&Path>, args: &cli::SocketArgs, ask: impl FnOnce(&Path) -> io::Result<Exit>) -> Exit {
    match cli::ask::socket(config, args, &mut terminal::err()) {
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
            say(format_args!("{error}"));
            Exit::Failure
        }
    }
}

/// What a command that writes files ends with.
fn written(folder: &Path, result: io::Result<()>) -> Exit {
    match result {
        Ok(()) => Exit::Good,
        Err(error) => {
            say(format_args!("{}: {error}", folder.display()));
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
    // As the format's own, but that values cannot make a terminal act.
    let fields = format::debug_fn(|writer, field, value| {
        let value = format!("{value:?}");
        match field.name() {
            "message" => write!(writer, "{}", terminal::escape(&value)),
            name => write!(writer, "{name}={}", terminal::escape(&value)),
        }
    });
    // A line that cannot be written is lost: the subscriber would panic where it cannot say so either.
    let format = format.log_internal_errors(false);
    format.fmt_fields(fields.delimited(" ")).with_writer(io::stderr).init();
}
