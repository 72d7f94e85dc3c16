//! What the books promise, shown on the reference model.

// Clippy takes only functions marked as tests for tests; what they call belongs to them.
#![allow(clippy::unwrap_used)]

use darkbloom_ledger::{
    BasisPoints, Book, Delivered, DepositRefusal, HoldRequest, HoldState, LATE_SETTLEMENT_WINDOW, LateRefusal, Model,
    PlaceRefusal, ReceiptUsage, Settled, TermsError, VoidCause,
};
use darkbloom_types::{
    AccountId, CatalogueDigest, KeyId, NanoDollars, OperationId, Price, ProviderId, RequestId, TokenCount, UnixMillis,
};

const PROVIDER: ProviderId = ProviderId([9; 32]);
const PRICE: Price = Price { version: 1, input_nano_per_token: 2, output_nano_per_token: 5 };
const NOW: UnixMillis = UnixMillis(1_000);

/// A hold of 10 × 2 + 16 × 5 = 100.
fn hold(account: AccountId, operation: u8, request: u8) -> HoldRequest {
    HoldRequest {
        request: RequestId([request; 16]),
        operation: OperationId([operation; 16]),
        account,
        key: KeyId(1),
        model: CatalogueDigest([3; 32]),
        amount: NanoDollars(100),
        price: PRICE,
        input_ceiling: TokenCount(10),
        output_ceiling: TokenCount(16),
        placed_at: NOW,
        expires_at: UnixMillis(2_000),
        supersedes: None,
    }
}

fn resealed(account: AccountId, operation: u8, request: u8, old: u8) -> HoldRequest {
    HoldRequest { supersedes: Some(RequestId([old; 16])), ..hold(account, operation, request) }
}

fn delivered(input: u32, output: u32) -> Delivered {
    let receipt = Some(ReceiptUsage { input: TokenCount(input), output: TokenCount(output) });
    Delivered { content_relayed: true, relayed_output: TokenCount(output), receipt }
}

fn funded(nanos: i64) -> (Model, AccountId) {
    let mut model = Model::new(BasisPoints::new(1_000).unwrap());
    let account = model.account_create();
    model.deposit(account, NanoDollars(nanos)).unwrap();
    (model, account)
}

fn standing(model: &Model, account: AccountId) -> (i64, i64) {
    assert!(model.audit().is_clean(), "{:?}", model.audit());
    let balance = model.balance(account);
    (balance.available.0, balance.held.0)
}

#[test]
fn a_settlement_charges_once_and_releases_the_rest() {
    let (mut model, account) = funded(150);
    model.hold_place(hold(account, 1, 1)).unwrap();
    assert_eq!(standing(&model, account), (50, 100));
    let first = model.hold_settle(RequestId([1; 16]), PROVIDER, &delivered(5, 4), NOW).unwrap();
    assert_eq!(
        (first.charge, first.released, first.payout, first.fee),
        (NanoDollars(30), NanoDollars(70), NanoDollars(27), NanoDollars(3))
    );
    let second = model.hold_settle(RequestId([1; 16]), ProviderId([8; 32]), &delivered(10, 16), UnixMillis(9)).unwrap();
    assert_eq!(second, Settled { already: true, ..first });
    assert_eq!(model.hold_void(RequestId([1; 16]), VoidCause::Silence, NOW), Some(second));
    assert_eq!(standing(&model, account), (120, 0));
    assert_eq!((model.book(Book::Earned(PROVIDER)), model.book(Book::Platform)), (NanoDollars(27), NanoDollars(3)));
}

#[test]
fn two_holds_cannot_overdraw() {
    let (mut model, account) = funded(150);
    model.hold_place(hold(account, 1, 1)).unwrap();
    let refusal = PlaceRefusal::InsufficientFunds { available: NanoDollars(50), needed: NanoDollars(100) };
    assert_eq!(model.hold_place(hold(account, 2, 2)), Err(refusal));
    assert_eq!(standing(&model, account), (50, 100));
}

#[test]
fn an_operation_has_one_open_hold_and_is_settled_once() {
    let (mut model, account) = funded(1_000);
    model.hold_place(hold(account, 1, 1)).unwrap();
    assert_eq!(model.hold_place(hold(account, 1, 2)), Err(PlaceRefusal::InProgress));
    assert_eq!(model.hold_place(hold(account, 2, 1)), Err(PlaceRefusal::DuplicateRequest));
    model.hold_settle(RequestId([1; 16]), PROVIDER, &delivered(1, 1), NOW).unwrap();
    assert_eq!(model.hold_place(hold(account, 1, 3)), Err(PlaceRefusal::AlreadyCompleted));
    assert_eq!(model.hold_place(resealed(account, 1, 4, 1)), Err(PlaceRefusal::AlreadyCompleted));
}

