//! How many holds a second the store places and settles, durably, with so many callers at once: on SQLite and on a
//! Postgres of this machine, reached by a socket, in turns.
//!
//! `cargo run --release -p darkbloom-store --example store_bench [FOLDER]`: the disk under the folder decides; without
//! one, the system's temporary folder is used.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

#[path = "../tests/store/server.rs"]
#[allow(dead_code)]
mod server;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use darkbloom_ledger::{Delivered, HoldRequest, ReceiptUsage};
use darkbloom_store::{PostgresUrl, Settlement, Store, StoreLocation, StoreOptions};
use darkbloom_types::{
    AccountId, CatalogueDigest, Digest, KeyId, NanoDollars, OperationId, Price, ProviderId, RequestId, SecretString,
    TokenCount, UnixMillis,
};

const ROUND: Duration = Duration::from_secs(3);
const ROUNDS: usize = 3;
const NOW: UnixMillis = UnixMillis(1_000);

#[tokio::main]
async fn main() {
    let parent = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = tempfile::tempdir_in(&parent).unwrap();
    let server = server::Server::start_in(&parent);
    let url = PostgresUrl::new(&SecretString::from(server.url("public"))).unwrap();
    let places =
        [("sqlite", StoreLocation::Folder(folder.path().to_owned())), ("postgres", StoreLocation::Postgres(url))];
    let mut stores = Vec::new();
    for (name, location) in places {
        let store = Store::open_at(&location, StoreOptions::default()).unwrap();
        let account = store.account_create("bench").await.unwrap();
        store.deposit(account, NanoDollars(i64::MAX / 2), "bench", NOW).await.unwrap();
        stores.push((name, store, account));
    }
    println!(
        "{:>10} {:>10} {:>12} {:>12} {:>12} {:>12}",
        "store", "callers", "holds/s", "settles/s", "hold p50", "hold p99"
    );
    for round in 0..ROUNDS {
        for callers in [1, 32, 128] {
            for (name, store, account) in &stores {
                print!("{name:>10} ");
                measure(store, *account, round, callers).await;
            }
        }
    }
    for (name, store, _) in &stores {
        let start = Instant::now();
        let report = store.audit().await.unwrap();
        let (transfers, findings) = (report.transfers, report.findings_total);
        println!("{name}: audit of {transfers} transfers: {:?}, {findings} findings", start.elapsed());
    }
}

async fn measure(store: &Store, account: AccountId, round: usize, callers: usize) {
    let start = Instant::now();
    let mut tasks = Vec::new();
    for caller in 0..callers {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            let mut placed = Vec::new();
            while start.elapsed() < ROUND {
                let request = hold(account, &format!("{round} {callers} {caller} {}", placed.len()));
                let id = request.request;
                let asked = Instant::now();
                store.hold_place(request).await.unwrap();
                placed.push((id, asked.elapsed()));
            }
            placed
        }));
    }
    let mut placed = Vec::new();
    for task in tasks {
        placed.push(task.await.unwrap());
    }
    let holds_a_second = rate(placed.iter().map(Vec::len).sum(), start.elapsed());
    let start = Instant::now();
    let tasks: Vec<_> = placed.iter().cloned().map(|holds| tokio::spawn(settle_all(store.clone(), holds))).collect();
    for task in tasks {
        task.await.unwrap();
    }
    let mut waits: Vec<_> = placed.iter().flatten().map(|(_, wait)| *wait).collect();
    let settles_a_second = rate(waits.len(), start.elapsed());
    waits.sort();
    let (p50, p99) = (waits[waits.len() / 2], waits[waits.len() * 99 / 100]);
    println!("{callers:>10} {holds_a_second:>12.0} {settles_a_second:>12.0} {p50:>12.1?} {p99:>12.1?}");
}

async fn settle_all(store: Store, holds: Vec<(RequestId, Duration)>) {
    for (request, _) in holds {
        let receipt = Some(ReceiptUsage { input: TokenCount(700), output: TokenCount(300) });
        let delivered = Delivered { content_relayed: true, relayed_output: TokenCount(300), receipt };
        let settlement = Settlement {
            request,
            provider: ProviderId([9; 32]),
            delivered,
            receipt: Some(vec![7; 500]),
            receipt_id: None,
            at: NOW,
        };
        store.hold_settle(settlement).await.unwrap();
    }
}

fn rate(count: usize, time: Duration) -> f64 {
    f64::from(u32::try_from(count).unwrap()) / time.as_secs_f64()
}

fn hold(account: AccountId, name: &str) -> HoldRequest {
    // As random as real ids, which is what index pages have to bear.
    let Digest(digest) = Digest::of(&[name.as_bytes()]);
    let id: [u8; 16] = digest[..16].try_into().unwrap();
    HoldRequest {
        request: RequestId(id),
        operation: OperationId(id),
        account,
        key: KeyId(1),
        model: CatalogueDigest([3; 32]),
        amount: NanoDollars(1_024 * 50 + 512 * 200),
        price: Price { version: 1, input_nano_per_token: 50, output_nano_per_token: 200 },
        input_ceiling: TokenCount(1_024),
        output_ceiling: TokenCount(512),
        placed_at: NOW,
        expires_at: UnixMillis(600_000),
        supersedes: None,
    }
}
