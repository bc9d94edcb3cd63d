//! The project's tasks: `cargo xtask --help` lists them.

mod agent;
mod bench;
mod bpf;
mod delivery;
mod demo;
mod deny;
mod dist;
mod fuzz;
mod imports;
mod kernels;
mod record;
mod run;
mod scenarios;
mod setup;
mod terminal;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's tasks")]
enum Task {
    /// Show the whole path on this machine alone: a gateway, a mail server, mail, an alert
    Demo(demo::Args),
    /// Build the agent and run it on a real interface
    Run(run::Args),
    /// Run every test and check there is, as root
    Test(test::Args),
    /// Look for inputs that a parser of outside input gets wrong
    Fuzz(fuzz::Args),
    /// Install the command-line tools that the other tasks need, or say which are missing
    Setup(setup::Args),
    /// Show what the shipped rules find on a network of a thousand hosts, and what they take for it
    Scenarios(scenarios::Args),
    /// Measure what counting costs, and hold it against the bars
    Bench(bench::Args),
    /// Build what is installed: a static binary, and a package for Debian and Ubuntu
    Dist(dist::Args),
    /// Record what the agent makes of known inputs, or compare two such recordings
    Record(record::Args),
    /// Print the import graph of crates and files; circles and wrong arrows are errors
    Imports(imports::Args),
    /// Check the dependencies: licences, sources, known vulnerabilities
    Deny,
    /// Build the BPF object, or check that it is what its sources make
    Bpf(bpf::Args),
}

fn main() -> ExitCode {
    let result = match Task::parse() {
        Task::Demo(args) => return demo::run(&args),
        Task::Run(args) => run::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Setup(args) => setup::run(&args),
        Task::Scenarios(args) => scenarios::run(&args),
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
    use mailflow_tests::documents;

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
