//! What flows look like that are only named: sessions that were measured with a real Postfix.

use mailflow_common::App;

use mailflow_engine::{flow::DirectionStats, settings::Service};

/// What a flow is, as far as a test does not say otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One small mail, accepted.
    Mail,
    /// One mail of 9 MB, accepted; the server answers with pure ACKs.
    Bulk,
    /// A session whose recipient was refused: greylisting, unknown users.
    Rejected,
    /// A session in which three passwords were tried and refused.
    Login,
    /// A SYN, repeated twice, that nobody answered.
    Unanswered,
    /// A SYN answered with RST.
    Refused,
}

/// The counters of a kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) up: DirectionStats,
    pub(crate) down: DirectionStats,
    pub(crate) messages: u32,
    pub(crate) answer: Answer,
}

/// What came of the SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Nothing,
    Reset,
    SynAck,
}

impl Kind {
    /// Every kind with its name.
    pub(crate) const NAMES: [(&'static str, Kind); 6] = [
        ("mail", Kind::Mail),
        ("bulk", Kind::Bulk),
        ("rejected", Kind::Rejected),
        ("login", Kind::Login),
        ("unanswered", Kind::Unanswered),
        ("refused", Kind::Refused),
    ];

    /// The application that is seen on a port of `service`.
    pub(crate) fn app(self, service: Service) -> App {
        if matches!(self, Kind::Unanswered | Kind::Refused) {
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

    /// Its counters, in the clear or encrypted.
    pub(crate) fn shape(self, app: App) -> Shape {
        let session = |up, down, messages| Shape { up, down, messages, answer: Answer::SynAck };
        match (self, app.encrypted()) {
            (Kind::Mail, false) => session(way(10, 1_304, 776, 6, 1_088), way(11, 893, 313, 7, 677), 1),
            (Kind::Mail, true) => {
                session(way(15, 2_387, 1_599, 10, 2_119), way(15, 4_479, 3_691, 13, 4_367), 1)
            }
            (Kind::Bulk, _) => {
                let up = way(6_472, 9_682_113, 9_345_561, 6_461, 9_681_533);
                session(up, way(2_816, 149_959, 3_519, 11, 4_091), 1)
            }
            (Kind::Rejected, false) => session(way(9, 590, 114, 5, 374), way(10, 925, 397, 6, 709), 0),
            (Kind::Rejected | Kind::Login, true) => {
                session(way(14, 1_601, 865, 9, 1_333), way(14, 4_471, 3_735, 12, 4_359), 0)
            }
            (Kind::Login, false) => {
                session(way(20, 1_328, 280, 14, 1_008), way(19, 1_466, 470, 15, 1_250), 0)
            }
            (Kind::Unanswered, _) => Shape {
                up: way(3, 180, 0, 0, 0),
                down: way(0, 0, 0, 0, 0),
                messages: 0,
                answer: Answer::Nothing,
            },
            (Kind::Refused, _) => Shape {
                up: way(1, 60, 0, 0, 0),
                down: way(1, 40, 0, 0, 0),
                messages: 0,
                answer: Answer::Reset,
            },
        }
    }
}

const fn way(packets: u64, bytes: u64, payload: u64, data_packets: u64, data_bytes: u64) -> DirectionStats {
    DirectionStats { packets, bytes, payload, data_packets, data_bytes, last: None }
}
