//! Sockets to remote receivers. Only name lookup and connecting block.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket},
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};

use super::protocol::Protocol;
use mailflow_kernel::sockets;

/// Timeout of a connection attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time without acknowledgement, or with a closed window, after which the kernel ends the connection.
const UNACKNOWLEDGED_TIMEOUT: Duration = Duration::from_secs(15);
/// Idle time before the first keepalive probe.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// Interval of further keepalive probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Timeout of sending a datagram to the kernel.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Resolves a `HOST:PORT`. The addresses are in order of preference.
pub(crate) fn resolve(address: &str) -> io::Result<Vec<SocketAddr>> {
    Ok(address.to_socket_addrs()?.collect())
}

/// Socket to one address.
pub(crate) enum Socket {
    /// TCP connection.
    Tcp(TcpConnection),
    /// UDP socket.
    Udp(SocketAddr, UdpSocket),
}

/// TCP connection and the state of its output.
pub(crate) struct TcpConnection {
    to: SocketAddr,
    stream: TcpStream,
    /// Message that the kernel has not accepted completely, and the number of accepted bytes.
    partial_message: (Vec<u8>, usize),
    /// Size of all messages, including `partial_message`.
    bytes: u64,
}

/// End of a connection.
#[derive(Debug)]
pub(crate) struct Disconnect {
    pub(crate) kind: DisconnectKind,
    pub(crate) error: io::Error,
}

/// Kind of a connection's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DisconnectKind {
    /// Close by a receiver that has read everything it acknowledged.
    Closed,
    /// Closed port.
    Refused,
    /// Reset connection or unreachable receiver.
    Lost,
}

impl Disconnect {
    /// Classifies a socket error.
    pub(crate) fn of(error: io::Error) -> Self {
        let kind = match error.kind() {
            // Linux reports a reset as a broken pipe if the peer closed the connection before (tcp_reset() in
            // net/ipv4/tcp_input.c). It closes a connection with unread bytes by a reset, not by a FIN.
            ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe => DisconnectKind::Closed,
            ErrorKind::ConnectionRefused => DisconnectKind::Refused,
            _ => DisconnectKind::Lost,
        };
        Self { kind, error }
    }
}

impl Socket {
    /// Opens a socket to `to`, and connects it.
    pub(crate) fn open(protocol: Protocol, to: SocketAddr) -> io::Result<Self> {
        match protocol {
            Protocol::Tcp => TcpConnection::open(to).map(Self::Tcp),
            Protocol::Udp => {
                let from: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
                let socket = UdpSocket::bind(from)?;
                sockets::report_errors(&socket, to)?;
                socket.set_write_timeout(Some(SEND_TIMEOUT))?;
                socket.connect(to)?;
                Ok(Self::Udp(to, socket))
            }
        }
    }

    /// Returns the remote address.
    pub(crate) fn to(&self) -> SocketAddr {
        match self {
            Self::Tcp(stream) => stream.to,
            Self::Udp(to, _) => *to,
        }
    }

    /// Sends the rest of the last message. Returns true if nothing remains.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        match self {
            Self::Tcp(stream) => stream.flush(),
            Self::Udp(..) => Ok(true),
        }
    }

    /// Sends a message. Must follow a [`Socket::flush`] that returned true. Returns false if the kernel
    /// accepts no data now.
    pub(crate) fn send(&mut self, message: Vec<u8>) -> io::Result<bool> {
        match self {
            Self::Tcp(stream) => {
                stream.bytes += message.len() as u64;
                stream.partial_message = (message, 0);
                stream.flush().map(|_| true)
            }
            Self::Udp(_, socket) => match socket.send(&message) {
                Ok(_) => Ok(true),
                Err(error) if is_busy(&error) => Ok(false),
                Err(error) => Err(error),
            },
        }
    }

    /// Returns the offset after the last message in the byte stream of the connection.
    pub(crate) fn end(&self) -> u64 {
        match self {
            Self::Tcp(stream) => stream.bytes,
            Self::Udp(..) => 0,
        }
    }

    /// Returns the offset up to which the receiver has acknowledged the byte stream.
    ///
    /// # Errors
    /// The connection has ended, or a datagram was refused.
    pub(crate) fn acknowledged(&mut self) -> io::Result<u64> {
        match self {
            Self::Tcp(stream) => {
                stream.check_peer()?;
                stream.acknowledged()
            }
            Self::Udp(_, socket) => socket.take_error()?.map_or(Ok(0), Err),
        }
    }

    /// Returns the acknowledged offset of a connection that has ended, `None` over UDP.
    pub(crate) fn last_acknowledged(&self) -> Option<u64> {
        match self {
            Self::Tcp(stream) => stream.acknowledged().ok(),
            Self::Udp(..) => None,
        }
    }
}

impl TcpConnection {
    fn open(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&to, CONNECT_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let socket = SockRef::from(&stream);
        socket.set_tcp_keepalive(
            &TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL),
        )?;
        socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_TIMEOUT))?;
        Ok(Self { to, stream, partial_message: (Vec::new(), 0), bytes: 0 })
    }

    fn flush(&mut self) -> io::Result<bool> {
        let (message, written) = &mut self.partial_message;
        while *written < message.len() {
            match self.stream.write(&message[*written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(length) => *written += length,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_busy(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Discards received data, to detect the end of the connection.
    fn check_peer(&mut self) -> io::Result<()> {
        let mut discarded = [0; 1_024];
        loop {
            match self.stream.read(&mut discarded) {
                Ok(0) => {
                    let closed = "the receiver has closed the connection";
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
        let (message, written) = &self.partial_message;
        let unacknowledged = (message.len() - written) as u64 + queued;
        Ok(self.bytes.saturating_sub(unacknowledged))
    }
}

/// Returns true if the kernel accepts no data now.
fn is_busy(error: &io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Sends `bytes` over a connection and returns the error that ends it.
    fn end_after(bytes: &[u8], close: impl FnOnce(TcpStream)) -> Disconnect {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut socket = Socket::open(Protocol::Tcp, listener.local_addr().unwrap()).unwrap();
        let (peer, _) = listener.accept().unwrap();
        drop(listener);
        assert!(socket.send(bytes.to_vec()).unwrap());
        close(peer);
        // The peer answers the first message with a reset, so that the second one fails.
        loop {
            if let Err(error) = socket.send(b"more".to_vec()) {
                return Disconnect::of(error);
            }
        }
    }

    #[test]
    fn a_reset_after_a_close_counts_as_closed() {
        let disconnect = end_after(b"line", |mut peer| peer.read_exact(&mut [0; 4]).unwrap());
        assert_eq!(disconnect.kind, DisconnectKind::Closed, "{}", disconnect.error);
    }

    #[test]
    fn a_reset_with_unread_bytes_counts_as_lost() {
        let disconnect = end_after(b"line", |peer| {
            let mut first = [0; 1];
            assert_eq!(peer.peek(&mut first).unwrap(), 1);
        });
        assert_eq!(disconnect.kind, DisconnectKind::Lost, "{}", disconnect.error);
    }
}
