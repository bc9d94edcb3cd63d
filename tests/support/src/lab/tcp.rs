//! The truth about a TCP connection: what the kernels of both ends say of it.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use super::command::wait_for;
use super::ns::Ns;

/// How long a transfer may stand still.
const TIMEOUT: Duration = Duration::from_secs(120);

/// What one end has sent and received: `TCP_INFO`. Segments are packets of the wire, whatever the offloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpFacts {
    /// Segments sent, SYN, FIN, pure ACKs and retransmissions included.
    pub segments_out: u32,
    /// Segments received.
    pub segments_in: u32,
    /// Payload bytes sent, retransmissions included.
    pub bytes_sent: u64,
    /// Payload bytes received in order.
    pub bytes_received: u64,
    /// Payload bytes sent again.
    pub bytes_retransmitted: u64,
    /// Whether segments carry timestamps: 12 bytes of options in each.
    pub timestamps: bool,
}

impl TcpFacts {
    /// Asks the kernel about a socket that is not closed yet.
    ///
    /// # Errors
    /// The kernel is older than 4.19, or this is no TCP socket.
    pub fn of(stream: &TcpStream) -> Result<Self> {
        let mut info = [0u8; 256];
        let mut length: libc::socklen_t = 256;
        // SAFETY: the kernel writes at most `length` bytes, the size of `info`, and sets `length`.
        let result = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        ensure!(result == 0, "TCP_INFO: {}", std::io::Error::last_os_error());
        // Offsets of `struct tcp_info` in linux/tcp.h, which only ever grows; tcpi_bytes_retrans is at 208.
        ensure!(length >= 216, "TCP_INFO has {length} bytes: the kernel is older than 4.19");
        let long = |at: usize| u64::from_ne_bytes(std::array::from_fn(|byte| info[at + byte]));
        let word = |at: usize| u32::from_ne_bytes(std::array::from_fn(|byte| info[at + byte]));
        Ok(Self {
            segments_out: word(136),
            segments_in: word(140),
            bytes_sent: long(200),
            bytes_received: long(128),
            bytes_retransmitted: long(208),
            timestamps: info[5] & 1 == 1,
        })
    }
}

/// A finished connection as both its ends saw it.
#[derive(Debug, Clone, Copy)]
pub struct Transfer {
    /// The client's address, before any translation.
    pub client: SocketAddr,
    /// The client's counters.
    pub client_facts: TcpFacts,
    /// The server's counters, its SYN-ACK included.
    pub server_facts: TcpFacts,
}

impl Transfer {
    /// Packets and IP bytes, up and down, as a counter between the ends has to see them. Holds where both
    /// ends have SACK off: then all segments but the SYN have headers of one length.
    #[must_use]
    pub fn wire(&self) -> [(u64, u64); 2] {
        let ip = if self.client.is_ipv4() { 20 } else { 40 };
        // Timestamps take 12 bytes; a SYN (RFC 9293, 7323) also carries MSS and window scale.
        let header = ip + if self.client_facts.timestamps { 32 } else { 20 };
        let syn = ip + 40;
        // The client's socket has seen the whole connection; the server's begins after the handshake.
        [
            (self.client_facts.segments_out, self.client_facts.bytes_sent),
            (self.client_facts.segments_in, self.server_facts.bytes_sent),
        ]
        .map(|(segments, payload)| {
            let packets = u64::from(segments);
            (packets, syn + packets.saturating_sub(1) * header + payload)
        })
    }
}

/// Opens a connection from `from` to `server` in `to`, sends `up` bytes, then `down` bytes back, closes it in
/// order and returns what both ends counted, the last ACK included.
///
/// # Errors
/// The port is taken, the connection fails, stands still for 30 seconds, or loses packets.
pub fn transfer(from: &Ns, to: &Ns, server: SocketAddr, up: usize, down: usize) -> Result<Transfer> {
    let connection = Connection::open(from, 0, to, server)?;
    connection.exchange(up, down)?;
    connection.close()?;
    let (client_facts, server_facts) = connection.facts()?;
    Ok(Transfer { client: connection.client_address()?, client_facts, server_facts })
}

/// A connection of which both ends are held.
#[derive(Debug)]
pub struct Connection {
    client: TcpStream,
    server: TcpStream,
}

