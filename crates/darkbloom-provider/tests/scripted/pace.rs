//! A machine that takes its time: what it sends meanwhile.

use std::time::Duration;

use darkbloom_batch::{StepOutput, StepPlan};
use darkbloom_engine::{Capacity, ExecuteError, Executor, LlamaExecutor};
use darkbloom_session::waits;
use darkbloom_types::StreamId;
use darkbloom_wire::ProviderFrame;

use crate::coordinator::{Coordinator, eligible, within};

/// The real executor, slowed down.
struct Slow(LlamaExecutor);

/// With this for a token, 24 of them take longer than an answer may wait for 25.
const STEP: Duration = Duration::from_millis(600);

impl Executor for Slow {
    fn step(&mut self, plan: &StepPlan) -> Result<StepOutput, ExecuteError> {
        std::thread::sleep(STEP);
        self.0.step(plan)
    }

    fn erase(&mut self) {
        self.0.erase();
    }

    fn vocabulary(&self) -> usize {
        self.0.vocabulary()
    }

    fn capacity(&self) -> Capacity {
        self.0.capacity()
    }
}

#[tokio::test]
async fn a_slow_answer_that_is_not_streamed_shows_that_it_goes_on() {
    let coordinator = Coordinator::start().await;
    let provider = coordinator.provider_around(Slow).await;
    let (mut line, introduced) = coordinator.introduced().await;
    line.send(eligible()).await;
    line.send(introduced.offer_with(1, 24, |header, _| header.stream = false)).await;
    let mut counts = Vec::new();
    line.until("the whole answer", |frame| match frame {
        ProviderFrame::Data(data) => {
            counts.push(data.tokens.0);
            None
        }
        ProviderFrame::Final(last) => (last.stream == StreamId(1)).then_some(()),
        _ => None,
    })
    .await;
    // All tokens take half as long again as the wait; one frame would have them all.
    assert!(u64::try_from(STEP.as_millis()).unwrap() * 24 > waits::IDLE.0 / 6 * 4 / 3);
    assert!((1..24).contains(&counts[0]), "the first frame has {} tokens", counts[0]);
    assert_eq!(counts.last(), Some(&24));
    within("the provider stops", provider.stop()).await;
}
