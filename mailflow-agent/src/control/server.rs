//! The answering side.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

use super::{LINE, Reply, Request, Status, Top};

/// Connections served at once; further ones wait.
const CONNECTIONS: usize = 16;
/// A connection on which nothing is asked for this long is closed.
const IDLE: Duration = Duration::from_secs(300);
/// Pause after the system refused a connection.
const REFUSED: Duration = Duration::from_millis(200);
/// Most bytes of an overlong line that are waited for.
const REST: u64 = 16 << 20;
/// Owner and group may ask.
const MODE: u32 = 0o660;

/// What is shown without the poll loop.
pub trait State: Send + Sync + 'static {
    /// How the agent is. May block for a moment.
    fn status(&self) -> Status;

    /// What its sources have sent. May block for a moment.
    fn top(&self) -> Top;
}

/// A request that the poll loop is to answer.
#[derive(Debug)]
pub struct Order {
    /// What is asked.
    pub request: Request,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Reply>,
}

/// Why the socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another agent listens there.
    #[error("cannot listen on {}: another agent answers there", .0.display())]
    InUse(PathBuf),
    /// The system refuses it.
    #[error("cannot listen on {}: {source}", path.display())]
    Refused {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// A socket that is listened on; its file goes with it.
#[derive(Debug)]
pub struct Listener {
    inner: UnixListener,
    path: PathBuf,
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Gone already, or not ours to remove: nothing to do either way.
        let _ = fs::remove_file(&self.path);
    }
}

/// Listens at `path`, whose directory is made where it is missing. A socket that a dead agent left is
/// replaced. Needs a tokio runtime.
///
/// # Errors
/// Another agent listens there, or the system refuses.
pub fn bind(path: &Path) -> Result<Listener, BindError> {
    let refused = |source| BindError::Refused { path: path.to_owned(), source };
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        fs::create_dir_all(directory).map_err(refused)?;
    }
    if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(BindError::InUse(path.to_owned()));
        }
        fs::remove_file(path).map_err(refused)?;
    }
    let inner = UnixListener::bind(path).map_err(refused)?;
    let listener = Listener { inner, path: path.to_owned() };
    fs::set_permissions(path, fs::Permissions::from_mode(MODE)).map_err(refused)?;
    Ok(listener)
}

/// Serves until `shutdown` is done; answers that are under way are given up then.
pub async fn serve(
    listener: Listener,
    state: Arc<dyn State>,
    orders: mpsc::Sender<Order>,
    shutdown: impl Future<Output = ()>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let accept = async {
        loop {
            let place = Arc::clone(&places).acquire_owned().await.ok();
            match listener.inner.accept().await {
                Ok((stream, _)) => {
                    let (state, orders) = (Arc::clone(&state), orders.clone());
                    tokio::spawn(async move {
                        // Who breaks off does not want to know.
                        let _ = attend(stream, state.as_ref(), &orders).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the control socket cannot take a connection");
                    tokio::time::sleep(REFUSED).await;
                }
            }
        }
    };
    tokio::select! {
        () = accept => {}
        () = shutdown => {}
    }
}

/// Answers one connection until it ends.
async fn attend(stream: UnixStream, state: &dyn State, orders: &mpsc::Sender<Order>) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        let limited = (&mut lines).take(LINE as u64);
        let Ok(read) = timeout(IDLE, { limited }.read_until(b'\n', &mut line)).await else { return Ok(()) };
        if read? == 0 {
            return Ok(());
        }
        let whole = line.ends_with(b"\n");
        let reply = match serde_json::from_slice(&line) {
            Ok(request) => answer(request, state, orders).await,
            Err(_) if !whole => {
                Reply::Refused(vec![format!("a request is one line of at most {LINE} bytes")])
            }
            Err(error) => Reply::Refused(vec![format!("not a request: {error}")]),
        };
        let mut reply = serde_json::to_vec(&reply)?;
        reply.push(b'\n');
        write.write_all(&reply).await?;
        if !whole {
            // Who is cut off while writing would not read the answer.
            let (mut rest, mut nothing) = (lines.take(REST), tokio::io::sink());
            let rest = tokio::io::copy(&mut rest, &mut nothing);
            return timeout(REFUSED, rest).await.unwrap_or(Ok(0)).map(drop);
        }
    }
}

