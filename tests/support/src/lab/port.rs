//! One end of a wire: sends and receives raw frames.

use std::io::{Error, ErrorKind};
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::ns::Ns;

/// Timeout of a frame.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Packet socket on one interface (packet(7)).
#[derive(Debug)]
pub struct Port {
    socket: OwnedFd,
}

impl Port {
    /// Opens an interface of a namespace; only later frames are received.
    ///
    /// # Errors
    /// The interface does not exist.
    pub fn open(ns: &Ns, interface: &str) -> Result<Self> {
        let opened = ns.enter(|| Self::bind(interface))?;
        opened.with_context(|| format!("{interface} of {}", ns.name()))
    }

    fn bind(interface: &str) -> Result<Self> {
        let every = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: socket(2) takes integers; the returned descriptor has no other owner.
        let descriptor = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        ensure!(descriptor >= 0, Error::last_os_error());
        // SAFETY: the descriptor was just opened.
        let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
        let name = std::ffi::CString::new(interface)?;
        // SAFETY: the string ends with a zero byte.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        ensure!(index != 0, Error::last_os_error());
        // SAFETY: the struct has plain integers and bytes, for which zeros are valid.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = every;
        address.sll_ifindex = i32::try_from(index)?;
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the address lives through the call and has the given length.
        let bound = unsafe { libc::bind(descriptor, (&raw const address).cast(), length) };
        ensure!(bound == 0, Error::last_os_error());
        Ok(Self { socket })
    }

    /// Sends a frame; retries while the interface's queue is full.
    ///
    /// # Errors
    /// The interface is down or the frame too large, or its queue stays full for twenty seconds.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let begin = Instant::now();
        loop {
            // SAFETY: the kernel reads `frame.len()` bytes of the frame.
            let sent = unsafe { libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
            if usize::try_from(sent) == Ok(frame.len()) {
                return Ok(());
            }
            let error = Error::last_os_error();
            if error.raw_os_error() != Some(libc::ENOBUFS) || begin.elapsed() >= TIMEOUT {
                bail!("cannot send a frame of {} bytes: {error}", frame.len());
            }
        }
    }

    /// Waits for a frame with the IP packet of `frame`, with any tags.
    ///
    /// # Errors
    /// No such frame arrives within twenty seconds.
    pub fn receive(&self, frame: &[u8]) -> Result<()> {
        let begin = Instant::now();
        let mut buffer = vec![0; 1 << 16];
        while begin.elapsed() < TIMEOUT {
            // SAFETY: the kernel writes at most the length of the buffer.
            let received = unsafe {
                let (at, length) = (buffer.as_mut_ptr().cast(), buffer.len());
                libc::recv(self.socket.as_raw_fd(), at, length, libc::MSG_DONTWAIT)
            };
            match usize::try_from(received) {
                // The kernel moves the outer tag from the frame to metadata.
                Ok(length) if frame.ends_with(&buffer[14.min(length)..length]) => return Ok(()),
                Ok(_) => {}
                Err(_) if Error::last_os_error().kind() == ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(_) => bail!("cannot receive: {}", Error::last_os_error()),
            }
        }
        bail!("a frame of {} bytes did not arrive", frame.len())
    }
}
