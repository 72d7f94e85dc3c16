//! Opening, on both: one writer, schemas, what a lost server does and does not do.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use darkbloom_ledger::HoldState;
use darkbloom_store::{
    BackupError, KeyKind, KeyTerms, Migrated, NewKey, OpenStoreError, PlaceHoldError, PostgresUrl, Store, StoreError,
    StoreLocation, StoreOptions,
};
use darkbloom_types::{AccountId, Digest, NanoDollars, ProviderId, RequestId, SecretString, UnixMillis};

use crate::support::{Home, NOW, assert_clean, delivered, funded, hold, id16, settlement};

on_both_stores! {
    a_second_process_is_refused,
    a_newer_programs_database_is_refused,
    an_older_programs_database_is_migrated_when_asked_for_and_not_before,
    names_that_look_like_statements_are_names,
    an_empty_place_is_no_store_to_look_at,
    an_audit_of_a_store_in_use_sees_what_was_committed,
}

fn try_open(location: &StoreLocation) -> Result<Store, OpenStoreError> {
    Store::open_at(location, StoreOptions::default())
}

async fn a_second_process_is_refused(home: Home) {
    let (location, store) = (home.location(), home.open());
    let locked = OpenStoreError::Locked { place: location.place() };
    assert_eq!(try_open(&location).unwrap_err(), locked);
    assert_eq!(Store::migrate(&location).unwrap_err(), locked);
    let clone = store.clone();
    drop(store);
    assert_eq!(try_open(&location).unwrap_err(), locked);
    drop(clone);
    home.open();
}

async fn a_newer_programs_database_is_refused(home: Home) {
    drop(home.open());
    let known = match &home {
        Home::Sqlite(_) => 4,
        Home::Postgres { .. } => 2,
    };
    home.change(match &home {
        Home::Sqlite(_) => "PRAGMA user_version = 99",
        Home::Postgres { .. } => "UPDATE darkbloom_schema SET version = 99",
    });
    let newer = OpenStoreError::NewerSchema { found: 99, known };
    assert_eq!(try_open(&home.location()).unwrap_err(), newer);
    assert_eq!(Store::migrate(&home.location()).unwrap_err(), newer);
}

/// A database that the migration before the newest left behind, with an account, a key and a settled request in it.
fn of_an_older_program(home: Home) -> Home {
    let rows = "INSERT INTO account (name) VALUES ('old');
        INSERT INTO book (kind, owner, balance) VALUES (0, X8, 93), (1, X8, 0), (2, X32, 6), (3, X0, 1), (4, X0, -100);
        INSERT INTO transfer (kind, at) VALUES (0, 1), (1, 2), (2, 3);
        INSERT INTO leg (transfer, ordinal, kind, owner, amount) VALUES
            (1, 0, 4, X0, -100), (1, 1, 0, X8, 100), (2, 0, 0, X8, -10), (2, 1, 1, X8, 10),
            (3, 0, 1, X8, -10), (3, 1, 2, X32, 6), (3, 2, 3, X0, 1), (3, 3, 0, X8, 3);
        INSERT INTO deposit (reference, account, amount, transfer, at) VALUES ('first', 1, 100, 1, 1);
        INSERT INTO key (digest, account, kind, name, created_at) VALUES (X32, 1, 2, 'join', 1);
        INSERT INTO provider (id, joined_with, first_seen, last_seen) VALUES (X32, 1, 1, 1);
        INSERT INTO price (model, version, input, output) VALUES ('small', 1, 1, 1), ('small', 2, 1, 1);
        INSERT INTO hold (request, operation, account, key, model, amount, price_version, price_input, price_output,
            input_ceiling, output_ceiling, placed_at, expires_at, state, closed_at, provider, input_tokens,
            output_tokens, charge, released, payout, fee)
        VALUES (X16, X16, 1, 1, X32, 10, 2, 1, 1, 5, 5, 2, 9, 1, 3, X32, 4, 3, 7, 3, 6, 1);";
    let bytes = |of: fn(&str) -> String| {
        let (zero, one) = (of(""), of("0000000000000001"));
        let rows = rows.replace("X32", &of(&"09".repeat(32))).replace("X16", &of(&"07".repeat(16)));
        rows.replace("X8", &one).replace("X0", &zero)
    };
    match home {
        Home::Sqlite(folder) => {
            let old = Home::Sqlite(folder);
            let schema = ["1", "2", "3"].map(|number| {
                let path = format!("{}/src/migrations/store_000{number}.sql", env!("CARGO_MANIFEST_DIR"));
                std::fs::read_to_string(path).unwrap()
            });
            let id = "PRAGMA application_id = 1145205620; PRAGMA user_version = 3;";
            old.change(&format!("{} {id} {}", schema.join("\n"), bytes(|hex| format!("x'{hex}'"))));
            old
        }
        Home::Postgres { server, schema: at } => {
            let path = format!("{}/src/migrations/postgres_0001.sql", env!("CARGO_MANIFEST_DIR"));
            let schema = std::fs::read_to_string(path).unwrap();
            let version =
                "CREATE TABLE darkbloom_schema (one BIGINT PRIMARY KEY CHECK (one = 1), version BIGINT NOT NULL);
                INSERT INTO darkbloom_schema VALUES (1, 1);";
            server.query(&format!("{schema} {version} {}", bytes(|hex| format!("'\\x{hex}'::bytea")))).unwrap();
            Home::Postgres { server, schema: at }
        }
    }
}

