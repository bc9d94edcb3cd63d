//! The commands: what was typed, done, and what it ends with.

use std::{
    io::{self, IsTerminal, Write},
    path::Path,
};

use super::{
    args::SocketArgs,
    client,
    command::{Command, Exit, VERSION},
    common::{faulty, printed, say},
    config, doctor, explain, man,
    offline::{backtest, past, replay},
    rules, top,
};
use crate::util::{
    error_chain::{self, EndedBy},
    terminal,
};

/// Does what a command says; whatever goes wrong is told on standard error.
#[must_use]
pub fn perform(command: Command) -> Exit {
    if !matches!(command, Command::Run { .. }) {
        error_chain::end_on_panic(EndedBy::Others);
    }
    match command {
        Command::Run { config, args } => super::run::run(config, args),
        Command::Replay { config, args } => replay(config.as_deref(), args),
        Command::Backtest { config, args } => backtest(config.as_deref(), &args),
        Command::CheckConfig { files } => {
            printed(config::check(&files, &mut terminal::out(), &mut terminal::err()))
        }
        Command::TestRules { files } => {
            printed(rules::test(&files, &mut terminal::out(), &mut terminal::err()))
        }
        Command::PrintConfig { file } => printed(print(file.as_deref())),
        Command::Status { config, args } => asked(config.as_deref(), &args.socket, |socket| {
            client::status(socket, &args, &mut terminal::out(), &mut terminal::err())
        }),
        Command::Top { config, args } => {
            asked(config.as_deref(), &args.socket, |socket| top::run(socket, &args, &mut terminal::err()))
        }
        Command::Reload { config, args } => asked(config.as_deref(), &args, |socket| {
            client::reload(socket, &mut terminal::out(), &mut terminal::err())
        }),
        Command::Completions { shell } => printed(man::completions(shell, &mut io::stdout())),
        Command::Man { folder } => written(&folder, man::man(&folder)),
        Command::Explain { config, args } if !args.logs.logs.is_empty() => {
            past(config.as_deref(), &args.logs, |past| {
                let told = past.explain(args.source, args.flows);
                explain::print(&args, &told, &mut terminal::out())
            })
        }
        Command::Suggest { config, args } if !args.logs.logs.is_empty() => {
            past(config.as_deref(), &args.logs, |past| explain::of_logs(past, &mut terminal::out()))
        }
        Command::Explain { config, args } => asked(config.as_deref(), &args.socket, |socket| {
            explain::explain(socket, &args, &mut terminal::out(), &mut terminal::err())
        }),
        Command::Suggest { config, args } => asked(config.as_deref(), &args.socket, |socket| {
            explain::suggest(socket, &mut terminal::out(), &mut terminal::err())
        }),
        Command::Doctor { config, args } => match crate::config::load(config.as_deref()) {
            Ok(config) => printed(doctor::run(config, &args, &mut terminal::out())),
            Err(faults) => faulty(&faults),
        },
        Command::Version => printed(writeln!(io::stdout(), "{}", VERSION).map(|()| Exit::Good)),
    }
}

/// `print-config`: byte for byte, but for a terminal, which would act on some of them.
fn print(file: Option<&Path>) -> io::Result<Exit> {
    let err = &mut terminal::err();
    if io::stdout().is_terminal() {
        config::print(file, &mut terminal::out(), err)
    } else {
        config::print(file, &mut io::stdout(), err)
    }
}

/// What a command that asks the running agent ends with.
fn asked(config: Option<&Path>, args: &SocketArgs, ask: impl FnOnce(&Path) -> io::Result<Exit>) -> Exit {
    match client::socket(config, args, &mut terminal::err()) {
        Ok(Some(socket)) => printed(ask(&socket)),
        Ok(None) => Exit::Usage,
        Err(error) => printed(Err(error)),
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
