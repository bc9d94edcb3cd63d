//! The wiring: kernel -> engine -> sinks, once every poll. The only place that knows all of them.

pub mod backtest;
mod cycle;
mod delivery;
mod judges;
mod lists;
mod load;
mod outputs;
mod pipeline;
mod progress;
pub mod replay;
mod report;
mod view;

use std::{io, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use tokio::{
    sync::oneshot,
    time::{MissedTickBehavior, interval},
};
use tracing::{error, info, warn};

use self::{pipeline::Pipeline, view::View};
use crate::{clock, config::Config, http, kernel::LinkChanges, signal::Stop};

/// How long what is waiting to be written may take at the end.
const GRACE: Duration = Duration::from_secs(5);

/// Counts until asked to stop.
///
/// # Errors
/// It could not start: the metrics port is in use, an output cannot be opened, the kernel refuses
/// the program or an interface.
pub async fn run(config: Config) -> Result<()> {
    let mut stop = Stop::listen().context("listening for signals")?;
    let view = Arc::new(View::new(&config, clock::unix_seconds())?);
    let listener = match config.outputs.metrics {
        Some(address) => Some(http::bind(address).await?),
        None => None,
    };
    let mut pipeline = Pipeline::start(&config, Arc::clone(&view))?;
    let (stopped, server) = serve(listener, Arc::clone(&view));
    view.set_ready();

    let mut changes = LinkChanges::listen().inspect_err(unheard).ok();
    let mut polls = interval(config.poll_interval);
    // A late poll reads what several would have: there is nothing to catch up with.
    polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = polls.tick() => {}
            heard = changed(changes.as_ref()) => {
                if let Err(error) = heard {
                    unheard(&error);
                    changes = None;
                }
                tokio::task::block_in_place(|| pipeline.follow());
                continue;
            }
            () = stop.asked() => break,
        }
        // Reading a large table takes a while: the metrics port goes on answering meanwhile.
        if let Err(error) = tokio::task::block_in_place(|| pipeline.poll()) {
            view.poll_failed();
            error!(%error, "poll failed; the kernel goes on counting");
        }
    }

    info!("stopping");
    let last = tokio::task::block_in_place(|| pipeline.stop(GRACE));
    drop(stopped);
    if let Some(server) = server {
        server.await.context("the metrics port")?;
    }
    last
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

/// Serves until the sender is dropped.
fn serve(listener: Option<http::Listener>, view: Arc<View>) -> (oneshot::Sender<()>, Option<Server>) {
    let (stopped, stop) = oneshot::channel::<()>();
    let server = listener.map(|listener| {
        info!(address = %listener.addr(), "metrics");
        tokio::spawn(http::serve(listener, view, async {
            // Dropped rather than sent to: both mean the end.
            let _ = stop.await;
        }))
    });
    (stopped, server)
}
