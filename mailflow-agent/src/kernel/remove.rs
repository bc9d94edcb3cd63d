//! Taking flows out of the table, many at a time, by a program of our own.

use aya::{TestRun, TestRunOptions, programs::Program};
use mailflow_common::{Removal, removal};

use super::{
    batch,
    error::KernelError,
    load::{Loaded, REMOVE},
    table::Book,
};
use crate::engine::flow::{Fate, Flow};

/// Takes `flows` out of the table, each only if it has not changed since it was read.
pub(super) fn remove(loaded: &Loaded, book: &mut Book, flows: &[Flow]) -> Result<Vec<Fate>, KernelError> {
    let mut fates = Vec::with_capacity(flows.len());
    let mut asked = Vec::with_capacity(removal::MOST);
    let mut answered = vec![Removal::default(); removal::MOST];
    for flows in flows.chunks(removal::MOST) {
        asked.clear();
        // An entry of the tuple would be another flow's.
        let over: Vec<bool> = flows.iter().map(|flow| book.carried.is_over(flow)).collect();
        let inside = flows.iter().zip(&over).filter(|(_, over)| !**over);
        asked.extend(inside.map(|(flow, _)| Removal {
            flow: flow.key,
            packets: book.packets(flow),
            answer: removal::ASKED,
        }));
        let answered = &mut answered[..asked.len()];
        if !asked.is_empty() {
            run(loaded, &asked, answered)?;
        }
        let mut answers = answered.iter().map(|answered| answered.answer);
        for (flow, over) in flows.iter().zip(over) {
            let answer = if over { Some(removal::ABSENT) } else { answers.next() };
            let fate = match answer {
                Some(removal::REMOVED) => Fate::Removed,
                Some(removal::ABSENT) => Fate::Absent,
                _ => Fate::Lives,
            };
            book.note(flow, fate);
            fates.push(fate);
        }
    }
    Ok(fates)
}

fn run(loaded: &Loaded, asked: &[Removal], answered: &mut [Removal]) -> Result<(), KernelError> {
    let Some(Program::Xdp(program)) = loaded.ebpf.program(REMOVE) else {
        return Err(KernelError::Missing("program that removes flows"));
    };
    let mut options = TestRunOptions::new();
    options.data_in = Some(batch::bytes(asked));
    options.data_out = Some(batch::bytes_mut(answered));
    let result = program.test_run(options);
    result
        .map(drop)
        .map_err(|error| KernelError::Program { program: REMOVE.to_owned(), source: Box::new(error) })
}
