//! What was acknowledged survives the death of the process.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{assert_clean, delivered, funded, hold, id16, settlement};
use darkbloom_ledger::HoldState;
use darkbloom_store::Store;
use darkbloom_types::RequestId;

const FOLDER_VARIABLE: &str = "DARKBLOOM_STORE_TEST_FOLDER";
const KILLED_AFTER_LINES: usize = 400;

/// Not a claim: the process that `acknowledged_holds_survive_a_kill` kills. It places and settles holds for ever and
/// says which, after the store has.
#[test]
#[ignore = "started by acknowledged_holds_survive_a_kill"]
fn process_that_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER_VARIABLE) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let store = Store::open(Path::new(&folder)).unwrap();
        let account = funded(&store, "a", 1_000_000_000).await;
        let workers: Vec<_> =
            (0..8u64).map(|worker| tokio::spawn(place_for_ever(store.clone(), account, worker))).collect();
        for worker in workers {
            worker.await.unwrap();
        }
    });
}

async fn place_for_ever(store: Store, account: darkbloom_types::AccountId, worker: u64) {
    for number in (worker..).step_by(8) {
        store.hold_place(hold(account, number, number)).await.unwrap();
        say("held", RequestId(id16(number)));
        if number % 3 == 0 {
            store.hold_settle(settlement(number, delivered(5, 4))).await.unwrap();
            say("settled", RequestId(id16(number)));
        }
    }
}

/// One write a line, so that a kill leaves whole lines only, or one cut last line, which the reader drops.
fn say(what: &str, request: RequestId) {
    std::io::stdout().write_all(format!("\n{what} {request} .\n").as_bytes()).unwrap();
}

#[tokio::test]
async fn acknowledged_holds_survive_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let (held, settled) = run_and_kill(folder.path());
    assert!(held.len() + settled.len() >= KILLED_AFTER_LINES);

    let store = Store::open(folder.path()).unwrap();
    for request in &held {
        assert!(store.hold(*request).await.unwrap().is_some(), "{request} was acknowledged and is lost");
    }
    for request in &settled {
        let hold = store.hold(*request).await.unwrap().unwrap();
        assert_eq!(hold.state(), HoldState::Settled, "{request} was settled and is not");
    }
    assert_clean(&store).await;
}

fn run_and_kill(folder: &Path) -> (BTreeSet<RequestId>, BTreeSet<RequestId>) {
    let program: PathBuf = std::env::current_exe().unwrap();
    let mut child = Command::new(program)
        .args(["--exact", "durability::process_that_is_killed", "--ignored", "--nocapture", "--test-threads=1"])
        .env(FOLDER_VARIABLE, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut held, mut settled) = (BTreeSet::new(), BTreeSet::new());
    let mut note = |line: &str| match line.split(' ').collect::<Vec<_>>()[..] {
        ["held", request, "."] => held.insert(request.parse().unwrap()),
        ["settled", request, "."] => settled.insert(request.parse().unwrap()),
        _ => false,
    };
    let mut noted = 0;
    while noted < KILLED_AFTER_LINES {
        noted += usize::from(note(&lines.next().expect("the process ended by itself").unwrap()));
    }
    // SIGKILL, in the middle of its work.
    child.kill().unwrap();
    for line in lines.map_while(Result::ok) {
        note(&line);
    }
    assert!(!child.wait().unwrap().success());
    (held, settled)
}
