//! The project's tasks: `cargo xtask --help` lists them.

mod agent;
mod bench;
mod bpf;
mod demo;
mod deny;
mod dist;
mod fuzz;
mod imports;
mod interrupt;
mod kernels;
mod packaging;
mod record;
mod run;
mod scenarios;
mod screenshots;
mod setup;
mod terminal;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::Parser;
use mailflow_test_support::lab;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's tasks")]
enum Task {
    /// Run the complete demo on this machine: a gateway, a mail server, mail, an alert
    Demo(demo::Args),
    /// Build the agent and run it on a real interface
    Run(run::Args),
    /// Run the checks that need no root, in a minute once all is built
    Check,
    /// Run every test and check as root, or those that are named
    Test(test::Args),
    /// Search for inputs that a parser of untrusted input handles wrongly
    Fuzz(fuzz::Args),
    /// Install the command-line tools that the other tasks need, or say which are missing
    Setup(setup::Args),
    /// Print what the shipped rules detect on a network of a thousand hosts, and their false positives
    Scenarios(scenarios::Args),
    /// Draw the pictures of the documentation: `top`, an alert, the Grafana dashboards
    Screenshots(screenshots::Args),
    /// Measure the cost of counting, and compare it with the limits
    Bench(bench::Args),
    /// Build the files to install: a static binary, and a package for Debian and Ubuntu
    Dist(dist::Args),
    /// Record the agent's output for known inputs, or compare two such recordings
    Record(record::Args),
    /// Print the import graph of crates and files; cycles and forbidden dependencies are errors
    Imports(imports::Args),
    /// Check the dependencies: licences, sources, known vulnerabilities
    Deny,
    /// Build the BPF object, or check that it belongs to its sources
    Bpf(bpf::Args),
}

fn main() -> ExitCode {
    // cargo describes this package to it. With these variables build scripts of dependencies would run again in every
    // cargo below, and dependencies would build again.
    let variables: Vec<_> = lab::package_variables().collect();
    for name in variables {
        // SAFETY: no other thread runs yet.
        unsafe { std::env::remove_var(name) };
    }
    let result = match Task::parse() {
        Task::Demo(args) => return demo::run(&args),
        Task::Run(args) => run::run(&args),
        Task::Check => test::check(),
        Task::Test(args) => test::run(&args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Setup(args) => setup::run(&args),
        Task::Scenarios(args) => scenarios::run(&args),
        Task::Screenshots(args) => screenshots::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Dist(args) => dist::run(&args).map(drop),
        Task::Record(args) => record::run(&args),
        Task::Imports(args) => imports::run(&args),
        Task::Deny => deny::run(),
        Task::Bpf(args) => bpf::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use mailflow_test_support::documents;

    use super::Task;

    #[test]
    fn documented_tasks_parse() {
        let mut tasks = 0;
        for page in documents::pages().unwrap() {
            let blocks = page.blocks();
            for command in blocks.iter().filter(|block| block.is_shell()).flat_map(documents::Block::commands)
            {
                if !command.words.starts_with(&["cargo".to_owned(), "xtask".to_owned()]) {
                    continue;
                }
                tasks += 1;
                let parsed = Task::try_parse_from(command.words.iter().skip(1));
                assert!(parsed.is_ok(), "{}:{}: {}", page.name, command.line, command.words.join(" "));
            }
        }
        assert!(tasks > 10, "{tasks} tasks");
    }
}
