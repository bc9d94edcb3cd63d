//! BPF