async fn an_older_programs_database_is_migrated_when_asked_for_and_not_before(home: Home) {
    let home = of_an_older_program(home);
    let (from, to) = match &home {
        Home::Sqlite(_) => (3, 4),
        Home::Postgres { .. } => (1, 2),
    };
    for _ in 0..2 {
        assert_eq!(try_open(&home.location()).unwrap_err(), OpenStoreError::OlderSchema { found: from, known: to });
    }
    assert_eq!(Store::migrate(&home.location()), Ok(Migrated { from, to }));
    assert_eq!(Store::migrate(&home.location()), Ok(Migrated { from: to, to }));
    let store = home.open();
    funded(&store, "a", 5).await;
    assert_clean(&store).await;
    let owner = store.owner_of(ProviderId([9; 32])).await.unwrap();
    assert_eq!(owner, Some(AccountId(1)), "whose token a machine joined with owns it");
    let hold = store.hold(RequestId([7; 16])).await.unwrap().unwrap();
    assert_eq!((hold.kept.payout, hold.closed.unwrap().price.version), (NanoDollars(6), 2));
    store.earnings_mature(UnixMillis(100_000_000)).await.unwrap();
    assert_eq!(store.earnings(AccountId(1)).await.unwrap().withdrawable, NanoDollars(6));
    assert!(store.deposit(AccountId(1), NanoDollars(100), "first", NOW).await.unwrap().already);
    let current: Vec<_> = store.price_list().await.unwrap().into_iter().map(|row| row.current).collect();
    assert_eq!(current, [true, false]);
    assert_clean(&store).await;
}

