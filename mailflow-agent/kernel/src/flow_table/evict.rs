//! Eviction of flows from the table.

use aya::{TestRun, TestRunOptions, programs::Program};
use mailflow_common::{Removal, removal_outcome};

use super::{buckets::SlotEviction, element, reader::ReaderState};
use crate::{
    error::KernelError,
    program::load::{EVICT_PROGRAM, Loaded},
};
use mailflow_engine::flow::{EvictOutcome, Flow};

/// Evicts flows, each only if it has not changed since it was read. `counting`: packets are counted at the
/// same time.
pub(crate) fn evict_flows(
    loaded: &Loaded,
    state: &mut ReaderState,
    flows: &[Flow],
    counting: bool,
) -> Result<Vec<EvictOutcome>, KernelError> {
    if let Some(buckets) = &loaded.buckets {
        state.audit.add_late(&buckets.free_tombstones(counting));
    }
    let mut outcomes = Vec::with_capacity(flows.len());
    let mut fallback = Vec::new();
    for (index, flow) in flows.iter().enumerate() {
        // An entry of its 5-tuple would belong to another flow.
        let outcome = if state.migrated.has_ended(flow) {
            EvictOutcome::Missing
        } else {
            let packets = state.entry_packets(flow);
            match loaded
                .buckets
                .as_ref()
                .map_or(SlotEviction::Missing, |buckets| buckets.evict(&flow.key, packets))
            {
                SlotEviction::Evicted => EvictOutcome::Evicted,
                SlotEviction::Changed => EvictOutcome::Changed,
                SlotEviction::Missing => {
                    fallback
                        .push((index, Removal { flow: flow.key, packets, answer: removal_outcome::ASKED }));
                    EvictOutcome::Changed
                }
            }
        };
        outcomes.push(outcome);
    }
    if let Some(buckets) = &loaded.buckets {
        buckets.stamp_tombstones();
    }
    evict_from_fallback(loaded, &fallback, &mut outcomes)?;
    for (flow, outcome) in flows.iter().zip(&outcomes) {
        state.record_eviction(flow, *outcome);
    }
    Ok(outcomes)
}

/// Evicts flows from the fallback map by a BPF program, each with its index among the outcomes.
fn evict_from_fallback(
    loaded: &Loaded,
    fallback: &[(usize, Removal)],
    outcomes: &mut [EvictOutcome],
) -> Result<(), KernelError> {
    let mut answers = [Removal::default(); removal_outcome::MOST];
    for batch in fallback.chunks(removal_outcome::MOST) {
        let removals: Vec<Removal> = batch.iter().map(|(_, removal)| *removal).collect();
        let answers = &mut answers[..batch.len()];
        run_evict_program(loaded, &removals, answers)?;
        for ((index, _), answer) in batch.iter().zip(answers) {
            outcomes[*index] = match answer.answer {
                removal_outcome::REMOVED => EvictOutcome::Evicted,
                removal_outcome::ABSENT => EvictOutcome::Missing,
                _ => EvictOutcome::Changed,
            };
        }
    }
    Ok(())
}

fn run_evict_program(
    loaded: &Loaded,
    removals: &[Removal],
    answers: &mut [Removal],
) -> Result<(), KernelError> {
    let Some(Program::Xdp(program)) = loaded.ebpf.program(EVICT_PROGRAM) else {
        return Err(KernelError::Missing("program that removes flows"));
    };
    let mut options = TestRunOptions::new();
    options.data_in = Some(element::bytes(removals));
    options.data_out = Some(element::bytes_mut(answers));
    let result = program.test_run(options);
    result
        .map(drop)
        .map_err(|error| KernelError::Program { program: EVICT_PROGRAM.to_owned(), source: Box::new(error) })
}
