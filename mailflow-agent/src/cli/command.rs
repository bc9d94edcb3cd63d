//! Validated commands: converts the arguments as typed into a [`Command`].

use std::{collections::HashSet, ffi::OsString, io::Write, path::PathBuf};

use clap::{CommandFactory, Parser, error::ErrorKind};
use clap_complete::Shell;

pub(super) use super::args::{
    BacktestArgs, DoctorArgs, ExplainArgs, ReplayArgs, RunArgs, SocketArgs, StatusArgs, SuggestArgs, TopArgs,
};
use super::args::{Cli, CliCommand, RulesCommand};
use crate::util::terminal;

/// Exit status of the process. It is a stable interface for scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExitStatus {
    /// Success.
    Good,
    /// Findings, or a failure at run time.
    Failure,
    /// Bad usage or configuration.
    Usage,
}

impl ExitStatus {
    /// Returns the exit status.
    pub const fn code(self) -> u8 {
        match self {
            ExitStatus::Good => 0,
            ExitStatus::Failure => 1,
            ExitStatus::Usage => 2,
        }
    }
}

impl From<ExitStatus> for std::process::ExitCode {
    fn from(exit: ExitStatus) -> Self {
        exit.code().into()
    }
}

/// Command to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Count mail flows of interfaces.
    Run {
        /// Configuration file; `None` for the shipped configuration.
        config: Option<PathBuf>,
        /// Arguments that override the configuration.
        args: RunArgs,
    },
    /// Count the packets of captures.
    Replay {
        /// Configuration file; `None` for the shipped configuration.
        config: Option<PathBuf>,
        /// Arguments that override the configuration.
        args: ReplayArgs,
    },
    /// Evaluate the rules on flow logs.
    Backtest {
        /// Configuration file; `None` for the shipped configuration.
        config: Option<PathBuf>,
        /// Arguments that override the configuration.
        args: BacktestArgs,
    },
    /// Validate configurations.
    CheckConfig {
        /// Files; empty for the shipped configuration.
        files: Vec<PathBuf>,
    },
    /// Run rule tests.
    TestRules {
        /// Rule test files.
        files: Vec<PathBuf>,
    },
    /// Print a configuration.
    PrintConfig {
        /// File; `None` for the shipped configuration.
        file: Option<PathBuf>,
    },
    /// Print the status of the running agent.
    Status {
        /// Configuration file, for the path of the socket.
        config: Option<PathBuf>,
        /// Arguments.
        args: StatusArgs,
    },
    /// Show the traffic of each source.
    Top {
        /// Configuration file, for the path of the socket.
        config: Option<PathBuf>,
        /// Arguments.
        args: TopArgs,
    },
    /// Reload the configuration of the running agent.
    Reload {
        /// Configuration file, for the path of the socket.
        config: Option<PathBuf>,
        /// Arguments.
        args: SocketArgs,
    },
    /// Print a shell's completion script.
    Completions {
        /// Shell.
        shell: Shell,
    },
    /// Write the man pages.
    Man {
        /// Output directory.
        folder: PathBuf,
    },
    /// Explain a source.
    Explain {
        /// Configuration file, for the path of the socket or for the rules.
        config: Option<PathBuf>,
        /// Arguments.
        args: ExplainArgs,
    },
    /// Suggest allow-list entries.
    Suggest {
        /// Configuration file, for the path of the socket or for the rules.
        config: Option<PathBuf>,
        /// Arguments.
        args: SuggestArgs,
    },
    /// Check this machine.
    Doctor {
        /// Configuration file; `None` for the shipped configuration.
        config: Option<PathBuf>,
        /// Arguments.
        args: DoctorArgs,
    },
    /// Print the version.
    Version,
}

/// Output of `version` and `--version`.
pub const VERSION: &str = concat!("mailflow-agent ", env!("CARGO_PKG_VERSION"));

