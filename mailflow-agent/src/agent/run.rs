//! The wiring: kernel -> engine -> sinks, once every poll. The only place that knows all of them.

use std::{io, net::SocketAddr, path::Path, pin::pin, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use tokio::{
    sync::{mpsc, oneshot},
    task::block_in_place,
    time::{MissedTickBehavior, interval},
};
use tracing::{error, info, warn};

pub(super) use super::reload::Source;
use super::{pipeline::Pipeline, reload::Reload, systemd::Service};
use crate::{
    config::Config,
    control::{self, Order, Orders, Reply, Request},
    http,
    outputs::router::GRACE,
    status::shared_status::View,
    util::{
        disk,
        signals::{Asked, Signals},
    },
};
use mailflow_kernel::capabilities;
use mailflow_kernel::clock;
use mailflow_kernel::{self, BpfRefusal, HookQueryHelper, KernelError, KernelVersion, LinkChanges};

/// Between two attempts to listen at an address whose interface is not there.
const LISTEN_INTERVAL: Duration = Duration::from_secs(5);
/// Orders that may wait for the poll that is on.
const ORDERS: usize = 16;

/// Counts until asked to stop. `source` is where `config` came from; `lookout` looks at the hooks from the moment
/// on when the agent itself may not any more.
///
/// # Errors
/// It could not start: the metrics port is in use, an output cannot be opened, the kernel refuses
/// the program or an interface.
pub async fn run(config: Config, source: Source, lookout: Option<HookQueryHelper>) -> Result<()> {
    // First, as it is the cause of most other refusals.
    KernelVersion::running()?;
    mailflow_kernel::check_capabilities()?;
    let mut signals = Signals::listen().context("listening for signals")?;
    let view = Arc::new(View::new(&config, source.name(), clock::unix_seconds())?);
    let listener = match config.outputs.metrics {
        Some(address) => {
            Some((MetricsPort::open(address).await?, door(config.outputs.web_config.as_deref())?))
        }
        None => None,
    };
    let socket = config.control.socket.as_deref().and_then(listen).transpose()?;
    let mut pipeline = Pipeline::start(config, Arc::clone(&view), lookout).map_err(with_cause)?;
    let (stopped, server) = serve(listener, Arc::clone(&view));
    let (reloads, mut reloads_ordered) = mpsc::channel(ORDERS);
    let (questions, mut asked) = mpsc::channel(ORDERS);
    let orders = Orders { reloads, questions };
    let (dismissed, clerk) = attend(socket, Arc::clone(&view), orders);
    give_up_privileges(&view, pipeline.hook_query_helper());
    view.set_ready();
    let mut service = Service::new();
    service.ready(&view.summary());

    let mut changes = LinkChanges::listen().inspect_err(unheard).ok();
    let mut polls = polls(&pipeline);
    let mut reload = Reload::default();
    loop {
        tokio::select! {
            // A channel of its own, so that it waits behind no question. Of those that are ready, select! takes one by
            // chance: none is left out.
            Some(Order { reply, .. }) = reloads_ordered.recv() => {
                service.reloading();
                reload.ask(&source, Some(reply));
                continue;
            }
            read = reload.read() => {
                let outcome = block_in_place(|| pipeline.reload(read, &source));
                if !reload.end(&source, &outcome) {
                    service.ready(&view.summary());
                }
                polls = self::polls(&pipeline);
                continue;
            }
            asked = signals.asked() => match asked {
                Asked::Stop => break,
                Asked::StopForGood => {
                    pipeline.detach_at_stop();
                    break;
                }
                Asked::Reload => {
                    service.reloading();
                    // Its outcome is in the log.
                    reload.ask(&source, None);
                    continue;
                }
            },
            () = service.watched() => {
                service.alive();
                continue;
            }
            _ = polls.tick() => {}
            heard = changed(changes.as_ref()) => {
                if let Err(error) = heard {
                    unheard(&error);
                    changes = None;
                }
                block_in_place(|| pipeline.follow_interfaces());
                continue;
            }
            Some(order) = asked.recv() => {
                block_in_place(|| answer(order, &pipeline));
                continue;
            }
        }
        // Reading a large table takes a while: the metrics port goes on answering meanwhile.
        if let Err(error) = block_in_place(|| pipeline.poll()) {
            view.poll_failed();
            error!(%error, "poll failed; the kernel goes on counting");
        }
        service.status(view.summary());
    }

    info!("stopping");
    service.stopping();
    let last = block_in_place(|| pipeline.stop(GRACE));
    drop((stopped, dismissed));
    for task in [server, clerk].into_iter().flatten() {
        task.await.context("the metrics port or the control socket")?;
    }
    last
}

/// Listens at the control socket; counting does not wait for a disk that takes no socket.
fn listen(path: &Path) -> Option<Result<control::Listener, control::BindError>> {
    match control::bind(path) {
        Err(control::BindError::Refused { source, .. }) if disk::takes_nothing(&source) => {
            error!(socket = %path.display(), error = %source, "no control socket: nobody can ask this agent");
            None
        }
        other => Some(other),
    }
}

/// Adds the likely cause where the kernel refuses bpf(2) as such, and not this program.
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

/// Gives up the capabilities that this kernel does not ask for once everything is attached, and says what is
/// left, and with whom.
fn give_up_privileges(view: &View, lookout: Option<&HookQueryHelper>) {
    let left = KernelVersion::running().map_err(anyhow::Error::from);
    let left = left.and_then(|version| Ok(capabilities::drop_unneeded(version)?));
    let held = match left {
        Ok(left) if left.is_empty() => "no capability is held".to_owned(),
        Ok(left) => format!("capabilities held: {}", left.join(", ")),
        Err(error) => {
            warn!(%error, "capabilities cannot be given up");
            format!("capabilities cannot be given up: {error}")
        }
    };
    let looks = lookout.map(HookQueryHelper::process_id).map(|process| {
        let held = capabilities::of_process(process).join(", ");
        format!("process {process}, which looks at the hooks, holds {held}")
    });
    for note in [Some(held), looks].into_iter().flatten() {
        info!("{note}");
        view.numbers().settings.notes.push(note);
    }
    for (thread, held) in capabilities::threads_with_capabilities() {
        warn!(%thread, %held, "another thread holds capabilities");
    }
}

/// The moments of the polls. The first is now.
fn polls(pipeline: &Pipeline) -> tokio::time::Interval {
    let mut polls = interval(pipeline.poll_interval());
    // A late poll reads what several would have: there is nothing to catch up with.
    polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
    polls
}

/// Answers what the control socket asks of the poll loop.
fn answer(Order { request, reply }: Order, pipeline: &Pipeline) {
    let answer = match request {
        Request::Explain { source, flows } => Reply::Explained(Box::new(pipeline.explain(source, flows))),
        Request::Suggest => Reply::Suggested(pipeline.suggest()),
        Request::Reload | Request::Status | Request::Top => {
            Reply::Refused(vec!["asked of the wrong room".to_owned()])
        }
    };
    // Who does not wait for the answer does not want it.
    let _ = reply.send(answer);
}

/// Returns when the machine's interfaces have changed; never, where there is no word of it.
async fn changed(changes: Option<&LinkChanges>) -> io::Result<()> {
    match changes {
        Some(changes) => changes.next().await,
        None => std::future::pending().await,
    }
}

fn unheard(error: &io::Error) {
    warn!(%error, "no word of interfaces that come and go: they are looked for at each poll");
}

type Server = tokio::task::JoinHandle<()>;

/// The listener of the metrics, or the address that it waits for.
enum MetricsPort {
    Open(http::Listener),
    /// The interface of the address is not there yet.
    Waiting(SocketAddr),
}

impl MetricsPort {
    /// Listens at `address`. An address that no interface has yet is no error.
    async fn open(address: SocketAddr) -> Result<Self, http::BindError> {
        match http::bind(address).await {
            Ok(listener) => {
                if http::is_assigned(address) {
                    info!(address = %listener.addr(), "metrics");
                } else {
                    warn!(%address, "no interface has the address of the metrics yet; they are served once one has");
                }
                Ok(Self::Open(listener))
            }
            Err(error @ http::BindError::Absent { .. }) => {
                warn!(%error, "the metrics are not served yet; it is tried again every 5 s");
                Ok(Self::Waiting(address))
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the listener, once there is one.
    async fn listener(self) -> http::Listener {
        let address = match self {
            Self::Open(listener) => return listener,
            Self::Waiting(address) => address,
        };
        loop {
            tokio::time::sleep(LISTEN_INTERVAL).await;
            if let Ok(listener) = http::bind(address).await {
                info!(%address, "metrics");
                return listener;
            }
        }
    }
}

/// Who may see the metrics.
fn door(web_config: Option<&Path>) -> Result<http::Door> {
    web_config.map_or_else(|| Ok(http::Door::open()), |path| Ok(http::Door::guarded(path)?))
}

/// Serves until the sender is dropped.
fn serve(
    listener: Option<(MetricsPort, http::Door)>,
    view: Arc<View>,
) -> (oneshot::Sender<()>, Option<Server>) {
    let (stopped, stop) = oneshot::channel::<()>();
    let server = listener.map(|(port, door)| {
        tokio::spawn(async move {
            // Dropped rather than sent to: both mean the end.
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
    (stopped, server)
}

/// Answers at the control socket until the sender is dropped.
fn attend(
    socket: Option<control::Listener>,
    view: Arc<View>,
    orders: Orders,
) -> (oneshot::Sender<()>, Option<Server>) {
    let (dismissed, dismiss) = oneshot::channel::<()>();
    let clerk = socket.map(|socket| {
        tokio::spawn(control::serve(socket, view, orders, async {
            // As above.
            let _ = dismiss.await;
        }))
    });
    (dismissed, clerk)
}