impl Connection {
    /// Opens it, from `port` on the client's side; 0 lets the kernel choose one.
    ///
    /// # Errors
    /// A port is taken, or the connection fails.
    pub fn open(from: &Ns, port: u16, to: &Ns, server: SocketAddr) -> Result<Self> {
        let listener = listen(to, server)?;
        let connected = from.enter(|| connect(port, server))?;
        let client = connected.with_context(|| format!("cannot connect from {port} to {server}"))?;
        let (accepted, _peer) = listener.accept()?;
        for stream in [&client, &accepted] {
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
        }
        Ok(Self { client, server: accepted })
    }

    /// The client's address, before any translation.
    ///
    /// # Errors
    /// The system does not say.
    pub fn client_address(&self) -> Result<SocketAddr> {
        Ok(self.client.local_addr()?)
    }

    /// Sends `up` bytes, then `down` bytes back.
    ///
    /// # Errors
    /// The connection stands still for 30 seconds.
    pub fn exchange(&self, up: usize, down: usize) -> Result<()> {
        std::thread::scope(|scope| -> Result<()> {
            let serving = scope.spawn(|| take(&self.server, up).and_then(|()| give(&self.server, down)));
            give(&self.client, up)?;
            take(&self.client, down)?;
            serving.join().map_err(|_| anyhow!("the server's thread panicked"))??;
            Ok(())
        })
    }

    /// Closes it in order, the client first.
    ///
    /// # Errors
    /// The connection stands still for 30 seconds.
    pub fn close(&self) -> Result<()> {
        self.client.shutdown(Shutdown::Write)?;
        drain(&self.server)?;
        self.server.shutdown(Shutdown::Write)?;
        drain(&self.client)?;
        Ok(())
    }

    /// What client and server have counted, once nothing is under way any more.
    ///
    /// # Errors
    /// The two ends disagree for 30 seconds: packets were lost.
    pub fn facts(&self) -> Result<(TcpFacts, TcpFacts)> {
        settled(&self.client, &self.server)
    }

    /// What client and server have counted by now, whatever was lost between them.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn facts_now(&self) -> Result<(TcpFacts, TcpFacts)> {
        now(&self.client, &self.server)
    }
}

/// Connects from a port, which other connections of this host may have in use too.
fn connect(port: u16, server: SocketAddr) -> std::io::Result<TcpStream> {
    let unspecified = match server {
        SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if port != 0 {
        socket.bind(&SocketAddr::new(unspecified, port).into())?;
    }
    socket.connect_timeout(&server.into(), TIMEOUT)?;
    Ok(socket.into())
}

/// Listens in a namespace. A port just closed may be busy for a moment: a program that another thread starts
/// holds a copy of every descriptor until its exec.
pub(super) fn listen(ns: &Ns, address: SocketAddr) -> Result<TcpListener> {
    let listener = wait_for("the port is free", Duration::from_secs(20), || {
        match ns.enter(|| TcpListener::bind(address))? {
            Err(error) if error.kind() == ErrorKind::AddrInUse => Ok(None),
            bound => Ok(Some(bound?)),
        }
    });
    listener.with_context(|| format!("cannot listen on {address}"))
}

fn give(mut stream: &TcpStream, mut size: usize) -> std::io::Result<()> {
    let chunk = [b'x'; 64 << 10];
    while size > 0 {
        let next = size.min(chunk.len());
        stream.write_all(&chunk[..next])?;
        size -= next;
    }
    Ok(())
}

fn take(mut stream: &TcpStream, mut size: usize) -> std::io::Result<()> {
    let mut chunk = [0; 64 << 10];
    while size > 0 {
        let next = size.min(chunk.len());
        stream.read_exact(&mut chunk[..next])?;
        size -= next;
    }
    Ok(())
}

/// Reads up to the other side's FIN.
fn drain(mut stream: &TcpStream) -> std::io::Result<()> {
    std::io::copy(&mut stream, &mut std::io::sink()).map(drop)
}

/// Both ends' counters as they are.
fn now(client: &TcpStream, server: &TcpStream) -> Result<(TcpFacts, TcpFacts)> {
    let (client, mut server) = (TcpFacts::of(client)?, TcpFacts::of(server)?);
    // The SYN-ACK is sent before this socket exists, and Linux does not book it on the socket later.
    server.segments_out += 1;
    Ok((client, server))
}

/// Both ends' counters once neither moves any more: the last ACK is on its way when `read` returns.
fn settled(client: &TcpStream, server: &TcpStream) -> Result<(TcpFacts, TcpFacts)> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let (c, s) = now(client, server)?;
        if c.segments_out == s.segments_in && s.segments_out == c.segments_in {
            return Ok((c, s));
        }
        ensure!(Instant::now() < deadline, "the two ends disagree: client {c:?}, server {s:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
