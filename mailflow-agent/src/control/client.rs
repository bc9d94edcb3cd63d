//! Client of the control socket.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Reply, Request};

/// Maximum wait for a reply. A reload waits for the current poll.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum size of a reply, in bytes.
const MAX_REPLY_BYTES: u64 = 1 << 30;

/// Error of a request.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Refused connection.
    #[error(
        "cannot connect to the agent at {}: {source}. Check that it runs, that `control.socket` in its configuration is this path, and that you have access", path.display()
    )]
    Connect {
        /// Path of the socket.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// Broken connection.
    #[error("the connection to the agent broke: {0}")]
    Broken(#[from] io::Error),
    /// Reply that is not valid JSON of this version.
    #[error("invalid reply of the agent: {0}")]
    Answer(#[from] serde_json::Error),
}

/// Connection to an agent.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the agent that listens at `path`.
    ///
    /// # Errors
    /// No agent listens there, or access is denied.
    pub fn connect(path: &Path) -> Result<Self, CallError> {
        let connected = UnixStream::connect(path);
        let stream = connected.map_err(|source| CallError::Connect { path: path.to_owned(), source })?;
        stream.set_read_timeout(Some(CALL_TIMEOUT))?;
        stream.set_write_timeout(Some(CALL_TIMEOUT))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends a request, and waits for the reply.
    ///
    /// # Errors
    /// The connection broke, or this version does not know the reply.
    pub fn call(&mut self, request: &Request) -> Result<Reply, CallError> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line)?;
        let mut answer = Vec::new();
        (&mut self.stream).take(MAX_REPLY_BYTES).read_until(b'\n', &mut answer)?;
        if answer.is_empty() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok(serde_json::from_slice(&answer)?)
    }
}
