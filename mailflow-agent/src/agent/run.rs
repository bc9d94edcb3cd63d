//! Main loop of the agent: polls, signals, control commands and interface changes.

use std::{io, net::SocketAddr, path::Path, pin::pin, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use tokio::{
    sync::{mpsc, oneshot},
    task::block_in_place,
    time::{MissedTickBehavior, interval},
};
use tracing::{error, info, warn};

pub(super) use super::reload::ConfigSource;
use super::{pipeline::Pipeline, reload::Reload, systemd::ServiceManager};
use crate::{
    config::Config,
    control::{self, CommandSenders, ControlCommand, Reply, Request},
    http,
    outputs::router::FINAL_WRITE_TIMEOUT,
    status::shared_status::SharedStatus,
    util::{
        disk,
        signals::{SignalEvent, Signals},
    },
};
use mailflow_kernel::capabilities;
use mailflow_kernel::clock;
use mailflow_kernel::{self, BpfRefusal, HookQueryHelper, KernelError, KernelVersion, LinkChanges};

/// Time between two attempts to listen at an address that no interface has.
const LISTEN_RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Number of commands that may wait for a poll to end.
const MAX_WAITING_COMMANDS: usize = 16;

/// Runs the agent until a signal stops it. `source` is the source of `config`; `hook_helper` is the process
/// that queries hooks after the agent gave up its capabilities.
///
/// # Errors
/// Fails if the agent cannot start: the metrics port is in use, an output cannot be opened, or the kernel
/// refuses the program or an interface.
pub async fn run(config: Config, source: ConfigSource, hook_helper: Option<HookQueryHelper>) -> Result<()> {
    // First, as an old kernel is the cause of most other errors.
    KernelVersion::running()?;
    mailflow_kernel::check_capabilities()?;
    let mut signals = Signals::listen().context("listening for signals")?;
    let view = Arc::new(SharedStatus::new(&config, source.name(), clock::unix_seconds())?);
    let listener = match config.outputs.metrics {
        Some(address) => {
            Some((MetricsPort::open(address).await?, access_control(config.outputs.web_config.as_deref())?))
        }
        None => None,
    };
    let socket = config.control.socket.as_deref().and_then(listen).transpose()?;
    let mut pipeline = Pipeline::start(config, Arc::clone(&view), hook_helper).map_err(with_cause)?;
    let (metrics_shutdown, server) = spawn_metrics_server(listener, Arc::clone(&view));
    let (reloads, mut reload_commands) = mpsc::channel(MAX_WAITING_COMMANDS);
    let (queries, mut questions_rx) = mpsc::channel(MAX_WAITING_COMMANDS);
    let orders = CommandSenders { reloads, queries };
    let (control_shutdown, control_task) = spawn_control_server(socket, Arc::clone(&view), orders);
    give_up_privileges(&view, pipeline.hook_query_helper());
    view.set_ready();
    let mut service_manager = ServiceManager::new();
    service_manager.ready(&view.summary());

    let mut changes = LinkChanges::listen().inspect_err(warn_no_link_events).ok();
    let mut polls = poll_ticks(&pipeline);
    let mut reload = Reload::default();
    loop {
        tokio::select! {
            // A separate channel, so that a reload does not wait for queries. select! takes a random one of
            // the ready branches, so none starves.
            Some(ControlCommand { reply, .. }) = reload_commands.recv() => {
                service_manager.reloading();
                reload.request(&source, Some(reply));
                continue;
            }
            read = reload.read() => {
                let outcome = block_in_place(|| pipeline.reload(read, &source));
                if !reload.finish(&source, &outcome) {
                    service_manager.ready(&view.summary());
                }
                polls = self::poll_ticks(&pipeline);
                continue;
            }
            event = signals.next() => match event {
                SignalEvent::Stop => break,
                SignalEvent::StopAndDetach => {
                    pipeline.detach_at_stop();
                    break;
                }
                SignalEvent::Reload => {
                    service_manager.reloading();
                    // The outcome is logged.
                    reload.request(&source, None);
                    continue;
                }
            },
            () = service_manager.watchdog_due() => {
                service_manager.ping_watchdog();
                continue;
            }
            _ = polls.tick() => {}
            change = link_change(changes.as_ref()) => {
                if let Err(error) = change {
                    warn_no_link_events(&error);
                    changes = None;
                }
                block_in_place(|| pipeline.follow_interfaces());
                continue;
            }
            Some(order) = questions_rx.recv() => {
                block_in_place(|| answer_question(order, &pipeline));
                continue;
            }
        }
        // A poll of a large table takes long. The metrics server answers meanwhile.
        if let Err(error) = block_in_place(|| pipeline.poll()) {
            view.count_poll_failure();
            error!(%error, "poll failed; the kernel continues to count");
        }
        service_manager.status(view.summary());
    }

    info!("stopping");
    service_manager.stopping();
    let result = block_in_place(|| pipeline.stop(FINAL_WRITE_TIMEOUT));
    drop((metrics_shutdown, control_shutdown));
    for task in [server, control_task].into_iter().flatten() {
        task.await.context("the metrics port or the control socket")?;
    }
    result
}

/// Listens at the control socket. If the disk cannot take a socket, the agent runs without one.
fn listen(path: &Path) -> Option<Result<control::ControlListener, control::ControlBindError>> {
    match control::bind(path) {
        Err(control::ControlBindError::Refused { source, .. }) if disk::is_disk_failure(&source) => {
            error!(socket = %path.display(), error = %source, "failed to create the control socket; the agent runs without it");
            None
        }
        other => Some(other),
    }
}

/// Adds the likely cause if the kernel refuses bpf(2) in general, not this program.
fn with_cause(error: anyhow::Error) -> anyhow::Error {
    let by_kernel = matches!(
        error.downcast_ref(),
        Some(KernelError::Load(_) | KernelError::Program { .. } | KernelError::Map { .. })
    );
    match by_kernel.then(mailflow_kernel::probe_bpf) {
        Some(Err(BpfRefusal { cause, .. })) => {
            error.context(format!("bpf(2) is refused, likely because {cause}"))
        }
        Some(Ok(())) | None => error,
    }
}

/// Gives up the capabilities that this kernel does not need after attaching. Notes those that this process,
/// the helper process and other threads still hold.
fn give_up_privileges(view: &SharedStatus, hook_helper: Option<&HookQueryHelper>) {
    let remaining = KernelVersion::running().map_err(anyhow::Error::from);
    let remaining = remaining.and_then(|version| Ok(capabilities::drop_unneeded(version)?));
    let held = match remaining {
        Ok(remaining) if remaining.is_empty() => "no capability is held".to_owned(),
        Ok(remaining) => format!("capabilities held: {}", remaining.join(", ")),
        Err(error) => {
            warn!(%error, "capabilities cannot be given up");
            format!("capabilities cannot be given up: {error}")
        }
    };
    let helper_note = hook_helper.map(HookQueryHelper::process_id).map(|process| {
        let held = capabilities::of_process(process).join(", ");
        format!("process {process}, which queries the hooks, holds {held}")
    });
    for note in [Some(held), helper_note].into_iter().flatten() {
        info!("{note}");
        view.snapshot().settings.notes.push(note);
    }
    for (thread, held) in capabilities::threads_with_capabilities() {
        warn!(%thread, %held, "another thread holds capabilities");
    }
}

/// Returns the ticks of the polls. The first one is immediate.
fn poll_ticks(pipeline: &Pipeline) -> tokio::time::Interval {
    let mut polls = interval(pipeline.poll_interval());
    // A late poll reads what earlier ones would have read, so missed ticks are not repeated.
    polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
    polls
}

/// Answers a request of the control socket that needs the pipeline.
fn answer_question(ControlCommand { request, reply }: ControlCommand, pipeline: &Pipeline) {
    let answer = match request {
        Request::Explain { source, flows } => Reply::Explained(Box::new(pipeline.explain(source, flows))),
        Request::Suggest => Reply::Suggested(pipeline.suggest()),
        Request::Reload | Request::Status | Request::Top => {
            Reply::Refused(vec!["internal error: the control server must answer this request".to_owned()])
        }
    };
    // The client may have disconnected.
    let _ = reply.send(answer);
}

/// Returns when interfaces have changed. Never returns if link events are unavailable.
async fn link_change(changes: Option<&LinkChanges>) -> io::Result<()> {
    match changes {
        Some(changes) => changes.next().await,
        None => std::future::pending().await,
    }
}

fn warn_no_link_events(error: &io::Error) {
    warn!(%error, "link events are unavailable; interfaces are checked at each poll");
}

type Server = tokio::task::JoinHandle<()>;

/// Listener of the metrics server, or the address that it waits for.
enum MetricsPort {
    Open(http::HttpListener),
    /// No interface has the address yet.
    Waiting(SocketAddr),
}

impl MetricsPort {
    /// Listens at `address`. An address that no interface has yet is no error.
    async fn open(address: SocketAddr) -> Result<Self, http::HttpBindError> {
        match http::bind(address).await {
            Ok(listener) => {
                if http::is_assigned(address) {
                    info!(address = %listener.addr(), "metrics");
                } else {
                    warn!(%address, "no interface has the address of the metrics yet; they are served once one has");
                }
                Ok(Self::Open(listener))
            }
            Err(error @ http::HttpBindError::Absent { .. }) => {
                warn!(%error, "the metrics are not served yet; retrying every 5 s");
                Ok(Self::Waiting(address))
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the listener, once the address is assigned.
    async fn listener(self) -> http::HttpListener {
        let address = match self {
            Self::Open(listener) => return listener,
            Self::Waiting(address) => address,
        };
        loop {
            tokio::time::sleep(LISTEN_RETRY_INTERVAL).await;
            if let Ok(listener) = http::bind(address).await {
                info!(%address, "metrics");
                return listener;
            }
        }
    }
}

/// Returns the access control of the metrics server.
fn access_control(web_config: Option<&Path>) -> Result<http::AccessControl> {
    web_config.map_or_else(
        || Ok(http::AccessControl::unrestricted()),
        |path| Ok(http::AccessControl::from_web_config(path)?),
    )
}

/// Serves metrics until the sender is dropped.
fn spawn_metrics_server(
    listener: Option<(MetricsPort, http::AccessControl)>,
    view: Arc<SharedStatus>,
) -> (oneshot::Sender<()>, Option<Server>) {
    let (metrics_shutdown, stop) = oneshot::channel::<()>();
    let server = listener.map(|(port, door)| {
        tokio::spawn(async move {
            // The sender is dropped, never used: both end the server.
            let mut stop = pin!(async {
                let _ = stop.await;
            });
            let listener = tokio::select! {
                listener = port.listener() => listener,
                () = &mut stop => return,
            };
            http::serve(listener, door, view, stop).await;
        })
    });
    (metrics_shutdown, server)
}

/// Serves the control socket until the sender is dropped.
fn spawn_control_server(
    socket: Option<control::ControlListener>,
    view: Arc<SharedStatus>,
    orders: CommandSenders,
) -> (oneshot::Sender<()>, Option<Server>) {
    let (control_shutdown, shutdown) = oneshot::channel::<()>();
    let control_task = socket.map(|socket| {
        tokio::spawn(control::serve(socket, view, orders, async {
            // The sender is dropped, never used: both end the server.
            let _ = shutdown.await;
        }))
    });
    (control_shutdown, control_task)
}
