//! System calls of the helper process.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    time::Duration,
};

use crate::host::capabilities;

/// Signals that the helper ignores: it ends when the agent does.
const IGNORED_SIGNALS: [libc::c_int; 7] =
    [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2, libc::SIGPIPE];

/// Name of the process in `ps -o comm`.
const PROCESS_NAME: &std::ffi::CStr = c"mailflow-hooks";

/// Returns both ends of a socket that preserves message boundaries.
pub(super) fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: writes two integers, which live through the call.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) })?;
    // SAFETY: the call succeeded: both are open, and owned here.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// Limits the time of sending and receiving.
pub(super) fn set_socket_timeouts(socket: BorrowedFd<'_>, limit: Duration) -> io::Result<()> {
    let limit = libc::timeval {
        tv_sec: limit.as_secs() as libc::time_t,
        tv_usec: libc::suseconds_t::from(limit.subsec_micros() as i32),
    };
    for option in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
        let length = size_of::<libc::timeval>() as libc::socklen_t;
        let value = (&raw const limit).cast();
        // SAFETY: reads one struct of that length, which lives through the call.
        check(unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, value, length) })?;
    }
    Ok(())
}

/// Starts a process that confines itself, reports over this socket, serves and ends. This process must have
/// one thread only.
pub(super) fn fork(socket: OwnedFd, serve: fn(BorrowedFd<'_>)) -> io::Result<libc::pid_t> {
    let parent = std::process::id();
    // SAFETY: there is no other thread whose locks would stay locked in the copy.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // The process exits at a panic too: no code of the agent runs here.
            let _at_a_panic = ExitOnDrop;
            let confined = confine(socket.as_fd(), parent);
            let errno = confined.map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |()| 0);
            if send(socket.as_fd(), &errno.to_ne_bytes()).is_ok() && errno == 0 {
                serve(socket.as_fd());
            }
            exit()
        }
        process => Ok(process),
    }
}

/// Waits until the helper has confined itself.
pub(super) fn wait_until_confined(socket: BorrowedFd<'_>) -> io::Result<()> {
    let mut errno = [0; size_of::<libc::c_int>()];
    match (receive(socket, &mut errno)?, libc::c_int::from_ne_bytes(errno)) {
        (length, 0) if length == errno.len() => Ok(()),
        (length, errno) if length == size_of_val(&errno) => Err(io::Error::from_raw_os_error(errno)),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Ends the process without the cleanup of the agent.
fn exit() -> ! {
    // SAFETY: an integer only; nothing comes after it.
    unsafe { libc::_exit(0) }
}

/// Ends the process on drop.
struct ExitOnDrop;

impl Drop for ExitOnDrop {
    fn drop(&mut self) {
        exit();
    }
}

/// Confines a copy of the agent to the work of the helper.
fn confine(socket: BorrowedFd<'_>, parent: u32) -> io::Result<()> {
    for signal in IGNORED_SIGNALS {
        // SAFETY: integers only; nothing is run by it.
        if unsafe { libc::signal(signal, libc::SIG_IGN) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    capabilities::keep_helper_capabilities().map_err(io::Error::other)?;
    // SAFETY: integers and a string that lives through the call.
    unsafe {
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        // No process of the agent's user may trace or dump this one.
        check(libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0))?;
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))?;
        check(libc::prctl(libc::PR_SET_NAME, PROCESS_NAME.as_ptr(), 0, 0, 0))?;
    }
    close_all_but(socket.as_raw_fd());
    // The agent may have ended before the signal of its death was asked for.
    // SAFETY: it takes nothing.
    if unsafe { libc::getppid() }.unsigned_abs() == parent {
        Ok(())
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// Closes all other descriptors: readers of the output of the agent, and clients of its sockets, must not
/// wait for this process. A descriptor that cannot be closed stays open, which is harmless.
fn close_all_but(socket: RawFd) {
    let close = |first: u32, last: u32| {
        // SAFETY: integers only. This process uses none of the closed descriptors again.
        if first <= last && unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } != 0 {
            // The system call is unknown or forbidden: close at least standard input, output and error.
            for descriptor in (first..=last).take_while(|descriptor| *descriptor <= 2) {
                // SAFETY: as above.
                unsafe { libc::close(descriptor as RawFd) };
            }
        }
    };
    let socket = socket.unsigned_abs();
    close(0, socket.saturating_sub(1));
    close(socket + 1, u32::MAX);
}

/// Sends a message.
pub(super) fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    loop {
        // SAFETY: reads bytes that live through the call.
        let sent =
            unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
        match sent {
            -1 if interrupted() => {}
            -1 => return Err(io::Error::last_os_error()),
            _ => return Ok(()),
        }
    }
}

/// Waits for a message, and returns its length; 0 if the other end is closed.
pub(super) fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<usize> {
    loop {
        // MSG_TRUNC returns the full length, so a message that is too long is refused.
        // SAFETY: writes bytes that live through the call.
        let length = unsafe {
            libc::recv(socket.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), libc::MSG_TRUNC)
        };
        match usize::try_from(length) {
            Ok(length) => return Ok(length),
            Err(_) if interrupted() => {}
            Err(_) => return Err(io::Error::last_os_error()),
        }
    }
}

/// Returns true if the other end is closed.
pub(super) fn is_closed(socket: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: reads and writes one struct, which lives through the call.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
    ready > 0 && poll.revents & (libc::POLLHUP | libc::POLLERR) != 0
}

/// Shuts both directions down.
pub(super) fn shut_down(socket: BorrowedFd<'_>) {
    // SAFETY: integers only.
    unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_RDWR) };
}

/// Reaps the process, if it has ended.
pub(super) fn reap(process: libc::pid_t) {
    if process > 0 {
        // SAFETY: integers only; the status is not asked for.
        unsafe { libc::waitpid(process, std::ptr::null_mut(), libc::WNOHANG) };
    }
}

fn interrupted() -> bool {
    io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
