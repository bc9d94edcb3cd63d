//! The answering side.

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

use super::{Reply, Request, Status, Top, protocol::LINE};
use crate::util::connection_limit::{Crowd, Leave};

/// Connections served at once, and those of a user. Beyond that the oldest one is closed that asks for nothing that
/// changes the agent, so that a new one never waits.
const CONNECTIONS: usize = 64;
const CONNECTIONS_OF_A_USER: usize = 48;
/// A connection on which nothing is asked for this long is closed.
const IDLE: Duration = Duration::from_secs(300);
/// A request that has begun must be whole within this time, and an answer must be read.
const SLOWEST: Duration = Duration::from_secs(10);
/// Pause after the system refused a connection.
const REFUSED: Duration = Duration::from_millis(200);
/// Most bytes of an overlong line that are waited for.
const REST: u64 = 16 << 20;
/// Owner and group may ask.
const MODE: u32 = 0o660;
/// Of a directory that is made for the socket, whatever the umask is.
const DIRECTORY_MODE: u32 = 0o755;

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

/// Where requests go that the poll loop is to answer.
#[derive(Clone, Debug)]
pub struct Orders {
    /// To read the configuration again: before whatever is only asked.
    pub reloads: mpsc::Sender<Order>,
    /// All others.
    pub questions: mpsc::Sender<Order>,
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
        fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory).map_err(refused)?;
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
    orders: Orders,
    shutdown: impl Future<Output = ()>,
) {
    let crowd = Arc::new(Crowd::new(CONNECTIONS, CONNECTIONS_OF_A_USER));
    let accept = async {
        loop {
            match listener.inner.accept().await {
                Ok((stream, _)) => {
                    // Who cannot be told is taken for one user.
                    let user = stream.peer_cred().map_or(u32::MAX, |peer| peer.uid());
                    let leave = Arc::<Leave>::default();
                    let Some(place) = crowd.enter(user, &leave) else { continue };
                    let (state, orders) = (Arc::clone(&state), orders.clone());
                    tokio::spawn(async move {
                        tokio::select! {
                            // Who breaks off does not want to know.
                            _ = async {
                                let (read, write) = stream.into_split();
                                attend(read, write, state.as_ref(), &orders, &leave).await
                            } => {}
                            () = leave.asked() => {}
                        }
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

/// Answers one connection until it ends. Needs a tokio runtime with timers.
///
/// # Errors
/// The connection breaks, or its other end reads too slowly.
pub async fn attend(
    read: impl AsyncRead + Unpin,
    mut write: impl AsyncWrite + Unpin,
    state: &dyn State,
    orders: &Orders,
    leave: &Leave,
) -> io::Result<()> {
    let mut lines = BufReader::new(read);
    loop {
        let Some(line) = line(&mut lines).await? else { return Ok(()) };
        let whole = line.ends_with(b"\n");
        let reply = match serde_json::from_slice(&line) {
            Ok(request) => {
                leave.set_stays(request == Request::Reload);
                answer(request, state, orders).await
            }
            Err(_) if !whole => {
                Reply::Refused(vec![format!("a request is one line of at most {LINE} bytes")])
            }
            Err(error) => Reply::Refused(vec![format!("not a request: {error}")]),
        };
        let mut reply = serde_json::to_vec(&reply)?;
        reply.push(b'\n');
        timeout(SLOWEST, write.write_all(&reply)).await??;
        leave.set_stays(false);
        if !whole {
            // Who is cut off while writing would not read the answer.
            let (mut rest, mut nothing) = (lines.take(REST), tokio::io::sink());
            let rest = tokio::io::copy(&mut rest, &mut nothing);
            return timeout(REFUSED, rest).await.unwrap_or(Ok(0)).map(drop);
        }
    }
}

/// A line, or as much of one as is taken; none where nothing more comes in time.
async fn line(lines: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let Ok(begun) = timeout(IDLE, lines.fill_buf()).await else { return Ok(None) };
    if begun?.is_empty() {
        return Ok(None);
    }
    let mut line = Vec::new();
    let mut limited = lines.take(LINE as u64);
    match timeout(SLOWEST, limited.read_until(b'\n', &mut line)).await {
        Ok(read) => read.map(|_| Some(line)),
        Err(_) => Ok(None),
    }
}

async fn answer(request: Request, state: &dyn State, orders: &Orders) -> Reply {
    let to = match request {
        Request::Status => return Reply::Status(Box::new(state.status())),
        Request::Top => return Reply::Top(state.top()),
        Request::Reload => &orders.reloads,
        Request::Explain { .. } | Request::Suggest => &orders.questions,
    };
    let (reply, answer) = oneshot::channel();
    let sent = to.send(Order { request, reply }).await;
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
            let orders = Orders { reloads: orders.clone(), questions: orders };
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

    /// Serves with these senders, connects so many times, and lets `then` use the socket meanwhile.
    fn beside<T>(name: &str, idle: usize, orders: Orders, then: impl Future<Output = T> + Send) -> T {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let path = socket(name);
            let listener = bind(&path).unwrap();
            let server = tokio::spawn(serve(listener, Arc::new(Still), orders, std::future::pending()));
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

    /// Asks, and returns the answer; an error where the connection was closed for a newer one.
    async fn ask(name: &str, request: &str) -> io::Result<String> {
        let mut stream = UnixStream::connect(socket(name)).await?;
        stream.write_all(format!("{request}\n").as_bytes()).await?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).await?;
        Ok(answer)
    }

    #[test]
    fn a_reload_is_shut_out_by_nobody() {
        let ((reloads, mut ordered), (questions, unanswered)) = (mpsc::channel(1), mpsc::channel(1));
        let answer = beside("crowded", 200, Orders { reloads, questions }, async {
            // More questions than wait for the poll loop, which answers none of them.
            let mut asked = Vec::new();
            for _ in 0..CONNECTIONS {
                let mut stream = UnixStream::connect(socket("crowded")).await.unwrap();
                // One that has been closed for a newer one by now cannot be written to.
                let _ = stream.write_all(b"{\"command\":\"suggest\"}\n").await;
                asked.push(stream);
            }
            tokio::spawn(async move {
                while let Some(order) = ordered.recv().await {
                    order.reply.send(Reply::Reloaded(vec!["done".to_owned()])).unwrap();
                }
            });
            let answer = timeout(Duration::from_secs(60), ask("crowded", r#"{"command":"reload"}"#)).await;
            drop(asked);
            answer
        });
        drop(unanswered);
        assert_eq!(answer.unwrap().unwrap(), "{\"reloaded\":[\"done\"]}\n");
    }

    #[test]
    fn who_reads_or_writes_slowly_is_let_go_of() {
        let (questions, _unanswered) = mpsc::channel(1);
        let orders = Orders { reloads: questions.clone(), questions };
        let ended = beside("slow", 0, orders, async {
            let mut half = UnixStream::connect(socket("slow")).await.unwrap();
            half.write_all(b"{\"command\":").await.unwrap();
            let mut deaf = UnixStream::connect(socket("slow")).await.unwrap();
            // Requests whose answers are more than a socket holds, and are never read.
            let many = r#"{"command":"status"}"#.to_owned() + "\n";
            let asks = async { while deaf.write_all(many.repeat(100).as_bytes()).await.is_ok() {} };
            let limit = Duration::from_secs(120);
            (timeout(limit, half.read(&mut [0; 9])).await, timeout(limit, asks).await)
        });
        assert_eq!(ended.0.unwrap().unwrap(), 0, "half a request is not waited for");
        assert!(ended.1.is_ok(), "who does not read is let go of");
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
