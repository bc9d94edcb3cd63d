//! Listening on an address that no interface may have yet.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// Length of the kernel's accept queue.
const BACKLOG: i32 = 1024;

/// Listens on `address`, even if no interface has it yet (IP_FREEBIND, ip(7)).
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    let freebind = match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true),
        SocketAddr::V6(_) => socket.set_freebind_v6(true),
    };
    // IPv6 before Linux 4.15 has no IP_FREEBIND: the address must exist, and the caller tries again.
    if let Err(error) = freebind {
        tracing::debug!(%error, "IP_FREEBIND");
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Returns true if an interface has the address, or if it is the wildcard address.
pub fn is_assigned(address: SocketAddr) -> bool {
    let mut address = address;
    address.set_port(0);
    UdpSocket::bind(address).is_ok()
}

/// Returns true if an address cannot be bound because the address or its interface does not exist.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(libc::ENODEV)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn listens_on_an_unassigned_address() {
        for (address, assigned) in [
            ("127.0.0.1:0", true),
            ("0.0.0.0:0", true),
            ("[::1]:0", true),
            ("192.0.2.77:0", false),
            ("[2001:db8::77]:0", false),
        ] {
            let address: SocketAddr = address.parse().unwrap();
            let listener = listen(address).unwrap();
            assert_eq!(listener.local_addr().unwrap().ip(), address.ip());
            assert_eq!(is_assigned(address), assigned, "{address}");
        }
        // A link-local address needs its interface.
        let error = listen("[fe80::1%4000000000]:0".parse().unwrap()).unwrap_err();
        assert!(is_absent(&error), "{error}");
    }
}
