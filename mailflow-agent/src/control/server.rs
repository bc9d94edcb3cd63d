//! Server of the control socket.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::UnixListener,
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{Reply, Request, Status, TopSnapshot, protocol::MAX_REQUEST_BYTES};
use crate::util::connection_limit::{ConnectionLimiter, EvictionSignal};

/// Maximum number of connections, and of connections of a user. At a limit the server closes the oldest
/// connection without a pending reload, so that a new one never waits.
const MAX_CONNECTIONS: usize = 64;
const MAX_CONNECTIONS_PER_USER: usize = 48;
/// Idle timeout of a connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// Maximum time to receive a started request, and to send a reply.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after the system refused a connection.
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// Maximum number of bytes of an overlong line that are read and discarded.
const MAX_DISCARDED_BYTES: u64 = 16 << 20;
/// Mode of the socket: owner and group have access.
const SOCKET_MODE: u32 = 0o660;
/// Mode of a created directory of the socket, regardless of the umask.
const DIRECTORY_MODE: u32 = 0o755;

/// Provider of replies that need no poll loop.
pub trait StatusProvider: Send + Sync + 'static {
    /// Returns the agent's status. May block briefly.
    fn status(&self) -> Status;

    /// Returns the traffic of the sources. May block briefly.
    fn top(&self) -> TopSnapshot;
}

/// Request to the poll loop.
#[derive(Debug)]
pub struct ControlCommand {
    /// Request.
    pub request: Request,
    /// Channel for the reply.
    pub reply: oneshot::Sender<Reply>,
}

/// Channels of requests to the poll loop.
#[derive(Clone, Debug)]
pub struct CommandSenders {
    /// Channel of reloads, which have priority over queries.
    pub reloads: mpsc::Sender<ControlCommand>,
    /// Channel of other requests.
    pub queries: mpsc::Sender<ControlCommand>,
}

/// Error of binding the control socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlBindError {
    /// Socket of another agent.
    #[error("cannot listen on {}: another agent answers there", .0.display())]
    InUse(PathBuf),
    /// Error of the system.
    #[error("cannot listen on {}: {source}", path.display())]
    Refused {
        /// Path of the socket.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
}

/// Listening control socket. Its file is removed on drop.
#[derive(Debug)]
pub struct ControlListener {
    inner: UnixListener,
    path: PathBuf,
}

impl Drop for ControlListener {
    fn drop(&mut self) {
        // The file may be removed already, or may belong to another user.
        let _ = fs::remove_file(&self.path);
    }
}

/// Binds the control socket at `path`, and creates its directory if necessary. Replaces the socket of a dead
/// agent. Needs a tokio runtime.
///
/// # Errors
/// Another agent listens there, or the system refuses.
pub fn bind(path: &Path) -> Result<ControlListener, ControlBindError> {
    let refused = |source| ControlBindError::Refused { path: path.to_owned(), source };
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory).map_err(refused)?;
    }
    if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(ControlBindError::InUse(path.to_owned()));
        }
        fs::remove_file(path).map_err(refused)?;
    }
    let inner = UnixListener::bind(path).map_err(refused)?;
    let listener = ControlListener { inner, path: path.to_owned() };
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE)).map_err(refused)?;
    Ok(listener)
}

