//! The reference keeper: the same operations as the store, in memory, as plainly as possible.

use std::collections::{BTreeMap, BTreeSet};

use darkbloom_types::{AccountId, CatalogueDigest, NanoDollars, Price, ProviderId, RequestId, UnixMillis};

use crate::agreement::{Agreement, BasisPoints, Division};
use crate::audit::{AuditReport, audit};
use crate::book::{Book, Transfer};
use crate::budget::{Budget, BudgetPeriod, Spender};
use crate::charge::Delivered;
use crate::decide::{self, DepositRefusal, LateRefusal, OperationView, PlaceRefusal, PlaceView, Verdict};
use crate::dispute::{self, Decision, DisputeRefusal, Recount};
use crate::hold::{Balance, HoldRecord, HoldRequest, HoldState, Kept, Settled, VoidCause};
use crate::invite::{Invite, InviteRefusal};
use crate::payout::{self, PayoutRefusal, PayoutState};

/// A payout in the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payout {
    /// Whose.
    pub account: AccountId,
    /// How much.
    pub amount: NanoDollars,
    /// How far it is.
    pub state: PayoutState,
}

/// A dispute in the model.
#[derive(Debug, Clone, Copy)]
struct Dispute {
    parts: Division,
    decision: Option<Decision>,
}

/// All books in memory. It exists to be compared with: it has no limits, keeps everything, and counts again what a store
/// keeps counted.
#[derive(Debug, Clone, Default)]
pub struct Model {
    fee: BasisPoints,
    referral_share: BasisPoints,
    accounts: i64,
    fees: BTreeMap<AccountId, BasisPoints>,
    referrers: BTreeMap<AccountId, AccountId>,
    owners: BTreeMap<ProviderId, AccountId>,
    own_prices: BTreeMap<(ProviderId, CatalogueDigest), Price>,
    budgets: BTreeMap<Spender, (BudgetPeriod, NanoDollars)>,
    invites: BTreeMap<String, (Invite, BTreeSet<AccountId>)>,
    books: BTreeMap<Book, NanoDollars>,
    holds: BTreeMap<RequestId, HoldRecord>,
    disputes: BTreeMap<RequestId, Dispute>,
    payouts: BTreeMap<String, Payout>,
    transfers: u64,
}

impl Model {
    /// Empty books with this platform fee.
    #[must_use]
    pub fn new(fee: BasisPoints) -> Self {
        Self { fee, ..Self::default() }
    }

    /// The share of the fee that is the referrer's from now on.
    pub fn referral_share(&mut self, share: BasisPoints) {
        self.referral_share = share;
    }

    /// Opens an account; the ids are 1, 2, 3 and so on.
    pub fn account_create(&mut self) -> AccountId {
        self.accounts += 1;
        AccountId(self.accounts)
    }

    /// The fee that an owner's machines give instead of everybody's.
    pub fn fee_of(&mut self, owner: AccountId, fee: Option<BasisPoints>) {
        match fee {
            Some(fee) => self.fees.insert(owner, fee),
            None => self.fees.remove(&owner),
        };
    }

    /// Who brought an account.
    pub fn referred(&mut self, account: AccountId, by: AccountId) {
        self.referrers.entry(account).or_insert(by);
    }

    /// Whose a machine is.
    pub fn owned(&mut self, provider: ProviderId, owner: AccountId) {
        self.owners.insert(provider, owner);
    }

    /// What a provider asks for a model itself.
    pub fn own_price(&mut self, provider: ProviderId, model: CatalogueDigest, price: Option<Price>) {
        match price {
            Some(price) => self.own_prices.insert((provider, model), price),
            None => self.own_prices.remove(&(provider, model)),
        };
    }

    /// Limits somebody's spending.
    pub fn budget(&mut self, spender: Spender, budget: Option<(BudgetPeriod, NanoDollars)>) {
        match budget {
            Some(budget) => self.budgets.insert(spender, budget),
            None => self.budgets.remove(&spender),
        };
    }

    /// Puts money into an account, which must be one of [`Model::account_create`].
    ///
    /// # Errors
    /// [`DepositRefusal`].
    pub fn deposit(&mut self, account: AccountId, amount: NanoDollars) -> Result<(), DepositRefusal> {
        let transfer = decide::deposit(account, amount, self.book(Book::Deposits))?;
        self.post(&transfer);
        Ok(())
    }

