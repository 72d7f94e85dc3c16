//! The client's view: submit, open, verify; seal again at most twice.

use darkbloom_types::{Millis, MonoMillis, RefusalCode, armed};
use darkbloom_wire::{Relayed, RelayedAccepted, RelayedData, RelayedFinal, RelayedRefused, Reseal, limits};

use crate::relay::waits;

/// Longest silence: the coordinator sends keep-alives every few seconds.
const SILENCE: Millis = Millis::from_secs(60);
/// Longest life of one sealing: a coordinator's 30 minutes and its 70 seconds for a cancel, after which it tells a consumer
/// that was cut off so, and some more. Keep-alives do not prolong it.
const TOTAL: Millis = Millis(waits::TOTAL.0 + Millis::from_minutes(2).0);

/// What a peer did that no honest peer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Protocol {
    /// Content before anybody accepted.
    #[error("content came before an acceptance")]
    DataBeforeAcceptance,
    /// A second acceptance after content.
    #[error("a second provider accepted after content had come")]
    SecondAcceptance,
    /// A settlement of an answer without its authenticated end.
    #[error("the answer ended without its authenticated end")]
    CutShort,
    /// A frame after the last.
    #[error("a frame came after the last one")]
    AfterEnd,
}

impl Protocol {
    /// The closed reason that the consumer sees.
    #[must_use]
    pub fn code(self) -> RefusalCode {
        RefusalCode::VerificationFailed
    }
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientAction {
    /// Derive the answer's keys for this provider; drop those of an earlier one.
    Begin(RelayedAccepted),
    /// Open the piece and hand it on.
    Open(RelayedData),
    /// Check receipt and bill; the answer is complete.
    Verify(RelayedFinal),
    /// Seal again to this list and submit it.
    SealAgain(Reseal),
    /// The request failed.
    Fail(RelayedRefused),
    /// Nothing: the peer is at work.
    Wait,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Submitted,
    Accepted { content: bool },
    Ended,
    Over,
}

/// Where an operation stands at the client, as in the diagram of this crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClientPhase {
    /// A sealing was submitted; nobody has accepted it.
    Submitted,
    /// A provider accepted; no content came yet.
    Accepted,
    /// Content flows.
    Streaming,
    /// The answer's authenticated end came; receipt and bill are still to come.
    Ended,
    /// Nothing more happens.
    Over,
}

impl ClientPhase {
    /// Every phase, in the order of an operation's life.
    pub const ALL: [Self; 5] = [Self::Submitted, Self::Accepted, Self::Streaming, Self::Ended, Self::Over];
}

/// The machine of one operation at the client.
#[derive(Debug)]
pub struct ClientSession {
    state: State,
    reseals: u32,
    heard: MonoMillis,
    /// When the present sealing was submitted.
    submitted: MonoMillis,
}

impl ClientSession {
    /// A machine for a request that was just submitted.
    #[must_use]
    pub fn submitted(now: MonoMillis) -> Self {
        Self { state: State::Submitted, reseals: 0, heard: now, submitted: now }
    }

    /// Where the operation stands.
    #[must_use]
    pub fn phase(&self) -> ClientPhase {
        match self.state {
            State::Submitted => ClientPhase::Submitted,
            State::Accepted { content: false } => ClientPhase::Accepted,
            State::Accepted { content: true } => ClientPhase::Streaming,
            State::Ended => ClientPhase::Ended,
            State::Over => ClientPhase::Over,
        }
    }

    /// When the request has lasted too long, unless something is heard before.
    #[must_use]
    pub fn wake_at(&self) -> Option<MonoMillis> {
        (self.state != State::Over).then(|| self.heard.after(SILENCE).min(self.submitted.after(TOTAL)))
    }

    /// Whether the silence, or the present sealing, has lasted too long.
    #[must_use]
    pub fn is_overdue(&self, now: MonoMillis) -> bool {
        self.wake_at().is_some_and(|at| now >= at)
    }

