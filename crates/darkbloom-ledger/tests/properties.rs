//! Whatever happens, in whatever order: the books are in order afterwards.

// Clippy takes only functions marked as tests for tests; what they call belongs to them.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use darkbloom_ledger::{
    BasisPoints, Book, BudgetPeriod, Decision, Delivered, HoldRequest, HoldState, Invite, Model, PayoutState,
    ReceiptUsage, Recount, Spender, VoidCause,
};
use darkbloom_types::{
    AccountId, CatalogueDigest, KeyId, NanoDollars, OperationId, Price, ProviderId, RequestId, TokenCount, UnixMillis,
};
use proptest::prelude::*;

const MODEL: CatalogueDigest = CatalogueDigest([3; 32]);
const PRICE: Price = Price { version: 1, input_nano_per_token: 2, output_nano_per_token: 5 };

#[derive(Debug, Clone)]
enum Event {
    Deposit { account: i64, amount: i64 },
    Redeem { account: i64, at: i64 },
    Place(HoldRequest),
    Settle { request: u8, provider: u8, delivered: Delivered, at: i64 },
    Void { request: u8, at: i64 },
    Late { request: u8, provider: u8, delivered: Delivered, at: i64 },
    Accept { request: u8, provider: u8 },
    Dispute { request: u8, account: i64, recount: Recount, at: i64 },
    Decide { request: u8, decision: Decision },
    Mature { at: i64 },
    Payout { reference: u8, account: i64, amount: i64 },
    Advance { reference: u8, to: PayoutState },
    Spend { account: i64, amount: i64 },
    Budget { spender: Spender, budget: Option<(BudgetPeriod, NanoDollars)> },
    Fee { account: i64, fee: Option<u16> },
    Owner { provider: u8, account: i64 },
    OwnPrice { provider: u8, price: Option<(u32, u32)> },
}

fn provider(number: u8) -> ProviderId {
    ProviderId([number; 32])
}

fn any_delivery() -> impl Strategy<Value = Delivered> {
    (any::<bool>(), 0..30u32, proptest::option::of((0..30u32, 0..30u32))).prop_map(
        |(content_relayed, relayed, receipt)| {
            let receipt =
                receipt.map(|(input, output)| ReceiptUsage { input: TokenCount(input), output: TokenCount(output) });
            Delivered { content_relayed, relayed_output: TokenCount(relayed), receipt }
        },
    )
}

fn any_place() -> impl Strategy<Value = Event> {
    let account = prop_oneof![12 => Just(1), 4 => Just(2), 1 => Just(9)];
    (account, 0..3u8, 0..8u8, 98..110i64, proptest::option::of(0..8u8), 1..3i64, 0..3 * 24 * 3_600_000i64).prop_map(
        |(account, operation, request, amount, old, key, at)| {
            Event::Place(HoldRequest {
                request: RequestId([request; 16]),
                operation: OperationId([operation; 16]),
                account: AccountId(account),
                key: KeyId(key),
                model: MODEL,
                amount: NanoDollars(amount),
                price: PRICE,
                input_ceiling: TokenCount(10),
                output_ceiling: TokenCount(16),
                placed_at: UnixMillis(at),
                expires_at: UnixMillis(at + 1_000),
                supersedes: old.map(|old| RequestId([old; 16])),
            })
        },
    )
}

