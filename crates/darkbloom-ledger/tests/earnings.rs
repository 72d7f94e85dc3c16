//! What the books promise beyond a single request: shares, own prices, budgets, disputes, what may be paid out, invites.

// Clippy takes only functions marked as tests for tests; what they call belongs to them.
#![allow(clippy::unwrap_used)]

use darkbloom_ledger::{
    BasisPoints, Book, BudgetPeriod, DISPUTE_WINDOW, Decision, Delivered, DisputeRefusal, HoldRequest, Invite,
    InviteRefusal, Model, PayoutRefusal, PayoutState, PlaceRefusal, ReceiptUsage, Recount, Spender, VoidCause,
};
use darkbloom_types::{
    AccountId, CatalogueDigest, KeyId, NanoDollars, OperationId, Price, ProviderId, RequestId, TokenCount, UnixMillis,
};

const PROVIDER: ProviderId = ProviderId([9; 32]);
const MODEL: CatalogueDigest = CatalogueDigest([3; 32]);
const PRICE: Price = Price { version: 1, input_nano_per_token: 2, output_nano_per_token: 5 };
const NOW: UnixMillis = UnixMillis(1_000);
const CONSUMER: AccountId = AccountId(1);
const OWNER: AccountId = AccountId(2);
const REFERRER: AccountId = AccountId(3);

/// Three accounts; the first has 1,000, the second owns the provider, the third brought the first. A fee of 10 %, of which a
/// fifth is the referrer's.
fn network() -> Model {
    let mut model = Model::new(BasisPoints::new(1_000).unwrap());
    model.referral_share(BasisPoints::new(2_000).unwrap());
    for _ in 0..3 {
        model.account_create();
    }
    model.deposit(CONSUMER, NanoDollars(1_000)).unwrap();
    model.owned(PROVIDER, OWNER);
    model.referred(CONSUMER, REFERRER);
    model
}

/// A hold of 10 × 2 + 16 × 5 = 100.
fn hold(number: u8, key: i64) -> HoldRequest {
    HoldRequest {
        request: RequestId([number; 16]),
        operation: OperationId([number; 16]),
        account: CONSUMER,
        key: KeyId(key),
        model: MODEL,
        amount: NanoDollars(100),
        price: PRICE,
        input_ceiling: TokenCount(10),
        output_ceiling: TokenCount(16),
        placed_at: NOW,
        expires_at: UnixMillis(2_000),
        supersedes: None,
    }
}

/// All ten tokens in, all sixteen out.
fn whole() -> Delivered {
    let receipt = Some(ReceiptUsage { input: TokenCount(10), output: TokenCount(16) });
    Delivered { content_relayed: true, relayed_output: TokenCount(16), receipt }
}

fn answered(model: &mut Model, number: u8) {
    model.hold_place(hold(number, 1)).unwrap();
    model.hold_settle(RequestId([number; 16]), PROVIDER, &whole(), NOW).unwrap();
}

/// What stands in the books of those who are paid: earned, platform, referral, disputed.
fn paid(model: &Model) -> [i64; 4] {
    assert!(model.audit().is_clean(), "{:?}", model.audit());
    [Book::Earned(PROVIDER), Book::Platform, Book::Referral(REFERRER), Book::Disputed(CONSUMER)]
        .map(|book| model.book(book).0)
}

fn withdrawable(model: &Model, account: AccountId) -> i64 {
    assert!(model.audit().is_clean(), "{:?}", model.audit());
    model.book(Book::Withdrawable(account)).0
}

#[test]
fn a_charge_is_divided_between_provider_operator_and_referrer() {
    let mut model = network();
    answered(&mut model, 1);
    assert_eq!(paid(&model), [90, 8, 2, 0]);
    model.fee_of(OWNER, Some(BasisPoints::ZERO));
    answered(&mut model, 2);
    assert_eq!(paid(&model), [190, 8, 2, 0], "this owner gives no fee, so nobody has a share of it");
}

#[test]
fn ones_own_machine_is_free_and_a_providers_lower_price_counts() {
    let mut model = network();
    model.own_price(PROVIDER, MODEL, Some(Price { version: 7, input_nano_per_token: 1, output_nano_per_token: 5 }));
    model.hold_place(hold(1, 1)).unwrap();
    let settled = model.hold_settle(RequestId([1; 16]), PROVIDER, &whole(), NOW).unwrap();
    assert_eq!((settled.charge, settled.released, settled.price.version), (NanoDollars(90), NanoDollars(10), 7));
    model.owned(PROVIDER, CONSUMER);
    model.hold_place(hold(2, 1)).unwrap();
    let settled = model.hold_settle(RequestId([2; 16]), PROVIDER, &whole(), NOW).unwrap();
    assert_eq!((settled.charge, settled.output_tokens), (NanoDollars(0), TokenCount(16)));
    assert!(model.audit().is_clean());
}

