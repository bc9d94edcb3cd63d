//! The kernel program: an entry point for each hook, role and link type over one parser and one
//! counter. It only watches: every packet goes on as if it were not there.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics, asm_experimental_arch))]
#![cfg_attr(target_arch = "bpf", allow(internal_features))]

#[cfg(target_arch = "bpf")]
#[allow(unreachable_pub, reason = "the loader finds maps by name")]
mod maps;
#[cfg(target_arch = "bpf")]
#[allow(unreachable_pub, reason = "the loader finds entry points and maps by name")]
mod program;

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("this is a BPF program: `cargo xtask bpf` builds it");
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // The verifier proves that this is never reached.
    loop {}
}

/// The object may be used under the GPL-2.0, which the kernel asks of callers of its helpers.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
