//! XDP and TC contexts as frames.

use core::{arch::asm, mem::offset_of};

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    helpers::{bpf_skb_load_bytes, bpf_skb_pull_data, bpf_xdp_get_buff_len},
};
use mailflow_ebpf::{Frame, Gso, Header, Metadata};

use crate::maps;

/// Context that the program can count.
pub(super) trait Packet: Frame + Copy {
    /// Segmentation facts.
    fn gso(&self) -> Gso;
    /// Metadata that the kernel took out of the frame.
    fn metadata(&self) -> Metadata;
    /// Returns `LENGTH` payload bytes, which need not be directly readable.
    fn payload<const LENGTH: usize>(&self, offset: u32) -> Option<[u8; LENGTH]>;
    /// Index of the interface that received the packet; 0 if this machine sent it.
    fn ingress_interface(&self) -> u32;
    /// Index of the interface of the hook.
    fn interface(&self) -> u32;
    /// Makes more of the frame readable. Returns true if that succeeded; earlier headers are then invalid.
    fn pull(&self) -> bool;
}

/// Bytes that the verifier has seen compared with the end of the packet.
///
/// Each read is one inline instruction: the words of a packet are not aligned, and LLVM would split such a
/// load into bytes.
#[derive(Clone, Copy)]
pub(super) struct Bytes(*const u8);

impl Header for Bytes {
    #[inline(always)]
    fn u8<const OFFSET: usize>(&self) -> u8 {
        let value: u64;
        // SAFETY: a `Bytes` is only made of a pointer with enough bytes behind it.
        unsafe {
            asm!("{v} = *(u8 *)({p} + {o})", v = out(reg) value, p = in(reg) self.0, o = const OFFSET, options(pure, readonly, nostack, preserves_flags));
        }
        value as u8
    }

    #[inline(always)]
    fn be16<const OFFSET: usize>(&self) -> u16 {
        let value: u64;
        // SAFETY: as above.
        unsafe {
            asm!("{v} = *(u16 *)({p} + {o})", v = out(reg) value, p = in(reg) self.0, o = const OFFSET, options(pure, readonly, nostack, preserves_flags));
        }
        u16::from_be(value as u16)
    }

    #[inline(always)]
    fn raw32<const OFFSET: usize>(&self) -> u32 {
        let value: u64;
        // SAFETY: as above.
        unsafe {
            asm!("{v} = *(u32 *)({p} + {o})", v = out(reg) value, p = in(reg) self.0, o = const OFFSET, options(pure, readonly, nostack, preserves_flags));
        }
        value as u32
    }
}

/// Returns the word at `OFFSET` of a context: the start or the end of the frame.
///
/// One inline instruction: LLVM would widen a 32-bit word where it is used again, and the verifier would no
/// longer see a pointer.
#[inline(always)]
fn bound<const OFFSET: usize, C>(context: *mut C) -> usize {
    let value: usize;
    // SAFETY: the kernel hands the program a valid context, and the callers know its fields.
    unsafe {
        asm!("{v} = *(u32 *)({p} + {o})", v = out(reg) value, p = in(reg) context, o = const OFFSET, options(pure, readonly, nostack, preserves_flags));
    }
    value
}

#[inline(always)]
fn reach<const LENGTH: usize>(start: usize, end: usize, offset: usize) -> Option<Bytes> {
    let mut pointer = start + offset;
    // The pointer that is compared must be the one that is read through: LLVM may not look behind it.
    // SAFETY: one instruction that changes nothing.
    unsafe {
        asm!("{p} = {p}", p = inout(reg) pointer, options(pure, nomem, nostack, preserves_flags));
    }
    if pointer + LENGTH > end { None } else { Some(Bytes(pointer as *const u8)) }
}

/// Hides `value` from LLVM, which then has to assume that it is read and written here.
#[inline(always)]
fn materialise<T>(value: &mut T) {
    // SAFETY: one instruction that changes nothing.
    unsafe {
        asm!("{p} = {p}", p = inout(reg) core::ptr::from_mut(value) => _, options(nostack, preserves_flags));
    }
}

/// Frame at an XDP hook. With `FRAGS` it may lie in several buffers, of which the first is readable.
#[derive(Clone, Copy)]
pub(super) struct Xdp<const FRAGS: bool>(*mut xdp_md);

impl<const FRAGS: bool> Xdp<FRAGS> {
    #[inline(always)]
    pub(super) fn new(context: *mut xdp_md) -> Self {
        Self(context)
    }

    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        (
            bound::<{ offset_of!(xdp_md, data) }, _>(self.0),
            bound::<{ offset_of!(xdp_md, data_end) }, _>(self.0),
        )
    }
}

impl<const FRAGS: bool> Frame for Xdp<FRAGS> {
    type Header = Bytes;