async fn names_that_look_like_statements_are_names(home: Home) {
    let store = home.open();
    let names = ["'; DROP TABLE account; --", "?1", "$1", "\"", "\\", "%", "'||'", "ü\u{202e}\u{1f600}", " ", "A", "a"];
    let mut accounts = Vec::new();
    for (number, name) in names.into_iter().enumerate() {
        let account = store.account_create(name).await.unwrap();
        store.deposit(account, NanoDollars(7), name, NOW).await.unwrap();
        assert!(store.deposit(account, NanoDollars(7), name, NOW).await.unwrap().already);
        store.meta_put(name, name.as_bytes().to_vec()).await.unwrap();
        let digest = Digest::of(&[&number.to_be_bytes()]);
        let key = NewKey {
            account: Some(account),
            kind: KeyKind::Consumer,
            terms: KeyTerms::named(name),
            digest,
            created_at: NOW,
        };
        store.key_create(key).await.unwrap();
        accounts.push(account);
    }
    for (name, account) in names.into_iter().zip(&accounts) {
        assert_eq!(store.account_by_name(name).await, Ok(Some(*account)), "{name}");
        assert_eq!(store.meta_get(name).await, Ok(Some(name.as_bytes().to_vec())), "{name}");
    }
    let listed = store.accounts_list(AccountId(0), 100).await.unwrap();
    assert_eq!(listed.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), names);
    assert_eq!(store.keys_list().await.unwrap().iter().map(|key| key.terms.name.as_str()).collect::<Vec<_>>(), names);
    assert_eq!(store.account_create("a\0b").await, Err(StoreError::ZeroCharacter.into()));
    assert_eq!(store.account_by_name("a\0b").await, Err(StoreError::ZeroCharacter));
    assert_clean(&store).await;
}

async fn an_empty_place_is_no_store_to_look_at(home: Home) {
    Store::audit_at(&home.location()).unwrap_err();
    // Nor does looking make one.
    Store::audit_at(&home.location()).unwrap_err();
}

async fn an_audit_of_a_store_in_use_sees_what_was_committed(home: Home) {
    let store = home.open();
    let account = funded(&store, "a", 500).await;
    store.hold_place(hold(account, 1, 1)).await.unwrap();
    let (within, beside) = (store.audit().await.unwrap(), Store::audit_at(&home.location()).unwrap());
    assert!(beside.is_clean(), "{beside:?}");
    assert_eq!((within.transfers, within.open_holds), (beside.transfers, beside.open_holds));
    assert_eq!((beside.transfers, beside.open_holds), (2, 1));
}

#[tokio::test]
async fn another_programs_tables_are_left_alone() {
    let home = Home::postgres();
    home.change("CREATE TABLE theirs (n INTEGER)");
    let error = try_open(&home.location()).unwrap_err();
    assert!(matches!(error, OpenStoreError::Corrupt { .. }), "{error:?}");
}

