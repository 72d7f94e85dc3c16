//! The store answers as the ledger's reference model does, whatever happens in whatever order.

use crate::support::{Home, NOW, hold, id16};
use darkbloom_ledger::{
    BasisPoints, Book, BudgetPeriod, Decision, Delivered, HoldRequest, Invite, InviteRefusal, Model, PayoutState,
    ReceiptUsage, Recount, Spender, VoidCause,
};
use darkbloom_store::{
    CatalogueRow, DepositError, DisputeError, PayoutError, PlaceHoldError, PriceScope, RedeemError, SettleError,
    Settlement, Store, StoreOptions,
};
use darkbloom_types::{
    AccountId, CatalogueDigest, Digest, KeyId, NanoDollars, Price, ProviderId, RequestId, TokenCount, UnixMillis,
};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::cell::Cell;

const MODEL: CatalogueDigest = CatalogueDigest([3; 32]);
const PROVIDERS: [ProviderId; 2] = [ProviderId([8; 32]), ProviderId([9; 32])];

#[derive(Debug, Clone)]
enum What {
    Deposit { account: i64, amount: i64 },
    Redeem { account: i64 },
    Place { account: i64, key: i64, operation: u64, request: u64, amount: i64, supersedes: Option<u64> },
    Settle { request: u64, provider: usize, delivered: Delivered },
    Void { request: u64 },
    Accept { request: u64, provider: usize },
    Late { request: u64, provider: usize, delivered: Delivered },
    Dispute { request: u64, account: i64, recount: Recount },
    Decide { request: u64, decision: Decision },
    Mature,
    Payout { reference: u8, account: i64, amount: i64 },
    Advance { reference: u8, to: PayoutState },
    Spend { account: i64, amount: i64 },
    Budget { spender: Spender, budget: Option<(BudgetPeriod, NanoDollars)> },
    Fee { account: i64, fee: Option<u16> },
    Owner { provider: usize, account: i64 },
    OwnPrice { provider: usize, price: Option<(u32, u32)> },
    Reopen,
}

/// What happens, and how long after what was before.
type Event = (What, i64);

fn any_delivery() -> impl Strategy<Value = Delivered> {
    (prop::bool::weighted(0.8), 0..30u32, proptest::option::of((0..30u32, 0..30u32))).prop_map(
        |(content_relayed, relayed, receipt)| {
            let receipt =
                receipt.map(|(input, output)| ReceiptUsage { input: TokenCount(input), output: TokenCount(output) });
            Delivered { content_relayed, relayed_output: TokenCount(relayed), receipt }
        },
    )
}

fn any_beyond() -> impl Strategy<Value = What> {
    let spender = prop_oneof![
        (1..3i64).prop_map(|key| Spender::Key(KeyId(key))),
        (1..3i64).prop_map(|account| Spender::Account(AccountId(account))),
    ];
    let period = prop_oneof![Just(BudgetPeriod::Total), Just(BudgetPeriod::Day), Just(BudgetPeriod::Month)];
    let decision = prop_oneof![Just(Decision::Consumer), Just(Decision::Provider)];
    let state = prop_oneof![Just(PayoutState::Sending), Just(PayoutState::Paid), Just(PayoutState::Returned)];
    let recount = (0..10u32, 0..16u32).prop_map(|(i, o)| Recount { input: TokenCount(i), output: TokenCount(o) });
    prop_oneof![
        4 => (0..6u64, 1..3i64, recount).prop_map(|(request, account, recount)| What::Dispute { request, account, recount }),
        3 => (0..6u64, decision).prop_map(|(request, decision)| What::Decide { request, decision }),
        3 => Just(What::Mature),
        3 => (0..3u8, 1..4i64, -5..90i64).prop_map(|(reference, account, amount)| What::Payout { reference, account, amount }),
        3 => (0..3u8, state).prop_map(|(reference, to)| What::Advance { reference, to }),
        2 => (1..4i64, -5..60i64).prop_map(|(account, amount)| What::Spend { account, amount }),
        3 => (spender, proptest::option::weighted(0.8, (period, (0..400i64).prop_map(NanoDollars))))
            .prop_map(|(spender, budget)| What::Budget { spender, budget }),
        1 => (1..4i64, proptest::option::of(0..=10_000u16)).prop_map(|(account, fee)| What::Fee { account, fee }),
        2 => (0..2usize, 1..4i64).prop_map(|(provider, account)| What::Owner { provider, account }),
        1 => (0..2usize, proptest::option::of((0..4u32, 0..6u32))).prop_map(|(provider, price)| What::OwnPrice { provider, price }),
        1 => (1..4i64).prop_map(|account| What::Redeem { account }),
    ]
}