/// Parses the arguments of the process. Exits on bad usage (2), `--help` and `--version` (0).
pub fn parse() -> Command {
    parse_from(std::env::args_os()).unwrap_or_else(|error| {
        if !error.use_stderr() {
            error.exit();
        }
        // The terminal writer escapes the arguments, as file names of other users may be among them.
        for line in error.render().to_string().lines() {
            let _ = writeln!(terminal::err(), "{line}");
        }
        std::process::exit(error.exit_code())
    })
}

/// Parses arguments, of which the first is the program's name.
pub fn parse_from<I, T>(arguments: I) -> Result<Command, clap::Error>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let Cli { config, command } = Cli::try_parse_from(arguments)?;
    let conflict = |message: String| Err(Cli::command().error(ErrorKind::ArgumentConflict, message));
    Ok(match command {
        CliCommand::Run(args) => {
            let mut names = HashSet::new();
            if let Some(twice) = args.interfaces.iter().find(|name| !names.insert(*name)) {
                return conflict(format!("--interface {twice} is given twice"));
            }
            Command::Run { config, args }
        }
        CliCommand::Replay(args) => Command::Replay { config, args },
        CliCommand::Backtest(args) => Command::Backtest { config, args },
        CliCommand::CheckConfig { files } => {
            Command::CheckConfig { files: config.into_iter().chain(files).collect() }
        }
        // A test file names its own configuration.
        CliCommand::Rules { command: RulesCommand::Test { .. } } if config.is_some() => {
            return conflict(
                "rules test takes no --config; a test file names its own: config: FILE".to_owned(),
            );
        }
        CliCommand::Rules { command: RulesCommand::Test { files } } => Command::TestRules { files },
        CliCommand::PrintConfig { file: Some(_) } if config.is_some() => {
            return conflict("print-config takes FILE or --config, not both".to_owned());
        }
        CliCommand::PrintConfig { file } => Command::PrintConfig { file: file.or(config) },
        CliCommand::Status(args) => Command::Status { config, args },
        CliCommand::Top(args) => Command::Top { config, args },
        CliCommand::Reload(args) => Command::Reload { config, args },
        CliCommand::Completions { shell } => Command::Completions { shell },
        CliCommand::Man { folder } => Command::Man { folder },
        CliCommand::Explain(args) => Command::Explain { config, args },
        CliCommand::Suggest(args) => Command::Suggest { config, args },
        CliCommand::Doctor(args) => Command::Doctor { config, args },
        CliCommand::Version => Command::Version,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{LogArgs, ReadingArgs};
    use crate::config::{Hook, LogLevel, Role, Target, scalar::Switch};
    use std::time::Duration;

    fn command(arguments: &str) -> Result<Command, clap::Error> {
        parse_from(["mailflow-agent"].into_iter().chain(arguments.split_whitespace()))
    }

    #[test]
    fn clap_definition_is_valid() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_takes_everything() {
        let typed = "run --config a.yaml --interface eth1 --interface wg0 --role lan --hook tc --flow-log - \
                     --alerts a.json --metrics off --poll-interval 0.1s --control /a --state off --pins /b --keep \
                     --kernel-log warn";
        let Ok(Command::Run { config, args }) = command(typed) else { panic!("a run") };
        assert_eq!(config, Some(PathBuf::from("a.yaml")));
        assert_eq!(
            args,
            RunArgs {
                interfaces: vec!["eth1".to_owned(), "wg0".to_owned()],
                role: Some(Role::Lan),
                hook: Some(Hook::Tc),
                flow_log: Some(Switch::To(Target::Stdout)),
                alerts: Some(Switch::To(Target::File("a.json".into()))),
                metrics: Some(Switch::Off),
                poll_interval: Some(Duration::from_millis(100)),
                control: Some(Switch::To("/a".into())),
                state: Some(Switch::Off),
                pins: Some(Switch::To("/b".into())),
                keep: true,
                kernel_log: Some(LogLevel::Warn),
            }
        );
    }

    #[test]
    fn config_argument_is_global() {
        let expected = Command::Run { config: Some("a".into()), args: RunArgs::default() };
        assert_eq!(command("--config a run").unwrap(), expected);
        assert_eq!(command("run --config=a").unwrap(), expected);
        assert_eq!(command("print-config").unwrap(), Command::PrintConfig { file: None });
        assert_eq!(
            command("print-config --config a").unwrap(),
            Command::PrintConfig { file: Some("a".into()) }
        );
        let check =
            |files: &[&str]| Command::CheckConfig { files: files.iter().map(PathBuf::from).collect() };
        assert_eq!(command("check-config").unwrap(), check(&[]));
        assert_eq!(command("check-config --config a").unwrap(), check(&["a"]));
        assert_eq!(command("check-config b c --config a").unwrap(), check(&["a", "b", "c"]));
    }

    #[test]
    fn backtest_takes_everything() {
        let typed = "backtest a.json b.gz --config c.yaml --alerts off --l2-overhead 18 --drain";
        let args = BacktestArgs {
            logs: ["a.json", "b.gz"].map(PathBuf::from).to_vec(),
            alerts: Some(Switch::Off),
            reading: ReadingArgs { l2_overhead: Some(18), columns: Vec::new() },
            drain: true,
        };
        assert_eq!(command(typed).unwrap(), Command::Backtest { config: Some("c.yaml".into()), args });
    }

    #[test]
    fn explain_reads_a_socket_or_logs() {
        let Ok(Command::Explain { args, .. }) = command("explain 10.0.0.1 --log a b --l2-overhead 18") else {
            panic!("an explanation")
        };
        let logs = ["a", "b"].map(PathBuf::from).to_vec();
        assert_eq!(
            args.logs,
            LogArgs { logs, reading: ReadingArgs { l2_overhead: Some(18), columns: Vec::new() } }
        );
        let args = SuggestArgs::default();
        assert_eq!(command("suggest").unwrap(), Command::Suggest { config: None, args });
    }

    #[test]
    fn rules_test_refuses_config_argument() {
        let files = ["a.yaml", "b.yaml"].map(PathBuf::from).to_vec();
        assert_eq!(command("rules test a.yaml b.yaml").unwrap(), Command::TestRules { files });
        assert!(
            command("rules test a.yaml --config b").expect_err("both").to_string().contains("config: FILE")
        );
    }

    #[test]
    fn bad_usage_ends_with_2() {
        for typed in [
            "",
            "fly",
            "run --role wan",
            "run --hook generic",
            "run --poll-interval 1",
            "run --poll-interval 61s",
            "run --metrics :1",
            "run --interface a/b",
            "run --kernel-log loud",
            "run --interface a --interface a",
            "run --alerts=",
            "run eth0",
            "version --config",
            "backtest",
            "run --state here",
            "top --sort size",
            "top --interval 1ms",
            "status now",
            "backtest a --l2-overhead -1",
            "explain",
            "explain 10.0.0.1 --log",
            "explain 10.0.0.1 --log a --socket b",
            "suggest --l2-overhead 18",
            "backtest a --l2-overhead 70000",
            "print-config a --config b",
            "rules",
            "rules test",
            "rules test a --config b",
        ] {
            let error = command(typed).expect_err(typed);
            assert_eq!(error.exit_code(), i32::from(ExitStatus::Usage.code()), "{typed}: {error}");
        }
        assert_eq!(command("--help").expect_err("help").exit_code(), 0);
        let version = command("--version").expect_err("version");
        assert_eq!((version.exit_code(), version.to_string().trim_end()), (0, VERSION));
        assert_eq!(command("version").unwrap(), Command::Version);
    }

    #[test]
    fn usage_errors_say_what_is_expected() {
        let message = |typed: &str| command(typed).expect_err(typed).to_string();
        assert!(message("run --role lam").contains("'lan'"), "{}", message("run --role lam"));
        assert!(message("run --poll-interval 5").contains("did you mean 5s?"));
    }
}
