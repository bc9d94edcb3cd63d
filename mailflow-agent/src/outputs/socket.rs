//! Sockets to receivers on other machines: nothing here waits but the look-up of a name and a connection attempt.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket},
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};

use super::protocol::Protocol;
use mailflow_kernel::sockets;

/// Limit of a connection attempt.
const CONNECT: Duration = Duration::from_secs(5);
/// Limit after which the kernel gives up a connection whose other side acknowledges nothing, or takes nothing.
const UNACKNOWLEDGED: Duration = Duration::from_secs(15);
/// Silence after which the kernel asks whether the other side is still there, and between two questions.
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_AGAIN: Duration = Duration::from_secs(5);
/// Limit of a datagram's way into the kernel.
const SEND: Duration = Duration::from_secs(10);

/// Finds the addresses of a `HOST:PORT`, in the order of preference.
pub(crate) fn look_up(address: &str) -> io::Result<Vec<SocketAddr>> {
    Ok(address.to_socket_addrs()?.collect())
}

/// A socket to one address.
pub(crate) enum Socket {
    /// A connection.
    Tcp(Stream),
    /// Datagrams.
    Udp(SocketAddr, UdpSocket),
}

/// A connection, and what was handed to it.
pub(crate) struct Stream {
    to: SocketAddr,
    stream: TcpStream,
    /// A message that the kernel has not taken all of, and how much it has.
    out: (Vec<u8>, usize),
    /// Bytes of all messages, the one in `out` included.
    bytes: u64,
}

/// The end of a connection.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) kind: End,
    pub(crate) error: io::Error,
}

/// Kinds of ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The other side has closed the connection and read all that it acknowledged.
    Closed,
    /// Nobody listens there.
    Refused,
    /// It was reset, or the other side is gone.
    Lost,
}

impl Ended {
    /// Classifies an error of a socket.
    pub(crate) fn of(error: io::Error) -> Self {
        let kind = match error.kind() {
            // Linux reports a reset as a broken pipe if the connection was closed before it (tcp_reset() in
            // net/ipv4/tcp_input.c), and closes a connection with unread bytes by a reset, not by a FIN.
            ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe => End::Closed,
            ErrorKind::ConnectionRefused => End::Refused,
            _ => End::Lost,
        };
        Self { kind, error }
    }
}

impl Socket {
    /// Opens a socket to `to`; over TCP with a connection.
    pub(crate) fn open(protocol: Protocol, to: SocketAddr) -> io::Result<Self> {
        match protocol {
            Protocol::Tcp => Stream::open(to).map(Self::Tcp),
            Protocol::Udp => {
                let from: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
                let socket = UdpSocket::bind(from)?;
                sockets::report_errors(&socket, to)?;
                socket.set_write_timeout(Some(SEND))?;
                socket.connect(to)?;
                Ok(Self::Udp(to, socket))
            }
        }
    }

    /// The address at its other end.
    pub(crate) fn to(&self) -> SocketAddr {
        match self {
            Self::Tcp(stream) => stream.to,
            Self::Udp(to, _) => *to,
        }
    }

    /// Hands over what is left of the last message; true if nothing is.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        match self {
            Self::Tcp(stream) => stream.flush(),
            Self::Udp(..) => Ok(true),
        }
    }

    /// Hands over a message, after [`Socket::flush`] has returned true. False if the kernel takes none now.
    pub(crate) fn send(&mut self, message: Vec<u8>) -> io::Result<bool> {
        match self {
            Self::Tcp(stream) => {
                stream.bytes += message.len() as u64;
                stream.out = (message, 0);
                stream.flush().map(|_| true)
            }
            Self::Udp(_, socket) => match socket.send(&message) {
                Ok(_) => Ok(true),
                Err(error) if is_busy(&error) => Ok(false),
                Err(error) => Err(error),
            },
        }
    }

    /// The place behind the last message in the connection's bytes.
    pub(crate) fn end(&self) -> u64 {
        match self {
            Self::Tcp(stream) => stream.bytes,
            Self::Udp(..) => 0,
        }
    }

    /// Returns up to which place the other side has acknowledged.
    ///
    /// # Errors
    /// The connection has ended, or a datagram was refused.
    pub(crate) fn acknowledged(&mut self) -> io::Result<u64> {
        match self {
            Self::Tcp(stream) => {
                stream.listen()?;
                stream.acknowledged()
            }
            Self::Udp(_, socket) => socket.take_error()?.map_or(Ok(0), Err),
        }
    }

    /// The same of a connection that has ended; none over UDP.
    pub(crate) fn last_acknowledged(&self) -> Option<u64> {
        match self {
            Self::Tcp(stream) => stream.acknowledged().ok(),
            Self::Udp(..) => None,
        }
    }
}

impl Stream {
    fn open(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&to, CONNECT)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let socket = SockRef::from(&stream);
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_AGAIN))?;
        socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
        Ok(Self { to, stream, out: (Vec::new(), 0), bytes: 0 })
    }

    fn flush(&mut self) -> io::Result<bool> {
        let (message, done) = &mut self.out;
        while *done < message.len() {
            match self.stream.write(&message[*done..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(taken) => *done += taken,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_busy(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Reads what the other side says, which is of no interest but for its end.
    fn listen(&mut self) -> io::Result<()> {
        let mut said = [0; 1_024];
        loop {
            match self.stream.read(&mut said) {
                Ok(0) => {
                    let closed = "the other side has closed the connection";
                    return Err(io::Error::new(ErrorKind::UnexpectedEof, closed));
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_busy(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn acknowledged(&self) -> io::Result<u64> {
        let queued = sockets::unacknowledged(&self.stream)?;
        let (message, done) = &self.out;
        let left = (message.len() - done) as u64 + queued;
        Ok(self.bytes.saturating_sub(left))
    }
}

fn is_busy(error: &io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Sends `bytes` to a connection and returns the error with which it ends.
    fn end_after(bytes: &[u8], close: impl FnOnce(TcpStream)) -> Ended {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut socket = Socket::open(Protocol::Tcp, listener.local_addr().unwrap()).unwrap();
        let (peer, _) = listener.accept().unwrap();
        drop(listener);
        assert!(socket.send(bytes.to_vec()).unwrap());
        close(peer);
        // The peer answers the first message with a reset, so that the second one fails.
        loop {
            if let Err(error) = socket.send(b"more".to_vec()) {
                return Ended::of(error);
            }
        }
    }

    #[test]
    fn a_connection_that_was_closed_before_it_was_reset_was_read_to_its_end() {
        let ended = end_after(b"line", |mut peer| peer.read_exact(&mut [0; 4]).unwrap());
        assert_eq!(ended.kind, End::Closed, "{}", ended.error);
    }

    #[test]
    fn a_connection_that_was_reset_with_bytes_unread_is_lost() {
        let ended = end_after(b"line", |peer| {
            let mut first = [0; 1];
            assert_eq!(peer.peek(&mut first).unwrap(), 1);
        });
        assert_eq!(ended.kind, End::Lost, "{}", ended.error);
    }
}