    /// Takes a frame in.
    ///
    /// # Errors
    /// [`Protocol`] when no honest peer sends this frame now.
    pub fn handle(&mut self, frame: Relayed, now: MonoMillis) -> Result<ClientAction, Protocol> {
        self.heard = now;
        match (self.state, frame) {
            (State::Over, _) => Err(Protocol::AfterEnd),
            (_, Relayed::KeepAlive(_)) => Ok(ClientAction::Wait),
            (State::Accepted { content: true } | State::Ended, Relayed::RelayedAccepted(_))
                if armed!("session_one_acceptance") =>
            {
                Err(Protocol::SecondAcceptance)
            }
            (_, Relayed::RelayedAccepted(frame)) => {
                self.state = State::Accepted { content: false };
                Ok(ClientAction::Begin(frame))
            }
            (State::Submitted, Relayed::RelayedData(_)) => Err(Protocol::DataBeforeAcceptance),
            (State::Ended, Relayed::RelayedData(_)) => Err(Protocol::AfterEnd),
            (State::Accepted { .. }, Relayed::RelayedData(frame)) => {
                self.state = if frame.end { State::Ended } else { State::Accepted { content: true } };
                Ok(ClientAction::Open(frame))
            }
            (State::Ended, Relayed::RelayedFinal(frame)) => {
                self.state = State::Over;
                Ok(ClientAction::Verify(frame))
            }
            (_, Relayed::RelayedFinal(_)) => Err(Protocol::CutShort),
            (State::Submitted | State::Accepted { content: false }, Relayed::Reseal(frame)) => {
                Ok(self.reseal(frame, now))
            }
            (_, Relayed::Reseal(_)) => Err(Protocol::AfterEnd),
            (_, Relayed::RelayedRefused(frame)) => {
                self.state = State::Over;
                Ok(ClientAction::Fail(frame))
            }
        }
    }

    fn reseal(&mut self, frame: Reseal, now: MonoMillis) -> ClientAction {
        if self.reseals >= limits::RESEALS_MAX {
            self.state = State::Over;
            return ClientAction::Fail(RelayedRefused {
                code: RefusalCode::ResealExhausted.number(),
                detail: String::new(),
                retry_after: None,
                sealed: None,
                attempts: frame.attempts,
                bill: None,
                timing: Some(frame.timing),
            });
        }
        self.reseals += 1;
        self.state = State::Submitted;
        self.submitted = now;
        ClientAction::SealAgain(frame)
    }

