//! `run`: runs the agent.

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
    command::ExitStatus,
    common::{load_config, print_error},
    overrides,
};
use crate::{
    agent, config,
    util::error_chain::{self, PanicScope},
};
use mailflow_kernel::HookQueryHelper;
use mailflow_kernel::capabilities;
use mailflow_kernel::clock;

/// Number of threads for asynchronous tasks.
const WORKER_THREADS: usize = 2;
/// Number of threads for blocking tasks: metrics pages and password checks.
const BLOCKING_THREADS: usize = 8;
/// Maximum time until a new thread runs.
const THREAD_START_TIMEOUT: Duration = Duration::from_secs(30);
/// Keep-alive time of blocking threads, longer than any agent runs: a thread that ended might not be
/// startable again.
const THREAD_KEEP_ALIVE: Duration = Duration::from_secs(100 * 365 * 86_400);

pub(crate) fn run(path: Option<PathBuf>, args: RunArgs) -> ExitStatus {
    // The helper process must start before anything is read, and before there is a second thread.
    let helper = HookQueryHelper::start();
    error_chain::exit_on_panic(PanicScope::AllThreads);
    let mut config = match load_config(path.as_deref()) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    for warning in config.expired_allow_entries(clock::unix_nanos()) {
        warn!("{warning}");
    }
    let helper = helper.inspect_err(|error| {
        warn!(%error, "failed to start the helper process; the order of programs at TCX is unknown");
    });
    if let Err(error) = overrides::apply(&mut config, args.clone()) {
        print_error(format_args!("{error}"));
        return ExitStatus::Usage;
    }
    let file = path.clone();
    let read = move || {
        let faults = |faults: config::Diagnostics| faults.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut config = config::load(path.as_deref()).map_err(faults)?;
        overrides::apply(&mut config, args.clone()).map_err(|error| vec![error.to_string()])?;
        Ok(config)
    };
    let source = agent::ConfigSource { file, read: Arc::new(read) };
    // This thread keeps the capabilities.
    let result = match start_runtime() {
        Ok(runtime) => {
            let result = runtime.block_on(agent::run(config, source, helper.ok()));
            // Results of blocking tasks are not needed any more.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(anyhow::Error::from(error).context(format!(
            "cannot start {} threads; the limits are RLIMIT_NPROC (ulimit -u, LimitNPROC=) and a cgroup's \
             pids.max (TasksMax=)",
            WORKER_THREADS + BLOCKING_THREADS
        ))),
    };
    match result {
        Ok(()) => ExitStatus::Good,
        Err(error) => {
            error!("{}", error_chain::format_error_chain(&error));
            ExitStatus::Failure
        }
    }
}

/// Starts the runtime with all of its threads, so that a thread limit is an error now. Later the runtime
/// would wait silently, or panic.
fn start_runtime() -> io::Result<Runtime> {
    check_thread_limit(WORKER_THREADS + BLOCKING_THREADS)?;
    let mut runtime = Builder::new_multi_thread();
    runtime
        .worker_threads(WORKER_THREADS)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(THREAD_KEEP_ALIVE);
    let runtime = runtime.enable_all().on_thread_start(capabilities::drop_all).build()?;
    let (started, starts) = mpsc::channel();
    // The barrier keeps each task on a thread of its own.
    let together = Arc::new(Barrier::new(BLOCKING_THREADS + 1));
    for _ in 0..BLOCKING_THREADS {
        let (started, together) = (started.clone(), Arc::clone(&together));
        runtime.spawn_blocking(move || {
            let _ = started.send(());
            together.wait();
        });
    }
    for _ in 0..BLOCKING_THREADS {
        if starts.recv_timeout(THREAD_START_TIMEOUT).is_err() {
            runtime.shutdown_background();
            return Err(io::ErrorKind::WouldBlock.into());
        }
    }
    together.wait();
    Ok(runtime)
}

/// Starts the given number of threads at the same time, and joins them.
fn check_thread_limit(number: usize) -> io::Result<()> {
    let (end, ends) = mpsc::channel::<()>();
    let ends = Arc::new(std::sync::Mutex::new(ends));
    let threads = (0..number).map(|_| {
        let ends = Arc::clone(&ends);
        thread::Builder::new().spawn(move || {
            // Returns when the sender is dropped.
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
