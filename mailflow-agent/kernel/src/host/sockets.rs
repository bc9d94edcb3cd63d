//! Socket options that neither the standard library nor socket2 has.

use std::{
    io,
    net::{SocketAddr, TcpStream, UdpSocket},
    os::fd::AsRawFd,
};

/// Returns how many bytes of a connection the other side has not acknowledged (SIOCOUTQ, tcp(7)).
///
/// # Errors
/// The kernel does not say.
pub fn unacknowledged(stream: &TcpStream) -> io::Result<u64> {
    let mut queued: libc::c_int = 0;
    // SIOCOUTQ has the number of TIOCOUTQ.
    // SAFETY: writes one integer that lives through the call.
    if unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut queued) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::try_from(queued).unwrap_or(0))
}

/// Lets a socket report machines and networks that cannot be reached, and not only refused ports (IP_RECVERR, ip(7)).
///
/// # Errors
/// The kernel refuses.
pub fn report_errors(socket: &UdpSocket, to: SocketAddr) -> io::Result<()> {
    let (level, option) = match to {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_RECVERR),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    };
    let on: libc::c_int = 1;
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: reads one integer that lives through the call.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), length) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
