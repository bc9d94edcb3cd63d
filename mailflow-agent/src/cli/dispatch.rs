//! Runs commands and returns their exit statuses.

use std::{
    io::{self, IsTerminal, Write},
    path::Path,
};

use super::{
    args::SocketArgs,
    client,
    command::{Command, ExitStatus, VERSION},
    common::{exit_status, print_error, report_diagnostics},
    config, doctor, explain, man,
    offline::{backtest, replay, with_flow_logs},
    rules, top,
};
use crate::util::{
    error_chain::{self, PanicScope},
    terminal,
};

/// Runs a command. Errors are printed to standard error.
#[must_use]
pub fn dispatch(command: Command) -> ExitStatus {
    if !matches!(command, Command::Run { .. }) {
        error_chain::exit_on_panic(PanicScope::ExceptMain);
    }
    match command {
        Command::Run { config, args } => super::run::run(config, args),
        Command::Replay { config, args } => replay(config.as_deref(), args),
        Command::Backtest { config, args } => backtest(config.as_deref(), &args),
        Command::CheckConfig { files } => {
            exit_status(config::check(&files, &mut terminal::out(), &mut terminal::err()))
        }
        Command::TestRules { files } => {
            exit_status(rules::test(&files, &mut terminal::out(), &mut terminal::err()))
        }
        Command::PrintConfig { file } => exit_status(print(file.as_deref())),
        Command::Status { config, args } => run_client_command(config.as_deref(), &args.socket, |socket| {
            client::status(socket, &args, &mut terminal::out(), &mut terminal::err())
        }),
        Command::Top { config, args } => run_client_command(config.as_deref(), &args.socket, |socket| {
            top::run(socket, &args, &mut terminal::err())
        }),
        Command::Reload { config, args } => run_client_command(config.as_deref(), &args, |socket| {
            client::reload(socket, &mut terminal::out(), &mut terminal::err())
        }),
        Command::Completions { shell } => exit_status(man::write_completions(shell, &mut io::stdout())),
        Command::Man { folder } => write_status(&folder, man::write_man_pages(&folder)),
        Command::Explain { config, args } if !args.logs.logs.is_empty() => {
            with_flow_logs(config.as_deref(), &args.logs, |with_flow_logs| {
                let explanation = with_flow_logs.explain(args.source, args.flows);
                explain::print(&args, &explanation, &mut terminal::out())
            })
        }
        Command::Suggest { config, args } if !args.logs.logs.is_empty() => {
            with_flow_logs(config.as_deref(), &args.logs, |with_flow_logs| {
                explain::suggest_from_logs(with_flow_logs, &mut terminal::out())
            })
        }
        Command::Explain { config, args } => run_client_command(config.as_deref(), &args.socket, |socket| {
            explain::explain(socket, &args, &mut terminal::out(), &mut terminal::err())
        }),
        Command::Suggest { config, args } => run_client_command(config.as_deref(), &args.socket, |socket| {
            explain::suggest(socket, &mut terminal::out(), &mut terminal::err())
        }),
        Command::Doctor { config, args } => match crate::config::load(config.as_deref()) {
            Ok(config) => exit_status(doctor::run(config, &args, &mut terminal::out())),
            Err(faults) => report_diagnostics(&faults),
        },
        Command::Version => exit_status(writeln!(io::stdout(), "{}", VERSION).map(|()| ExitStatus::Good)),
    }
}

/// Runs `print-config`. The output is escaped only for a terminal.
fn print(file: Option<&Path>) -> io::Result<ExitStatus> {
    let err = &mut terminal::err();
    if io::stdout().is_terminal() {
        config::print(file, &mut terminal::out(), err)
    } else {
        config::print(file, &mut io::stdout(), err)
    }
}

/// Runs a client command with the agent's socket.
fn run_client_command(
    config: Option<&Path>,
    args: &SocketArgs,
    ask: impl FnOnce(&Path) -> io::Result<ExitStatus>,
) -> ExitStatus {
    match client::find_socket(config, args, &mut terminal::err()) {
        Ok(Some(socket)) => exit_status(ask(&socket)),
        Ok(None) => ExitStatus::Usage,
        Err(error) => exit_status(Err(error)),
    }
}

/// Converts the result of a command that writes files into an exit status.
fn write_status(folder: &Path, result: io::Result<()>) -> ExitStatus {
    match result {
        Ok(()) => ExitStatus::Good,
        Err(error) => {
            print_error(format_args!("{}: {error}", folder.display()));
            ExitStatus::Failure
        }
    }
}
