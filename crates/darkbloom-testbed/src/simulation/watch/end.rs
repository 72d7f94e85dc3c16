//! What must hold when everything has come to rest.

use std::collections::BTreeMap;

use darkbloom_ledger::{Book, HoldState};
use darkbloom_types::{NanoDollars, Tier};
use darkbloom_wire::limits;

use super::super::world::{Ending, MODELS, World, model, provider_id, submission_of};

impl World {
    /// Looks at everything that is left.
    pub fn watch_end(&mut self) {
        let mut wrong = Vec::new();
        self.end_of_operations(&mut wrong);
        self.end_of_rows(&mut wrong);
        self.end_of_money(&mut wrong);
        self.end_of_holds(&mut wrong);
        self.end_of_work(&mut wrong);
        for what in wrong {
            self.watch.find(self.now, what);
        }
    }

    fn end_of_operations(&self, wrong: &mut Vec<String>) {
        for (o, operation) in self.operations.iter().enumerate() {
            if operation.reseals > limits::RESEALS_MAX {
                wrong.push(format!("operation {o} was sealed again {} times", operation.reseals));
            }
            let Some(Ending::Answered) = operation.ending else { continue };
            let hold = operation.submission.and_then(|s| self.ledger.hold(self.submissions[s as usize].request));
            let Some(hold) = hold else {
                wrong.push(format!("operation {o} was answered without a hold"));
                continue;
            };
            let tokens = operation.reading.map_or(0, |reading| reading.tokens);
            if tokens > 0 && hold.state() != HoldState::Settled {
                wrong.push(format!("operation {o} was answered and nobody is paid"));
            }
        }
    }

    fn end_of_rows(&self, wrong: &mut Vec<String>) {
        for view in self.coordinator.registry.views(Tier::None, self.now.into(), self.now.into()) {
            for load in view.models.iter().filter(|load| load.rows_used > 0) {
                wrong.push(format!("{} rows of provider {} are in use at rest", load.rows_used, view.provider.short()));
            }
        }
        for number in 0..MODELS {
            let waiting = self.coordinator.registry.queued(&model(number));
            if waiting > 0 {
                wrong.push(format!("{waiting} requests are in the queue at rest"));
            }
        }
    }

    fn end_of_money(&self, wrong: &mut Vec<String>) {
        let audit = self.ledger.audit();
        wrong.extend(audit.findings.iter().map(|finding| format!("the books: {finding}")));
        let mut earned = BTreeMap::new();
        let mut settled_once = BTreeMap::new();
        let mut paid = BTreeMap::new();
        for hold in self.ledger.holds() {
            let Some(closed) = hold.closed else {
                wrong.push(format!("the hold of submission {} is open at rest", submission_of(&hold.request.request)));
                continue;
            };
            *paid.entry(hold.request.account).or_insert(0) += closed.charge.0;
            if closed.state == HoldState::Voided {
                if closed.charge != NanoDollars::ZERO || closed.payout != NanoDollars::ZERO {
                    wrong.push(format!("submission {} pays for a void", submission_of(&hold.request.request)));
                }
                continue;
            }
            if let Some(provider) = closed.provider {
                *earned.entry(provider).or_insert(0) += closed.payout.0;
            }
            let family = self.operation_of(submission_of(&hold.request.request)).family;
            if settled_once.insert(family, hold.request.request).is_some() {
                wrong.push(format!("operation {family} is settled twice"));
            }
        }
        for p in 0..self.providers.len() as u32 {
            let id = provider_id(p);
            let (stands, counted) = (self.ledger.book(Book::Earned(id)).0, earned.get(&id).copied().unwrap_or(0));
            if stands != counted {
                wrong.push(format!("provider {p} has earned {stands}, its settlements sum to {counted}"));
            }
        }
        let total: i64 = paid.values().sum();
        let earned: i64 = earned.values().sum();
        if total != earned + self.ledger.book(Book::Platform).0 {
            wrong.push(format!("consumers paid {total}, which is not what was earned"));
        }
    }

    /// Every request has come to its end: no hold may be left but for what the store could not write.
    pub fn watch_calm(&mut self) {
        let left = self.ledger.holds().filter(|hold| hold.closed.is_none());
        let left: Vec<_> = left.map(|hold| submission_of(&hold.request.request)).collect();
        for s in left {
            let truth = self.truth(s);
            if truth.finished && !truth.store_failed {
                self.watch.find(self.now, format!("submission {s} is over and its hold is open"));
            }
        }
    }

    /// Whoever delivered is paid.
    fn end_of_holds(&self, wrong: &mut Vec<String>) {
        for (s, submission) in self.submissions.iter().enumerate() {
            let truth = &submission.truth;
            if truth.first_content.is_none() {
                continue;
            }
            let Some(hold) = self.ledger.hold(submission.request) else {
                wrong.push(format!("submission {s} was answered without a hold"));
                continue;
            };
            if hold.state() == HoldState::Settled {
                continue;
            }
            // The operation was asked for again: then it is the other answer that is paid.
            if self.operation_of(s as u32).repeated || hold.superseded_by.is_some() {
                continue;
            }
            if truth.finished && truth.died.is_none() && !truth.store_failed {
                wrong.push(format!("submission {s} was relayed to its end and its provider is not paid"));
                continue;
            }
            let young = truth.died.is_some_and(|died| died <= truth.noted_by);
            let receipt = self
                .receipts
                .iter()
                .any(|receipt| receipt.honest && receipt.submission == s as u32 && Some(receipt.provider) == truth.by);
            if receipt && !young {
                wrong.push(format!("submission {s}: an honest provider presented its receipt and is not paid"));
            }
        }
    }

    fn end_of_work(&self, wrong: &mut Vec<String>) {
        for (p, provider) in self.providers.iter().enumerate() {
            if provider.jobs.values().any(|job| job.fault.is_none() && !job.lied) {
                wrong.push(format!("provider {p} still works at rest"));
            }
        }
    }
}
