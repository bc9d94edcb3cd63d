//! Flow templates: counters of sessions that were measured with a real Postfix.

use mailflow_common::App;

use mailflow_engine::{flow::DirectionStats, settings::Service};

/// Kind of a flow, which gives the defaults of its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlowKind {
    /// One small mail, accepted.
    Mail,
    /// One mail of 9 MB, accepted. The server answers with pure ACKs.
    Bulk,
    /// A session whose recipient was refused, as by greylisting or for an unknown user.
    Rejected,
    /// A session in which three passwords were tried and refused.
    Login,
    /// A SYN without an answer, repeated twice.
    Unanswered,
    /// A SYN answered with RST.
    Refused,
}

/// Counters of a kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlowTemplate {
    pub(crate) up: DirectionStats,
    pub(crate) down: DirectionStats,
    pub(crate) messages: u32,
    pub(crate) answer: SynAnswer,
}

/// Answer to the SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SynAnswer {
    Nothing,
    Reset,
    SynAck,
}

impl FlowKind {
    /// Kinds with their names.
    pub(crate) const NAMES: [(&'static str, FlowKind); 6] = [
        ("mail", FlowKind::Mail),
        ("bulk", FlowKind::Bulk),
        ("rejected", FlowKind::Rejected),
        ("login", FlowKind::Login),
        ("unanswered", FlowKind::Unanswered),
        ("refused", FlowKind::Refused),
    ];

    /// Returns the application class on a port of `service`.
    pub(crate) fn app(self, service: Service) -> App {
        if matches!(self, FlowKind::Unanswered | FlowKind::Refused) {
            return App::Unseen;
        }
        match service {
            Service::Smtp => App::Smtp,
            Service::Submission => App::SmtpStartTls,
            Service::Smtps => App::Smtps,
            Service::Pop3 => App::Pop3,
            Service::Pop3s => App::Pop3s,
            Service::Imap => App::Imap,
            Service::Imaps => App::Imaps,
        }
    }

    /// Returns the counters for an unencrypted or encrypted `app`.
    pub(crate) fn template(self, app: App) -> FlowTemplate {
        let session = |up, down, messages| FlowTemplate { up, down, messages, answer: SynAnswer::SynAck };
        match (self, app.encrypted()) {
            (FlowKind::Mail, false) => {
                session(direction(10, 1_304, 776, 6, 1_088), direction(11, 893, 313, 7, 677), 1)
            }
            (FlowKind::Mail, true) => {
                session(direction(15, 2_387, 1_599, 10, 2_119), direction(15, 4_479, 3_691, 13, 4_367), 1)
            }
            (FlowKind::Bulk, _) => {
                let up = direction(6_472, 9_682_113, 9_345_561, 6_461, 9_681_533);
                session(up, direction(2_816, 149_959, 3_519, 11, 4_091), 1)
            }
            (FlowKind::Rejected, false) => {
                session(direction(9, 590, 114, 5, 374), direction(10, 925, 397, 6, 709), 0)
            }
            (FlowKind::Rejected | FlowKind::Login, true) => {
                session(direction(14, 1_601, 865, 9, 1_333), direction(14, 4_471, 3_735, 12, 4_359), 0)
            }
            (FlowKind::Login, false) => {
                session(direction(20, 1_328, 280, 14, 1_008), direction(19, 1_466, 470, 15, 1_250), 0)
            }
            (FlowKind::Unanswered, _) => FlowTemplate {
                up: direction(3, 180, 0, 0, 0),
                down: direction(0, 0, 0, 0, 0),
                messages: 0,
                answer: SynAnswer::Nothing,
            },
            (FlowKind::Refused, _) => FlowTemplate {
                up: direction(1, 60, 0, 0, 0),
                down: direction(1, 40, 0, 0, 0),
                messages: 0,
                answer: SynAnswer::Reset,
            },
        }
    }
}

const fn direction(
    packets: u64,
    bytes: u64,
    payload: u64,
    data_packets: u64,
    data_bytes: u64,
) -> DirectionStats {
    DirectionStats { packets, bytes, payload, data_packets, data_bytes, last: None }
}