    /// Makes a code; the same code again is another one.
    pub fn invite(&mut self, code: &str, invite: Invite) {
        self.invites.insert(code.to_owned(), (invite, BTreeSet::new()));
    }

    /// Redeems a code for an account; whether it gave anything now.
    ///
    /// # Errors
    /// [`InviteRefusal`].
    pub fn redeem(&mut self, code: &str, account: AccountId, at: UnixMillis) -> Result<bool, InviteRefusal> {
        let (invite, used) = self.invites.get(code).ok_or(InviteRefusal::Unknown)?;
        if used.contains(&account) {
            return Ok(false);
        }
        let amount = invite.redeem(at)?;
        self.deposit(account, amount)?;
        if let Some((invite, used)) = self.invites.get_mut(code) {
            invite.uses_left -= 1;
            used.insert(account);
        }
        Ok(true)
    }

    /// Places a hold.
    ///
    /// # Errors
    /// [`PlaceRefusal`]; nothing has changed then.
    pub fn hold_place(&mut self, request: HoldRequest) -> Result<(), PlaceRefusal> {
        let account = request.account;
        let known = (1..=self.accounts).contains(&account.0);
        let spenders = [Spender::Key(request.key), Spender::Account(account)];
        let budgets: Vec<_> =
            spenders.into_iter().filter_map(|spender| self.spending(spender, request.placed_at)).collect();
        let view = PlaceView {
            available: known.then(|| self.book(Book::Available(account))),
            request_known: self.holds.contains_key(&request.request),
            operation: self.operation(&request),
            superseded: request.supersedes.and_then(|old| self.holds.get(&old)),
            budgets: &budgets,
        };
        let placement = decide::place(&request, &view)?;
        if let Some(closing) = placement.superseded {
            self.close(closing);
        }
        // A hold that was voided before it is superseded can no longer be settled late either.
        if let Some(old) = request.supersedes.and_then(|old| self.holds.get_mut(&old)) {
            old.superseded_by = Some(request.request);
        }
        self.post(&placement.transfer);
        self.holds.insert(request.request, HoldRecord::open(request));
        Ok(())
    }

    /// What stands between the parties if this provider answers the hold.
    fn agreement(&self, hold: &HoldRequest, provider: ProviderId) -> Agreement {
        let owner = self.owners.get(&provider);
        let referrer = self.referrers.get(&hold.account);
        Agreement {
            fee: owner.and_then(|owner| self.fees.get(owner)).copied().unwrap_or(self.fee),
            referral: referrer.map(|by| (*by, self.referral_share)),
            own_price: self.own_prices.get(&(provider, hold.model)).copied(),
            own_machine: owner == Some(&hold.account),
        }
    }

    /// Ends a hold after a delivery; `None` when there is no such hold.
    pub fn hold_settle(
        &mut self,
        request: RequestId,
        provider: ProviderId,
        delivered: &Delivered,
        at: UnixMillis,
    ) -> Option<Settled> {
        let record = self.holds.get(&request)?;
        let agreement = self.agreement(&record.request, provider);
        let verdict = decide::settle(record, provider, delivered, &agreement, at)
            .expect("only holds with possible terms are placed");
        Some(self.carry_out(verdict))
    }

    /// Ends a hold without a delivery; `None` when there is no such hold.
    pub fn hold_void(&mut self, request: RequestId, cause: VoidCause, at: UnixMillis) -> Option<Settled> {
        let verdict = decide::void(self.holds.get(&request)?, cause, at);
        Some(self.carry_out(verdict))
    }

    /// Notes whose answer is being relayed for an open hold.
    pub fn hold_accepted(&mut self, request: RequestId, provider: ProviderId) {
        if let Some(record) = self.holds.get_mut(&request).filter(|record| record.closed.is_none()) {
            record.accepted_by = Some(provider);
        }
    }

