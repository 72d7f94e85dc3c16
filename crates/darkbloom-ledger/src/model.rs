//! The reference keeper: the same operations as the store, in memory, as plainly as possible.

use std::collections::BTreeMap;

use darkbloom_types::{AccountId, NanoDollars, ProviderId, RequestId, UnixMillis};

use crate::audit::{AuditReport, audit};
use crate::book::{Book, Transfer};
use crate::charge::{BasisPoints, Delivered};
use crate::decide::{self, DepositRefusal, LateRefusal, OperationView, PlaceRefusal, PlaceView, Verdict};
use crate::hold::{Balance, HoldRecord, HoldRequest, HoldState, Settled, VoidCause};

/// All books in memory. It exists to be compared with: it has no limits and keeps everything.
#[derive(Debug, Clone, Default)]
pub struct Model {
    fee: BasisPoints,
    accounts: i64,
    books: BTreeMap<Book, NanoDollars>,
    holds: BTreeMap<RequestId, HoldRecord>,
    transfers: u64,
}

impl Model {
    /// Empty books with this platform fee.
    #[must_use]
    pub fn new(fee: BasisPoints) -> Self {
        Self { fee, ..Self::default() }
    }

    /// Opens an account; the ids are 1, 2, 3 and so on.
    pub fn account_create(&mut self) -> AccountId {
        self.accounts += 1;
        AccountId(self.accounts)
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

    /// Places a hold.
    ///
    /// # Errors
    /// [`PlaceRefusal`]; nothing has changed then.
    pub fn hold_place(&mut self, request: HoldRequest) -> Result<(), PlaceRefusal> {
        let account = request.account;
        let known = (1..=self.accounts).contains(&account.0);
        let view = PlaceView {
            available: known.then(|| self.book(Book::Available(account))),
            request_known: self.holds.contains_key(&request.request),
            operation: self.operation(&request),
            superseded: request.supersedes.and_then(|old| self.holds.get(&old)),
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
        self.holds
            .insert(request.request, HoldRecord { request, closed: None, superseded_by: None, accepted_by: None });
        Ok(())
    }

    /// Ends a hold after a delivery; `None` when there is no such hold.
    pub fn hold_settle(
        &mut self,
        request: RequestId,
        provider: ProviderId,
        delivered: &Delivered,
        at: UnixMillis,
    ) -> Option<Settled> {
        let verdict = decide::settle(self.holds.get(&request)?, provider, delivered, self.fee, at)
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
        let verdict = decide::settle_late(record, &operation, available, provider, delivered, self.fee, at);
        Some(verdict.map(|verdict| self.carry_out(verdict)))
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

    /// Counts everything again.
    #[must_use]
    pub fn audit(&self) -> AuditReport {
        let open = self.holds.values().filter(|hold| hold.state() == HoldState::Open);
        let open = open.map(|hold| (hold.request.account, hold.request.amount));
        let report = audit(self.books.iter().map(|(book, balance)| (*book, *balance)), open);
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
