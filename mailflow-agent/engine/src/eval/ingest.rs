//! Application of records and overflow deltas to the windows of the rules.

use std::net::IpAddr;

use super::{
    contribution::{Counted, FlowContribution},
    evaluator::Evaluator,
    group_key::{GroupKey, Source},
    group_state::{ApplyOutcome, EvalContext},
    pending::PendingRecord,
    rule_mask::{MaskMatch, RuleMask},
    rule_state::RuleState,
    suppression::AllowStatus,
    window::distinct::EndpointBytes,
};
use crate::{
    alert::evidence::LazyEvidence,
    effects::{AggregatedAlert, Effects, MatchedFlow},
    flow::{
        FlowRecord,
        class::FlowClasses,
        fields::RecordFields,
        overflow::OverflowDelta,
        phase::RecordPhase,
        quantity::{Quantities, Quantity},
    },
    network::{AddressScope, Endpoints, Networks, ResolvedAddress},
    rule::{Measure, compiled::RecordDelta},
};

/// Delta of one group under one rule.
struct GroupDelta<'a> {
    /// Number of the rule.
    rule: usize,
    allow_status: AllowStatus,
    group_key: GroupKey,
    endpoints: &'a Endpoints<'a>,
    delta: RecordDelta,
}

impl Evaluator {
    /// Returns the rules that match the flow of `record`; for most flows none.
    pub(crate) fn matching_rules(
        &mut self,
        record: &FlowRecord,
        phase: RecordPhase,
        internal: &Networks,
    ) -> RuleMask {
        let (mut mask, mut endpoints) = (RuleMask::default(), None);
        let Self { rule_states, lookup_cache, clock_offset, .. } = self;
        for (number, rule_state) in rule_states.iter().enumerate() {
            // The tests of the flow's own fields are cheaper than the lookup of its endpoints, and many rules fail
            // them.
            if rule_state.matches_flow(record, phase, *clock_offset) {
                let endpoints =
                    endpoints.get_or_insert_with(|| lookup_cache.endpoints(&record.flow, internal));
                if rule_state.compiled.rule.matching.matches_endpoints(endpoints) {
                    mask.insert(number);
                }
            }
        }
        mask
    }

    /// Applies a record to the windows of the matching rules. `contribution` is the part of its flow that they have
    /// already counted.
    pub(crate) fn ingest(
        &mut self,
        pending: PendingRecord<'_>,
        contribution: &mut FlowContribution,
        internal: &Networks,
        effects: &mut Effects,
    ) {
        let PendingRecord { at, phase, mask, record } = pending;
        self.advance(at, internal, effects);
        if mask.is_empty() {
            return;
        }
        let flow = &record.flow;
        let endpoints = self.lookup_cache.endpoints(flow, internal);
        let (time, totals) = (record.time(), Quantities::of(flow));
        let record_classes = FlowClasses::of(record, phase);
        let source = Source::of(flow.client(), self.v6_source_prefix);
        let (mut evidence_record, mut is_counted) = (LazyEvidence::new(record), false);
        for rule in 0..self.rule_states.len() {
            let Some(rule_state) = self.rule_states.get(rule) else { continue };
            let is_match = match mask.get(rule) {
                MaskMatch::Match => true,
                MaskMatch::NoMatch => false,
                MaskMatch::Recheck => {
                    rule_state.matches_flow(record, phase, self.clock_offset)
                        && rule_state.compiled.rule.matching.matches_endpoints(&endpoints)
                }
            };
            if !is_match {
                continue;
            }
            let counted = contribution.of(rule);
            let (classes, quantities) = (record_classes - counted.classes, totals.since(&counted.quantities));
            // A flow that has ended has no further record, so its contribution is not needed.
            if phase != RecordPhase::Final {
                contribution
                    .set(rule, Counted { classes: counted.classes | record_classes, quantities: totals });
            }
            let allow_status = rule_state.allow_status(&endpoints, time, self.clock_offset);
            if classes.contains(FlowClasses::FLOWS) {
                let suppressed = allow_status == AllowStatus::Listed;
                let rule = rule_state.compiled.rule.name.clone();
                effects.matched_flows.push(MatchedFlow { rule, key: flow.key, suppressed });
            }
            let group_key = GroupKey::of(
                rule_state.compiled.rule.group_by,
                flow,
                &endpoints.source,
                self.v6_source_prefix,
            );
            let delta = RecordDelta {
                time,
                classes,
                quantities,
                fields: record.fields,
                source: endpoint_bytes(source.network().addr()),
                destination: endpoint_bytes(flow.server()),
                port: flow.key.server_port,
                has_server_payload: has_server_payload(record),
            };
            let group_delta = GroupDelta { rule, allow_status, group_key, endpoints: &endpoints, delta };
            if self.apply(group_delta, Some(&mut evidence_record), internal, effects) && !is_counted {
                // The detector counts a source once, although several rules may count the record.
                is_counted = true;
                self.flood_detector.count_source(self.clock, has_server_payload(record));
            }
        }
    }

