//! Ground truth of a TCP connection: the counters of both ends' kernels.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use super::command::wait_for;
use super::ns::Ns;

/// Timeout of a stalled transfer.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Counters of one end, by `TCP_INFO`. Segments are packets of the wire, whatever the offloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpFacts {
    /// Segments sent, including SYN, FIN, pure ACKs and retransmissions.
    pub segments_out: u32,
    /// Segments received.
    pub segments_in: u32,
    /// Payload bytes sent, including retransmissions.
    pub bytes_sent: u64,
    /// Payload bytes received in order.
    pub bytes_received: u64,
    /// Payload bytes retransmitted.
    pub bytes_retransmitted: u64,
    /// Presence of TCP timestamps: 12 bytes of options in each segment.
    pub timestamps: bool,
}

impl TcpFacts {
    /// Reads the counters of an open socket.
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
        // Offsets of `struct tcp_info` in linux/tcp.h, which is only ever extended; tcpi_bytes_retrans is at
        // 208.
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

/// Finished connection with both ends' counters.
#[derive(Debug, Clone, Copy)]
pub struct Transfer {
    /// Client address before source NAT.
    pub client: SocketAddr,
    /// Counters of the client.
    pub client_facts: TcpFacts,
    /// Counters of the server, including its SYN-ACK.
    pub server_facts: TcpFacts,
}

impl Transfer {
    /// Returns packets and IP bytes, up and down, as a counter between the ends must count them. Both ends
    /// must have SACK off, so that all segments but the SYN have headers of equal length.
    #[must_use]
    pub fn wire(&self) -> [(u64, u64); 2] {
        let ip = if self.client.is_ipv4() { 20 } else { 40 };
        // Timestamps take 12 bytes; a SYN (RFC 9293, 7323) also carries MSS and window scale.
        let header = ip + if self.client_facts.timestamps { 32 } else { 20 };
        let syn = ip + 40;
        // The client's counters cover the whole connection; the server's socket begins after the handshake.
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

/// Opens a connection from `from` to `server` in `to`, sends `up` bytes, then `down` bytes back, and closes
/// it with FINs. Returns both ends' counters, including the last ACK.
///
/// # Errors
/// The port is in use, the connection fails, stalls for 30 seconds, or loses packets.
pub fn transfer(from: &Ns, to: &Ns, server: SocketAddr, up: usize, down: usize) -> Result<Transfer> {
    let connection = Connection::open(from, 0, to, server)?;
    connection.exchange(up, down)?;
    connection.close()?;
    let (client_facts, server_facts) = connection.facts()?;
    Ok(Transfer { client: connection.client_address()?, client_facts, server_facts })
}

/// Connection with both of its ends.
#[derive(Debug)]
pub struct Connection {
    client: TcpStream,
    server: TcpStream,
}

impl Connection {
    /// Opens a connection from `port` on the client's side; 0 lets the kernel choose one.
    ///
    /// # Errors
    /// A port is in use, or the connection fails.
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

    /// Returns the client's address before source NAT.
    ///
    /// # Errors
    /// The system call fails.
    pub fn client_address(&self) -> Result<SocketAddr> {
        Ok(self.client.local_addr()?)
    }

    /// Sends `up` bytes, then `down` bytes back.
    ///
    /// # Errors
    /// The connection stalls for 30 seconds.
    pub fn exchange(&self, up: usize, down: usize) -> Result<()> {
        std::thread::scope(|scope| -> Result<()> {
            let serving = scope.spawn(|| take(&self.server, up).and_then(|()| give(&self.server, down)));
            give(&self.client, up)?;
            take(&self.client, down)?;
            serving.join().map_err(|_| anyhow!("the server's thread panicked"))??;
            Ok(())
        })
    }

    /// Closes the connection with FINs, the client's first.
    ///
    /// # Errors
    /// The connection stalls for 30 seconds.
    pub fn close(&self) -> Result<()> {
        self.client.shutdown(Shutdown::Write)?;
        drain(&self.server)?;
        self.server.shutdown(Shutdown::Write)?;
        drain(&self.client)?;
        Ok(())
    }

    /// Returns the counters of client and server, once no segment is in flight.
    ///
    /// # Errors
    /// The two ends disagree for 30 seconds: packets were lost.
    pub fn facts(&self) -> Result<(TcpFacts, TcpFacts)> {
        settled(&self.client, &self.server)
    }

    /// Returns the current counters of client and server, whatever was lost between them.
    ///
    /// # Errors
    /// The system call fails.
    pub fn facts_now(&self) -> Result<(TcpFacts, TcpFacts)> {
        now(&self.client, &self.server)
    }
}

/// Connects from a port that other connections of this host may also use.
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

/// Listens in a namespace. A port that was just closed may be in use briefly: a child process of another
/// thread holds a copy of every descriptor until its exec.
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

/// Reads up to the peer's FIN.
fn drain(mut stream: &TcpStream) -> std::io::Result<()> {
    std::io::copy(&mut stream, &mut std::io::sink()).map(drop)
}

/// Returns both ends' current counters.
fn now(client: &TcpStream, server: &TcpStream) -> Result<(TcpFacts, TcpFacts)> {
    let (client, mut server) = (TcpFacts::of(client)?, TcpFacts::of(server)?);
    // The SYN-ACK precedes the server's socket; Linux never counts it there.
    server.segments_out += 1;
    Ok((client, server))
}

/// Returns both ends' counters once they are stable: the last ACK is still in flight when `read` returns.
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
