//! How a relayed request ends once content may have flowed: receipts, failures, the settlement.

use darkbloom_types::{MonoMillis, Refusal, RefusalClass, RefusalCode, TokenCount};

use super::{Delivered, RelayAction, RelayPhase, RelaySession, Released, waits};

impl RelaySession {
    pub(super) fn receipt(&mut self, output: TokenCount, now: MonoMillis) -> Vec<RelayAction> {
        let honest = match self.phase {
            // Everything that the provider sent before was relayed: it signs that count and no other.
            RelayPhase::Ending => output == self.tokens,
            // What it sent until it heard of the cancel is nobody's fault, and was not relayed. Less than what was relayed
            // it cannot have made; only what was relayed is charged.
            RelayPhase::Cancelling => (self.tokens..=self.terms.output_ceiling).contains(&output),
            // The end was not relayed yet, so there is nothing to sign.
            RelayPhase::Accepted | RelayPhase::Streaming => false,
            RelayPhase::Holding
            | RelayPhase::Routing
            | RelayPhase::Queued
            | RelayPhase::Offered
            | RelayPhase::Settling
            | RelayPhase::Over => {
                return Vec::new();
            }
        };
        if !honest {
            return self.lost(RefusalCode::VerificationFailed, now);
        }
        self.receipt = true;
        self.settle(false, now)
    }

    pub(super) fn settle(&mut self, at_fault: bool, now: MonoMillis) -> Vec<RelayAction> {
        let mut actions = Vec::new();
        if let Some(provider) = self.provider.take() {
            let released = match (at_fault, self.receipt) {
                (true, _) => Released::Failed,
                (false, true) => Released::Served,
                (false, false) => Released::Unused,
            };
            actions.push(RelayAction::Release(provider, released));
            // An answer without a token costs nothing, and shows nothing.
            if released == Released::Served && self.tokens.0 > 0 {
                actions.extend(self.doubt.take().map(|(doubted, _)| RelayAction::Doubt(doubted)));
            }
        }
        if self.content {
            self.enter(RelayPhase::Settling, waits::TOTAL, now);
            // An acceptance that ends without a token delivered nothing: not even the prompt is paid for.
            let content_relayed = self.tokens.0 > 0;
            let receipt = self.receipt && self.cut.is_none();
            let delivered = Delivered { content_relayed, tokens_relayed: self.tokens, receipt };
            actions.push(RelayAction::Settle(delivered));
        } else if let Some(refusal) = self.cut.take() {
            actions.extend(self.give_up(refusal));
        } else {
            self.phase = RelayPhase::Over;
            actions.extend([RelayAction::Void(RefusalCode::Cancelled), RelayAction::Finish]);
        }
        actions
    }

    /// The provider failed: before content another may do it, after content the answer is cut.
    pub(super) fn lost(&mut self, code: RefusalCode, now: MonoMillis) -> Vec<RelayAction> {
        // A lie is final for the client, but before content another provider may tell the truth.
        let elsewhere = if code.class() == RefusalClass::Final { RefusalCode::ProviderLost } else { code };
        match self.phase {
            RelayPhase::Offered if code == RefusalCode::ProviderLost => self.next_attempt(code.into(), true, now),
            RelayPhase::Offered | RelayPhase::Accepted => {
                if self.phase == RelayPhase::Accepted {
                    self.attempts.pop();
                }
                // Whatever it said instead of an acceptance, it may be at work.
                let mut actions = vec![RelayAction::Cancel];
                actions.extend(self.next_attempt(elsewhere.into(), true, now));
                actions
            }
            RelayPhase::Streaming | RelayPhase::Ending => {
                let complete = self.phase == RelayPhase::Ending;
                let code = if code == RefusalCode::VerificationFailed { code } else { RefusalCode::AnswerCut };
                self.cut = Some(if complete {
                    Refusal::new(code, "the answer is whole, its receipt did not come or does not verify")
                } else {
                    code.into()
                });
                let mut actions = vec![RelayAction::Cancel];
                actions.extend(self.settle(true, now));
                actions
            }
            RelayPhase::Cancelling => self.settle(code == RefusalCode::VerificationFailed, now),
            RelayPhase::Holding
            | RelayPhase::Routing
            | RelayPhase::Queued
            | RelayPhase::Settling
            | RelayPhase::Over => Vec::new(),
        }
    }

    pub(super) fn cancel_acknowledged(&mut self, now: MonoMillis) -> Vec<RelayAction> {
        if self.phase == RelayPhase::Cancelling { self.settle(false, now) } else { Vec::new() }
    }

    pub(super) fn settled(&mut self) -> Vec<RelayAction> {
        if self.phase != RelayPhase::Settling {
            return Vec::new();
        }
        self.phase = RelayPhase::Over;
        let last = match self.cut.take() {
            Some(refusal) => RelayAction::Refuse(refusal),
            None => RelayAction::RelayFinal,
        };
        vec![last, RelayAction::Finish]
    }
}