    /// The transport ended. Whether that is an error depends on what had come.
    ///
    /// # Errors
    /// [`Protocol::CutShort`] unless the request was over.
    pub fn transport_ended(&self) -> Result<(), Protocol> {
        if self.state == State::Over { Ok(()) } else { Err(Protocol::CutShort) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use darkbloom_types::{AttemptNumber, EpochId, ProviderId, TokenCount};
    use darkbloom_wire::{CoordinatorTiming, KeepAlive, List};

    const NOW: MonoMillis = MonoMillis(1_000);

    fn accepted() -> Relayed {
        RelayedAccepted {
            provider: ProviderId([1; 32]),
            epoch: EpochId([2; 16]),
            attempt: AttemptNumber(1),
            salt: [3; 32],
            attempts: List(Vec::new()),
            timing: CoordinatorTiming::NONE,
        }
        .into()
    }

    fn data(end: bool) -> Relayed {
        RelayedData { sequence: 0, tokens: TokenCount(1), end, ciphertext: vec![0; 80] }.into()
    }

    fn last() -> Relayed {
        RelayedFinal { receipt: vec![1], bill: vec![2], update: None }.into()
    }

    fn reseal() -> Relayed {
        Reseal {
            candidates: vec![1],
            code: RefusalCode::UnknownEpoch.number(),
            attempts: List(Vec::new()),
            timing: CoordinatorTiming::NONE,
        }
        .into()
    }

    #[test]
    fn a_settlement_without_the_end_is_an_error() {
        let mut session = ClientSession::submitted(NOW);
        session.handle(accepted(), NOW).unwrap();
        session.handle(data(false), NOW).unwrap();
        assert_eq!(session.handle(last(), NOW), Err(Protocol::CutShort));
    }

    #[test]
    fn content_must_follow_an_acceptance_and_none_may_follow_it() {
        let mut session = ClientSession::submitted(NOW);
        assert_eq!(session.handle(data(false), NOW), Err(Protocol::DataBeforeAcceptance));
        let mut session = ClientSession::submitted(NOW);
        session.handle(accepted(), NOW).unwrap();
        session.handle(accepted(), NOW).expect("failover before content is allowed");
        session.handle(data(false), NOW).unwrap();
        assert_eq!(session.handle(accepted(), NOW), Err(Protocol::SecondAcceptance));
        session.handle(data(true), NOW).unwrap();
        assert_eq!(session.handle(data(true), NOW), Err(Protocol::AfterEnd));
    }

    #[test]
    fn sealing_again_ends_after_two() {
        let mut session = ClientSession::submitted(NOW);
        assert!(matches!(session.handle(reseal(), NOW), Ok(ClientAction::SealAgain(_))));
        assert!(matches!(session.handle(reseal(), NOW), Ok(ClientAction::SealAgain(_))));
        let Ok(ClientAction::Fail(refused)) = session.handle(reseal(), NOW) else { panic!("a third reseal") };
        assert_eq!(refused.refusal().code, RefusalCode::ResealExhausted);
    }

    #[test]
    fn silence_ends_a_request_and_keep_alives_prevent_it() {
        let mut session = ClientSession::submitted(NOW);
        assert!(!session.is_overdue(MonoMillis(60_999)));
        assert!(session.is_overdue(MonoMillis(61_000)));
        session.handle(KeepAlive {}.into(), MonoMillis(60_000)).unwrap();
        assert!(!session.is_overdue(MonoMillis(119_999)));
        assert!(session.is_overdue(MonoMillis(120_000)));
    }

    /// Hears keep-alives every ten seconds until the request is overdue, and says when that is.
    fn kept_alive(session: &mut ClientSession, from: MonoMillis) -> MonoMillis {
        let mut now = from;
        loop {
            let wake = session.wake_at().expect("a live request has an end");
            let next = now.after(Millis::from_secs(10));
            if wake <= next {
                assert!(!session.is_overdue(MonoMillis(wake.0 - 1)) && session.is_overdue(wake));
                return wake;
            }
            now = next;
            assert_eq!(session.handle(KeepAlive {}.into(), now), Ok(ClientAction::Wait));
        }
    }

    #[test]
    fn keep_alives_hold_a_request_no_longer_than_an_honest_coordinator_would() {
        let honest = Millis(waits::TOTAL.0 + waits::CANCEL.0);
        assert!(honest < TOTAL && TOTAL < Millis(2 * honest.0));
        let mut waiting = ClientSession::submitted(NOW);
        assert_eq!(kept_alive(&mut waiting, NOW), NOW.after(TOTAL));
        let mut answered = ClientSession::submitted(NOW);
        answered.handle(accepted(), NOW).unwrap();
        answered.handle(data(false), NOW.after(Millis::from_secs(5))).unwrap();
        assert_eq!(kept_alive(&mut answered, NOW), NOW.after(TOTAL), "nor does content");
    }

    #[test]
    fn each_sealing_has_its_own_time() {
        let mut session = ClientSession::submitted(NOW);
        let mut again = NOW;
        for _ in 0..limits::RESEALS_MAX {
            while again.since(NOW) < Millis::from_minutes(29) {
                again = again.after(Millis::from_secs(50));
                session.handle(KeepAlive {}.into(), again).unwrap();
            }
            assert!(matches!(session.handle(reseal(), again), Ok(ClientAction::SealAgain(_))));
        }
        assert_eq!(kept_alive(&mut session, again), again.after(TOTAL));
    }

    #[test]
    fn a_request_that_is_over_is_never_overdue() {
        let mut session = ClientSession::submitted(NOW);
        session.handle(accepted(), NOW).unwrap();
        session.handle(data(true), NOW).unwrap();
        session.handle(last(), NOW).unwrap();
        assert_eq!(session.wake_at(), None);
        assert!(!session.is_overdue(MonoMillis(u64::MAX)));
    }

    #[test]
    fn a_transport_that_ends_early_is_an_error() {
        let mut session = ClientSession::submitted(NOW);
        assert_eq!(session.transport_ended(), Err(Protocol::CutShort));
        session.handle(accepted(), NOW).unwrap();
        session.handle(data(true), NOW).unwrap();
        session.handle(last(), NOW).unwrap();
        assert_eq!(session.transport_ended(), Ok(()));
    }
}