#[test]
fn a_budget_counts_open_holds_and_charges_and_begins_again_with_its_window() {
    let mut model = network();
    model.budget(Spender::Key(KeyId(1)), Some((BudgetPeriod::Day, NanoDollars(250))));
    model.hold_place(hold(1, 1)).unwrap();
    model.hold_place(hold(2, 1)).unwrap();
    let over = |left| {
        Err(PlaceRefusal::OverBudget {
            spender: Spender::Key(KeyId(1)),
            left: NanoDollars(left),
            needed: NanoDollars(100),
        })
    };
    assert_eq!(model.hold_place(hold(3, 1)), over(50));
    model.hold_place(hold(4, 2)).unwrap();
    model.hold_void(RequestId([1; 16]), VoidCause::NothingDelivered, NOW).unwrap();
    model.hold_place(hold(3, 1)).unwrap();
    model.hold_settle(RequestId([2; 16]), PROVIDER, &whole(), NOW).unwrap();
    assert_eq!(model.hold_place(hold(5, 1)), over(50), "what was charged counts as what is held");
    let tomorrow = HoldRequest { placed_at: UnixMillis(NOW.0 + 86_400_000), ..hold(5, 1) };
    model.hold_place(tomorrow).unwrap();
}

#[test]
fn a_request_that_is_sealed_again_uses_its_budget_once() {
    let mut model = network();
    model.budget(Spender::Account(CONSUMER), Some((BudgetPeriod::Total, NanoDollars(100))));
    model.budget(Spender::Key(KeyId(1)), Some((BudgetPeriod::Total, NanoDollars(100))));
    model.hold_place(hold(1, 1)).unwrap();
    let again = HoldRequest { operation: OperationId([1; 16]), supersedes: Some(RequestId([1; 16])), ..hold(2, 1) };
    model.hold_place(again).unwrap();
    assert_eq!(model.balance(CONSUMER).held, NanoDollars(100));
}

#[test]
fn a_dispute_takes_the_difference_from_all_who_were_paid_and_a_decision_gives_it_to_one_side() {
    let recount = Recount { input: TokenCount(10), output: TokenCount(6) };
    for decision in [Decision::Consumer, Decision::Provider] {
        let mut model = network();
        answered(&mut model, 1);
        let request = RequestId([1; 16]);
        assert_eq!(model.dispute(request, CONSUMER, recount, NOW), Some(Ok(NanoDollars(50))));
        assert_eq!(paid(&model), [45, 4, 1, 50]);
        assert_eq!(model.dispute(request, CONSUMER, recount, NOW), Some(Err(DisputeRefusal::Already)));
        assert!(model.decide_dispute(request, decision) && !model.decide_dispute(request, Decision::Consumer));
        let (after, available) = match decision {
            Decision::Consumer => ([45, 4, 1, 0], 950),
            Decision::Provider => ([90, 8, 2, 0], 900),
        };
        assert_eq!((paid(&model), model.balance(CONSUMER).available.0), (after, available));
    }
}

#[test]
fn only_what_was_charged_lately_and_too_high_can_be_disputed_by_who_paid() {
    let mut model = network();
    answered(&mut model, 1);
    let request = RequestId([1; 16]);
    let dispute = |model: &mut Model, account, output, at: i64| {
        let recount = Recount { input: TokenCount(99), output: TokenCount(output) };
        model.dispute(request, account, recount, UnixMillis(at)).unwrap().unwrap_err()
    };
    let late = NOW.after(DISPUTE_WINDOW).0 + 1;
    assert_eq!(dispute(&mut model, OWNER, 1, NOW.0), DisputeRefusal::NotCharged);
    assert_eq!(dispute(&mut model, CONSUMER, 1, late), DisputeRefusal::WindowPassed);
    assert_eq!(dispute(&mut model, CONSUMER, 99, NOW.0), DisputeRefusal::NoDifference);
    model.hold_place(hold(2, 1)).unwrap();
    let open =
        model.dispute(RequestId([2; 16]), CONSUMER, Recount { input: TokenCount(0), output: TokenCount(0) }, NOW);
    assert_eq!(open, Some(Err(DisputeRefusal::NotCharged)));
}