    /// Applies an overflow delta. Its servers are unknown, so only rules whose group key contains no server count
    /// it.
    pub(crate) fn ingest_overflow(
        &mut self,
        overflow: &OverflowDelta,
        internal: &Networks,
        effects: &mut Effects,
    ) {
        let client = overflow.client;
        let source = internal.resolve(client);
        let endpoints = Endpoints {
            source,
            destination: ResolvedAddress { scope: AddressScope::Internet, network: None, ip: client },
        };
        for number in 0..self.rule_states.len() {
            let Some(rule_state) = self.rule_states.get_mut(number) else { continue };
            let rule = &rule_state.compiled.rule;
            let has_sum = rule.terms.iter().any(|term| matches!(term.measure, Measure::Sum(_)));
            let matching = &rule.matching;
            let is_match = matching.source.contains(&source)
                && matching.ports.contains(&overflow.port)
                && matching.protocols.iter().any(|wanted| wanted.number() == overflow.protocol);
            let group_key = GroupKey::of_client(rule.group_by, client, &source, self.v6_source_prefix);
            let Some(group_key) = group_key.filter(|_| is_match) else { continue };
            let allow_status = rule_state.allow_status(&endpoints, overflow.time, self.clock_offset);
            // A rule with conditions on single flows cannot evaluate flows that it does not see.
            let is_per_flow =
                matching.size.is_some() || matching.sessions_only || !matching.bounds.is_empty();
            rule_state.table_mut(allow_status).1.record_overflow(group_key.clone(), overflow.time);
            if is_per_flow || !has_sum {
                continue;
            }
            let delta = RecordDelta {
                time: overflow.time,
                classes: FlowClasses::empty(),
                quantities: overflow.quantities,
                fields: RecordFields::all(),
                source: endpoint_bytes(client),
                destination: [0; 16],
                port: overflow.port,
                has_server_payload: overflow.quantities.get(Quantity::PayloadDown) > 0,
            };
            // A source with SYNs only adds to no sum, so the rule needs no group for it.
            let compiled = &rule_state.compiled;
            if (0..compiled.term_specs().len()).all(|term| compiled.increment(term, &delta).is_none()) {
                continue;
            }
            self.apply(
                GroupDelta { rule: number, allow_status, group_key, endpoints: &endpoints, delta },
                None,
                internal,
                effects,
            );
        }
    }

    /// Applies the delta of a group, evaluates the rule, and links the evidence. Returns true if the group is new,
    /// was counted, and its key contains a client.
    fn apply(
        &mut self,
        group_delta: GroupDelta<'_>,
        evidence_record: Option<&mut LazyEvidence<'_>>,
        internal: &Networks,
        effects: &mut Effects,
    ) -> bool {
        let GroupDelta { rule, allow_status, group_key, endpoints, delta } = group_delta;
        let Some(rule_state) = self.rule_states.get_mut(rule) else { return false };
        let RuleState { compiled, unlisted, listed, missed, rate_limit } = rule_state;
        compiled.note_missing_fields(delta.fields);
        let table = match allow_status {
            AllowStatus::Unlisted => unlisted,
            AllowStatus::Listed => listed,
        };
        let overflow = table.has_overflow(&group_key, compiled.retention, self.clock);
        missed.evicted += table.make_room(&self.limits, &group_key);
        let Some((group_key, group, new)) =
            table.get_or_insert(compiled, self.clock, (group_key, delta.has_server_payload), &self.limits)
        else {
            missed.rejected += 1;
            return false;
        };
        let new = new && group_key.source().is_some();
        let before = group.heap();
        let outcome = group.apply(compiled, self.clock, &delta);
        match outcome {
            ApplyOutcome::NotApplicable => {}
            ApplyOutcome::Late => missed.late += 1,
            ApplyOutcome::Applied => {
                if let Some(evidence_record) = evidence_record {
                    group.link_evidence(&mut self.evidence, evidence_record);
                }
                let (evidence, clock, clock_offset) = (&self.evidence, self.clock, self.clock_offset);
                let context = EvalContext {
                    compiled,
                    allow_status,
                    group_key,
                    internal,
                    evidence,
                    clock,
                    clock_offset,
                    overflow,
                };
                if let Some(alert) = group.evaluate(context, compiled.thresholds(endpoints), delta.time) {
                    let suppressed = alert.suppressed.is_some();
                    if rate_limit.admits(clock, suppressed, group.has_server_payload(), &self.limits) {
                        effects.alerts.push(alert);
                    } else {
                        group.mark_aggregated();
                        effects.aggregated_alerts.push(AggregatedAlert::of(&alert));
                        effects.alerts.extend(rate_limit.aggregate(clock, alert, &self.limits));
                    }
                    if let Some(deadline) = group.deadline(compiled) {
                        self.deadlines.insert((deadline, rule, allow_status, group_key.clone()));
                    }
                }
            }
        }
        let after = group.heap();
        table.account(before, after);
        new && outcome == ApplyOutcome::Applied
    }
}

/// Returns true if the server answered with payload, which shows that the client's address is not spoofed. If the
/// record does not carry payload, any packet of the server counts.
fn has_server_payload(record: &FlowRecord) -> bool {
    let down = &record.flow.down;
    down.payload > 0 || (!record.fields.contains(RecordFields::PAYLOAD) && down.packets > 0)
}

fn endpoint_bytes(ip: IpAddr) -> EndpointBytes {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}
