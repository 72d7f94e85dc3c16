//! The store answers as the ledger's reference model does, whatever happens in whatever order.

use crate::support::{Home, NOW, PROVIDER, hold, id16, settlement};
use darkbloom_ledger::{BasisPoints, Delivered, HoldRequest, Model, ReceiptUsage, VoidCause};
use darkbloom_store::{DepositError, PlaceHoldError, SettleError, Settlement, Store, StoreOptions};
use darkbloom_types::{AccountId, NanoDollars, RequestId, TokenCount, UnixMillis};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::cell::Cell;

#[derive(Debug, Clone)]
enum Event {
    Deposit { account: i64, amount: i64 },
    Place { account: i64, operation: u64, request: u64, amount: i64, supersedes: Option<u64> },
    Settle { request: u64, delivered: Delivered, at: i64 },
    Void { request: u64, at: i64 },
    Late { request: u64, delivered: Delivered, at: i64 },
    Reopen,
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

fn any_event() -> impl Strategy<Value = Event> {
    let at = 0..3 * 24 * 3_600_000i64;
    // Few ids, and money for a few holds, so that events meet.
    let supersedes = proptest::option::of(0..6u64);
    prop_oneof![
        4 => (1..4i64, -20..500i64).prop_map(|(account, amount)| Event::Deposit { account, amount }),
        12 => (prop_oneof![12 => Just(1), 4 => Just(2), 1 => Just(3)], 0..2u64, 0..6u64, 99..110i64, supersedes).prop_map(
            |(account, operation, request, amount, supersedes)| {
                Event::Place { account, operation, request, amount, supersedes }
            }),
        4 => (0..6u64, any_delivery(), at.clone()).prop_map(|(request, delivered, at)| Event::Settle { request, delivered, at }),
        4 => (0..6u64, at.clone()).prop_map(|(request, at)| Event::Void { request, at }),
        4 => (0..6u64, any_delivery(), at).prop_map(|(request, delivered, at)| Event::Late { request, delivered, at }),
        1 => Just(Event::Reopen),
    ]
}

fn options() -> StoreOptions {
    StoreOptions { platform_fee: BasisPoints::new(250).unwrap() }
}

/// Does the same to both and compares the answers.
async fn happen(model: &mut Model, store: &Store, number: usize, event: Event) -> Result<(), TestCaseError> {
    match event {
        Event::Deposit { account, amount } => {
            let (account, amount) = (AccountId(account), NanoDollars(amount));
            let stored = store.deposit(account, amount, number.to_string(), NOW).await.map(|_| ());
            let modelled = match account.0 {
                1 | 2 => model.deposit(account, amount).map_err(DepositError::from),
                _ => Err(DepositError::UnknownAccount),
            };
            prop_assert_eq!(stored, modelled);
        }
        Event::Place { account, operation, request, amount, supersedes } => {
            let request = HoldRequest {
                amount: NanoDollars(amount),
                supersedes: supersedes.map(|old| RequestId(id16(old))),
                ..hold(AccountId(account), operation, request)
            };
            let stored = store.hold_place(request.clone()).await;
            prop_assert_eq!(stored, model.hold_place(request).map_err(PlaceHoldError::from));
        }
        Event::Settle { request, delivered, at } => {
            let at = UnixMillis(at);
            let stored = store.hold_settle(Settlement { at, ..settlement(request, delivered) }).await;
            let modelled = model.hold_settle(RequestId(id16(request)), PROVIDER, &delivered, at);
            prop_assert_eq!(stored, modelled.ok_or(SettleError::UnknownRequest));
        }
        Event::Void { request, at } => {
            let (request, at) = (RequestId(id16(request)), UnixMillis(at));
            let stored = store.hold_void(request, VoidCause::Silence, "a test", at).await;
            prop_assert_eq!(
                stored,
                model.hold_void(request, VoidCause::Silence, at).ok_or(SettleError::UnknownRequest)
            );
        }
        Event::Late { request, delivered, at } => {
            let at = UnixMillis(at);
            // Half of the late receipts are of the provider whose answer was being relayed.
            if at.0 % 2 == 0 {
                store.hold_accepted(RequestId(id16(request)), PROVIDER).await.unwrap();
                model.hold_accepted(RequestId(id16(request)), PROVIDER);
            }
            let stored = store.late_settle(Settlement { at, ..settlement(request, delivered) }).await;
            let modelled = model.late_settle(RequestId(id16(request)), PROVIDER, &delivered, at);
            let modelled = modelled.map_or(Err(SettleError::UnknownRequest), |late| late.map_err(SettleError::Late));
            prop_assert_eq!(stored, modelled);
        }
        Event::Reopen => {}
    }
    Ok(())
}

async fn compare(model: &Model, store: &Store) -> Result<(), TestCaseError> {
    for account in [AccountId(1), AccountId(2)] {
        prop_assert_eq!(store.balance(account).await.unwrap(), Some(model.balance(account)));
    }
    for request in (0..6).map(|number| RequestId(id16(number))) {
        prop_assert_eq!(store.hold(request).await.unwrap(), model.hold(request).cloned());
    }
    let (stored, modelled) = (store.audit().await.unwrap(), model.audit());
    prop_assert!(stored.is_clean(), "{:?}", stored);
    prop_assert_eq!((stored.transfers, stored.open_holds), (modelled.transfers, modelled.open_holds));
    Ok(())
}

async fn run(home: &Home, events: Vec<Event>) -> Result<(), TestCaseError> {
    let mut store = home.open_with(options());
    let mut model = Model::new(options().platform_fee);
    for name in ["a", "b"] {
        prop_assert_eq!(store.account_create(name).await, Ok(model.account_create()));
    }
    for (number, event) in events.into_iter().enumerate() {
        if matches!(event, Event::Reopen) {
            drop(store);
            store = home.open_with(options());
        }
        happen(&mut model, &store, number, event).await?;
        compare(&model, &store).await?;
    }
    Ok(())
}

fn answers_as_the_model_does(home: Home, cases: u32) {
    let mut runner = TestRunner::new(ProptestConfig { cases, ..ProptestConfig::with_source_file(file!()) });
    let (home, number) = (Cell::new(Some(home)), Cell::new(0));
    let events = proptest::collection::vec(any_event(), 1..40);
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
        super::answers_as_the_model_does(crate::support::Home::sqlite(), 48);
    }
}

mod postgres {
    #[test]
    fn the_store_answers_as_the_model_does() {
        super::answers_as_the_model_does(crate::support::Home::postgres(), 16);
    }
}
