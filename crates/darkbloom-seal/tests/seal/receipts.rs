//! Receipts and bills are compared with what was seen, field by field.

use darkbloom_seal::{BillError, BillExpectation, ReceiptError, ReceiptExpectation, check_bill, check_receipt};
use darkbloom_types::{
    AttemptNumber, CatalogueDigest, Digest, EpochId, Micros, NanoDollars, OperationId, Price, ProviderId, ReceiptId,
    RequestId, TokenCount, UnixMillis,
};
use darkbloom_wire::{Bill, PublicKey, Receipt, VerifyError};

const PRICE: Price = Price { version: 3, input_nano_per_token: 50, output_nano_per_token: 200 };

fn receipt_key() -> (ed25519_dalek::SigningKey, [u8; 32]) {
    let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let public = key.verifying_key().to_bytes();
    (key, public)
}

fn receipt() -> Receipt {
    Receipt {
        request: Digest([1; 32]),
        request_id: RequestId([2; 16]),
        attempt: AttemptNumber(1),
        transcript: Digest([3; 32]),
        model: CatalogueDigest([4; 32]),
        weights: Digest([5; 32]),
        provider: ProviderId([6; 32]),
        epoch: EpochId([7; 16]),
        input_tokens: TokenCount(100),
        output_tokens: TokenCount(20),
        queue_us: Micros(1),
        prefill_us: Micros(2),
        decode_us: Micros(3),
        finished_at: UnixMillis(4),
    }
}

fn seen() -> ReceiptExpectation {
    ReceiptExpectation {
        request: Digest([1; 32]),
        request_id: RequestId([2; 16]),
        attempt: AttemptNumber(1),
        transcript: Some(Digest([3; 32])),
        model: CatalogueDigest([4; 32]),
        weights: Some(Digest([5; 32])),
        provider: ProviderId([6; 32]),
        epoch: EpochId([7; 16]),
        input_ceiling: TokenCount(128),
        output_tokens: Some(TokenCount(20)),
    }
}

fn checked(receipt: &Receipt, seen: &ReceiptExpectation) -> Result<Receipt, ReceiptError> {
    let (key, public) = receipt_key();
    check_receipt(&receipt.sign(&key).unwrap(), &public, seen)
}

#[test]
fn a_receipt_about_what_was_seen_is_accepted() {
    assert_eq!(checked(&receipt(), &seen()), Ok(receipt()));
    let blind = ReceiptExpectation { transcript: None, weights: None, output_tokens: None, ..seen() };
    assert_eq!(checked(&receipt(), &blind), Ok(receipt()));
    assert_eq!(checked(&Receipt { input_tokens: TokenCount(128), ..receipt() }, &seen()).map(drop), Ok(()));
}

#[test]
fn a_receipt_about_anything_else_is_refused_by_name() {
    let other = Digest([9; 32]);
    for (what, receipt) in [
        ("request digest", Receipt { request: other, ..receipt() }),
        ("request id", Receipt { request_id: RequestId([9; 16]), ..receipt() }),
        ("attempt", Receipt { attempt: AttemptNumber(2), ..receipt() }),
        ("transcript digest", Receipt { transcript: other, ..receipt() }),
        ("model", Receipt { model: CatalogueDigest([9; 32]), ..receipt() }),
        ("weights", Receipt { weights: other, ..receipt() }),
        ("provider", Receipt { provider: ProviderId([9; 32]), ..receipt() }),
        ("epoch", Receipt { epoch: EpochId([9; 16]), ..receipt() }),
        ("input token count", Receipt { input_tokens: TokenCount(129), ..receipt() }),
        ("output token count", Receipt { output_tokens: TokenCount(21), ..receipt() }),
        ("output token count", Receipt { output_tokens: TokenCount(19), ..receipt() }),
    ] {
        assert_eq!(checked(&receipt, &seen()), Err(ReceiptError::Mismatch(what)));
    }
}

