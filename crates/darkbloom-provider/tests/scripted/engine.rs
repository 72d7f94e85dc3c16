//! Engines that stop by themselves: the provider says so, ends what it began, and ends.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use darkbloom_batch::{StepOutput, StepPlan};
use darkbloom_engine::{Capacity, ExecuteError, Executor, LlamaExecutor};
use darkbloom_provider::{Provider, ServeError};
use darkbloom_types::{RefusalCode, StreamId};
use darkbloom_wire::ProviderFrame;

use crate::coordinator::{Coordinator, Introduced, Line, eligible, within};

/// The real executor, with a bug in a step or between steps from when a test wants it on.
struct Faulty {
    executor: LlamaExecutor,
    in_step: Arc<AtomicBool>,
    between_rows: bool,
}

impl Executor for Faulty {
    fn step(&mut self, plan: &StepPlan) -> Result<StepOutput, ExecuteError> {
        assert!(!self.in_step.load(Ordering::Acquire), "a bug in a step");
        self.executor.step(plan)
    }

    fn erase(&mut self) {
        assert!(!self.between_rows, "a bug between rows");
        self.executor.erase();
    }

    fn vocabulary(&self) -> usize {
        self.executor.vocabulary()
    }

    fn capacity(&self) -> Capacity {
        self.executor.capacity()
    }
}

/// A provider at work whose engine has this bug, and what makes its steps fail.
async fn faulty(coordinator: &Coordinator, between_rows: bool) -> (Provider, Line, Introduced, Arc<AtomicBool>) {
    let in_step = Arc::new(AtomicBool::new(false));
    let fails = Arc::clone(&in_step);
    let provider = coordinator.provider_around(move |executor| Faulty { executor, in_step: fails, between_rows }).await;
    let (mut line, introduced) = coordinator.introduced().await;
    line.send(eligible()).await;
    (provider, line, introduced, in_step)
}

/// The provider must end by itself, and say why.
async fn ends_by_itself(provider: Provider) {
    let ended = within("the provider ends by itself", provider.serve_until(pending())).await;
    let error = ended.expect_err("it has no engine");
    assert!(matches!(error, ServeError::EngineStopped { reason: Some(ExecuteError::Panicked) }), "{error:?}");
    assert_eq!(error.to_string(), "the engine stopped by itself: the executor panicked");
    assert!(error.hint().starts_with("start it again"));
}

#[tokio::test]
async fn a_provider_whose_step_panicked_ends_its_answers_says_that_it_drains_and_ends() {
    let coordinator = Coordinator::start().await;
    let (provider, mut line, introduced, fails) = faulty(&coordinator, false).await;
    line.send(introduced.offer(1, 900)).await;
    line.until("content", |frame| matches!(frame, ProviderFrame::Data(_)).then_some(())).await;
    fails.store(true, Ordering::Release);
    let said = line.ended("the provider disconnects").await;
    let ends = said.iter().filter(|frame| matches!(frame, ProviderFrame::Data(data) if data.end)).count();
    let receipts = said.iter().filter(|frame| matches!(frame, ProviderFrame::Final(_))).count();
    assert_eq!((ends, receipts), (1, 1), "the answer ends with the reason in it, and what came is signed for");
    assert!(said.iter().any(|frame| matches!(frame, ProviderFrame::Heartbeat(beat) if beat.draining)), "{said:?}");
    ends_by_itself(provider).await;
}

#[tokio::test]
async fn a_row_without_content_is_refused_when_the_engine_stops() {
    let coordinator = Coordinator::start().await;
    let (provider, mut line, introduced, fails) = faulty(&coordinator, false).await;
    fails.store(true, Ordering::Release);
    line.send(introduced.offer(1, 900)).await;
    let said = line.ended("the provider disconnects").await;
    let refused = said.iter().find_map(|frame| match frame {
        ProviderFrame::Refused(refused) if refused.stream == StreamId(1) => Some(refused.code),
        _ => None,
    });
    assert_eq!(refused, Some(RefusalCode::Internal.number()), "{said:?}");
    ends_by_itself(provider).await;
}

#[tokio::test]
async fn a_provider_whose_engine_stopped_between_rows_notices_without_a_request() {
    let coordinator = Coordinator::start().await;
    let (provider, mut line, introduced, _) = faulty(&coordinator, true).await;
    line.send(introduced.offer(1, 3)).await;
    assert_eq!(line.answer(1).await, Ok(3));
    let said = line.ended("the provider disconnects").await;
    assert!(said.iter().any(|frame| matches!(frame, ProviderFrame::Heartbeat(beat) if beat.draining)), "{said:?}");
    ends_by_itself(provider).await;
}

#[tokio::test]
async fn a_provider_without_engine_and_coordinator_ends_too() {
    let coordinator = Coordinator::start().await;
    let (provider, mut line, introduced, _) = faulty(&coordinator, true).await;
    line.send(introduced.offer(1, 3)).await;
    assert_eq!(line.answer(1).await, Ok(3));
    // Nobody welcomes it again.
    drop(line);
    ends_by_itself(provider).await;
}