#[test]
fn earnings_may_be_paid_out_after_a_day_and_only_what_nobody_disputes() {
    let mut model = network();
    answered(&mut model, 1);
    answered(&mut model, 2);
    let recount = Recount { input: TokenCount(10), output: TokenCount(6) };
    model.dispute(RequestId([2; 16]), CONSUMER, recount, NOW).unwrap().unwrap();
    model.mature(NOW.after(DISPUTE_WINDOW));
    assert_eq!(withdrawable(&model, OWNER), 0, "the window is not over in its last moment");
    let after = UnixMillis(NOW.after(DISPUTE_WINDOW).0 + 1);
    model.mature(after);
    model.mature(after);
    assert_eq!((withdrawable(&model, OWNER), withdrawable(&model, REFERRER)), (135, 3));
    model.decide_dispute(RequestId([2; 16]), Decision::Provider);
    model.mature(after);
    assert_eq!((withdrawable(&model, OWNER), withdrawable(&model, REFERRER)), (180, 4));
}

#[test]
fn earnings_of_a_machine_without_an_owner_wait_for_one() {
    let mut model = network();
    let other = ProviderId([8; 32]);
    model.hold_place(hold(1, 1)).unwrap();
    model.hold_settle(RequestId([1; 16]), other, &whole(), NOW).unwrap();
    let after = UnixMillis(NOW.after(DISPUTE_WINDOW).0 + 1);
    model.mature(after);
    assert_eq!((model.book(Book::Earned(other)).0, withdrawable(&model, REFERRER)), (90, 2));
    model.owned(other, OWNER);
    model.mature(after);
    assert_eq!((model.book(Book::Earned(other)).0, withdrawable(&model, OWNER)), (0, 90));
}

#[test]
fn a_payout_is_asked_for_once_and_what_does_not_arrive_comes_back() {
    let mut model = network();
    answered(&mut model, 1);
    model.mature(UnixMillis(NOW.after(DISPUTE_WINDOW).0 + 1));
    assert_eq!(model.payout("a", OWNER, NanoDollars(60)), Ok(true));
    assert_eq!(model.payout("a", OWNER, NanoDollars(60)), Ok(false));
    let refusal = PayoutRefusal::Insufficient { withdrawable: NanoDollars(30) };
    assert_eq!(model.payout("b", OWNER, NanoDollars(31)), Err(refusal));
    let advance = |model: &mut Model, to| model.payout_advance("a", to).unwrap();
    assert_eq!(
        advance(&mut model, PayoutState::Paid),
        Err(PayoutRefusal::WrongState { from: PayoutState::Requested, to: PayoutState::Paid })
    );
    advance(&mut model, PayoutState::Sending).unwrap();
    advance(&mut model, PayoutState::Returned).unwrap();
    advance(&mut model, PayoutState::Returned).unwrap();
    assert_eq!(withdrawable(&model, OWNER), 90);
    assert_eq!(model.payout("c", OWNER, NanoDollars(90)), Ok(true));
    model.payout_advance("c", PayoutState::Sending).unwrap().unwrap();
    model.payout_advance("c", PayoutState::Paid).unwrap().unwrap();
    assert_eq!((withdrawable(&model, OWNER), model.book(Book::Withdrawals).0), (0, 90));
}

#[test]
fn earnings_can_be_spent_instead() {
    let mut model = network();
    answered(&mut model, 1);
    model.mature(UnixMillis(NOW.after(DISPUTE_WINDOW).0 + 1));
    model.spend_earnings(OWNER, NanoDollars(40)).unwrap();
    assert_eq!((withdrawable(&model, OWNER), model.balance(OWNER).available.0), (50, 40));
}

#[test]
fn an_invite_gives_each_account_its_amount_once() {
    let mut model = network();
    let invite = Invite { amount: NanoDollars(7), uses_left: 2, expires_at: UnixMillis(5_000) };
    model.invite("welcome", invite);
    assert_eq!(model.redeem("welcome", OWNER, NOW), Ok(true));
    assert_eq!(model.redeem("welcome", OWNER, NOW), Ok(false));
    assert_eq!(model.redeem("welcome", REFERRER, NOW), Ok(true));
    assert_eq!(model.redeem("welcome", CONSUMER, NOW), Err(InviteRefusal::UsedUp));
    assert_eq!(model.redeem("other", CONSUMER, NOW), Err(InviteRefusal::Unknown));
    assert_eq!((model.balance(OWNER).available.0, model.balance(REFERRER).available.0), (7, 7));
}