async fn answer(request: Request, state: &dyn State, orders: &mpsc::Sender<Order>) -> Reply {
    match request {
        Request::Status => Reply::Status(Box::new(state.status())),
        Request::Top => Reply::Top(state.top()),
        Request::Reload | Request::Explain { .. } | Request::Suggest => {
            let (reply, answer) = oneshot::channel();
            let sent = orders.send(Order { request, reply }).await;
            let stopping = || Reply::Refused(vec!["the agent is stopping".to_owned()]);
            if sent.is_err() { stopping() } else { answer.await.unwrap_or_else(|_| stopping()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{CallError, Client},
        *,
    };

    struct Still;

    impl State for Still {
        fn status(&self) -> Status {
            Status { version: "7".to_owned(), ..Status::default() }
        }

        fn top(&self) -> Top {
            Top::default()
        }
    }

    fn socket(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("mailflow-{name}-{}", std::process::id())).join("agent.sock")
    }

    /// Asks `lines` one after the other on one connection, and returns the answers.
    fn asked(name: &str, lines: &[&str]) -> Vec<String> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let path = socket(name);
            let listener = bind(&path).unwrap();
            assert!(matches!(bind(&path), Err(BindError::InUse(_))));
            let (orders, mut ordered) = mpsc::channel::<Order>(1);
            tokio::spawn(async move {
                while let Some(order) = ordered.recv().await {
                    order.reply.send(Reply::Reloaded(vec!["done".to_owned()])).unwrap();
                }
            });
            let (stop, stopped) = oneshot::channel::<()>();
            let served = tokio::spawn(serve(listener, Arc::new(Still), orders, async {
                let _ = stopped.await;
            }));
            let (mut read, mut write) = UnixStream::connect(&path).await.unwrap().into_split();
            for line in lines {
                write.write_all(format!("{line}\n").as_bytes()).await.unwrap();
            }
            drop(write);
            let mut answers = String::new();
            read.read_to_string(&mut answers).await.unwrap();
            drop(stop);
            served.await.unwrap();
            assert!(!path.exists(), "the socket goes with the agent");
            fs::remove_dir(path.parent().unwrap()).unwrap();
            answers.lines().map(str::to_owned).collect()
        })
    }

    #[test]
    fn each_line_has_its_answer() {
        let answers = asked(
            "lines",
            &[
                r#"{"command":"status"}"#,
                r#"{"command":"reload"}"#,
                r#"{"command":"dance"}"#,
                "{",
                r#"{"command":"top"}"#,
            ],
        );
        assert_eq!(answers.len(), 5);
        assert!(answers[0].starts_with(r#"{"status":{"version":"7""#), "{}", answers[0]);
        assert_eq!(answers[1], r#"{"reloaded":["done"]}"#);
        assert!(answers[2].contains("dance") && answers[2].contains("`status`"), "{}", answers[2]);
        assert!(answers[3].starts_with(r#"{"refused":["not a request"#), "{}", answers[3]);
        assert_eq!(answers[4], r#"{"top":{"at_seconds":0.0,"rows":[]}}"#);
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let answers = asked("long", &[&"x".repeat(LINE + 1)]);
        assert_eq!(answers, [r#"{"refused":["a request is one line of at most 65536 bytes"]}"#]);
    }

    #[test]
    fn what_a_dead_agent_left_is_replaced_and_nothing_else() {
        let path = socket("dead");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(matches!(Client::connect(&path), Err(CallError::Connect { .. })));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        let listener = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        drop(listener);
        fs::write(&path, "a file").unwrap();
        assert!(matches!(bind(&path), Err(BindError::Refused { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "a file");
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}
