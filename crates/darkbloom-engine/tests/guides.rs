//! Rows whose answers are held to a shape.

#![allow(clippy::unwrap_used, reason = "an unwrap is how a test fails, also in its own functions")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use darkbloom_batch::{
    EndReason, Guide, GuideError, Limits, Priority, RowEvent, RowFailure, RowId, RowRequest, SampleError, Sampling,
    Scheduler, SharedGuide, TokenMask,
};
use darkbloom_engine::{Capacity, CostModel, Executor, LlamaExecutor, LlamaSettings, SimulatedExecutor};
use darkbloom_types::{MonoMillis, SecretTokens, TokenCount, TokenId};

const CAPACITY: Capacity = Capacity { rows_max: 4, row_tokens_max: 256, step_tokens_max: 64, trims: true };
const VOCABULARY: usize = 97;
const STOP: TokenId = TokenId(3);
/// Far longer than any of these tests takes on a busy machine; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Allows in each place the tokens of one residue, which depends on the answer so far; the stop token at the end alone.
struct Residues {
    vocabulary: usize,
    /// Tokens before the end.
    length: usize,
    /// Residues come again after so many tokens.
    period: usize,
    modulus: u32,
    masks: Arc<AtomicU64>,
}

impl Residues {
    fn allows(&self, at: usize, token: TokenId) -> bool {
        if at == self.length {
            return token == STOP;
        }
        token != STOP && token.0 % self.modulus == u32::try_from(at % self.period).unwrap() % self.modulus
    }
}

impl Guide for Residues {
    fn mask(&mut self, answer: &[TokenId]) -> Result<TokenMask, GuideError> {
        self.masks.fetch_add(1, Ordering::Relaxed);
        // Whatever becomes of steps and slots, this is what was drawn, and every token of it was allowed.
        if answer.iter().enumerate().any(|(at, token)| !self.allows(at, *token)) {
            return Err(GuideError::Strayed);
        }
        let mut words = vec![0; self.vocabulary.div_ceil(32)];
        for token in
            (0..u32::try_from(self.vocabulary).unwrap()).filter(|token| self.allows(answer.len(), TokenId(*token)))
        {
            words[token as usize / 32] |= 1 << (token % 32);
        }
        Ok(TokenMask::new(words))
    }
}

fn residues(vocabulary: usize, length: usize, period: usize, modulus: u32) -> SharedGuide {
    SharedGuide::new(Residues { vocabulary, length, period, modulus, masks: Arc::default() })
}

fn request(id: u64, prompt: usize, vocabulary: usize, guide: Option<SharedGuide>) -> RowRequest {
    let prompt = (0..prompt).map(|at| TokenId(((id as usize * 31 + at * 7) % vocabulary) as u32)).collect();
    let sampling = if id.is_multiple_of(2) {
        Sampling::greedy()
    } else {
        Sampling { temperature: 1.0, top_p: 0.9, seed: id, ..Sampling::greedy() }
    };
    RowRequest {
        sampling: Arc::new(sampling),
        stop_tokens: vec![STOP],
        guide,
        ..RowRequest::new(RowId(id), SecretTokens::new(prompt), TokenCount(200))
    }
}

#[derive(Debug, Default, PartialEq)]
struct Said {
    tokens: Vec<TokenId>,
    end: Option<(EndReason, Option<RowFailure>)>,
}

/// Runs rows through a scheduler and an executor until all have ended; one comes in every `stagger` steps.
fn run(
    executor: &mut impl Executor,
    limits: Limits,
    rows: Vec<RowRequest>,
    stagger: usize,
) -> (BTreeMap<RowId, Said>, u64) {
    let mut scheduler = Scheduler::new(limits).unwrap();
    let mut said: BTreeMap<RowId, Said> = BTreeMap::new();
    let count = rows.len();
    let (mut coming, mut step, mut now) = (rows.into_iter(), 0, MonoMillis(0));
    while said.values().filter(|said| said.end.is_some()).count() < count {
        if step % stagger == 0 {
            coming.next().into_iter().for_each(|row| scheduler.submit(row, now).unwrap());
        }
        (step, now) = (step + 1, now.after(darkbloom_types::Millis(1)));
        let Some(plan) = scheduler.plan(now) else { continue };
        let events = match executor.step(&plan) {
            // A longer step takes hardly more, so guesses pay.
            Ok(output) => scheduler.update(output, 1_000 + plan.token_count() as u64, now),
            Err(_) => scheduler.fail_step(),
        };
        for event in events {
            let row = said.entry(event.id()).or_default();
            match event {
                RowEvent::Started { .. } => {}
                RowEvent::Token { token, .. } => row.tokens.push(token),
                RowEvent::Ended { reason, failure, .. } => row.end = Some((reason, failure)),
            }
        }
    }
    (said, scheduler.decisions().right_guesses)
}

