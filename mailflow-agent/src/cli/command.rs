//! The command line: arguments as typed -> a [`Command`], and the commands that only read a
//! configuration.

use std::{collections::HashSet, ffi::OsString, io::Write, path::PathBuf};

use clap::{CommandFactory, Parser, error::ErrorKind};
use clap_complete::Shell;

pub(super) use super::args::{
    BacktestArgs, DoctorArgs, ExplainArgs, ReplayArgs, RunArgs, SocketArgs, StatusArgs, SuggestArgs, TopArgs,
};
use super::args::{RulesVerb, Typed, Verb};
use crate::util::terminal;

/// What the process ends with; others script against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exit {
    /// Good.
    Good,
    /// Findings, or a failure at run time.
    Failure,
    /// Bad usage or configuration.
    Usage,
}

impl Exit {
    /// The exit status.
    pub const fn code(self) -> u8 {
        match self {
            Exit::Good => 0,
            Exit::Failure => 1,
            Exit::Usage => 2,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Watch interfaces.
    Run {
        /// The configuration file; the shipped configuration without one.
        config: Option<PathBuf>,
        /// What wins over it.
        args: RunArgs,
    },
    /// Count what captures hold.
    Replay {
        /// The configuration file; the shipped configuration without one.
        config: Option<PathBuf>,
        /// What wins over it.
        args: ReplayArgs,
    },
    /// Evaluate the rules on flow logs.
    Backtest {
        /// The configuration file; the shipped configuration without one.
        config: Option<PathBuf>,
        /// What wins over it.
        args: BacktestArgs,
    },
    /// Validate configurations.
    CheckConfig {
        /// The files; the shipped configuration without any.
        files: Vec<PathBuf>,
    },
    /// Run rule tests.
    TestRules {
        /// The files.
        files: Vec<PathBuf>,
    },
    /// Print a configuration as it is written.
    PrintConfig {
        /// The file; the shipped configuration without one.
        file: Option<PathBuf>,
    },
    /// Tell how the running agent is.
    Status {
        /// The configuration file, for its socket.
        config: Option<PathBuf>,
        /// What it was told.
        args: StatusArgs,
    },
    /// Show what its sources send.
    Top {
        /// The configuration file, for its socket.
        config: Option<PathBuf>,
        /// What it was told.
        args: TopArgs,
    },
    /// Let it read its configuration again.
    Reload {
        /// The configuration file, for its socket.
        config: Option<PathBuf>,
        /// What it was told.
        args: SocketArgs,
    },
    /// Print a shell's completions.
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// Write the man pages.
    Man {
        /// Where to.
        folder: PathBuf,
    },
    /// Tell all there is to say of a source.
    Explain {
        /// The configuration file, for its socket or its rules.
        config: Option<PathBuf>,
        /// What it was told.
        args: ExplainArgs,
    },
    /// Print what an allow-list might name.
    Suggest {
        /// The configuration file, for its socket or its rules.
        config: Option<PathBuf>,
        /// What it was told.
        args: SuggestArgs,
    },
    /// Look at this machine.
    Doctor {
        /// The configuration file; the shipped configuration without one.
        config: Option<PathBuf>,
        /// What it was told.
        args: DoctorArgs,
    },
    /// Print the version.
    Version,
}

/// The line that `version` and `--version` print.
pub const VERSION: &str = concat!("mailflow-agent ", env!("CARGO_PKG_VERSION"));

/// The process's own arguments; ends the process on bad usage (2), `--help` and `--version` (0).
pub fn parse() -> Command {
    parse_from(std::env::args_os()).unwrap_or_else(|error| {
        if !error.use_stderr() {
            error.exit();
        }
        // Names of files are arguments too, and a shell's pattern brings in those of others.
        for line in error.render().to_string().lines() {
            let _ = writeln!(terminal::err(), "{line}");
        }
        std::process::exit(error.exit_code())
    })
}

/// Arguments, the program's name first.
pub fn parse_from<I, T>(arguments: I) -> Result<Command, clap::Error>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let Typed { config, verb } = Typed::try_parse_from(arguments)?;
    let conflict = |message: String| Err(Typed::command().error(ErrorKind::ArgumentConflict, message));
    Ok(match verb {
        Verb::Run(args) => {
            let mut names = HashSet::new();
            if let Some(twice) = args.interfaces.iter().find(|name| !names.insert(*name)) {
                return conflict(format!("--interface {twice} is given twice"));
            }
            Command::Run { config, args }
        }
        Verb::Replay(args) => Command::Replay { config, args },
        Verb::Backtest(args) => Command::Backtest { config, args },
        Verb::CheckConfig { files } => {
            Command::CheckConfig { files: config.into_iter().chain(files).collect() }
        }
        // What a test is about stands in its file.
        Verb::Rules { verb: RulesVerb::Test { .. } } if config.is_some() => {
            return conflict(
                "rules test takes no --config; a test file names its own: config: FILE".to_owned(),
            );
        }
        Verb::Rules { verb: RulesVerb::Test { files } } => Command::TestRules { files },
        Verb::PrintConfig { file: Some(_) } if config.is_some() => {
            return conflict("print-config takes FILE or --config, not both".to_owned());
        }
        Verb::PrintConfig { file } => Command::PrintConfig { file: file.or(config) },
        Verb::Status(args) => Command::Status { config, args },
        Verb::Top(args) => Command::Top { config, args },
        Verb::Reload(args) => Command::Reload { config, args },
        Verb::Completions { shell } => Command::Completions { shell },
        Verb::Man { folder } => Command::Man { folder },
        Verb::Explain(args) => Command::Explain { config, args },
        Verb::Suggest(args) => Command::Suggest { config, args },
        Verb::Doctor(args) => Command::Doctor { config, args },
        Verb::Version => Command::Version,
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
    fn the_definition_is_sound() {
        Typed::command().debug_assert();
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
    fn the_configuration_is_global() {
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
    fn why_is_asked_of_an_agent_or_of_logs() {
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
    fn rule_tests_name_their_own_configuration() {
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
            assert_eq!(error.exit_code(), i32::from(Exit::Usage.code()), "{typed}: {error}");
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
