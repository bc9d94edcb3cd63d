//! The command that counts.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Barrier, mpsc},
    thread,
    time::Duration,
};

use tokio::runtime::{Builder, Runtime};
use tracing::{error, warn};

use super::{
    args::RunArgs,
    command::Exit,
    common::{load, say},
    overrides,
};
use crate::{
    agent, config,
    util::error_chain::{self, EndedBy},
};
use mailflow_kernel::HookQueryHelper;
use mailflow_kernel::capabilities;
use mailflow_kernel::clock;

/// Threads that run what waits for the network.
const WORKERS: usize = 2;
/// Threads that make pages and check passwords, which takes a while.
const HELPERS: usize = 8;
/// A thread that is started begins within this time, or was not started.
const BEGINNING: Duration = Duration::from_secs(30);
/// Longer than any agent runs: a helper that ended might not be started again.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86_400);

pub(crate) fn run(path: Option<PathBuf>, args: RunArgs) -> Exit {
    // Before anything is read, and before there is a second thread.
    let lookout = HookQueryHelper::start();
    error_chain::end_on_panic(EndedBy::Any);
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
    if let Err(error) = overrides::apply(&mut config, args.clone()) {
        say(format_args!("{error}"));
        return Exit::Usage;
    }
    let file = path.clone();
    let read = move || {
        let faults = |faults: config::Faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut config = config::load(path.as_deref()).map_err(faults)?;
        overrides::apply(&mut config, args.clone()).map_err(|error| vec![error.to_string()])?;
        Ok(config)
    };
    let source = agent::Source { file, read: Arc::new(read) };
    // What needs capabilities is done by this thread.
    let result = match runtime() {
        Ok(runtime) => {
            let result = runtime.block_on(agent::run(config, source, lookout.ok()));
            // What a helper is still at is of no use any more.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(anyhow::Error::from(error).context(format!(
            "cannot start {} threads; what limits them are RLIMIT_NPROC (ulimit -u, LimitNPROC=) and a cgroup's \
             pids.max (TasksMax=)",
            WORKERS + HELPERS
        ))),
    };
    match result {
        Ok(()) => Exit::Good,
        Err(error) => {
            error!("{}", error_chain::told(&error));
            Exit::Failure
        }
    }
}

/// The runtime with all threads that it will ever have: one that cannot be started is an error now. Later the runtime
/// would wait for it in silence, or panic.
fn runtime() -> io::Result<Runtime> {
    try_threads(WORKERS + HELPERS)?;
    let mut runtime = Builder::new_multi_thread();
    runtime.worker_threads(WORKERS).max_blocking_threads(HELPERS).thread_keep_alive(FOR_EVER);
    let runtime = runtime.enable_all().on_thread_start(capabilities::drop_all).build()?;
    let (begun, beginnings) = mpsc::channel();
    // They end together, so that each task has a thread of its own.
    let together = Arc::new(Barrier::new(HELPERS + 1));
    for _ in 0..HELPERS {
        let (begun, together) = (begun.clone(), Arc::clone(&together));
        runtime.spawn_blocking(move || {
            let _ = begun.send(());
            together.wait();
        });
    }
    for _ in 0..HELPERS {
        if beginnings.recv_timeout(BEGINNING).is_err() {
            runtime.shutdown_background();
            return Err(io::ErrorKind::WouldBlock.into());
        }
    }
    together.wait();
    Ok(runtime)
}

/// Starts so many threads at the same time, and lets them end.
fn try_threads(number: usize) -> io::Result<()> {
    let (end, ends) = mpsc::channel::<()>();
    let ends = Arc::new(std::sync::Mutex::new(ends));
    let threads = (0..number).map(|_| {
        let ends = Arc::clone(&ends);
        thread::Builder::new().spawn(move || {
            // Returns once the sender is gone.
            let _ = ends.lock().map(|ends| ends.recv());
        })
    });
    let threads: Vec<io::Result<thread::JoinHandle<()>>> = threads.collect();
    drop(end);
    threads.into_iter().try_for_each(|thread| {
        let _ = thread?.join();
        Ok(())
    })
}