fn simulated() -> SimulatedExecutor {
    SimulatedExecutor::new(CAPACITY, VOCABULARY, CostModel::default())
}

fn stopped() -> Option<(EndReason, Option<RowFailure>)> {
    Some((EndReason::StopToken, None))
}

#[test]
fn a_row_says_what_its_guide_allows_and_ends_where_it_must() {
    let guided = |id, length| request(id, 5, VOCABULARY, Some(residues(VOCABULARY, length, 7, 5)));
    let rows = vec![guided(1, 20), request(2, 9, VOCABULARY, None), guided(3, 1), guided(4, 33)];
    let (said, _) = run(&mut simulated(), CAPACITY.limits(8), rows, 2);
    for (id, length) in [(1, 20), (3, 1), (4, 33)] {
        let row = &said[&RowId(id)];
        assert_eq!((row.tokens.len(), row.end), (length, stopped()));
        assert!(row.tokens.iter().enumerate().all(|(at, token)| token.0 % 5 == (at as u32 % 7) % 5));
    }
    // Its neighbours' guides are nothing to the row that has none.
    let (alone, _) = run(&mut simulated(), CAPACITY.limits(8), vec![request(2, 9, VOCABULARY, None)], 1);
    assert_eq!(alone[&RowId(2)], said[&RowId(2)]);
}

#[test]
fn guided_rows_say_the_same_alone_together_guessed_at_and_after_giving_way() {
    // A guide that leaves one token of two, period three: what came will come again, and guesses are often right.
    let guide = || Some(residues(VOCABULARY, 120, 3, 48));
    let rows = || (1..=6).map(|id| request(id, 4 + id as usize, VOCABULARY, guide())).collect::<Vec<_>>();
    let plain = Limits { trims: false, ..CAPACITY.limits(8) };
    let alone: Vec<_> = rows().into_iter().map(|row| run(&mut simulated(), plain, vec![row], 1)).collect();
    assert!(alone.iter().all(|(_, guesses)| *guesses == 0));
    let (together, right) = run(&mut simulated(), CAPACITY.limits(8), rows(), 3);
    assert!(right > 0, "some guesses were right");
    // Two slots, and rows that push others out.
    let limits = Limits { rows_max: 2, ..CAPACITY.limits(8) };
    let pushing = rows().into_iter().enumerate().map(|(at, row)| {
        let priority = if at % 3 == 2 { Priority::High } else { Priority::Low };
        RowRequest { priority, ..row }
    });
    let (pushed, _) = run(&mut simulated(), limits, pushing.collect(), 3);
    for (alone, _) in alone {
        for (id, said) in alone {
            assert_eq!(said.end, stopped());
            assert_eq!((&together[&id], &pushed[&id]), (&said, &said));
        }
    }
}

#[test]
fn the_masks_of_a_step_are_found_while_its_forward_runs() {
    /// Says that it is there, and waits until the forward is.
    struct Meeting {
        here: mpsc::Sender<()>,
        forward: mpsc::Receiver<()>,
    }
    impl Guide for Meeting {
        fn mask(&mut self, answer: &[TokenId]) -> Result<TokenMask, GuideError> {
            self.here.send(()).unwrap();
            self.forward.recv_timeout(PATIENCE).map_err(|_| GuideError::Late)?;
            Ok(TokenMask::new(vec![if answer.len() == 5 { 1 << STOP.0 } else { 1 << 9 }]))
        }
    }
    let ((here, mask_is), (there, forward)) = (mpsc::channel(), mpsc::channel());
    // The forward goes on only when a mask is being found, and the mask is found only when the forward runs.
    let meet = move || {
        there.send(()).unwrap();
        mask_is.recv_timeout(PATIENCE).unwrap();
    };
    let row = request(1, 5, VOCABULARY, Some(SharedGuide::new(Meeting { here, forward })));
    let (said, _) = run(&mut simulated().during_forwards(meet), CAPACITY.limits(8), vec![row], 1);
    assert_eq!(said[&RowId(1)], Said { tokens: vec![TokenId(9); 5], end: stopped() });
}

