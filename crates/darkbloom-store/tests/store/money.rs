//! Money in the store: parallel callers, one settlement an operation, deposits once, lists, the audit.

use crate::support::{Home, NOW, PROVIDER, assert_clean, delivered, funded, hold, id16, settlement};
use darkbloom_ledger::{
    AuditFinding, Balance, BasisPoints, Book, HoldRequest, HoldState, LateRefusal, Settled, VoidCause,
};
use darkbloom_store::{
    CreateAccountError, DepositError, PlaceHoldError, SettleError, Settlement, StoreError, StoreOptions,
};
use darkbloom_types::{AccountId, NanoDollars, ReceiptId, RequestId, TokenCount, UnixMillis};

on_both_stores! {
    of_parallel_holds_against_money_for_one_exactly_one_is_placed,
    of_parallel_settlements_exactly_one_moves_money,
    an_operation_is_settled_once_also_when_it_is_sealed_again,
    a_void_gives_everything_back_and_a_late_receipt_still_settles_it,
    unknown_requests_and_accounts_are_named_as_such,
    a_deposit_is_made_once_for_each_reference,
    accounts_have_names_of_their_own,
    open_and_expired_holds_are_listed_until_they_end,
    usage_lists_the_newest_settlements_of_one_account,
    a_receipt_over_its_limit_is_refused,
    the_audit_finds_what_was_tampered_with,
}

fn balance(available: i64, held: i64) -> Option<Balance> {
    Some(Balance { available: NanoDollars(available), held: NanoDollars(held) })
}

async fn of_parallel_holds_against_money_for_one_exactly_one_is_placed(home: Home) {
    let store = home.open();
    let account = funded(&store, "a", 199).await;
    let place = |number| {
        let store = store.clone();
        tokio::spawn(async move { store.hold_place(hold(account, number, number)).await })
    };
    let tasks: Vec<_> = (0..64).map(place).collect();
    let mut placed = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(()) => placed += 1,
            Err(error) => assert_eq!(
                error,
                PlaceHoldError::InsufficientFunds { available: NanoDollars(99), needed: NanoDollars(100) }
            ),
        }
    }
    assert_eq!(placed, 1);
    assert_eq!(store.balance(account).await.unwrap(), balance(99, 100));
    assert_clean(&store).await;
}

async fn of_parallel_settlements_exactly_one_moves_money(home: Home) {
    let store = home.open();
    let account = funded(&store, "a", 100).await;
    store.hold_place(hold(account, 1, 1)).await.unwrap();
    let settle = |output| {
        let store = store.clone();
        tokio::spawn(async move { store.hold_settle(settlement(1, delivered(5, output))).await.unwrap() })
    };
    let tasks: Vec<_> = (1..=16).map(settle).collect();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.unwrap());
    }
    let first = *results.iter().find(|settled| !settled.already).unwrap();
    assert!(results.iter().all(|settled| Settled { already: false, ..*settled } == first));
    assert_eq!(results.iter().filter(|settled| settled.already).count(), 15);
    assert_eq!(store.balance(account).await.unwrap(), balance(100 - first.charge.0, 0));
    assert_clean(&store).await;
}

async fn an_operation_is_settled_once_also_when_it_is_sealed_again(home: Home) {
    let store = home.open();
    let account = funded(&store, "a", 100).await;
    store.hold_place(hold(account, 1, 1)).await.unwrap();
    assert_eq!(store.hold_place(hold(account, 1, 2)).await, Err(PlaceHoldError::InProgress));
    let again = HoldRequest { supersedes: Some(RequestId(id16(1))), ..hold(account, 1, 2) };
    store.hold_accepted(RequestId(id16(1)), PROVIDER).await.unwrap();
    store.hold_place(again).await.unwrap();
    let old = store.hold(RequestId(id16(1))).await.unwrap().unwrap();
    assert_eq!((old.state(), old.superseded_by), (HoldState::Voided, Some(RequestId(id16(2)))));
    assert_eq!(
        store.late_settle(settlement(1, delivered(1, 1))).await,
        Err(SettleError::Late(LateRefusal::Superseded))
    );
    store.hold_settle(settlement(2, delivered(5, 4))).await.unwrap();
    assert_eq!(store.hold_place(hold(account, 1, 3)).await, Err(PlaceHoldError::AlreadyCompleted));
    assert_eq!(store.balance(account).await.unwrap(), balance(70, 0));
    assert_clean(&store).await;
}

