//! The BPF object inside the agent.

/// The committed object, made by `cargo xtask bpf`.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../../mailflow-ebpf/object/mailflow.bpf.o");