#[tokio::test]
async fn a_server_that_may_lose_what_it_acknowledged_is_refused() {
    let home = Home::postgres();
    home.change("ALTER SYSTEM SET fsync = off");
    home.change("SELECT pg_reload_conf()");
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        match try_open(&home.location()) {
            Err(OpenStoreError::Unfit { detail, .. }) => break assert!(detail.contains("fsync"), "{detail}"),
            // The server reads its settings a moment later.
            other => assert!(Instant::now() < until, "{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_backup_of_a_server_is_its_own_tools_matter() {
    let (home, folder) = (Home::postgres(), tempfile::tempdir().unwrap());
    let file = folder.path().join("copy");
    assert_eq!(home.open().backup(&file).await, Err(BackupError::OfServer));
    assert!(!file.exists());
}

#[test]
fn an_error_about_a_server_has_no_password_in_it() {
    let url = PostgresUrl::new(&SecretString::from("postgres://user:s3cret@localhost:1/money")).unwrap();
    let error = try_open(&StoreLocation::Postgres(url)).unwrap_err();
    let shown = format!("{error} {error:?}");
    assert!(matches!(error, OpenStoreError::Unreachable { .. }) && !shown.contains("s3cret"), "{shown}");
    assert!(shown.contains("the database money on localhost:1"), "{shown}");
}

/// Waits until the store has its database back.
async fn goes_on(store: &Store, account: AccountId) {
    let until = Instant::now() + Duration::from_secs(30);
    while let Err(error) = store.hold_place(hold(account, 1 << 41, 1 << 41)).await {
        assert!(Instant::now() < until, "{error:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    while let Err(error) = store.holds_open().await {
        assert!(Instant::now() < until, "{error:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn end_sessions(home: &Home, name: &str) {
    let end = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name";
    home.change(&format!("{end} = 'darkbloom {name}'"));
}

#[tokio::test]
async fn sessions_that_end_while_nothing_happens_are_made_anew_and_nobody_notices() {
    let home = Home::postgres();
    let store = home.open();
    let account = funded(&store, "a", 500).await;
    for number in 1..4 {
        end_sessions(&home, "writer");
        end_sessions(&home, "reader");
        store.hold_place(hold(account, number, number)).await.unwrap();
        assert_eq!(store.holds_open().await.unwrap().len(), usize::try_from(number).unwrap());
    }
    assert_eq!(try_open(&home.location()).unwrap_err(), OpenStoreError::Locked { place: home.location().place() });
    assert_clean(&store).await;
}

#[tokio::test]
async fn who_lost_the_lock_writes_nothing_until_it_is_free() {
    let home = Home::postgres();
    let store = home.open();
    let account = funded(&store, "a", 500).await;
    end_sessions(&home, "writer");
    let other = home.open();
    for number in 1..3 {
        let refused = store.hold_place(hold(account, number, number)).await.unwrap_err();
        let PlaceHoldError::Store(StoreError::Database { detail }) = &refused else { panic!("{refused:?}") };
        assert!(detail.contains("another process uses"), "{detail}");
        assert_eq!(store.holds_open().await, Ok(Vec::new()), "reading goes on");
    }
    let digest = Digest::of(&[b"a key of the other's"]);
    let key = NewKey { account: None, kind: KeyKind::Admin, terms: KeyTerms::named("k"), digest, created_at: NOW };
    other.key_create(key).await.unwrap();
    drop(other);
    assert_eq!(store.key_by_digest(digest), None);
    goes_on(&store, account).await;
    assert!(store.key_by_digest(digest).is_some(), "what another wrote meanwhile is known");
    assert_clean(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_acknowledged_survives_the_death_of_the_server() {
    let mut home = Home::postgres();
    let store = home.open();
    let account = funded(&store, "a", 1_000_000_000).await;
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let workers: Vec<_> = (0..8u64)
        .map(|worker| {
            let (store, acknowledged) = (store.clone(), Arc::clone(&acknowledged));
            tokio::spawn(async move {
                for number in (worker..).step_by(8) {
                    match store.hold_place(hold(account, number, number)).await {
                        Ok(()) => acknowledged.lock().unwrap().push((number, HoldState::Open)),
                        Err(error) => return error,
                    }
                    if number % 3 == 0 {
                        match store.hold_settle(settlement(number, delivered(5, 4))).await {
                            Ok(_) => acknowledged.lock().unwrap().push((number, HoldState::Settled)),
                            Err(_) => return PlaceHoldError::Store(StoreError::Database { detail: String::new() }),
                        }
                    }
                }
                unreachable!()
            })
        })
        .collect();
    while acknowledged.lock().unwrap().len() < 400 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let Home::Postgres { server, .. } = &mut home else { unreachable!() };
    server.kill();
    for worker in workers {
        let error = worker.await.unwrap();
        assert!(matches!(error, PlaceHoldError::Store(StoreError::Database { .. })), "{error:?}");
    }
    let refused = store.hold_place(hold(account, 1 << 40, 1 << 40)).await;
    assert!(matches!(refused, Err(PlaceHoldError::Store(StoreError::Database { .. }))), "{refused:?}");
    server.start_again();

    // The same store goes on by itself.
    goes_on(&store, account).await;
    let acknowledged = std::mem::take(&mut *acknowledged.lock().unwrap());
    for (number, state) in acknowledged {
        let held = store.hold(RequestId(id16(number))).await.unwrap();
        let held = held.unwrap_or_else(|| panic!("{number} was acknowledged and is lost"));
        assert!(state == HoldState::Open || held.state() == state, "{number} was settled and is not");
    }
    assert_clean(&store).await;
}
