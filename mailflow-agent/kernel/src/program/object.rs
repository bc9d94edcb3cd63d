//! The BPF object inside the agent.

/// The committed object; `cargo xtask bpf` makes it, and its record says of what.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../../mailflow-ebpf/object/mailflow.bpf.o");
