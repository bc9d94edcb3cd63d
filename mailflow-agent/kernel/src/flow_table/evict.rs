//! Eviction of flows from the table.

use aya::{TestRun, TestRunOptions, programs::Program};
use mailflow_common::{Removal, removal_outcome};

use super::{buckets::Taken, element, reader::Book};
use crate::{
    error::KernelError,
    program::load::{Loaded, REMOVE},
};
use mailflow_engine::flow::{EvictOutcome, Flow};

/// Evicts flows, each only if it has not changed since it was read. `counting`: packets are counted at the
/// same time.
pub(crate) fn remove(
    loaded: &Loaded,
    book: &mut Book,
    flows: &[Flow],
    counting: bool,
) -> Result<Vec<EvictOutcome>, KernelError> {
    if let Some(sets) = &loaded.sets {
        book.held.late(&sets.free(counting));
    }
    let mut fates = Vec::with_capacity(flows.len());
    let mut asked = Vec::new();
    for (number, flow) in flows.iter().enumerate() {
        // An entry of the tuple would be another flow's.
        let fate = if book.carried.is_over(flow) {
            EvictOutcome::Missing
        } else {
            let packets = book.packets(flow);
            match loaded.sets.as_ref().map_or(Taken::Absent, |sets| sets.take(&flow.key, packets)) {
                Taken::Out => EvictOutcome::Evicted,
                Taken::Lives => EvictOutcome::Changed,
                Taken::Absent => {
                    asked.push((number, Removal { flow: flow.key, packets, answer: removal_outcome::ASKED }));
                    EvictOutcome::Changed
                }
            }
        };
        fates.push(fate);
    }
    if let Some(sets) = &loaded.sets {
        sets.mark();
    }
    beside(loaded, &asked, &mut fates)?;
    for (flow, fate) in flows.iter().zip(&fates) {
        book.note(flow, *fate);
    }
    Ok(fates)
}

/// Evicts flows from the fallback map by a BPF program, each with its index among the outcomes.
fn beside(
    loaded: &Loaded,
    asked: &[(usize, Removal)],
    fates: &mut [EvictOutcome],
) -> Result<(), KernelError> {
    let mut answered = [Removal::default(); removal_outcome::MOST];
    for asked in asked.chunks(removal_outcome::MOST) {
        let removals: Vec<Removal> = asked.iter().map(|(_, removal)| *removal).collect();
        let answered = &mut answered[..asked.len()];
        run(loaded, &removals, answered)?;
        for ((number, _), answered) in asked.iter().zip(answered) {
            fates[*number] = match answered.answer {
                removal_outcome::REMOVED => EvictOutcome::Evicted,
                removal_outcome::ABSENT => EvictOutcome::Missing,
                _ => EvictOutcome::Changed,
            };
        }
    }
    Ok(())
}

fn run(loaded: &Loaded, asked: &[Removal], answered: &mut [Removal]) -> Result<(), KernelError> {
    let Some(Program::Xdp(program)) = loaded.ebpf.program(REMOVE) else {
        return Err(KernelError::Missing("program that removes flows"));
    };
    let mut options = TestRunOptions::new();
    options.data_in = Some(element::bytes(asked));
    options.data_out = Some(element::bytes_mut(answered));
    let result = program.test_run(options);
    result
        .map(drop)
        .map_err(|error| KernelError::Program { program: REMOVE.to_owned(), source: Box::new(error) })
}