    /// Settles a hold that may have been voided; `None` when there is no such hold.
    pub fn late_settle(
        &mut self,
        request: RequestId,
        provider: ProviderId,
        delivered: &Delivered,
        at: UnixMillis,
    ) -> Option<Result<Settled, LateRefusal>> {
        let record = self.holds.get(&request)?;
        let operation = self.operation(&record.request);
        let available = self.book(Book::Available(record.request.account));
        let agreement = self.agreement(&record.request, provider);
        let verdict = decide::settle_late(record, &operation, available, provider, delivered, &agreement, at);
        Some(verdict.map(|verdict| self.carry_out(verdict)))
    }

    /// Disputes what a request was charged; `None` when there is no such hold.
    pub fn dispute(
        &mut self,
        request: RequestId,
        account: AccountId,
        recount: Recount,
        at: UnixMillis,
    ) -> Option<Result<NanoDollars, DisputeRefusal>> {
        let record = self.holds.get(&request)?;
        let before = self.disputes.contains_key(&request);
        Some(dispute::dispute(record, account, before, recount, at).map(|(parts, transfer)| {
            self.post(&transfer);
            self.disputes.insert(request, Dispute { parts, decision: None });
            if let Some(record) = self.holds.get_mut(&request) {
                record.kept.payout.0 -= parts.payout.0;
                record.kept.referral.0 -= parts.referral.0;
            }
            NanoDollars(parts.payout.0 + parts.fee.0 + parts.referral.0)
        }))
    }

    /// Decides a dispute; false when there is none that is open.
    pub fn decide_dispute(&mut self, request: RequestId, decision: Decision) -> bool {
        let Some(open) = self.disputes.get_mut(&request).filter(|dispute| dispute.decision.is_none()) else {
            return false;
        };
        open.decision = Some(decision);
        let parts = open.parts;
        let Some(record) = self.holds.get_mut(&request) else { return false };
        let Some(settled) = record.closed else { return false };
        if decision == Decision::Provider {
            record.kept.payout.0 += parts.payout.0;
            record.kept.referral.0 += parts.referral.0;
        }
        self.post(&dispute::decide_dispute(&settled, parts, decision));
        true
    }

    /// Lets go of what cannot be disputed any more.
    pub fn mature(&mut self, at: UnixMillis) {
        let due: Vec<_> = self
            .holds
            .values()
            .filter_map(|record| {
                let owner = record.closed.and_then(|closed| closed.provider).and_then(|p| self.owners.get(&p).copied());
                Some((record.request.request, owner, dispute::mature(record, owner, at)?))
            })
            .collect();
        for (request, owner, matured) in due {
            let Some(record) = self.holds.get_mut(&request) else { continue };
            record.kept.payout.0 -= matured.payout.0;
            record.kept.referral.0 -= matured.referral.0;
            let Some(settled) = record.closed else { continue };
            if let (Some(provider), Some(owner)) = (settled.provider, owner) {
                self.post(&dispute::release(Book::Earned(provider), owner, matured.payout));
            }
            if let Some(referrer) = settled.referrer {
                self.post(&dispute::release(Book::Referral(referrer), referrer, matured.referral));
            }
        }
    }

    /// Asks for a payout under a name of its owner's; whether it is new.
    ///
    /// # Errors
    /// [`PayoutRefusal`].
    pub fn payout(&mut self, reference: &str, account: AccountId, amount: NanoDollars) -> Result<bool, PayoutRefusal> {
        if self.payouts.contains_key(reference) {
            return Ok(false);
        }
        let transfer = payout::request_payout(account, amount, self.book(Book::Withdrawable(account)))?;
        self.post(&transfer);
        self.payouts.insert(reference.to_owned(), Payout { account, amount, state: PayoutState::Requested });
        Ok(true)
    }

    /// Moves a payout on; `None` when there is none of this name.
    pub fn payout_advance(&mut self, reference: &str, to: PayoutState) -> Option<Result<Payout, PayoutRefusal>> {
        let known = *self.payouts.get(reference)?;
        Some(payout::advance_payout(known.account, known.amount, known.state, to).map(|transfer| {
            if let Some(transfer) = transfer {
                self.post(&transfer);
            }
            let moved = Payout { state: to, ..known };
            self.payouts.insert(reference.to_owned(), moved);
            moved
        }))
    }