/// Serves connections until `shutdown` completes. Pending replies are dropped then.
pub async fn serve(
    listener: ControlListener,
    state: Arc<dyn StatusProvider>,
    senders: CommandSenders,
    shutdown: impl Future<Output = ()>,
) {
    let limiter = Arc::new(ConnectionLimiter::new(MAX_CONNECTIONS, MAX_CONNECTIONS_PER_USER));
    let accept = async {
        loop {
            match listener.inner.accept().await {
                Ok((stream, _)) => {
                    // Peers without credentials share one user ID.
                    let user = stream.peer_cred().map_or(u32::MAX, |peer| peer.uid());
                    let eviction = Arc::<EvictionSignal>::default();
                    let Some(permit) = limiter.admit(user, &eviction) else { continue };
                    let (state, senders) = (Arc::clone(&state), senders.clone());
                    tokio::spawn(async move {
                        tokio::select! {
                            // The client may have disconnected; a failed reply is not an error.
                            _ = async {
                                let (read, write) = stream.into_split();
                                serve_connection(read, write, state.as_ref(), &senders, &eviction).await
                            } => {}
                            () = eviction.evicted() => {}
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection on the control socket; retrying");
                    tokio::time::sleep(RETRY_DELAY).await;
                }
            }
        }
    };
    tokio::select! {
        () = accept => {}
        () = shutdown => {}
    }
}

/// Serves a connection until it ends. Needs a tokio runtime with timers.
///
/// # Errors
/// The connection breaks, or the client reads too slowly.
pub async fn serve_connection(
    read: impl AsyncRead + Unpin,
    mut write: impl AsyncWrite + Unpin,
    state: &dyn StatusProvider,
    senders: &CommandSenders,
    eviction: &EvictionSignal,
) -> io::Result<()> {
    let mut lines = BufReader::new(read);
    loop {
        let Some(line) = read_line(&mut lines).await? else { return Ok(()) };
        let whole = line.ends_with(b"\n");
        let reply = match serde_json::from_slice(&line) {
            Ok(request) => {
                eviction.set_protected(request == Request::Reload);
                reply_to(request, state, senders).await
            }
            Err(_) if !whole => {
                Reply::Refused(vec![format!("a request is one line of at most {MAX_REQUEST_BYTES} bytes")])
            }
            Err(error) => Reply::Refused(vec![format!("not a request: {error}")]),
        };
        let mut reply = serde_json::to_vec(&reply)?;
        reply.push(b'\n');
        timeout(REQUEST_TIMEOUT, write.write_all(&reply)).await??;
        eviction.set_protected(false);
        if !whole {
            // A client that is still writing would not read the reply, so the rest of its line is discarded
            // first.
            let (mut rest, mut nothing) = (lines.take(MAX_DISCARDED_BYTES), tokio::io::sink());
            let rest = tokio::io::copy(&mut rest, &mut nothing);
            return timeout(RETRY_DELAY, rest).await.unwrap_or(Ok(0)).map(drop);
        }
    }
}

/// Reads a line, up to the maximum size; `None` at the end of the stream or after a timeout.
async fn read_line(lines: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let Ok(started) = timeout(IDLE_TIMEOUT, lines.fill_buf()).await else { return Ok(None) };
    if started?.is_empty() {
        return Ok(None);
    }
    let mut line = Vec::new();
    let mut limited = lines.take(MAX_REQUEST_BYTES as u64);
    match timeout(REQUEST_TIMEOUT, limited.read_until(b'\n', &mut line)).await {
        Ok(read) => read.map(|_| Some(line)),
        Err(_) => Ok(None),
    }
}

async fn reply_to(request: Request, state: &dyn StatusProvider, senders: &CommandSenders) -> Reply {
    let to = match request {
        Request::Status => return Reply::Status(Box::new(state.status())),
        Request::Top => return Reply::Top(state.top()),
        Request::Reload => &senders.reloads,
        Request::Explain { .. } | Request::Suggest => &senders.queries,
    };
    let (reply, answer) = oneshot::channel();
    let sent = to.send(ControlCommand { request, reply }).await;
    let stopping = || Reply::Refused(vec!["the agent is stopping".to_owned()]);
    if sent.is_err() { stopping() } else { answer.await.unwrap_or_else(|_| stopping()) }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;

    use super::{
        super::{CallError, Client},
        *,
    };

    struct FixedStatus;

    impl StatusProvider for FixedStatus {
        fn status(&self) -> Status {
            Status { version: "7".to_owned(), ..Status::default() }
        }

        fn top(&self) -> TopSnapshot {
            TopSnapshot::default()
        }
    }

    fn socket(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("mailflow-{name}-{}", std::process::id())).join("agent.sock")
    }

    /// Sends `lines` on one connection, and returns the replies.
    fn replies_to(name: &str, lines: &[&str]) -> Vec<String> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let path = socket(name);
            let listener = bind(&path).unwrap();
            assert!(matches!(bind(&path), Err(ControlBindError::InUse(_))));
            let (senders, mut commands) = mpsc::channel::<ControlCommand>(1);
            tokio::spawn(async move {
                while let Some(command) = commands.recv().await {
                    command.reply.send(Reply::Reloaded(vec!["done".to_owned()])).unwrap();
                }
            });
            let (stop, stopped) = oneshot::channel::<()>();
            let senders = CommandSenders { reloads: senders.clone(), queries: senders };
            let served = tokio::spawn(serve(listener, Arc::new(FixedStatus), senders, async {
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
    fn each_line_gets_a_reply() {
        let answers = replies_to(
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

    /// Runs a server with the given senders and number of idle connections, and `then` meanwhile.
    fn with_server<T>(
        name: &str,
        idle: usize,
        senders: CommandSenders,
        then: impl Future<Output = T> + Send,
    ) -> T {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let path = socket(name);
            let listener = bind(&path).unwrap();
            let server =
                tokio::spawn(serve(listener, Arc::new(FixedStatus), senders, std::future::pending()));
            let mut streams = Vec::new();
            for _ in 0..idle {
                streams.push(UnixStream::connect(&path).await.unwrap());
            }
            let result = then.await;
            server.abort();
            let _ = server.await;
            fs::remove_dir_all(path.parent().unwrap()).unwrap();
            result
        })
    }

    /// Sends a request, and returns the reply, or an error if the server closed the connection for a newer
    /// one.
    async fn ask(name: &str, request: &str) -> io::Result<String> {
        let mut stream = UnixStream::connect(socket(name)).await?;
        stream.write_all(format!("{request}\n").as_bytes()).await?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).await?;
        Ok(answer)
    }

    #[test]
    fn reload_is_served_under_load() {
        let ((reloads, mut commands), (queries, unanswered)) = (mpsc::channel(1), mpsc::channel(1));
        let answer = with_server("crowded", 200, CommandSenders { reloads, queries }, async {
            // More queries than the channel holds. The poll loop answers none of them.
            let mut streams = Vec::new();
            for _ in 0..MAX_CONNECTIONS {
                let mut stream = UnixStream::connect(socket("crowded")).await.unwrap();
                // A connection that was closed for a newer one cannot be written to.
                let _ = stream.write_all(b"{\"command\":\"suggest\"}\n").await;
                streams.push(stream);
            }
            tokio::spawn(async move {
                while let Some(command) = commands.recv().await {
                    command.reply.send(Reply::Reloaded(vec!["done".to_owned()])).unwrap();
                }
            });
            let answer = timeout(Duration::from_secs(60), ask("crowded", r#"{"command":"reload"}"#)).await;
            drop(streams);
            answer
        });
        drop(unanswered);
        assert_eq!(answer.unwrap().unwrap(), "{\"reloaded\":[\"done\"]}\n");
    }

    #[test]
    fn slow_clients_are_disconnected() {
        let (queries, _unanswered) = mpsc::channel(1);
        let senders = CommandSenders { reloads: queries.clone(), queries };
        let ended = with_server("slow", 0, senders, async {
            let mut slow_writer = UnixStream::connect(socket("slow")).await.unwrap();
            slow_writer.write_all(b"{\"command\":").await.unwrap();
            let mut slow_reader = UnixStream::connect(socket("slow")).await.unwrap();
            // The replies exceed the socket buffers, and are never read.
            let many = r#"{"command":"status"}"#.to_owned() + "\n";
            let asks = async { while slow_reader.write_all(many.repeat(100).as_bytes()).await.is_ok() {} };
            let limit = Duration::from_secs(120);
            (timeout(limit, slow_writer.read(&mut [0; 9])).await, timeout(limit, asks).await)
        });
        assert_eq!(ended.0.unwrap().unwrap(), 0, "half a request is not waited for");
        assert!(ended.1.is_ok(), "who does not read is let go of");
    }

    #[test]
    fn overlong_line_is_refused() {
        let answers = replies_to("long", &[&"x".repeat(MAX_REQUEST_BYTES + 1)]);
        assert_eq!(answers, [r#"{"refused":["a request is one line of at most 65536 bytes"]}"#]);
    }

    #[test]
    fn only_a_stale_socket_is_replaced() {
        let path = socket("dead");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(matches!(Client::connect(&path), Err(CallError::Connect { .. })));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        let listener = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, SOCKET_MODE);
        drop(listener);
        fs::write(&path, "a file").unwrap();
        assert!(matches!(bind(&path), Err(ControlBindError::Refused { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "a file");
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}