fn any_money_event() -> impl Strategy<Value = Event> {
    let at = 0..3 * 24 * 3_600_000i64;
    let spender = prop_oneof![
        (1..3i64).prop_map(|key| Spender::Key(KeyId(key))),
        (1..3i64).prop_map(|account| Spender::Account(AccountId(account))),
    ];
    let period = prop_oneof![Just(BudgetPeriod::Total), Just(BudgetPeriod::Day), Just(BudgetPeriod::Month)];
    let decision = prop_oneof![Just(Decision::Consumer), Just(Decision::Provider)];
    let state = prop_oneof![Just(PayoutState::Sending), Just(PayoutState::Paid), Just(PayoutState::Returned)];
    let recount = (0..20u32, 0..20u32).prop_map(|(i, o)| Recount { input: TokenCount(i), output: TokenCount(o) });
    prop_oneof![
        3 => (0..8u8, 1..3i64, recount, at.clone())
            .prop_map(|(request, account, recount, at)| Event::Dispute { request, account, recount, at }),
        2 => (0..8u8, decision).prop_map(|(request, decision)| Event::Decide { request, decision }),
        2 => at.clone().prop_map(|at| Event::Mature { at }),
        2 => (0..4u8, 1..4i64, -5..200i64).prop_map(|(reference, account, amount)| Event::Payout { reference, account, amount }),
        2 => (0..4u8, state).prop_map(|(reference, to)| Event::Advance { reference, to }),
        1 => (1..4i64, -5..60i64).prop_map(|(account, amount)| Event::Spend { account, amount }),
        1 => (spender, proptest::option::of((period, (0..400i64).prop_map(NanoDollars))))
            .prop_map(|(spender, budget)| Event::Budget { spender, budget }),
        1 => (1..4i64, proptest::option::of(0..=10_000u16)).prop_map(|(account, fee)| Event::Fee { account, fee }),
        1 => (8..10u8, 1..4i64).prop_map(|(provider, account)| Event::Owner { provider, account }),
        1 => (8..10u8, proptest::option::of((0..4u32, 0..7u32))).prop_map(|(provider, price)| Event::OwnPrice { provider, price }),
        1 => (1..4i64, at).prop_map(|(account, at)| Event::Redeem { account, at }),
    ]
}

fn any_event() -> impl Strategy<Value = Event> {
    let at = 0..3 * 24 * 3_600_000i64;
    prop_oneof![
        2 => (1..3i64, -20..500i64).prop_map(|(account, amount)| Event::Deposit { account, amount }),
        6 => any_place(),
        4 => (0..8u8, 8..10u8, any_delivery(), at.clone())
            .prop_map(|(request, provider, delivered, at)| Event::Settle { request, provider, delivered, at }),
        2 => (0..8u8, at.clone()).prop_map(|(request, at)| Event::Void { request, at }),
        1 => (0..8u8, 8..10u8).prop_map(|(request, provider)| Event::Accept { request, provider }),
        2 => (0..8u8, 8..10u8, any_delivery(), at)
            .prop_map(|(request, provider, delivered, at)| Event::Late { request, provider, delivered, at }),
        8 => any_money_event(),
    ]
}

fn happen(model: &mut Model, event: Event) {
    let request = |number: u8| RequestId([number; 16]);
    // Refusals are as good as successes here.
    match event {
        Event::Deposit { account, amount } => {
            let _ = model.deposit(AccountId(account), NanoDollars(amount));
        }
        Event::Redeem { account, at } => {
            let _ = model.redeem("welcome", AccountId(account), UnixMillis(at));
        }
        Event::Place(request) => drop(model.hold_place(request)),
        Event::Settle { request: number, provider: by, delivered, at } => {
            model.hold_settle(request(number), provider(by), &delivered, UnixMillis(at));
        }
        Event::Void { request: number, at } => {
            model.hold_void(request(number), VoidCause::Silence, UnixMillis(at));
        }
        Event::Late { request: number, provider: by, delivered, at } => {
            model.late_settle(request(number), provider(by), &delivered, UnixMillis(at));
        }
        Event::Accept { request: number, provider: by } => model.hold_accepted(request(number), provider(by)),
        Event::Dispute { request: number, account, recount, at } => {
            model.dispute(request(number), AccountId(account), recount, UnixMillis(at));
        }
        Event::Decide { request: number, decision } => drop(model.decide_dispute(request(number), decision)),
        Event::Mature { at } => model.mature(UnixMillis(at)),
        Event::Payout { reference, account, amount } => {
            let _ = model.payout(&reference.to_string(), AccountId(account), NanoDollars(amount));
        }
        Event::Advance { reference, to } => {
            model.payout_advance(&reference.to_string(), to);
        }
        Event::Spend { account, amount } => {
            let _ = model.spend_earnings(AccountId(account), NanoDollars(amount));
        }
        Event::Budget { spender, budget } => model.budget(spender, budget),
        Event::Fee { account, fee } => {
            model.fee_of(AccountId(account), fee.map(|points| BasisPoints::new(points).unwrap()));
        }
        Event::Owner { provider: id, account } => model.owned(provider(id), AccountId(account)),
        Event::OwnPrice { provider: id, price } => {
            let price = price.map(|(input, output)| Price {
                version: 2,
                input_nano_per_token: input,
                output_nano_per_token: output,
            });
            model.own_price(provider(id), MODEL, price);
        }
    }
}

