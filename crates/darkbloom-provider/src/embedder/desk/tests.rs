//! What waits, what is dropped and what is kept, with a maker of vectors that does what a test says.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::*;

/// Longer than anything here takes.
const SOON: Duration = Duration::from_secs(60);

/// Says what it is asked to do, and goes on when it is told to.
struct Maker {
    asked: Sender<usize>,
    go_on: Receiver<Result<(), EmbedError>>,
    erased: Sender<()>,
}

impl MakeVectors for Maker {
    fn embed(&mut self, texts: &[&[TokenId]], goes_on: &dyn Fn() -> bool) -> Result<Vec<SecretVector>, EmbedError> {
        self.asked.send(texts.len()).unwrap();
        self.go_on.recv().unwrap_or(Ok(()))?;
        if !goes_on() {
            return Err(EmbedError::Ended);
        }
        Ok(texts.iter().map(|text| SecretVector::new(vec![text[0].0 as f32])).collect())
    }

    fn erase(&mut self) {
        self.erased.send(()).unwrap();
    }

    fn interrupt(&self) -> Arc<AtomicBool> {
        Arc::default()
    }
}

/// Whose first step lasts until it is interrupted, or, if it is deaf, until the test ends it.
struct Slow {
    interrupt: Arc<AtomicBool>,
    began: Sender<()>,
    lasts: Option<Receiver<()>>,
}

impl MakeVectors for Slow {
    fn embed(&mut self, texts: &[&[TokenId]], goes_on: &dyn Fn() -> bool) -> Result<Vec<SecretVector>, EmbedError> {
        assert!(goes_on());
        if self.began.send(()).is_ok() {
            match &self.lasts {
                Some(end) => drop(end.recv()),
                None => {
                    while !self.interrupt.load(Ordering::Relaxed) {
                        std::thread::yield_now();
                    }
                    return Err(EmbedError::Interrupted);
                }
            }
        }
        Ok(texts.iter().map(|_| SecretVector::new(vec![1.0])).collect())
    }

    fn erase(&mut self) {}

    fn interrupt(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.interrupt)
    }
}

/// A desk whose first step does not come back by itself, where it begins, and what ends it if it is deaf.
fn slow_desk(deaf: bool, limits: StepLimits) -> (Desk, Receiver<()>, Sender<()>) {
    let ((began, begun), (end, ended)) = (channel(), channel());
    let maker = Slow { interrupt: Arc::default(), began, lasts: deaf.then_some(ended) };
    (Desk::start(maker, 3, 2, limits).unwrap(), begun, end)
}

const SHORT: Duration = Duration::from_millis(1);

#[tokio::test]
async fn a_step_that_takes_too_long_is_interrupted_and_the_next_request_is_answered() {
    let (desk, begun, _end) = slow_desk(false, StepLimits { interrupt_after: SHORT, give_up_after: SOON });
    let first = desk.submit(texts(1), ()).unwrap();
    assert_eq!(first.await.unwrap(), Err(EmbedError::Interrupted));
    drop(begun);
    assert_eq!(desk.submit(texts(1), ()).unwrap().await.unwrap().unwrap().len(), 1);
    assert!(!*desk.stopped().borrow());
}

#[tokio::test]
async fn a_step_that_never_comes_back_is_told_of_and_nothing_more_is_taken() {
    let (desk, _begun, end) = slow_desk(true, StepLimits { interrupt_after: SHORT, give_up_after: SHORT });
    let first = desk.submit(texts(1), ()).unwrap();
    desk.stopped().wait_for(|stopped| *stopped).await.unwrap();
    assert_eq!(desk.submit(texts(1), ()).err().unwrap().code, RefusalCode::Draining);
    // It does not wait for the thread.
    drop(desk);
    drop(end);
    assert!(first.await.is_ok());
}

#[tokio::test]
async fn a_desk_that_is_dropped_waits_for_its_step_until_that_is_stuck() {
    let (desk, begun, end) = slow_desk(true, StepLimits { interrupt_after: SHORT, give_up_after: SHORT });
    let _first = desk.submit(texts(1), ()).unwrap();
    assert_eq!(begun.recv_timeout(SOON), Ok(()));
    // Comes back, though the step does not.
    drop(desk);
    drop(end);
}

#[tokio::test]
async fn a_desk_that_is_to_end_does_not_wait_for_its_step() {
    let (desk, begun, _end) = slow_desk(false, StepLimits { interrupt_after: SOON, give_up_after: SOON });
    let first = desk.submit(texts(1), ()).unwrap();
    assert_eq!(begun.recv_timeout(SOON), Ok(()));
    desk.end();
    assert!(first.await.is_err(), "nobody is told of a step that ended because all ends");
    drop(desk);
}

struct Hands {
    asked: Receiver<usize>,
    go_on: Sender<Result<(), EmbedError>>,
    erased: Receiver<()>,
}

/// A desk for three texts at a time, where two may wait.
fn desk() -> (Desk, Hands) {
    let ((asking, asked), (go_on, gone_on), (erasing, erased)) = (channel(), channel(), channel());
    let desk =
        Desk::start(Maker { asked: asking, go_on: gone_on, erased: erasing }, 3, 2, StepLimits::default()).unwrap();
    (desk, Hands { asked, go_on, erased })
}

fn texts(count: u32) -> Vec<SecretTokens> {
    (0..count).map(|number| SecretTokens::new(vec![TokenId(number)])).collect()
}