    /// Makes earnings credit.
    ///
    /// # Errors
    /// [`PayoutRefusal`].
    pub fn spend_earnings(&mut self, account: AccountId, amount: NanoDollars) -> Result<(), PayoutRefusal> {
        let transfer = payout::spend_earnings(account, amount, self.book(Book::Withdrawable(account)))?;
        self.post(&transfer);
        Ok(())
    }

    /// What an account has.
    #[must_use]
    pub fn balance(&self, account: AccountId) -> Balance {
        Balance { available: self.book(Book::Available(account)), held: self.book(Book::Held(account)) }
    }

    /// What stands in a book.
    #[must_use]
    pub fn book(&self, book: Book) -> NanoDollars {
        self.books.get(&book).copied().unwrap_or_default()
    }

    /// A hold.
    #[must_use]
    pub fn hold(&self, request: RequestId) -> Option<&HoldRecord> {
        self.holds.get(&request)
    }

    /// Every hold, by request id.
    pub fn holds(&self) -> impl Iterator<Item = &HoldRecord> {
        self.holds.values()
    }

    /// A spender's budget, counted from all its holds; `None` where its spending is not limited.
    #[must_use]
    pub fn spending(&self, spender: Spender, at: UnixMillis) -> Option<Budget> {
        let (period, limit) = *self.budgets.get(&spender)?;
        let window = period.window(at);
        let mut budget = Budget { spender, period, limit, window, spent: NanoDollars::ZERO, held: NanoDollars::ZERO };
        for hold in self.holds.values() {
            let theirs = match spender {
                Spender::Key(key) => hold.request.key == key,
                Spender::Account(account) => hold.request.account == account,
            };
            match hold.closed {
                _ if !theirs => {}
                None => budget.held.0 += hold.request.amount.0,
                Some(closed) if period.window(closed.at) == window => budget.spent.0 += closed.charge.0,
                Some(_) => {}
            }
        }
        Some(budget)
    }

    /// Counts everything again.
    #[must_use]
    pub fn audit(&self) -> AuditReport {
        let mut behind = Vec::new();
        for hold in self.holds.values() {
            match hold.closed {
                None => behind.push((Book::Held(hold.request.account), hold.request.amount)),
                Some(closed) => {
                    let Kept { payout, referral } = hold.kept;
                    behind.extend(closed.provider.map(|provider| (Book::Earned(provider), payout)));
                    behind.extend(closed.referrer.map(|referrer| (Book::Referral(referrer), referral)));
                }
            }
        }
        for (request, dispute) in self.disputes.iter().filter(|(_, dispute)| dispute.decision.is_none()) {
            let Division { payout, fee, referral } = dispute.parts;
            if let Some(hold) = self.holds.get(request) {
                behind.push((Book::Disputed(hold.request.account), NanoDollars(payout.0 + fee.0 + referral.0)));
            }
        }
        let under_way =
            self.payouts.values().filter(|one| matches!(one.state, PayoutState::Requested | PayoutState::Sending));
        behind.extend(under_way.map(|one| (Book::Withdrawing(one.account), one.amount)));
        let report = audit(self.books.iter().map(|(book, balance)| (*book, *balance)), behind);
        AuditReport { transfers: self.transfers, ..report }
    }

    fn operation(&self, of: &HoldRequest) -> OperationView {
        let mut view = OperationView::default();
        for hold in self.holds.values() {
            if (hold.request.account, hold.request.operation) == (of.account, of.operation) {
                match hold.state() {
                    HoldState::Open => view.open = Some(hold.request.request),
                    HoldState::Settled => view.settled = true,
                    HoldState::Voided => {}
                }
            }
        }
        view
    }

    fn carry_out(&mut self, verdict: Verdict) -> Settled {
        match verdict {
            Verdict::Already(settled) => settled,
            Verdict::Close(closing) => self.close(closing),
        }
    }

    fn close(&mut self, closing: decide::Closing) -> Settled {
        self.post(&closing.transfer);
        if let Some(hold) = self.holds.get_mut(&closing.settled.request) {
            hold.kept = Kept { payout: closing.settled.payout, referral: closing.settled.referral };
            hold.closed = Some(closing.settled);
        }
        closing.settled
    }

    fn post(&mut self, transfer: &Transfer) {
        self.transfers += 1;
        for leg in transfer.legs() {
            self.books.entry(leg.book).or_default().0 += leg.amount.0;
        }
    }
}
