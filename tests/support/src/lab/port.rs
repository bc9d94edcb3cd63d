//! One end of a wire: raw frames out and in.

use std::io::{Error, ErrorKind};
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::ns::Ns;

/// How long a frame may be on its way.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A packet socket on one interface (packet(7)).
#[derive(Debug)]
pub struct Port {
    socket: OwnedFd,
}

impl Port {
    /// Opens an interface of a namespace; only frames that arrive from now on are received.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn open(ns: &Ns, interface: &str) -> Result<Self> {
        let opened = ns.enter(|| Self::bind(interface))?;
        opened.with_context(|| format!("{interface} of {}", ns.name()))
    }

    fn bind(interface: &str) -> Result<Self> {
        let every = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: socket(2) takes integers; what it returns is ours alone.
        let descriptor = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        ensure!(descriptor >= 0, Error::last_os_error());
        // SAFETY: a descriptor just opened.
        let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
        let name = std::ffi::CString::new(interface)?;
        // SAFETY: a string that ends with a zero.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        ensure!(index != 0, Error::last_os_error());
        // SAFETY: plain integers and bytes, of which zeros are valid.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = every;
        address.sll_ifindex = i32::try_from(index)?;
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the address lives across the call and is as long as said.
        let bound = unsafe { libc::bind(descriptor, (&raw const address).cast(), length) };
        ensure!(bound == 0, Error::last_os_error());
        Ok(Self { socket })
    }

    /// Sends a frame; tries again while the interface's queue is full.
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

    /// Waits until a frame has come in whose IP packet is that of `frame`, whatever tags it has kept.
    ///
    /// # Errors
    /// None has within twenty seconds.
    pub fn receive(&self, frame: &[u8]) -> Result<()> {
        let begin = Instant::now();
        let mut buffer = vec![0; 1 << 16];
        while begin.elapsed() < TIMEOUT {
            // SAFETY: the kernel writes at most as many bytes as the buffer has.
            let received = unsafe {
                let (at, length) = (buffer.as_mut_ptr().cast(), buffer.len());
                libc::recv(self.socket.as_raw_fd(), at, length, libc::MSG_DONTWAIT)
            };
            match usize::try_from(received) {
                // The kernel takes the outer tag out of what it shows here.
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