fn any_event() -> impl Strategy<Value = Event> {
    // Few ids, and money for a few holds, so that events meet.
    let supersedes = proptest::option::of(0..6u64);
    let account = prop_oneof![12 => Just(1), 4 => Just(2), 1 => Just(9)];
    let what = prop_oneof![
        4 => (1..5i64, -20..500i64).prop_map(|(account, amount)| What::Deposit { account, amount }),
        12 => (account, 1..3i64, 0..3u64, 0..6u64, 99..110i64, supersedes).prop_map(
            |(account, key, operation, request, amount, supersedes)| {
                What::Place { account, key, operation, request, amount, supersedes }
            }),
        8 => (0..6u64, 0..2usize, any_delivery())
            .prop_map(|(request, provider, delivered)| What::Settle { request, provider, delivered }),
        3 => (0..6u64).prop_map(|request| What::Void { request }),
        3 => (0..6u64, 0..2usize).prop_map(|(request, provider)| What::Accept { request, provider }),
        3 => (0..6u64, 0..2usize, any_delivery())
            .prop_map(|(request, provider, delivered)| What::Late { request, provider, delivered }),
        14 => any_beyond(),
        1 => Just(What::Reopen),
    ];
    let later = prop_oneof![6 => 0..1_000i64, 2 => 0..40_000_000i64, 1 => 0..100_000_000i64];
    (what, later)
}

fn options() -> StoreOptions {
    StoreOptions { platform_fee: BasisPoints::new(1_250).unwrap(), referral_share: BasisPoints::new(2_000).unwrap() }
}

fn code() -> Digest {
    Digest::of(&[b"welcome"])
}

