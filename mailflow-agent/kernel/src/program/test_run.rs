//! Runs of loaded programs on frames from user space (BPF_PROG_TEST_RUN).

use aya::{TestRun, TestRunOptions, programs::Program};

use super::load::Loaded;
use crate::error::KernelError;

pub(crate) fn run(
    loaded: &Loaded,
    name: &str,
    frame: &[u8],
    context: Option<&[u8]>,
) -> Result<u32, KernelError> {
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.ctx_in = context;
    let result = match loaded.ebpf.program(name) {
        Some(Program::Xdp(program)) => program.test_run(options),
        Some(Program::SchedClassifier(program)) => program.test_run(options),
        _ => return Err(KernelError::Missing("program to run")),
    };
    match result {
        Ok(result) => Ok(result.return_value),
        Err(error) => Err(KernelError::Program { program: name.to_owned(), source: Box::new(error) }),
    }
}