#[test]
fn a_receipt_signed_by_another_key_is_refused() {
    let (key, _) = receipt_key();
    let other = ed25519_dalek::SigningKey::from_bytes(&[8; 32]).verifying_key().to_bytes();
    let refused = check_receipt(&receipt().sign(&key).unwrap(), &other, &seen());
    assert_eq!(refused, Err(ReceiptError::Signature(VerifyError::Signature)));
}

fn bill() -> Bill {
    Bill {
        operation: OperationId([1; 16]),
        request: RequestId([2; 16]),
        receipt: Some(ReceiptId([3; 32])),
        price: PRICE,
        hold: NanoDollars(40_000),
        charge: NanoDollars(9_000),
        input_tokens: TokenCount(100),
        output_tokens: TokenCount(20),
        settled_at: UnixMillis(4),
    }
}

fn agreed() -> BillExpectation {
    BillExpectation {
        operation: OperationId([1; 16]),
        request: RequestId([2; 16]),
        receipt: Some(ReceiptId([3; 32])),
        price: PRICE,
        price_max: NanoDollars(40_000),
        input_most: TokenCount(128),
        output_most: TokenCount(20),
    }
}

fn billed(bill: &Bill, agreed: &BillExpectation) -> Result<Bill, BillError> {
    let key = p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap();
    let public = PublicKey::P256(key.verifying_key().to_sec1_point(false).as_bytes().try_into().unwrap());
    check_bill(&bill.sign(&key).unwrap(), &public, agreed)
}

#[test]
fn a_bill_as_agreed_is_accepted() {
    assert_eq!(billed(&bill(), &agreed()), Ok(bill()));
    let nothing = Bill {
        receipt: None,
        charge: NanoDollars(0),
        input_tokens: TokenCount(0),
        output_tokens: TokenCount(0),
        ..bill()
    };
    assert_eq!(billed(&nothing, &BillExpectation { receipt: None, ..agreed() }), Ok(nothing));
}

#[test]
fn a_bill_for_more_or_for_something_else_is_refused_by_name() {
    for (what, bill) in [
        ("operation", Bill { operation: OperationId([9; 16]), ..bill() }),
        ("request", Bill { request: RequestId([9; 16]), ..bill() }),
        ("receipt", Bill { receipt: None, ..bill() }),
        ("receipt", Bill { receipt: Some(ReceiptId([9; 32])), ..bill() }),
        ("price", Bill { price: Price { version: 4, ..PRICE }, ..bill() }),
        ("price", Bill { price: Price { output_nano_per_token: 201, ..PRICE }, ..bill() }),
        ("hold", Bill { hold: NanoDollars(40_001), ..bill() }),
        ("input token count", Bill { input_tokens: TokenCount(129), charge: NanoDollars(10_450), ..bill() }),
        ("output token count", Bill { output_tokens: TokenCount(21), charge: NanoDollars(9_200), ..bill() }),
        ("charge", Bill { charge: NanoDollars(9_001), ..bill() }),
        ("charge", Bill { charge: NanoDollars(8_999), ..bill() }),
        ("charge", Bill { hold: NanoDollars(8_999), ..bill() }),
        ("charge", Bill { charge: NanoDollars(-9_000), ..bill() }),
    ] {
        assert_eq!(billed(&bill, &agreed()), Err(BillError::Mismatch(what)));
    }
}

#[test]
fn a_bill_whose_sum_overflows_is_refused() {
    let dear = Price { version: 3, input_nano_per_token: u32::MAX, output_nano_per_token: u32::MAX };
    let bill = Bill { price: dear, input_tokens: TokenCount(u32::MAX), output_tokens: TokenCount(u32::MAX), ..bill() };
    let agreed = BillExpectation { price: dear, ..agreed() };
    assert!(matches!(billed(&bill, &agreed), Err(BillError::Money(_))));
}