/// Something that is kept, and how to see whether it still is.
fn kept() -> (Arc<()>, Weak<()>) {
    let kept = Arc::new(());
    let seen = Arc::downgrade(&kept);
    (kept, seen)
}

#[tokio::test]
async fn vectors_come_in_order_from_a_few_texts_at_a_time_and_what_was_left_is_erased() {
    let (desk, hands) = desk();
    (0..3).for_each(|_| hands.go_on.send(Ok(())).unwrap());
    let made = desk.submit(texts(7), ()).unwrap().await.unwrap().unwrap();
    assert_eq!(made, (0..7).map(|number| SecretVector::new(vec![number as f32])).collect::<Vec<_>>());
    assert_eq!(hands.asked.try_iter().collect::<Vec<_>>(), [3, 3, 1]);
    assert_eq!(hands.erased.recv_timeout(SOON), Ok(()));
    assert!(!*desk.stopped().borrow());
}

#[tokio::test]
async fn whoever_finds_as_many_waiting_as_may_is_refused() {
    let (desk, hands) = desk();
    let first = desk.submit(texts(1), ()).unwrap();
    assert_eq!(hands.asked.recv_timeout(SOON), Ok(1), "it is worked on and waits no more");
    let waiting = [desk.submit(texts(1), ()).unwrap(), desk.submit(texts(1), ()).unwrap()];
    assert_eq!(desk.submit(texts(1), ()).err().unwrap().code, RefusalCode::Overloaded);
    drop(hands.go_on);
    for made in [first].into_iter().chain(waiting) {
        assert_eq!(made.await.unwrap().unwrap().len(), 1);
    }
    assert!(desk.submit(texts(1), ()).is_ok());
}

#[tokio::test]
async fn what_nobody_waits_for_is_dropped_before_it_runs_or_between_its_texts() {
    let (desk, hands) = desk();
    let ((first_kept, first_seen), (second_kept, second_seen)) = (kept(), kept());
    let first = desk.submit(texts(7), first_kept).unwrap();
    assert_eq!(hands.asked.recv_timeout(SOON), Ok(3));
    drop(desk.submit(texts(1), second_kept).unwrap());
    let third = desk.submit(texts(2), ()).unwrap();
    drop(first);
    assert!(first_seen.upgrade().is_some() && second_seen.upgrade().is_some(), "it is not over");
    drop(hands.go_on);
    assert_eq!(third.await.unwrap().unwrap().len(), 2);
    assert_eq!(hands.asked.try_iter().collect::<Vec<_>>(), [2], "nothing but the third");
    assert!(first_seen.upgrade().is_none() && second_seen.upgrade().is_none());
}

#[tokio::test]
async fn an_error_names_the_text_of_the_request_and_the_next_one_is_answered() {
    let (desk, hands) = desk();
    hands.go_on.send(Ok(())).unwrap();
    hands.go_on.send(Err(EmbedError::NoVector { at: 1 })).unwrap();
    let failed = desk.submit(texts(7), ()).unwrap().await.unwrap();
    assert_eq!(failed, Err(EmbedError::NoVector { at: 4 }));
    hands.go_on.send(Ok(())).unwrap();
    assert!(desk.submit(texts(1), ()).unwrap().await.unwrap().is_ok());
}

#[tokio::test]
async fn a_thread_that_panics_is_told_of_and_takes_nothing_more() {
    let (desk, hands) = desk();
    // Nobody hears what it is asked to do.
    drop(hands.asked);
    let (kept, seen) = kept();
    assert!(desk.submit(texts(1), kept).unwrap().await.is_err());
    desk.stopped().wait_for(|stopped| *stopped).await.unwrap();
    assert!(seen.upgrade().is_none());
    assert_eq!(desk.submit(texts(1), ()).err().unwrap().code, RefusalCode::Draining);
}

#[tokio::test]
async fn what_a_job_kept_may_be_the_last_to_hold_the_desk() {
    let (desk, hands) = desk();
    let desk = Arc::new(desk);
    let mut stopped = desk.stopped();
    let made = desk.submit(texts(1), Arc::clone(&desk)).unwrap();
    assert_eq!(hands.asked.recv_timeout(SOON), Ok(1));
    drop(desk);
    drop(hands.go_on);
    assert_eq!(made.await.unwrap().unwrap().len(), 1);
    // Its thread lets go of what it says this by.
    assert_eq!(hands.asked.recv_timeout(SOON), Err(RecvTimeoutError::Disconnected));
    assert!(stopped.wait_for(|stopped| *stopped).await.is_err(), "it ended without a panic");
}

#[tokio::test]
async fn what_is_worked_on_and_what_waits_ends_when_the_desk_is_to() {
    let (desk, hands) = desk();
    let ((first_kept, first_seen), (second_kept, second_seen)) = (kept(), kept());
    let first = desk.submit(texts(7), first_kept).unwrap();
    assert_eq!(hands.asked.recv_timeout(SOON), Ok(3));
    let second = desk.submit(texts(1), second_kept).unwrap();
    desk.end();
    drop(hands.go_on);
    assert!(first.await.is_err() && second.await.is_err());
    drop(desk);
    assert!(hands.asked.try_recv().is_err(), "nothing more was asked");
    assert!(first_seen.upgrade().is_none() && second_seen.upgrade().is_none());
}
