//! Real models that come and go. Nothing here waits for a time: it is none, or never ends.

use std::sync::atomic::{AtomicUsize, Ordering};

use darkbloom_types::Millis;

use super::*;
use crate::model::CheckedModel;

/// Files of two models that differ by a name in their headers.
struct Files {
    _folder: tempfile::TempDir,
    paths: [PathBuf; 2],
}

fn files() -> Files {
    let folder = tempfile::tempdir().unwrap();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/darkbloom-tiny-q8_0.gguf");
    let mut bytes = std::fs::read(shipped).unwrap();
    let paths = ["a.gguf", "b.gguf"].map(|name| folder.path().join(name));
    std::fs::write(&paths[0], &bytes).unwrap();
    let key = b"general.name";
    let at = bytes.windows(key.len()).position(|window| window == key).unwrap();
    // After the key come the value's type (4 bytes) and its length (8 bytes).
    bytes[at + key.len() + 12] ^= 1;
    std::fs::write(&paths[1], &bytes).unwrap();
    Files { _folder: folder, paths }
}

impl Files {
    /// Both models on disk, each of which takes 10 of what is allowed.
    fn shelf(&self, allowance: Allowance) -> Arc<Shelf> {
        self.shelf_that(allowance, LoadedModel::load_watched)
    }

    fn shelf_that(
        &self,
        allowance: Allowance,
        load: impl Fn(&ModelOptions, &LoadWatch) -> Result<LoadedModel, LoadError> + Send + Sync + 'static,
    ) -> Arc<Shelf> {
        let book = |path: &PathBuf| {
            let checked = CheckedModel::read(path, &[]).unwrap();
            let identity = Identity { weights: checked.weights, text_pack: checked.text_pack.digest() };
            let options = ModelOptions { threads: Some(1), ..ModelOptions::new(path.clone(), 1, 64) };
            // So little that what is measured is not believed.
            Book::stored(options, identity, 10)
        };
        Shelf::new(self.paths.iter().map(book).collect(), allowance, Box::new(load))
    }
}

fn residences(shelf: &Shelf) -> [Residence; 2] {
    [0, 1].map(|at| shelf.status(at).unwrap().residence)
}

async fn outcome(shelf: &Arc<Shelf>, at: usize) -> LoadOutcome {
    match shelf.ask(at).unwrap() {
        Asked::Loaded => LoadOutcome::Succeeded,
        Asked::Loading(loading) => ended(loading).await,
    }
}

use Residence::{Loaded, Loading, Stored};

