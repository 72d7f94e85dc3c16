//! What requests of one account and one secret leave each other in the engine's memory, and nobody else.

use std::sync::{Arc, Mutex};

use darkbloom_batch::{StepOutput, StepPlan};
use darkbloom_content::{Message, PrefixSecret, Role};
use darkbloom_engine::{Capacity, ExecuteError, Executor, LlamaExecutor};

use crate::coordinator::{Coordinator, eligible, within};

/// The real executor, and how many tokens each row fed to it before its first draw.
struct Counting {
    executor: LlamaExecutor,
    fed: Arc<Mutex<Vec<usize>>>,
}

impl Executor for Counting {
    fn step(&mut self, plan: &StepPlan) -> Result<StepOutput, ExecuteError> {
        let firsts = plan.rows.iter().filter(|row| row.sample.as_ref().is_some_and(|sample| sample.position == 0));
        self.fed.lock().unwrap().extend(firsts.map(|row| row.tokens.len()));
        self.executor.step(plan)
    }

    fn erase(&mut self) {
        self.executor.erase();
    }

    fn vocabulary(&self) -> usize {
        self.executor.vocabulary()
    }

    fn capacity(&self) -> Capacity {
        self.executor.capacity()
    }
}

#[tokio::test]
async fn a_prefix_is_used_again_only_where_account_and_secret_are_the_same() {
    let coordinator = Coordinator::start().await;
    let fed = Arc::<Mutex<Vec<usize>>>::default();
    let counted = Arc::clone(&fed);
    let provider = coordinator.provider_around(move |executor| Counting { executor, fed: counted }).await;
    let (mut line, introduced) = coordinator.introduced().await;
    line.send(eligible()).await;
    let mut stream = 0;
    let mut ask = async |account: u8, secret: Option<u8>| {
        stream += 1;
        let mut offer = introduced.offer_with(stream, 3, |_, chat| {
            chat.messages = vec![Message::new(Role::User, "What is 17 + 25, and what is 25 + 17, and why?")];
            chat.prefix = secret.map(|byte| PrefixSecret::new([byte; 32]));
        });
        offer.scope = [account; 16];
        line.send(offer).await;
        assert_eq!(line.answer(stream).await, Ok(3));
        fed.lock().unwrap().pop().unwrap()
    };
    let whole = ask(1, Some(1)).await;
    assert!(whole > 17, "a prompt of {whole} tokens is too short to be used again");
    for (account, secret) in [(2, Some(1)), (1, Some(2)), (1, None), (2, None)] {
        assert_eq!(ask(account, secret).await, whole, "account {account}, secret {secret:?}");
    }
    assert_eq!(ask(1, Some(1)).await, 1, "the last token alone");
    within("the provider stops", provider.stop()).await;
}
