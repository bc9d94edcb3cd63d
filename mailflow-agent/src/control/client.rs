//! The asking side.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Reply, Request};

/// Longest wait for an answer: a reload waits for the poll that is on.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest answer in bytes.
const ANSWER: u64 = 1 << 30;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens there.
    #[error(
        "no agent answers at {}: {source}. Is it running, with this socket (`control.socket` in its \
         configuration), and may you open it?", path.display()
    )]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It broke off.
    #[error("the agent broke off: {0}")]
    Broken(#[from] io::Error),
    /// It is another version's, or no agent.
    #[error("the answer makes no sense: {0}")]
    Answer(#[from] serde_json::Error),
}

/// A connection to an agent.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the agent that listens at `path`.
    ///
    /// # Errors
    /// Nobody listens there, or it is not allowed.
    pub fn connect(path: &Path) -> Result<Self, CallError> {
        let connected = UnixStream::connect(path);
        let stream = connected.map_err(|source| CallError::Connect { path: path.to_owned(), source })?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// The agent broke off, or answered what this version does not know.
    pub fn call(&mut self, request: &Request) -> Result<Reply, CallError> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line)?;
        let mut answer = Vec::new();
        (&mut self.stream).take(ANSWER).read_until(b'\n', &mut answer)?;
        if answer.is_empty() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok(serde_json::from_slice(&answer)?)
    }
}