#[test]
fn the_same_operation_id_of_another_account_is_another_operation() {
    let (mut model, account) = funded(1_000);
    let other = model.account_create();
    model.deposit(other, NanoDollars(100)).unwrap();
    model.hold_place(hold(account, 1, 1)).unwrap();
    model.hold_place(hold(other, 1, 2)).unwrap();
    assert_eq!(model.hold_place(resealed(other, 1, 3, 1)), Err(PlaceRefusal::InProgress));
    model.hold_void(RequestId([2; 16]), VoidCause::Silence, NOW).unwrap();
    assert_eq!(model.hold_place(resealed(other, 1, 3, 1)), Err(PlaceRefusal::UnknownSuperseded));
}

#[test]
fn a_reseal_reuses_the_money_of_the_hold_it_supersedes() {
    let (mut model, account) = funded(100);
    model.hold_place(hold(account, 1, 1)).unwrap();
    model.hold_place(resealed(account, 1, 2, 1)).unwrap();
    assert_eq!(standing(&model, account), (0, 100));
    assert_eq!(model.hold(RequestId([1; 16])).unwrap().state(), HoldState::Voided);
}

#[test]
fn a_reseal_that_cannot_be_paid_leaves_the_old_hold_open() {
    let (mut model, account) = funded(100);
    model.hold_place(hold(account, 1, 1)).unwrap();
    let dearer = HoldRequest { amount: NanoDollars(101), ..resealed(account, 1, 2, 1) };
    let refusal = PlaceRefusal::InsufficientFunds { available: NanoDollars(100), needed: NanoDollars(101) };
    assert_eq!(model.hold_place(dearer), Err(refusal));
    assert_eq!(model.hold(RequestId([1; 16])).unwrap().state(), HoldState::Open);
    assert_eq!(standing(&model, account), (0, 100));
}

#[test]
fn a_hold_below_its_worst_case_is_refused() {
    let (mut model, account) = funded(1_000);
    let short = HoldRequest { amount: NanoDollars(99), ..hold(account, 1, 1) };
    let error = TermsError::AmountBelowWorstCase { amount: NanoDollars(99), worst_case: NanoDollars(100) };
    assert_eq!(model.hold_place(short), Err(PlaceRefusal::Terms(error)));
    let negative = HoldRequest {
        amount: NanoDollars(-1),
        price: Price { input_nano_per_token: 0, output_nano_per_token: 0, ..PRICE },
        ..hold(account, 1, 1)
    };
    assert!(matches!(model.hold_place(negative), Err(PlaceRefusal::Terms(TermsError::AmountBelowWorstCase { .. }))));
}

#[test]
fn a_delivery_without_content_is_a_void_and_the_operation_can_be_tried_again() {
    let (mut model, account) = funded(100);
    model.hold_place(hold(account, 1, 1)).unwrap();
    let nothing = Delivered { content_relayed: false, ..delivered(10, 16) };
    let settled = model.hold_settle(RequestId([1; 16]), PROVIDER, &nothing, NOW).unwrap();
    assert_eq!(
        (settled.state, settled.charge, settled.released),
        (HoldState::Voided, NanoDollars(0), NanoDollars(100))
    );
    model.hold_place(hold(account, 1, 2)).unwrap();
}

#[test]
fn a_free_model_is_settled_and_moves_nothing() {
    let (mut model, account) = funded(1);
    let free = Price { input_nano_per_token: 0, output_nano_per_token: 0, ..PRICE };
    model.hold_place(HoldRequest { amount: NanoDollars(0), price: free, ..hold(account, 1, 1) }).unwrap();
    let settled = model.hold_settle(RequestId([1; 16]), PROVIDER, &delivered(10, 16), NOW).unwrap();
    assert_eq!(
        (settled.state, settled.charge, settled.output_tokens),
        (HoldState::Settled, NanoDollars(0), TokenCount(16))
    );
    assert_eq!(standing(&model, account), (1, 0));
}

#[test]
fn a_voided_hold_is_settled_by_a_receipt_within_the_window_only() {
    for (after, expected) in [(0, Ok(())), (1, Err(LateRefusal::WindowPassed))] {
        let (mut model, account) = funded(100);
        model.hold_place(hold(account, 1, 1)).unwrap();
        model.hold_accepted(RequestId([1; 16]), PROVIDER);
        model.hold_void(RequestId([1; 16]), VoidCause::Silence, NOW).unwrap();
        let at = UnixMillis(NOW.after(LATE_SETTLEMENT_WINDOW).0 + after);
        let late = model.late_settle(RequestId([1; 16]), PROVIDER, &delivered(5, 4), at).unwrap();
        assert_eq!(
            late.map(|settled| assert_eq!((settled.charge, settled.already), (NanoDollars(30), false))),
            expected
        );
        assert_eq!(standing(&model, account), (if expected.is_ok() { 70 } else { 100 }, 0));
    }
}

