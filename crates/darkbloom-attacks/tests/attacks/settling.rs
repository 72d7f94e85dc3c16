//! Attacks on money: receipts and bills that say more than was agreed or done.

use darkbloom_attacks::attacks;
use darkbloom_ledger::{
    Budget, BudgetPeriod, Delivered, HoldRequest, HoldTerms, OperationView, PlaceView, ReceiptUsage, Spender, charge,
    place,
};
use darkbloom_seal::{BillExpectation, ReceiptExpectation, ReceiptKey, check_bill, check_receipt};
use darkbloom_types::{
    AccountId, CatalogueDigest, Digest, EpochId, KeyId, NanoDollars, OperationId, Price, RequestId, TokenCount,
    UnixMillis,
};
use darkbloom_wire::{Bill, PublicKey, Receipt};

use crate::forge::{NOW, key, minutes, receipt};

const PRICE: Price = Price { version: 1, input_nano_per_token: 2, output_nano_per_token: 3 };

/// Whether a receipt with this in it is taken for the one that belongs to what arrived.
fn received(change: impl Fn(&mut Receipt)) -> bool {
    let key = ReceiptKey::from_bytes(&[8; 32]);
    let good = receipt();
    let seen = ReceiptExpectation {
        request: good.request,
        request_id: good.request_id,
        attempt: good.attempt,
        transcript: Some(good.transcript),
        model: good.model,
        weights: Some(good.weights),
        provider: good.provider,
        epoch: good.epoch,
        input_ceiling: TokenCount(10),
        output_tokens: Some(good.output_tokens),
    };
    let mut changed = good;
    change(&mut changed);
    check_receipt(&changed.sign(&key).unwrap(), &key.verifying_key().to_bytes(), &seen).is_ok()
}

/// Whether a bill with this in it is taken for the one that was agreed to.
fn billed(change: impl Fn(&mut Bill)) -> bool {
    let mut bill = Bill {
        operation: OperationId([1; 16]),
        request: RequestId([2; 16]),
        receipt: None,
        price: PRICE,
        hold: NanoDollars(100),
        charge: NanoDollars(10 * 2 + 20 * 3),
        input_tokens: TokenCount(10),
        output_tokens: TokenCount(20),
        settled_at: NOW,
    };
    let agreed = BillExpectation {
        operation: bill.operation,
        request: bill.request,
        receipt: None,
        price: PRICE,
        price_max: NanoDollars(100),
        input_most: TokenCount(10),
        output_most: TokenCount(20),
    };
    change(&mut bill);
    check_bill(&bill.sign(&key(1).0).unwrap(), &PublicKey::P256(key(1).1), &agreed).is_ok()
}

/// What is charged for output after 3 tokens were relayed, at ceilings of 10 and 5.
fn charged(input: u32, relayed: u32, output: u32) -> (u32, u32) {
    let terms = HoldTerms::new(NanoDollars(35), PRICE, TokenCount(10), TokenCount(5)).unwrap();
    let receipt = Some(ReceiptUsage { input: TokenCount(input), output: TokenCount(output) });
    let charge = charge(&terms, &Delivered { content_relayed: true, relayed_output: TokenCount(relayed), receipt });
    (charge.input_tokens.0, charge.output_tokens.0)
}

/// Whether a hold of 35 is placed for an operation of which this is known, by a key with this budget.
fn placed(operation: OperationView, limit: NanoDollars) -> bool {
    let request = HoldRequest {
        request: RequestId([2; 16]),
        operation: OperationId([1; 16]),
        account: AccountId(1),
        key: KeyId(1),
        model: CatalogueDigest([4; 32]),
        amount: NanoDollars(35),
        price: PRICE,
        input_ceiling: TokenCount(10),
        output_ceiling: TokenCount(5),
        placed_at: UnixMillis(NOW.0),
        expires_at: minutes(35),
        supersedes: None,
    };
    let nothing = NanoDollars::ZERO;
    let (spender, period) = (Spender::Key(KeyId(1)), BudgetPeriod::Total);
    let budget = Budget { spender, period, limit, window: 0, spent: nothing, held: nothing };
    let available = Some(NanoDollars(1_000));
    let view = PlaceView { available, request_known: false, operation, superseded: None, budgets: &[budget] };
    place(&request, &view).is_ok()
}

attacks! {
    attack_a_receipt_claims_more_than_arrived against "receipt_output": || received(|it| it.output_tokens = TokenCount(9_999));
    attack_a_receipt_is_for_another_stream against "receipt_transcript": || received(|it| it.transcript = Digest([9; 32]));
    attack_a_cheaper_model_answered against "receipt_weights": || received(|it| it.weights = Digest([9; 32]));
    attack_a_receipt_is_of_another_epoch against "receipt_epoch": || received(|it| it.epoch = EpochId([9; 16]));
    attack_a_bill_charges_more_than_its_tokens_cost against "bill_charge": || billed(|it| it.charge = NanoDollars(99));
    attack_a_bill_holds_more_than_was_agreed against "bill_hold": || billed(|it| it.hold = NanoDollars(1_000_000));
    attack_a_bill_is_for_another_operation against "bill_operation": || billed(|it| it.operation = OperationId([9; 16]));
    attack_a_provider_is_paid_for_what_nobody_got against "charge_relayed": || charged(10, 3, 5).1 > 3;
    attack_a_provider_is_paid_beyond_the_ceiling against "charge_ceiling": || charged(1_000, 3, 3).0 > 10;
    attack_an_operation_is_paid_for_twice against "operation_settled_once": || {
        placed(OperationView { settled: true, open: None }, NanoDollars(1_000))
    };
    attack_a_key_spends_more_than_its_budget against "budget": || {
        placed(OperationView { settled: false, open: None }, NanoDollars(34))
    };
}

#[test]
fn receipts_and_bills_are_good_when_nobody_touches_them() {
    assert!(received(|_| {}) && billed(|_| {}));
    assert_eq!(charged(4, 3, 3), (4, 3));
    assert!(placed(OperationView::default(), NanoDollars(35)));
}