/// What all who earn have and had: with what is in doubt and what went back to consumers, it is what consumers paid.
fn earned(model: &Model) -> i64 {
    let mut books = vec![Book::Platform, Book::Withdrawals];
    books.extend((8..10).map(|number| Book::Earned(provider(number))));
    for account in (1..4).map(AccountId) {
        books.extend([
            Book::Withdrawable(account),
            Book::Referral(account),
            Book::Disputed(account),
            Book::Withdrawing(account),
        ]);
    }
    books.into_iter().map(|book| model.book(book).0).sum()
}

proptest! {
    #[test]
    fn books_are_in_order_after_whatever_happens(events in proptest::collection::vec(any_event(), 1..80)) {
        let mut model = Model::new(BasisPoints::new(250).unwrap());
        model.referral_share(BasisPoints::new(2_000).unwrap());
        for _ in 0..3 {
            model.account_create();
        }
        model.referred(AccountId(1), AccountId(3));
        model.invite("welcome", Invite { amount: NanoDollars(50), uses_left: 2, expires_at: UnixMillis(100_000_000) });
        for event in events {
            let before = (earned(&model), (1..3).map(|account| {
                let balance = model.balance(AccountId(account));
                balance.available.0 + balance.held.0
            }).sum::<i64>());
            let spends = matches!(event, Event::Settle { .. } | Event::Late { .. } | Event::Void { .. } | Event::Place(_));
            happen(&mut model, event);
            let report = model.audit();
            prop_assert!(report.is_clean(), "{report:?}");
            let mut live = BTreeSet::new();
            for hold in model.holds().filter(|hold| hold.state() != HoldState::Voided) {
                prop_assert!(live.insert((hold.request.account, hold.request.operation)), "two live holds of an operation");
            }
            if spends {
                let after = (earned(&model), (1..3).map(|account| {
                    let balance = model.balance(AccountId(account));
                    balance.available.0 + balance.held.0
                }).sum::<i64>());
                prop_assert_eq!(before.0 + before.1, after.0 + after.1, "what consumers paid is what was earned");
            }
            for closed in model.holds().filter_map(|hold| hold.closed) {
                prop_assert_eq!(closed.charge.0, closed.payout.0 + closed.fee.0 + closed.referral.0);
                prop_assert!(closed.charge <= NanoDollars(100), "no answer costs more than was agreed");
            }
        }
    }

    #[test]
    fn nobody_spends_more_than_a_budget_that_was_there_from_the_first(events in proptest::collection::vec(any_event(), 1..60)) {
        let mut model = Model::new(BasisPoints::new(250).unwrap());
        for _ in 0..3 {
            model.account_create();
        }
        let spender = Spender::Account(AccountId(1));
        model.budget(spender, Some((BudgetPeriod::Total, NanoDollars(250))));
        model.deposit(AccountId(1), NanoDollars(10_000)).unwrap();
        for event in events {
            // A late receipt charges what was free again, whatever was spent meanwhile: it is owed.
            if matches!(event, Event::Budget { .. } | Event::Late { .. }) {
                continue;
            }
            happen(&mut model, event);
            let budget = model.spending(spender, UnixMillis(0)).unwrap();
            prop_assert!(budget.spent.0 + budget.held.0 <= 250, "{budget:?}");
        }
    }
}