#[test]
fn only_the_provider_whose_answer_was_relayed_settles_late() {
    let (mut model, account) = funded(100);
    model.hold_place(hold(account, 1, 1)).unwrap();
    let late =
        |model: &mut Model, provider| model.late_settle(RequestId([1; 16]), provider, &delivered(5, 4), NOW).unwrap();
    assert_eq!(late(&mut model, PROVIDER), Err(LateRefusal::NotAccepted), "nobody was accepted yet");
    model.hold_accepted(RequestId([1; 16]), PROVIDER);
    model.hold_void(RequestId([1; 16]), VoidCause::Silence, NOW).unwrap();
    assert_eq!(late(&mut model, ProviderId([77; 32])), Err(LateRefusal::NotAccepted));
    assert_eq!(late(&mut model, PROVIDER).unwrap().charge, NanoDollars(30));
}

#[test]
fn a_receipt_cannot_charge_what_the_coordinator_saw_fail() {
    let (mut model, account) = funded(100);
    model.hold_place(hold(account, 1, 1)).unwrap();
    model.hold_accepted(RequestId([1; 16]), PROVIDER);
    model.hold_void(RequestId([1; 16]), VoidCause::NothingDelivered, NOW).unwrap();
    let late = model.late_settle(RequestId([1; 16]), PROVIDER, &delivered(5, 4), NOW).unwrap();
    assert_eq!(late, Err(LateRefusal::NothingDelivered));
    assert_eq!(standing(&model, account), (100, 0));
}

#[test]
fn a_late_settlement_takes_no_more_than_the_account_has() {
    let (mut model, account) = funded(120);
    model.hold_place(hold(account, 1, 1)).unwrap();
    model.hold_accepted(RequestId([1; 16]), PROVIDER);
    model.hold_void(RequestId([1; 16]), VoidCause::Silence, NOW).unwrap();
    model.hold_place(hold(account, 2, 2)).unwrap();
    let late = model.late_settle(RequestId([1; 16]), PROVIDER, &delivered(5, 4), NOW).unwrap().unwrap();
    assert_eq!(
        (late.charge, late.unpaid, late.payout, late.fee),
        (NanoDollars(20), NanoDollars(10), NanoDollars(18), NanoDollars(2))
    );
    assert_eq!(standing(&model, account), (0, 100));
}

#[test]
fn an_operation_that_moved_on_is_not_settled_late() {
    let late = |model: &mut Model| model.late_settle(RequestId([1; 16]), PROVIDER, &delivered(5, 4), NOW).unwrap();
    let (mut model, account) = funded(200);
    model.hold_place(hold(account, 1, 1)).unwrap();
    model.hold_accepted(RequestId([1; 16]), PROVIDER);
    model.hold_void(RequestId([1; 16]), VoidCause::Silence, NOW).unwrap();
    model.hold_place(hold(account, 1, 2)).unwrap();
    assert_eq!(late(&mut model), Err(LateRefusal::InProgress));
    model.hold_settle(RequestId([2; 16]), PROVIDER, &delivered(1, 1), NOW).unwrap();
    assert_eq!(late(&mut model), Err(LateRefusal::AlreadyCompleted));

    let (mut model, account) = funded(200);
    model.hold_place(hold(account, 1, 1)).unwrap();
    model.hold_accepted(RequestId([1; 16]), PROVIDER);
    model.hold_void(RequestId([1; 16]), VoidCause::Silence, NOW).unwrap();
    model.hold_place(resealed(account, 1, 2, 1)).unwrap();
    model.hold_void(RequestId([2; 16]), VoidCause::Silence, NOW).unwrap();
    assert_eq!(late(&mut model), Err(LateRefusal::Superseded));
}

#[test]
fn a_late_receipt_for_what_was_never_relayed_changes_nothing() {
    let (mut model, account) = funded(100);
    model.hold_place(hold(account, 1, 1)).unwrap();
    model.hold_accepted(RequestId([1; 16]), PROVIDER);
    let void = model.hold_void(RequestId([1; 16]), VoidCause::Silence, NOW).unwrap();
    let nothing = Delivered { content_relayed: false, ..delivered(10, 16) };
    let late = model.late_settle(RequestId([1; 16]), PROVIDER, &nothing, NOW).unwrap();
    assert_eq!(late, Ok(Settled { already: true, ..void }));
}

#[test]
fn deposits_are_positive_and_stay_in_range() {
    let (mut model, account) = funded(1);
    assert_eq!(model.deposit(account, NanoDollars(0)), Err(DepositRefusal::NotPositive));
    assert_eq!(model.deposit(account, NanoDollars(-5)), Err(DepositRefusal::NotPositive));
    assert_eq!(model.deposit(account, NanoDollars(i64::MAX)), Err(DepositRefusal::TooLarge));
    model.deposit(account, NanoDollars(i64::MAX - 1)).unwrap();
    assert_eq!(standing(&model, account), (i64::MAX, 0));
}
