//! Connections to other machines, with a time limit for everything.

use std::{
    io::{self, ErrorKind},
    net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket},
    time::Duration,
};

use anyhow::{Context, anyhow};

/// How long a connection, or a write to it, may take.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

/// A socket that sends to `address`, a `HOST:PORT`.
pub(super) fn udp(address: &str) -> anyhow::Result<UdpSocket> {
    first(address, |to| {
        let from: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
        let socket = UdpSocket::bind(from)?;
        socket.set_write_timeout(Some(TIMEOUT))?;
        socket.connect(to)?;
        Ok(socket)
    })
}

/// A connection to `address`, a `HOST:PORT`.
pub(super) fn tcp(address: &str) -> anyhow::Result<TcpStream> {
    first(address, |to| {
        let stream = TcpStream::connect_timeout(&to, TIMEOUT)?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    })
}

/// Whether the other side of a connection on which it says nothing is still there.
pub(super) fn alive(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    let heard = stream.peek(&mut [0]);
    stream.set_nonblocking(false)?;
    match heard {
        Ok(0) => Err(ErrorKind::ConnectionReset.into()),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}

/// The first of the host's addresses with which it works.
fn first<T>(address: &str, connect: impl Fn(SocketAddr) -> io::Result<T>) -> anyhow::Result<T> {
    let mut last = anyhow!("the name has no address");
    for to in address.to_socket_addrs().with_context(|| address.to_owned())? {
        match connect(to) {
            Ok(connection) => return Ok(connection),
            Err(error) => last = error.into(),
        }
    }
    Err(last.context(address.to_owned()))
}