async fn a_void_gives_everything_back_and_a_late_receipt_still_settles_it(home: Home) {
    let options = StoreOptions { platform_fee: BasisPoints::new(1_000).unwrap(), ..StoreOptions::default() };
    let store = home.open_with(options);
    let account = funded(&store, "a", 100).await;
    store.hold_place(hold(account, 1, 1)).await.unwrap();
    store.hold_accepted(RequestId(id16(1)), PROVIDER).await.unwrap();
    let void = store.hold_void(RequestId(id16(1)), VoidCause::Silence, "ü".repeat(500), NOW).await.unwrap();
    assert_eq!((void.state, void.released), (HoldState::Voided, NanoDollars(100)));
    assert_eq!(store.balance(account).await.unwrap(), balance(100, 0));
    assert!(store.hold_settle(settlement(1, delivered(5, 4))).await.unwrap().already);

    let receipt = Settlement {
        receipt: Some(vec![7; 500]),
        receipt_id: Some(ReceiptId([1; 32])),
        ..settlement(1, delivered(5, 4))
    };
    let late = store.late_settle(receipt.clone()).await.unwrap();
    assert_eq!((late.charge, late.fee, late.already), (NanoDollars(30), NanoDollars(3), false));
    assert_eq!(store.late_settle(receipt).await.unwrap(), Settled { already: true, ..late });
    assert_eq!(store.balance(account).await.unwrap(), balance(70, 0));
    let row = &store.usage(account, 10).await.unwrap()[0];
    assert_eq!((row.charge, row.provider, row.output_tokens), (NanoDollars(30), PROVIDER, TokenCount(4)));
    assert_clean(&store).await;
}

async fn unknown_requests_and_accounts_are_named_as_such(home: Home) {
    let store = home.open();
    assert_eq!(store.hold_place(hold(AccountId(4), 1, 1)).await, Err(PlaceHoldError::UnknownAccount));
    assert_eq!(store.hold_settle(settlement(1, delivered(1, 1))).await, Err(SettleError::UnknownRequest));
    assert_eq!(store.late_settle(settlement(1, delivered(1, 1))).await, Err(SettleError::UnknownRequest));
    assert_eq!(
        store.hold_void(RequestId(id16(1)), VoidCause::Silence, "", NOW).await,
        Err(SettleError::UnknownRequest)
    );
    assert_eq!(store.balance(AccountId(4)).await.unwrap(), None);
    let deposit = store.deposit(AccountId(4), NanoDollars(1), "r", NOW).await;
    assert_eq!(deposit, Err(DepositError::UnknownAccount));
}

async fn a_deposit_is_made_once_for_each_reference(home: Home) {
    let store = home.open();
    let account = store.account_create("a").await.unwrap();
    assert!(!store.deposit(account, NanoDollars(5), "invoice 1", NOW).await.unwrap().already);
    let again = store.deposit(account, NanoDollars(5), "invoice 1", NOW).await.unwrap();
    assert_eq!((again.already, again.balance.available), (true, NanoDollars(5)));
    let other = store.deposit(account, NanoDollars(6), "invoice 1", NOW).await;
    assert_eq!(other, Err(DepositError::ReferenceReused));
    let long = store.deposit(account, NanoDollars(6), "x".repeat(201), NOW).await;
    assert!(matches!(long, Err(DepositError::Store(StoreError::TooLarge { limit: 200, .. }))), "{long:?}");
    assert_eq!(store.balance(account).await.unwrap(), balance(5, 0));
    assert_clean(&store).await;
}

async fn accounts_have_names_of_their_own(home: Home) {
    let store = home.open();
    let account = funded(&store, "a", 5).await;
    assert_eq!(store.account_create("a").await, Err(CreateAccountError::NameTaken));
    assert_eq!(store.account_create("").await, Err(CreateAccountError::NameEmpty));
    assert_eq!(store.account_by_name("a").await.unwrap(), Some(account));
    assert_eq!(store.account_by_name("b").await.unwrap(), None);
    let list = store.accounts_list(AccountId(0), 10).await.unwrap();
    assert_eq!(list.iter().map(|row| (row.name.as_str(), row.balance.available.0)).collect::<Vec<_>>(), [("a", 5)]);
}