/// Does the same to both and compares the answers.
async fn happen(
    model: &mut Model,
    store: &Store,
    number: usize,
    what: What,
    at: UnixMillis,
) -> Result<(), TestCaseError> {
    let request = |number| RequestId(id16(number));
    match what {
        What::Deposit { account, amount } => {
            let (account, amount) = (AccountId(account), NanoDollars(amount));
            let stored = store.deposit(account, amount, number.to_string(), at).await.map(|_| ());
            let modelled = match account.0 {
                1..=3 => model.deposit(account, amount).map_err(DepositError::from),
                _ => Err(DepositError::UnknownAccount),
            };
            prop_assert_eq!(stored, modelled);
        }
        What::Redeem { account } => {
            let stored = store.invite_redeem(code(), AccountId(account), at).await.map(|redeemed| !redeemed.already);
            let modelled = model.redeem("welcome", AccountId(account), at);
            prop_assert_eq!(stored, modelled.map_err(RedeemError::from));
        }
        What::Place { account, key, operation, request: number, amount, supersedes } => {
            let placed = HoldRequest {
                key: KeyId(key),
                amount: NanoDollars(amount),
                supersedes: supersedes.map(request),
                placed_at: at,
                ..hold(AccountId(account), operation, number)
            };
            let stored = store.hold_place(placed.clone()).await;
            prop_assert_eq!(stored, model.hold_place(placed).map_err(PlaceHoldError::from));
        }
        What::Settle { request: number, provider, delivered } => {
            let stored = store.hold_settle(settlement(number, provider, delivered, at)).await;
            let modelled = model.hold_settle(request(number), PROVIDERS[provider], &delivered, at);
            prop_assert_eq!(stored, modelled.ok_or(SettleError::UnknownRequest));
        }
        What::Void { request: number } => {
            let stored = store.hold_void(request(number), VoidCause::Silence, "a test", at).await;
            let modelled = model.hold_void(request(number), VoidCause::Silence, at);
            prop_assert_eq!(stored, modelled.ok_or(SettleError::UnknownRequest));
        }
        What::Accept { request: number, provider } => {
            store.hold_accepted(request(number), PROVIDERS[provider]).await.unwrap();
            model.hold_accepted(request(number), PROVIDERS[provider]);
        }
        What::Late { request: number, provider, delivered } => {
            let stored = store.late_settle(settlement(number, provider, delivered, at)).await;
            let modelled = model.late_settle(request(number), PROVIDERS[provider], &delivered, at);
            let modelled = modelled.map_or(Err(SettleError::UnknownRequest), |late| late.map_err(SettleError::Late));
            prop_assert_eq!(stored, modelled);
        }
        What::Dispute { request: number, account, recount } => {
            let stored = store.dispute(request(number), AccountId(account), None, recount, at).await;
            let modelled = model.dispute(request(number), AccountId(account), recount, at);
            let modelled = modelled.map_or(Err(DisputeError::Unknown), |amount| amount.map_err(DisputeError::from));
            prop_assert_eq!(stored.map(|row| row.amount()), modelled);
        }
        What::Decide { request: number, decision } => {
            let before = store.disputes_open().await.unwrap().iter().any(|row| row.request == request(number));
            let stored = store.dispute_decide(request(number), decision, at).await;
            prop_assert_eq!(model.decide_dispute(request(number), decision), before);
            prop_assert!(stored.is_ok() || !before, "{:?}", stored);
        }
        What::Mature => {
            store.earnings_mature(at).await.unwrap();
            model.mature(at);
        }
        What::Payout { reference, account, amount } => {
            // The store's references are each account's own, the model's everybody's.
            let (account, amount) = (AccountId(account), NanoDollars(amount));
            let name = format!("{}/{reference}", account.0);
            let before = store.payouts(Some(account), false).await.unwrap();
            let before = before.into_iter().find(|row| row.reference == name);
            let stored = store.payout_request(account, name.clone(), amount, "bank", at).await;
            match before {
                Some(row) if row.amount == amount => prop_assert_eq!(stored, Ok(row)),
                Some(_) => prop_assert_eq!(stored, Err(PayoutError::ReferenceReused)),
                None => {
                    let modelled = model.payout(&name, account, amount).map_err(PayoutError::from);
                    prop_assert_eq!(stored.map(|_| true), modelled);
                }
            }
        }
        What::Advance { reference, to } => {
            let rows = store.payouts(None, false).await.unwrap();
            let Some(row) = rows.into_iter().find(|row| row.reference.ends_with(&format!("/{reference}"))) else {
                return Ok(());
            };
            let stored = store.payout_advance(row.id, to, None, at).await.map(|row| row.state);
            let modelled = model.payout_advance(&row.reference, to).unwrap().map(|payout| payout.state);
            prop_assert_eq!(stored, modelled.map_err(PayoutError::from));
        }
        What::Spend { account, amount } => {
            let (account, amount) = (AccountId(account), NanoDollars(amount));
            let stored = store.earnings_spend(account, number.to_string(), amount, at).await;
            let modelled = model.spend_earnings(account, amount).map(|()| false);
            prop_assert_eq!(stored, modelled.map_err(PayoutError::from));
        }
        What::Budget { spender, budget } => {
            store.budget_put(spender, budget, at).await.unwrap();
            model.budget(spender, budget);
        }
        What::Fee { account, fee } => {
            let fee = fee.map(|points| BasisPoints::new(points).unwrap());
            prop_assert!(store.account_fee(AccountId(account), fee).await.unwrap());
            model.fee_of(AccountId(account), fee);
        }
        What::Owner { provider, account } => {
            prop_assert!(store.provider_owner(PROVIDERS[provider], Some(AccountId(account))).await.unwrap());
            model.owned(PROVIDERS[provider], AccountId(account));
        }
        What::OwnPrice { provider, price } => {
            let scope = PriceScope::Provider(PROVIDERS[provider]);
            // Everybody's price is 2 and 5.
            let Ok(price) = store.price_of("small", scope, price).await else { return Ok(()) };
            model.own_price(PROVIDERS[provider], MODEL, price);
        }
        What::Reopen => {}
    }
    Ok(())
}

fn settlement(request: u64, provider: usize, delivered: Delivered, at: UnixMillis) -> Settlement {
    let provider = PROVIDERS[provider];
    Settlement { at, provider, ..crate::support::settlement(request, delivered) }
}