    #[inline(always)]
    fn header<const LENGTH: usize>(&self, offset: usize) -> Option<Bytes> {
        let (start, end) = self.bounds();
        reach::<LENGTH>(start, end, offset)
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        let told = maps::capture_frame_length();
        if told != 0 {
            return told;
        }
        if FRAGS {
            // SAFETY: the kernel hands the program a valid context.
            return unsafe { bpf_xdp_get_buff_len(self.0) } as u32;
        }
        let (start, end) = self.bounds();
        (end - start) as u32
    }

    #[inline(always)]
    fn holds(&self, bytes: u32) -> bool {
        let (start, end) = self.bounds();
        // Most frames are of one buffer, for which no helper is asked.
        bytes as usize <= end - start || bytes <= self.length()
    }

    #[inline(always)]
    fn opaque(&self, value: usize, mask: usize) -> usize {
        maps::opaque(value, mask)
    }

    #[inline(always)]
    fn materialise<T>(&self, value: &mut T) {
        materialise(value);
    }
}

impl<const FRAGS: bool> Packet for Xdp<FRAGS> {
    #[inline(always)]
    fn gso(&self) -> Gso {
        Gso::default()
    }

    #[inline(always)]
    fn metadata(&self) -> Metadata {
        Metadata::default()
    }

    #[inline(always)]
    fn payload<const LENGTH: usize>(&self, offset: u32) -> Option<[u8; LENGTH]> {
        let bytes = self.header::<LENGTH>(maps::opaque(offset as usize, 0x1fff))?;
        // SAFETY: `header` found LENGTH bytes behind the pointer.
        Some(unsafe { bytes.0.cast::<[u8; LENGTH]>().read() })
    }

    #[inline(always)]
    fn ingress_interface(&self) -> u32 {
        // SAFETY: the kernel hands the program a valid context.
        unsafe { (*self.0).ingress_ifindex }
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        self.ingress_interface()
    }

    #[inline(always)]
    fn pull(&self) -> bool {
        false
    }
}

/// Frame at a TC hook.
#[derive(Clone, Copy)]
pub(super) struct Skb(*mut __sk_buff);

/// Deepest headers that are pulled into the linear area: Ethernet, two tags, IPv4 with all its
/// options or IPv6 with 40 bytes of extensions, TCP without options.
const HEADERS: u32 = 134;

impl Skb {
    #[inline(always)]
    pub(super) fn new(context: *mut __sk_buff) -> Self {
        Self(context)
    }
}

impl Frame for Skb {
    type Header = Bytes;

    #[inline(always)]
    fn header<const LENGTH: usize>(&self, offset: usize) -> Option<Bytes> {
        let start = bound::<{ offset_of!(__sk_buff, data) }, _>(self.0);
        let end = bound::<{ offset_of!(__sk_buff, data_end) }, _>(self.0);
        reach::<LENGTH>(start, end, offset)
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).len }
    }

    #[inline(always)]
    fn holds(&self, bytes: u32) -> bool {
        bytes <= self.length()
    }

    #[inline(always)]
    fn opaque(&self, value: usize, mask: usize) -> usize {
        maps::opaque(value, mask)
    }

    #[inline(always)]
    fn materialise<T>(&self, value: &mut T) {
        materialise(value);
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn gso(&self) -> Gso {
        // SAFETY: as above.
        unsafe { Gso { size: (*self.0).gso_size, segments: (*self.0).gso_segs } }
    }

    #[inline(always)]
    fn metadata(&self) -> Metadata {
        // SAFETY: as above.
        unsafe {
            let tag = if (*self.0).vlan_present != 0 { Some((*self.0).vlan_tci as u16) } else { None };
            Metadata { ethertype: u16::from_be((*self.0).protocol as u16), tag }
        }
    }

    #[inline(always)]
    fn payload<const LENGTH: usize>(&self, offset: u32) -> Option<[u8; LENGTH]> {
        let mut bytes = [0; LENGTH];
        // SAFETY: the helper writes at most LENGTH bytes.
        let result =
            unsafe { bpf_skb_load_bytes(self.0.cast(), offset, bytes.as_mut_ptr().cast(), LENGTH as u32) };
        if result == 0 { Some(bytes) } else { None }
    }

    #[inline(always)]
    fn ingress_interface(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).ingress_ifindex }
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).ifindex }
    }

    #[inline(always)]
    fn pull(&self) -> bool {
        // SAFETY: as above; `header` reads the pointers into the frame again.
        unsafe {
            let length = (*self.0).len;
            if (*self.0).data_end - (*self.0).data >= length {
                return false;
            }
            let is_watched = if length < HEADERS { length } else { HEADERS };
            bpf_skb_pull_data(self.0, is_watched) == 0
        }
    }
}
