//! Who is asked about, and how often.

use std::cell::Cell;
use std::future::{pending, ready};
use std::pin::pin;
use std::time::Duration;

use darkbloom_types::RefusalCode::{CoordinatorUnreachable, Forbidden, InvalidApiKey, NoCapacity};
use tokio::time::timeout;

use super::*;

const SOON: Duration = Duration::from_secs(10);

fn key(number: usize) -> SecretString {
    SecretString::from(format!("db-key-{number}"))
}

/// Checks a key; the coordinator, if asked, says this.
async fn checked(keys: &Keys, key: &SecretString, says: Outcome, asked: &Cell<u32>) -> Outcome {
    let ask = async || {
        asked.set(asked.get() + 1);
        says
    };
    keys.check(key, ask).await
}

fn code(outcome: &Outcome) -> Option<RefusalCode> {
    outcome.as_ref().err().map(|refusal| refusal.code)
}

#[tokio::test]
async fn what_cannot_be_a_key_is_refused_without_asking() {
    let (keys, asked) = (Keys::default(), Cell::new(0));
    for wrong in ["", "k y", "k\u{e9}", "k\u{7f}", "k\n", &"k".repeat(129)] {
        assert_eq!(code(&checked(&keys, &wrong.into(), Ok(()), &asked).await), Some(InvalidApiKey));
    }
    assert_eq!(asked.get(), 0);
    assert_eq!(checked(&keys, &SecretString::from("k".repeat(128)), Ok(()), &asked).await, Ok(()));
    assert_eq!(asked.get(), 1);
}

#[tokio::test]
async fn an_accepted_key_is_asked_about_once_and_again_after_it_was_refused() {
    let (keys, asked) = (Keys::default(), Cell::new(0));
    for _ in 0..3 {
        assert_eq!(checked(&keys, &key(1), Ok(()), &asked).await, Ok(()));
    }
    assert_eq!(asked.get(), 1);
    keys.refused(&key(1), NoCapacity);
    keys.refused(&key(2), InvalidApiKey);
    assert_eq!(checked(&keys, &key(1), Ok(()), &asked).await, Ok(()));
    assert_eq!(asked.get(), 1, "neither says that the key is wrong");
    keys.refused(&key(1), InvalidApiKey);
    let refused = checked(&keys, &key(1), Err(InvalidApiKey.into()), &asked).await;
    assert_eq!((code(&refused), asked.get()), (Some(InvalidApiKey), 2));
}

#[tokio::test]
async fn a_refused_key_is_not_asked_about_again_at_once_and_a_coordinator_that_is_away_is() {
    let (keys, asked) = (Keys::default(), Cell::new(0));
    for (number, refused) in [(1, InvalidApiKey), (2, Forbidden)] {
        asked.set(0);
        assert_eq!(code(&checked(&keys, &key(number), Err(refused.into()), &asked).await), Some(refused));
        assert_eq!(code(&checked(&keys, &key(number), Ok(()), &asked).await), Some(refused));
        assert_eq!(asked.get(), 1);
    }
    let away = checked(&keys, &key(3), Err(CoordinatorUnreachable.into()), &asked).await;
    assert_eq!(code(&away), Some(CoordinatorUnreachable));
    assert_eq!(checked(&keys, &key(3), Ok(()), &asked).await, Ok(()));
}

#[tokio::test]
async fn one_question_answers_all_who_come_with_the_same_key() {
    let (keys, asked) = (Keys::default(), Cell::new(0));
    let key = key(1);
    let slow = async || {
        asked.set(asked.get() + 1);
        tokio::task::yield_now().await;
        Err(CoordinatorUnreachable.into())
    };
    let all = futures_util::future::join_all((0..200).map(|_| keys.check(&key, slow))).await;
    assert_eq!(asked.get(), 1);
    assert!(all.iter().all(|outcome| code(outcome) == Some(CoordinatorUnreachable)));
}

#[tokio::test]
async fn who_waits_for_somebody_that_goes_away_asks_itself() {
    let (keys, asked) = (Keys::default(), Cell::new(0));
    let key = key(1);
    let mut first = Box::pin(keys.check(&key, async || pending().await));
    let mut second = pin!(checked(&keys, &key, Ok(()), &asked));
    assert!(timeout(Duration::ZERO, &mut first).await.is_err());
    assert!(timeout(Duration::ZERO, &mut second).await.is_err());
    assert_eq!(asked.get(), 0);
    drop(first);
    assert_eq!(timeout(SOON, second).await, Ok(Ok(())));
    assert_eq!(asked.get(), 1);
}

#[tokio::test]
async fn a_flood_of_keys_is_asked_about_a_few_at_a_time_and_known_ones_pass_by() {
    let (keys, asked) = (Keys::default(), Cell::new(0));
    assert_eq!(checked(&keys, &key(0), Ok(()), &asked).await, Ok(()));
    let flood: Vec<_> = (1..=QUESTIONS_MAX).map(key).collect();
    let mut waiting: Vec<_> = flood.iter().map(|key| Box::pin(keys.check(key, async || pending().await))).collect();
    for question in &mut waiting {
        assert!(timeout(Duration::ZERO, question).await.is_err());
    }
    let another = key(QUESTIONS_MAX + 1);
    assert_eq!(code(&checked(&keys, &another, Ok(()), &asked).await), Some(NoCapacity));
    assert_eq!(checked(&keys, &key(0), Ok(()), &asked).await, Ok(()));
    drop(waiting.pop());
    assert_eq!(keys.check(&another, async || ready(Ok(())).await).await, Ok(()));
}

#[test]
fn what_was_learnt_lasts_so_long_and_the_oldest_goes_first() {
    let (begin, name) = (Instant::now(), |number: u8| Digest([number; 32]));
    let after = |seconds| begin + Duration::from_secs(seconds);
    let mut lately = Lately::new(3, Duration::from_secs(10));
    lately.put(name(1), 'a', after(0));
    lately.put(name(2), 'b', after(1));
    assert_eq!(lately.get(&name(1), after(9)), Some('a'));
    assert_eq!(lately.get(&name(1), after(10)), None, "its time is over");
    // Learnt again, it is the newest.
    lately.put(name(1), 'c', after(5));
    lately.put(name(3), 'd', after(6));
    lately.put(name(4), 'e', after(7));
    let known =
        |lately: &Lately<char>| (0..=5).filter(|n| lately.get(&name(*n), after(8)).is_some()).collect::<Vec<_>>();
    assert_eq!(known(&lately), [1, 3, 4]);
    lately.remove(&name(3));
    lately.put(name(5), 'f', after(8));
    assert_eq!(known(&lately), [4, 5]);
    // However often something is put and removed, no more is kept than that.
    for _ in 0..100 {
        lately.put(name(0), 'g', after(8));
        lately.remove(&name(0));
    }
    assert!(lately.order.len() <= 3 && lately.kept.len() <= 3);
    // What is over is dropped when something comes.
    lately.put(name(1), 'h', after(30));
    assert_eq!((lately.order.len(), lately.kept.len()), (1, 1));
}