#[tokio::test]
async fn a_stored_model_is_loaded_once_when_it_is_asked_for_and_answers_at_once_from_then_on() {
    let (files, loads) = (files(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&loads);
    let shelf = files.shelf_that(BOTH, move |options, watch| {
        counted.fetch_add(1, Ordering::Relaxed);
        LoadedModel::load_watched(options, watch)
    });
    assert_eq!(residences(&shelf), [Stored, Stored]);
    assert!(shelf.lend(0).is_none(), "nobody can hold what is not there");
    let (first, second) = (shelf.ask(0), shelf.ask(0));
    assert!(matches!((&first, &second), (Some(Asked::Loading(_)), Some(Asked::Loading(_)))));
    assert_eq!(residences(&shelf), [Loading, Stored]);
    assert_eq!(outcome(&shelf, 0).await, LoadOutcome::Succeeded);
    assert!(matches!(shelf.ask(0), Some(Asked::Loaded)));
    assert_eq!((residences(&shelf), loads.load(Ordering::Relaxed)), ([Loaded, Stored], 1));
    assert_eq!(shelf.lend(0).unwrap().row_tokens.0, 64);
    assert!(shelf.ask(2).is_none() && shelf.lend(2).is_none() && shelf.status(2).is_none());
}

#[tokio::test]
async fn models_for_which_there_is_memory_stay_beside_each_other() {
    let files = files();
    let shelf = files.shelf(BOTH);
    for at in [0, 1] {
        assert_eq!(outcome(&shelf, at).await, LoadOutcome::Succeeded);
    }
    assert_eq!(residences(&shelf), [Loaded, Loaded]);
}

/// Room for one of both, which makes room at once.
const ONE: Allowance =
    Allowance { budget: 19, idle: None, kept: Millis(0), leave_after: Millis(0), room_wait: Millis(u64::MAX) };
/// Room for both.
const BOTH: Allowance = Allowance { budget: 20, ..ONE };

/// Waits until they are so.
async fn until(shelf: &Shelf, expected: [Residence; 2]) {
    let mut changes = shelf.changes();
    let reached = async {
        while residences(shelf) != expected {
            changes.changed().await.unwrap();
        }
    };
    let reached = tokio::time::timeout(Duration::from_secs(60), reached).await;
    assert!(reached.is_ok(), "{:?} for a minute", residences(shelf));
}

#[tokio::test]
async fn a_model_makes_room_once_its_requests_have_ended() {
    let files = files();
    let shelf = files.shelf(ONE);
    assert_eq!(outcome(&shelf, 0).await, LoadOutcome::Succeeded);
    let loan = shelf.lend(0).unwrap();
    let Some(Asked::Loading(loading)) = shelf.ask(1) else { panic!("it was there") };
    until(&shelf, [Stored, Loading]).await;
    let late = shelf.lend(0).expect("it gets no more requests, and one that was on its way is answered still");
    drop(loan);
    // The other gets every chance to load.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!loading.borrow().is_end() && !late.engine.is_stopped(), "a request still holds it");
    drop(late);
    assert_eq!(ended(loading).await, LoadOutcome::Succeeded);
    assert_eq!(residences(&shelf), [Stored, Loaded]);
    assert!(shelf.lend(0).is_none());
}

#[tokio::test]
async fn a_model_that_shall_leave_comes_back_after_the_other_has_had_its_turn() {
    let files = files();
    let shelf = files.shelf(ONE);
    assert_eq!(outcome(&shelf, 0).await, LoadOutcome::Succeeded);
    let loan = shelf.lend(0).unwrap();
    let Some(Asked::Loading(other)) = shelf.ask(1) else { panic!("it was there") };
    until(&shelf, [Stored, Loading]).await;
    assert!(shelf.lend_unless_leaving(0).is_none(), "who can wait does not keep the other out");
    let Some(Asked::Loading(again)) = shelf.ask(0) else { panic!("it was promised to stay") };
    assert_eq!(*again.borrow(), LoadOutcome::Waiting);
    assert_eq!(residences(&shelf), [Loading, Loading]);
    drop(loan);
    assert_eq!(ended(other).await, LoadOutcome::Succeeded);
    assert_eq!(ended(again).await, LoadOutcome::Succeeded);
    assert_eq!(residences(&shelf), [Loaded, Stored], "one after the other");
}

#[tokio::test]
async fn a_model_that_was_asked_back_and_had_not_to_leave_stays() {
    let files = files();
    let shelf = files.shelf(Allowance { room_wait: Millis(1_500), ..ONE });
    assert_eq!(outcome(&shelf, 0).await, LoadOutcome::Succeeded);
    let loan = shelf.lend(0).unwrap();
    let Some(Asked::Loading(other)) = shelf.ask(1) else { panic!("it was there") };
    until(&shelf, [Stored, Loading]).await;
    let Some(Asked::Loading(again)) = shelf.ask(0) else { panic!("it was promised to stay") };
    assert_eq!(ended(other).await, LoadOutcome::Busy);
    assert_eq!(ended(again).await, LoadOutcome::Succeeded);
    assert_eq!(residences(&shelf), [Loaded, Stored]);
    drop(loan);
}

#[tokio::test]
async fn a_file_that_was_found_to_be_another_is_not_read_again_until_it_changes() {
    let (files, loads) = (files(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&loads);
    let shelf = files.shelf_that(BOTH, move |options, watch| {
        counted.fetch_add(1, Ordering::Relaxed);
        LoadedModel::load_watched(options, watch)
    });
    std::fs::copy(&files.paths[1], &files.paths[0]).unwrap();
    for _ in 0..3 {
        assert_eq!(outcome(&shelf, 0).await, LoadOutcome::Unusable);
    }
    assert_eq!(loads.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_model_that_took_its_whole_budget_can_come_back() {
    let files = files();
    let (options, identity) = {
        let shelf = files.shelf(BOTH);
        let books = shelf.books();
        (books[0].options.clone(), books[0].identity)
    };
    let model = LoadedModel::load(&options).unwrap();
    let book = Book::loaded(options, model, 30);
    assert_eq!(book.identity, identity);
    let shelf =
        Shelf::new(vec![book], Allowance { idle: Some(Millis(0)), ..BOTH }, Box::new(LoadedModel::load_watched));
    shelf.unload_idle().await;
    assert_eq!(shelf.status(0).unwrap().residence, Stored);
    assert_eq!(outcome(&shelf, 0).await, LoadOutcome::Succeeded);
}

#[tokio::test]
async fn a_shelf_that_is_dropped_ends_its_engines() {
    let files = files();
    let shelf = files.shelf(BOTH);
    assert_eq!(outcome(&shelf, 0).await, LoadOutcome::Succeeded);
    let engine = shelf.lend(0).unwrap().engine.clone();
    // What loads it may still be about to let go of it.
    let stopped = async {
        drop(shelf);
        while !engine.is_stopped() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), stopped).await.expect("the engine runs on");
}

#[tokio::test]
async fn a_model_that_was_used_a_moment_ago_stays_for_a_while() {
    let files = files();
    let shelf = files.shelf(Allowance { kept: Millis(u64::MAX), room_wait: Millis(1_500), ..ONE });
    assert_eq!(outcome(&shelf, 0).await, LoadOutcome::Succeeded);
    assert_eq!(outcome(&shelf, 1).await, LoadOutcome::Busy);
    assert_eq!(residences(&shelf), [Loaded, Stored]);
}

#[tokio::test]
async fn a_model_that_finds_no_room_in_time_is_reported_and_nobody_has_to_leave_any_more() {
    let files = files();
    let shelf = files.shelf(Allowance { room_wait: Millis(1_500), ..ONE });
    assert_eq!(outcome(&shelf, 0).await, LoadOutcome::Succeeded);
    let loan = shelf.lend(0).unwrap();
    let Some(Asked::Loading(loading)) = shelf.ask(1) else { panic!("it was there") };
    until(&shelf, [Stored, Loading]).await;
    assert_eq!(ended(loading).await, LoadOutcome::Busy);
    assert_eq!(residences(&shelf), [Loaded, Stored]);
    drop(loan);
}

#[tokio::test]
async fn a_model_that_the_budget_can_never_hold_is_refused_at_once() {
    let files = files();
    assert_eq!(outcome(&files.shelf(Allowance { budget: 9, ..ONE }), 0).await, LoadOutcome::TooLarge);
}

#[tokio::test]
async fn a_file_that_is_gone_or_another_is_reported_and_can_be_asked_for_again() {
    let files = files();
    let shelf = files.shelf(BOTH);
    std::fs::rename(&files.paths[0], files.paths[0].with_extension("away")).unwrap();
    assert_eq!(outcome(&shelf, 0).await, LoadOutcome::Unusable);
    std::fs::copy(&files.paths[1], &files.paths[0]).unwrap();
    assert_eq!(outcome(&shelf, 0).await, LoadOutcome::Unusable, "it is a model, and another one");
    std::fs::rename(files.paths[0].with_extension("away"), &files.paths[0]).unwrap();
    assert_eq!(outcome(&shelf, 0).await, LoadOutcome::Succeeded);
    assert!(!*shelf.broken().borrow());
}

#[tokio::test]
async fn a_load_is_ended_when_the_provider_stops() {
    let files = files();
    // As large a file as the disk is slow: it is heard of again only when it was ended.
    let shelf = files.shelf_that(BOTH, |options, watch| {
        while !watch.is_ended() {
            std::thread::yield_now();
        }
        LoadedModel::load_watched(options, watch)
    });
    let Some(Asked::Loading(loading)) = shelf.ask(0) else { panic!("it was there") };
    shelf.stop_loading();
    assert_eq!(ended(loading).await, LoadOutcome::Declined);
}

#[tokio::test]
async fn what_nobody_uses_is_unloaded_and_never_under_a_request() {
    let files = files();
    let shelf = files.shelf(Allowance { idle: Some(Millis(0)), ..BOTH });
    for at in [0, 1] {
        assert_eq!(outcome(&shelf, at).await, LoadOutcome::Succeeded);
    }
    let loan = shelf.lend(1).unwrap();
    let tidy = Arc::clone(&shelf);
    let tidying = tokio::spawn(async move { tidy.keep_tidy().await });
    until(&shelf, [Stored, Loaded]).await;
    let copy = loan.clone();
    drop(loan);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(residences(&shelf), [Stored, Loaded], "a request holds it");
    drop(copy);
    until(&shelf, [Stored, Stored]).await;
    assert!(!*shelf.broken().borrow(), "nothing is broken by that");
    tidying.abort();
    assert_eq!(outcome(&shelf, 0).await, LoadOutcome::Succeeded, "and it comes back");
}

#[tokio::test]
async fn an_unloaded_model_gives_its_memory_back() {
    let files = files();
    let checked = CheckedModel::read(&files.paths[0], &[]).unwrap();
    let identity = Identity { weights: checked.weights, text_pack: checked.text_pack.digest() };
    // 64 rows of 1,024 tokens: a hundred MiB of keys and values.
    let options = ModelOptions { threads: Some(1), ..ModelOptions::new(files.paths[0].clone(), 64, 1_024) };
    let header = darkbloom_engine::check_model_file(&options.path).unwrap();
    let need = darkbloom_engine::MemoryNeed::of(&header, options.row_tokens).total(options.rows);
    let idle = Some(Millis(0));
    let shelf = Shelf::new(
        vec![Book::stored(options, identity, need)],
        Allowance { budget: u64::MAX, idle, ..ONE },
        Box::new(LoadedModel::load_watched),
    );
    let before = machine::resident_memory();
    assert_eq!(outcome(&shelf, 0).await, LoadOutcome::Succeeded);
    let took = machine::resident_memory() - before;
    assert!((need / 2..=need * 2).contains(&took), "{need} bytes were estimated, {took} were taken");
    let tidy = Arc::clone(&shelf);
    let mut changes = shelf.changes();
    let tidying = tokio::spawn(async move { tidy.keep_tidy().await });
    changes.changed().await.unwrap();
    // It is told before it is freed.
    let freed = async {
        while machine::resident_memory() > before + took / 5 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), freed).await.expect("the memory is still held");
    tidying.abort();
}
