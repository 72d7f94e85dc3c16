//! What audits and settlements say, figure for figure: people and other machines decide by it.

// Clippy takes only functions marked as tests for tests; what they call belongs to them.
#![allow(clippy::unwrap_used)]

use darkbloom_ledger::{
    AuditFinding, AuditReport, BasisPoints, Book, Delivered, HoldRequest, HoldState, LATE_SETTLEMENT_WINDOW,
    LateRefusal, Model, ReceiptUsage, Settled, Shares, VoidCause, audit,
};
use darkbloom_types::{
    AccountId, CatalogueDigest, KeyId, Millis, NanoDollars, OperationId, Price, ProviderId, RequestId, TokenCount,
    UnixMillis,
};

const ACCOUNT: AccountId = AccountId(1);
const PROVIDER: ProviderId = ProviderId([9; 32]);
const REQUEST: RequestId = RequestId([1; 16]);
const NOW: UnixMillis = UnixMillis(1_000);
const PRICE: Price = Price { version: 1, input_nano_per_token: 2, output_nano_per_token: 5 };
/// Five tokens in, four out: 5 × 2 + 4 × 5 = 30.
const DELIVERED: Delivered = Delivered {
    content_relayed: true,
    relayed_output: TokenCount(4),
    receipt: Some(ReceiptUsage { input: TokenCount(5), output: TokenCount(4) }),
};

/// An account with 150, of which 100 are held for a request.
fn held() -> Model {
    let mut model = Model::new(BasisPoints::new(1_000).unwrap());
    assert_eq!(model.account_create(), ACCOUNT);
    model.deposit(ACCOUNT, NanoDollars(150)).unwrap();
    let request = HoldRequest {
        request: REQUEST,
        operation: OperationId([2; 16]),
        account: ACCOUNT,
        key: KeyId(1),
        model: CatalogueDigest([3; 32]),
        amount: NanoDollars(100),
        price: PRICE,
        input_ceiling: TokenCount(10),
        output_ceiling: TokenCount(16),
        placed_at: NOW,
        expires_at: UnixMillis(2_000),
        supersedes: None,
    };
    model.hold_place(request).unwrap();
    model
}

/// That request, accepted and then silent.
fn silent() -> Model {
    let mut model = held();
    model.hold_accepted(REQUEST, PROVIDER);
    model.hold_void(REQUEST, VoidCause::Silence, NOW).unwrap();
    model
}

fn charged(released: i64) -> Settled {
    Settled {
        request: REQUEST,
        operation: OperationId([2; 16]),
        account: ACCOUNT,
        provider: Some(PROVIDER),
        state: HoldState::Settled,
        void: None,
        input_tokens: TokenCount(5),
        output_tokens: TokenCount(4),
        price: PRICE,
        charge: NanoDollars(30),
        unpaid: NanoDollars::ZERO,
        released: NanoDollars(released),
        payout: NanoDollars(27),
        fee: NanoDollars(3),
        referral: NanoDollars::ZERO,
        referrer: None,
        shares: Shares { fee: BasisPoints::new(1_000).unwrap(), referral: BasisPoints::ZERO },
        at: NOW,
        already: false,
    }
}

#[test]
fn a_settlement_says_everything_about_itself() {
    let mut model = held();
    assert_eq!(model.hold_settle(REQUEST, PROVIDER, &DELIVERED, NOW), Some(charged(70)));
}

#[test]
fn a_late_settlement_says_that_the_void_released_the_whole_hold() {
    let mut model = silent();
    let settled = model.late_settle(REQUEST, PROVIDER, &DELIVERED, NOW).unwrap();
    assert_eq!(settled, Ok(charged(100)));
    assert_eq!(model.hold(REQUEST).unwrap().closed, settled.ok());
}

#[test]
fn a_late_receipt_for_a_settled_hold_changes_nothing_whoever_presents_it() {
    let mut model = held();
    let first = model.hold_settle(REQUEST, PROVIDER, &DELIVERED, NOW).unwrap();
    for provider in [PROVIDER, ProviderId([8; 32])] {
        let late = model.late_settle(REQUEST, provider, &DELIVERED, UnixMillis(9)).unwrap();
        assert_eq!(late, Ok(Settled { already: true, ..first }));
    }
    assert_eq!(model.book(Book::Available(ACCOUNT)), NanoDollars(120));
}

#[test]
fn a_receipt_may_be_a_day_late_and_no_longer() {
    assert_eq!(LATE_SETTLEMENT_WINDOW, Millis(86_400_000));
    let last = UnixMillis(NOW.0 + 86_400_000);
    let too_late = silent().late_settle(REQUEST, PROVIDER, &DELIVERED, UnixMillis(last.0 + 1)).unwrap();
    assert_eq!(too_late, Err(LateRefusal::WindowPassed));
    let in_time = silent().late_settle(REQUEST, PROVIDER, &DELIVERED, last).unwrap();
    assert_eq!(in_time, Ok(Settled { at: last, ..charged(100) }));
}

#[test]
fn the_reference_model_counts_its_books_transfers_and_holds() {
    let mut model = held();
    // Deposits, available, held; a deposit and a hold.
    let counted = AuditReport { books: 3, transfers: 2, open_holds: 1, findings: Vec::new(), findings_total: 0 };
    assert_eq!(model.audit(), counted);
    model.hold_settle(REQUEST, PROVIDER, &DELIVERED, NOW).unwrap();
    // The provider and the platform have books now.
    assert_eq!(model.audit(), AuditReport { books: 5, transfers: 3, open_holds: 0, ..counted });
}

#[test]
fn a_report_with_one_finding_is_not_clean() {
    let report = audit([(Book::Platform, NanoDollars(1))], []);
    assert_eq!(report.findings, [AuditFinding::BooksDoNotSumToZero { sum: 1 }]);
    assert_eq!((report.findings_total, report.is_clean()), (1, false));
}

#[test]
fn a_report_lists_the_first_hundred_findings_and_counts_all() {
    let mut report = AuditReport::default();
    for count in 1..=103 {
        assert_eq!(report.is_clean(), count == 1);
        report.find(AuditFinding::HoldsInconsistent { count });
    }
    assert_eq!((report.findings.len(), report.findings_total), (AuditReport::FINDINGS_MAX, 103));
    assert_eq!(report.findings.last(), Some(&AuditFinding::HoldsInconsistent { count: 100 }));
}
