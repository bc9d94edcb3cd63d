//! The command that counts.

use std::{path::PathBuf, sync::Arc};

use tracing::{error, warn};

use super::{load, say};
use crate::{
    agent,
    cli::{self, Exit, RunArgs},
    clock, config, fault,
    kernel::Lookout,
    privileges,
};

pub(super) fn run(path: Option<PathBuf>, args: RunArgs) -> Exit {
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
        say(format_args!("{error}"));
        return Exit::Usage;
    }
    let file = path.clone();
    let read = move || {
        let faults = |faults: config::Faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut config = config::load(path.as_deref()).map_err(faults)?;
        cli::overrides::apply(&mut config, args.clone()).map_err(|error| vec![error.to_string()])?;
        Ok(config)
    };
    let source = agent::Source { file, read: Arc::new(read) };
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
