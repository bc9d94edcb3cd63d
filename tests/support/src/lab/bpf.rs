//! Other BPF programs, to attach next to the agent's: each counts its packets and returns one verdict.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};

use super::ns::Ns;

/// Commands of bpf(2) (linux/bpf.h).
#[derive(Clone, Copy)]
enum Command {
    MapCreate = 0,
    MapLookup = 1,
    ProgLoad = 5,
    LinkGetFdById = 30,
    LinkCreate = 28,
    LinkGetNextId = 31,
    LinkDetach = 34,
    ObjGetInfoByFd = 15,
    ProgQuery = 16,
}

/// Hook and position of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// XDP, run by the driver.
    NativeXdp,
    /// XDP, run by the network stack.
    GenericXdp,
    /// TCX at ingress, before all attached programs.
    TcxIngressFirst,
    /// TCX at egress, before all attached programs.
    TcxEgressFirst,
}

/// Verdict of a program for every packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// XDP_PASS.
    XdpPass,
    /// TC_ACT_OK: accepts the packet; no later program runs.
    TcPass,
    /// TCX_NEXT: the next program decides.
    TcNext,
    /// XDP_DROP.
    XdpDrop,
    /// TC_ACT_SHOT: dropped.
    TcDrop,
}

/// Loaded program that counts its packets.
#[derive(Debug)]
pub struct Bystander {
    program: OwnedFd,
    counter: OwnedFd,
}