#[test]
fn a_guide_that_fails_or_panics_ends_its_own_row_and_no_other() {
    struct Broken(usize, bool);
    impl Guide for Broken {
        fn mask(&mut self, answer: &[TokenId]) -> Result<TokenMask, GuideError> {
            assert!(answer.len() < self.0 || !self.1, "it panics");
            if answer.len() < self.0 { Ok(TokenMask::new(vec![1 << 9])) } else { Err(GuideError::TooComplex) }
        }
    }
    let good = |id| request(id, 5, VOCABULARY, Some(residues(VOCABULARY, 12, 7, 5)));
    let of = |panics| {
        let rows = vec![good(1), request(2, 5, VOCABULARY, Some(SharedGuide::new(Broken(6, panics))))];
        run(&mut simulated(), CAPACITY.limits(8), rows, 1).0
    };
    let failed = of(false);
    let error = SampleError::Guide(GuideError::TooComplex);
    assert_eq!(
        failed[&RowId(2)],
        Said { tokens: vec![TokenId(9); 6], end: Some((EndReason::Failed, Some(RowFailure::Logits(error)))) }
    );
    assert_eq!((failed[&RowId(1)].tokens.len(), failed[&RowId(1)].end), (12, stopped()));
    let panicked = of(true);
    assert!(matches!(
        panicked[&RowId(2)].end,
        Some((EndReason::Failed, Some(RowFailure::Logits(SampleError::Guide(_)))))
    ));
    assert_eq!((panicked[&RowId(1)].tokens.len(), panicked[&RowId(1)].end), (12, stopped()));
}

#[test]
fn a_guide_that_allows_nothing_ends_its_row_by_name() {
    struct Nothing;
    impl Guide for Nothing {
        fn mask(&mut self, _: &[TokenId]) -> Result<TokenMask, GuideError> {
            Ok(TokenMask::new(Vec::new()))
        }
    }
    let row = request(1, 5, VOCABULARY, Some(SharedGuide::new(Nothing)));
    let (said, _) = run(&mut simulated(), CAPACITY.limits(8), vec![row], 1);
    let failure = RowFailure::Logits(SampleError::NothingAllowed);
    assert_eq!(said[&RowId(1)].end, Some((EndReason::Failed, Some(failure))));
}

#[test]
fn rows_that_wait_keep_their_guides_over_a_step_that_fails() {
    let rows = (1..=6).map(|id| request(id, 5, VOCABULARY, Some(residues(VOCABULARY, 20, 7, 5)))).collect();
    let (said, _) = run(&mut simulated().failing_at([9]), CAPACITY.limits(8), rows, 1);
    let failed = said.values().filter(|said| said.end.unwrap().1 == Some(RowFailure::Step)).count();
    assert_eq!(failed, 4, "those that ran");
    let others = said.values().filter(|said| said.end == stopped());
    assert!(others.clone().count() == 2 && others.into_iter().all(|said| said.tokens.len() == 20));
}

#[test]
fn a_guided_row_of_the_model_has_the_same_tokens_whoever_shares_the_batch() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/darkbloom-tiny-q8_0.gguf");
    let settings = LlamaSettings { step_tokens_max: 96, threads: 2, ..LlamaSettings::new(6, 256) };
    let mut executor = LlamaExecutor::load(&path, &settings).unwrap();
    let (vocabulary, limits) = (executor.vocabulary(), executor.capacity().limits(8));
    let guided = |id: u64| request(id, 10 + 11 * id as usize, vocabulary, Some(residues(vocabulary, 40, 9, 100)));
    let rows = || (1..=6).map(|id| if id % 3 == 0 { request(id, 12, vocabulary, None) } else { guided(id) });
    let limit = |row: RowRequest| RowRequest { max_output: TokenCount(60), ..row };
    let (together, _) = run(&mut executor, limits, rows().map(limit).collect(), 2);
    for row in rows().map(limit) {
        let id = row.id;
        executor.erase();
        let (alone, _) = run(&mut executor, Limits { trims: false, ..limits }, vec![row], 1);
        assert_eq!(alone[&id], together[&id]);
        if id.0 % 3 != 0 {
            assert_eq!((together[&id].tokens.len(), together[&id].end), (40, stopped()));
        }
    }
}