async fn compare(model: &Model, store: &Store, at: UnixMillis) -> Result<(), TestCaseError> {
    for account in [AccountId(1), AccountId(2), AccountId(3)] {
        prop_assert_eq!(store.balance(account).await.unwrap(), Some(model.balance(account)));
        let earnings = store.earnings(account).await.unwrap();
        let books = [Book::Withdrawable(account), Book::Referral(account), Book::Withdrawing(account)];
        let stored = [earnings.withdrawable, earnings.referral, earnings.withdrawing];
        prop_assert_eq!(stored, books.map(|book| model.book(book)));
    }
    for request in (0..6).map(|number| RequestId(id16(number))) {
        prop_assert_eq!(store.hold(request).await.unwrap(), model.hold(request).cloned());
    }
    for key in 1..3 {
        for spender in [Spender::Key(KeyId(key)), Spender::Account(AccountId(key))] {
            let stored = store.budget(spender).await.unwrap().map(|budget| budget.at(at));
            prop_assert_eq!(stored, model.spending(spender, at));
        }
    }
    let (stored, modelled) = (store.audit().await.unwrap(), model.audit());
    prop_assert!(stored.is_clean(), "{:?}", stored);
    prop_assert_eq!(stored.open_holds, modelled.open_holds);
    let sums = store.book_sums().await.unwrap();
    prop_assert_eq!(sums.iter().map(|(_, sum)| sum.0).sum::<i64>(), 0);
    Ok(())
}

async fn run(home: &Home, events: Vec<Event>) -> Result<(), TestCaseError> {
    let mut store = home.open_with(options());
    let mut model = Model::new(options().platform_fee);
    model.referral_share(options().referral_share);
    for name in ["a", "b", "c"] {
        prop_assert_eq!(store.account_create(name).await, Ok(model.account_create()));
    }
    for provider in PROVIDERS {
        store.provider_seen(provider, KeyId(99), NOW).await.unwrap();
    }
    let entry = CatalogueRow {
        digest: MODEL,
        name: "small".to_owned(),
        entry: vec![1],
        text_pack: Digest([1; 32]),
        active: true,
    };
    store.catalogue_put(entry).await.unwrap();
    store.price_put("small", Price { version: 1, input_nano_per_token: 2, output_nano_per_token: 5 }).await.unwrap();
    let referral = Digest::of(&[b"bring them"]);
    store.referral_code(AccountId(3), referral).await.unwrap();
    prop_assert_eq!(store.referred(AccountId(1), referral).await, Ok(AccountId(3)));
    model.referred(AccountId(1), AccountId(3));
    let invite = Invite { amount: NanoDollars(50), uses_left: 2, expires_at: UnixMillis(400_000_000) };
    store.invite_create(code(), "welcome", invite, NOW).await.unwrap();
    model.invite("welcome", invite);
    let mut at = NOW;
    for (number, (what, later)) in events.into_iter().enumerate() {
        at = UnixMillis(at.0 + later);
        if matches!(what, What::Reopen) {
            drop(store);
            store = home.open_with(options());
        }
        happen(&mut model, &store, number, what, at).await?;
        compare(&model, &store, at).await?;
    }
    prop_assert_eq!(store.invite_redeem(Digest([0; 32]), AccountId(1), at).await, Err(InviteRefusal::Unknown.into()));
    Ok(())
}

fn answers_as_the_model_does(home: Home, cases: u32) {
    let mut runner = TestRunner::new(ProptestConfig { cases, ..ProptestConfig::with_source_file(file!()) });
    let (home, number) = (Cell::new(Some(home)), Cell::new(0));
    let events = proptest::collection::vec(any_event(), 1..60);
    let checked = runner.run(&events, |events| {
        number.set(number.get() + 1);
        let empty = home.take().unwrap().emptied(number.get());
        let result = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(run(&empty, events));
        home.set(Some(empty));
        result
    });
    checked.unwrap_or_else(|error| panic!("{error}"));
}

mod sqlite {
    #[test]
    fn the_store_answers_as_the_model_does() {
        super::answers_as_the_model_does(crate::support::Home::sqlite(), 64);
    }
}

mod postgres {
    #[test]
    fn the_store_answers_as_the_model_does() {
        super::answers_as_the_model_does(crate::support::Home::postgres(), 16);
    }
}
