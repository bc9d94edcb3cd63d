//! Sends frames on an interface unchanged.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::lab::Ns;

/// Frames per system call.
const AT_ONCE: usize = 64;
/// Timeout of a device without buffer space.
const PATIENCE: Duration = Duration::from_secs(10);

/// Packet socket on an interface of a namespace.
#[derive(Debug)]
pub struct Wire(OwnedFd);

impl Wire {
    /// Opens `interface` of `ns`.
    ///
    /// # Errors
    /// The interface does not exist, or the process lacks a privilege.
    pub fn open(ns: &Ns, interface: &str) -> Result<Self> {
        let name = CString::new(interface)?;
        let opened = ns.enter(|| {
            // SAFETY: system calls; the name lives through them, and the address is initialised.
            unsafe {
                let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
                if fd < 0 {
                    return Err(io::Error::last_os_error());
                }
                let fd = OwnedFd::from_raw_fd(fd);
                let index = libc::if_nametoindex(name.as_ptr());
                if index == 0 {
                    return Err(io::Error::last_os_error());
                }
                let mut address: libc::sockaddr_ll = std::mem::zeroed();
                address.sll_family = libc::AF_PACKET as u16;
                address.sll_ifindex = index as i32;
                let size = size_of_val(&address) as u32;
                match libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size) {
                    0 => Ok(fd),
                    _ => Err(io::Error::last_os_error()),
                }
            }
        })?;
        Ok(Self(opened.with_context(|| format!("opening {interface}"))?))
    }

    /// Sends frames in order, each once. Retries while the device has no buffer space.
    ///
    /// # Errors
    /// The device refuses a frame.
    pub fn send<F: AsRef<[u8]>>(&self, frames: &[F]) -> Result<()> {
        let mut sent = 0;
        let mut refused = None;
        while sent < frames.len() {
            let part = &frames[sent..frames.len().min(sent + AT_ONCE)];
            match self.send_some(part) {
                Ok(count) => {
                    sent += count;
                    refused = None;
                }
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EAGAIN)) => {
                    if refused.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                        bail!("no room for {} of {} frames: {error}", frames.len() - sent, frames.len());
                    }
                    std::thread::yield_now();
                }
                Err(error) => return Err(error).context("sending a frame"),
            }
        }
        Ok(())
    }

    fn send_some<F: AsRef<[u8]>>(&self, frames: &[F]) -> io::Result<usize> {
        let vector = |frame: &F| {
            let bytes = frame.as_ref();
            libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
        };
        let mut vectors: Vec<_> = frames.iter().map(vector).collect();
        let message = |vector: &mut libc::iovec| {
            // SAFETY: all zeros are a valid message without an address and without parts.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            (message.msg_hdr.msg_iov, message.msg_hdr.msg_iovlen) = (vector, 1);
            message
        };
        let mut messages: Vec<_> = vectors.iter_mut().map(message).collect();
        // SAFETY: the messages, their vectors and the frames live through the call, which only reads them.
        let sent =
            unsafe { libc::sendmmsg(self.0.as_raw_fd(), messages.as_mut_ptr(), messages.len() as u32, 0) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}