/// Attached program; dropping the value detaches it.
#[derive(Debug)]
pub struct Attached(#[expect(dead_code, reason = "held, to be dropped")] OwnedFd);

impl Bystander {
    /// Loads a program called `name` (at most 15 characters).
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn load(name: &str, verdict: Verdict) -> Result<Self> {
        // map_type BPF_MAP_TYPE_ARRAY, key_size, value_size, max_entries, map_flags
        let counter = owned(Command::MapCreate, &mut [2_u32, 4, 8, 1, 0]).context("BPF_MAP_CREATE")?;
        let (kind, answer) = match verdict {
            Verdict::XdpPass => (6, 2),
            Verdict::TcPass => (3, 0),
            Verdict::TcNext => (3, -1),
            Verdict::XdpDrop => (6, 1),
            Verdict::TcDrop => (3, 2),
        };
        let map = counter.as_raw_fd();
        let code = [
            instruction(0x18, 0x21, 0, map), // r1 = &map[0] (BPF_PSEUDO_MAP_VALUE)
            instruction(0, 0, 0, 0),         // its upper half
            instruction(0xb7, 2, 0, 1),      // r2 = 1
            instruction(0xdb, 0x21, 0, 0),   // lock *(u64 *)r1 += r2
            instruction(0xb7, 0, 0, answer), // r0 = answer
            instruction(0x95, 0, 0, 0),      // exit
        ];
        let licence = c"GPL";
        let mut attributes = LoadAttributes {
            kind,
            count: code.len() as u32,
            code: code.as_ptr() as u64,
            licence: licence.as_ptr() as u64,
            ..LoadAttributes::default()
        };
        for (to, from) in attributes.name.iter_mut().zip(name.bytes()).take(15) {
            *to = from;
        }
        let program = owned(Command::ProgLoad, &mut attributes).context("BPF_PROG_LOAD")?;
        Ok(Self { program, counter })
    }

    /// Attaches the program by a link.
    ///
    /// # Errors
    /// The interface does not exist, or the kernel refuses.
    pub fn attach(&self, ns: &Ns, interface: &str, slot: Slot) -> Result<Attached> {
        const BEFORE: u32 = 1 << 3;
        let (kind, flags) = match slot {
            Slot::NativeXdp => (37, 1 << 2),
            Slot::GenericXdp => (37, 1 << 1),
            Slot::TcxIngressFirst => (46, BEFORE),
            Slot::TcxEgressFirst => (47, BEFORE),
        };
        let name = CString::new(interface)?;
        ns.enter(|| {
            // SAFETY: the string lives through the call.
            let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
            // prog_fd, target_ifindex, attach_type, flags
            let mut attributes = [self.program.as_raw_fd() as u32, index, kind, flags];
            owned(Command::LinkCreate, &mut attributes).map(Attached)
        })?
        .with_context(|| format!("attaching to {interface} at {slot:?}"))
    }

    /// Returns the number of packets (buffers) that the program has seen.
    ///
    /// # Errors
    /// The kernel refuses the lookup.
    pub fn seen(&self) -> Result<u64> {
        let (key, mut value) = (0_u32, 0_u64);
        let mut attributes =
            [u64::from(self.counter.as_raw_fd() as u32), &raw const key as u64, &raw mut value as u64, 0];
        bpf(Command::MapLookup, &mut attributes).context("BPF_MAP_LOOKUP_ELEM")?;
        // The kernel writes the value without the compiler's knowledge. SAFETY: the word is aligned and
        // alive.
        Ok(unsafe { (&raw const value).read_volatile() })
    }
}

/// Detaches every link of an interface of the namespace from outside, as `bpftool link detach` does. Returns
/// the number of links.
///
/// # Errors
/// The kernel refuses.
pub fn detach_links(ns: &Ns, interface: &str) -> Result<usize> {
    // Interface indexes repeat in other namespaces; program ids do not.
    let programs = programs(ns, interface)?;
    let (mut id, mut detached) = (0, 0);
    loop {
        let mut next = [id, 0, 0];
        if bpf(Command::LinkGetNextId, &mut next).is_err() {
            return Ok(detached);
        }
        id = next[1];
        let Ok(link) = owned(Command::LinkGetFdById, &mut [id, 0, 0]) else { continue };
        // struct bpf_link_info: type, id, prog_id
        let mut info = [0_u32; 32];
        let (descriptor, length) = (link.as_raw_fd() as u64, size_of_val(&info) as u64);
        bpf(Command::ObjGetInfoByFd, &mut [descriptor | length << 32, &raw mut info as u64])?;
        // SAFETY: the array is aligned and alive; the kernel has written it without the compiler's knowledge.
        let info = unsafe { (&raw const info).read_volatile() };
        if programs.contains(&info[2]) {
            bpf(Command::LinkDetach, &mut [link.as_raw_fd() as u32])?;
            detached += 1;
        }
    }
}

/// Returns the ids of the programs at an interface's TCX hooks and of its XDP program.
fn programs(ns: &Ns, interface: &str) -> Result<Vec<u32>> {
    let shown = ns.ip(&format!("-details link show {interface}"))?;
    let xdp = shown.split("prog/xdp id ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let mut ids: Vec<u32> = xdp.map(str::parse).transpose()?.into_iter().collect();
    let name = CString::new(interface)?;
    let queried = ns.enter(|| {
        // SAFETY: the string lives through the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        [46, 47].map(|hook| {
            let mut found = [0_u32; 64];
            // target_ifindex, attach_type, query_flags, attach_flags, prog_ids, count
            let mut words = [u64::from(index) | hook << 32, 0, &raw mut found as u64, found.len() as u64];
            bpf(Command::ProgQuery, &mut words).map(|_| {
                // SAFETY: the array is aligned and alive; the kernel has written it without the compiler's
                // knowledge.
                unsafe { (&raw const found).read_volatile() }
            })
        })
    })?;
    for found in queried {
        ids.extend(found?.into_iter().filter(|id| *id != 0));
    }
    Ok(ids)
}

#[repr(C)]
#[derive(Default)]
struct LoadAttributes {
    kind: u32,
    count: u32,
    code: u64,
    licence: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// Encodes a `struct bpf_insn`: operation, source and destination registers, offset, constant.
fn instruction(operation: u8, registers: u8, offset: i16, constant: i32) -> u64 {
    let mut bytes = [0; 8];
    bytes[0] = operation;
    bytes[1] = registers;
    bytes[2..4].copy_from_slice(&offset.to_le_bytes());
    bytes[4..8].copy_from_slice(&constant.to_le_bytes());
    u64::from_le_bytes(bytes)
}

fn owned<A: ?Sized>(command: Command, attributes: &mut A) -> io::Result<OwnedFd> {
    let descriptor = bpf(command, attributes)?;
    // SAFETY: these commands return a new descriptor, which the caller owns.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn bpf<A: ?Sized>(command: Command, attributes: &mut A) -> io::Result<i32> {
    let size = size_of_val(attributes);
    // SAFETY: the attributes belong to the command. Every address in them points to memory of the size that
    // the kernel reads or writes, alive through the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_int, (attributes as *mut A).cast::<u8>(), size)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