async fn open_and_expired_holds_are_listed_until_they_end(home: Home) {
    let store = home.open();
    let account = funded(&store, "a", 1_000).await;
    for number in 1..=3 {
        let expires_at = UnixMillis(2_000 - i64::try_from(number).unwrap());
        store.hold_place(HoldRequest { expires_at, ..hold(account, number, number) }).await.unwrap();
    }
    store.hold_settle(settlement(2, delivered(1, 1))).await.unwrap();
    drop(store);
    let store = home.open();
    let open = store.holds_open().await.unwrap();
    assert_eq!(open.iter().map(|hold| hold.request).collect::<Vec<_>>(), [RequestId(id16(3)), RequestId(id16(1))]);
    assert_eq!(open[1], HoldRequest { expires_at: UnixMillis(1_999), ..hold(account, 1, 1) });
    assert_eq!(store.holds_expired(UnixMillis(1_997)).await.unwrap(), [RequestId(id16(3))]);
    assert_eq!(store.holds_expired(UnixMillis(1_996)).await.unwrap(), []);
}

async fn usage_lists_the_newest_settlements_of_one_account(home: Home) {
    let store = home.open();
    let (account, other) = (funded(&store, "a", 1_000).await, funded(&store, "b", 1_000).await);
    for (number, account) in [(1, account), (2, other), (3, account), (4, account)] {
        store.hold_place(hold(account, number, number)).await.unwrap();
        let at = UnixMillis(i64::try_from(number).unwrap());
        store.hold_settle(Settlement { at, ..settlement(number, delivered(1, 2)) }).await.unwrap();
    }
    let usage = store.usage(account, 2).await.unwrap();
    assert_eq!(usage.iter().map(|row| row.request).collect::<Vec<_>>(), [RequestId(id16(4)), RequestId(id16(3))]);
    assert_eq!((usage[0].charge, usage[0].input_tokens, usage[0].at), (NanoDollars(12), TokenCount(1), UnixMillis(4)));
}

async fn a_receipt_over_its_limit_is_refused(home: Home) {
    let store = home.open();
    let large = Settlement { receipt: Some(vec![0; (16 << 10) + 1]), ..settlement(1, delivered(1, 1)) };
    let result = store.hold_settle(large).await;
    assert!(matches!(result, Err(SettleError::Store(StoreError::TooLarge { .. }))), "{result:?}");
}

async fn the_audit_finds_what_was_tampered_with(home: Home) {
    let store = home.open();
    let account = funded(&store, "a", 1_000).await;
    store.hold_place(hold(account, 1, 1)).await.unwrap();
    store.hold_place(hold(account, 2, 2)).await.unwrap();
    store.hold_settle(settlement(2, delivered(1, 1))).await.unwrap();
    assert_clean(&store).await;
    drop(store);
    home.change(
        "UPDATE book SET balance = balance + 7 WHERE kind = 0; UPDATE hold SET amount = 90 WHERE state = 0;
         UPDATE hold SET charge = charge + 1 WHERE state = 1; UPDATE leg SET amount = 11 WHERE amount = 7;",
    );
    let findings = home.open().audit().await.unwrap().findings;
    let has = |wanted: fn(&AuditFinding) -> bool| assert!(findings.iter().any(wanted), "{findings:?}");
    has(|finding| matches!(finding, AuditFinding::BooksDoNotSumToZero { sum: 7 }));
    has(|finding| matches!(finding, AuditFinding::BackingDiffers { book: Book::Held(_), behind: 90, .. }));
    has(|finding| matches!(finding, AuditFinding::BookDiffersFromLegs { book: Book::Available(_), .. }));
    has(|finding| matches!(finding, AuditFinding::TransferUnbalanced { sum: 4, .. }));
    has(|finding| matches!(finding, AuditFinding::HoldsInconsistent { count: 1 }));
}
