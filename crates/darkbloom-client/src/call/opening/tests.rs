//! A whole call but for the network: what a provider of the model that ships with the repository may seal.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use darkbloom_content::{ChatRequest, Message, Role};
use darkbloom_host::clock;
use darkbloom_seal::{AnswerSealer, frame_size};
use darkbloom_session::ClientSession;
use darkbloom_text::{Opening, TextModel, TextPack};
use darkbloom_types::{AttemptNumber, Micros, MonoMillis, NanoDollars, OperationId, SecretString, Tier, TokenId};
use darkbloom_wire::{AttemptRecord, Bill, CoordinatorTiming, RelayedRefused};
use tokio::sync::{mpsc, oneshot};

use super::*;
use crate::call::Operation;
use crate::call::sealing::Ceilings;
use crate::network::Network;
use crate::parties::{Operator, PRICE, Provider};
use crate::timing::Timing;

/// What the request allows.
const CEILING: u32 = 4;

fn call(operator: &Operator, provider: &Provider) -> Call {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = crate::Config {
        coordinator: "http://127.0.0.1:1".to_owned(),
        network: None,
        pin_file: None,
        tier_min: Tier::None,
        pinned: BTreeSet::new(),
        hardware: crate::HardwareTrust::default(),
        candidates: 1,
        receipts: None,
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/darkbloom-tiny-q8_0.gguf");
    let candidates = operator.read(clock::now(), &[&provider.signed()], &operator.anybody()).unwrap();
    let messages = vec![Message::new(Role::User, "?")];
    let request = ChatRequest { stop: vec![SecretString::from("b")], ..ChatRequest::new(messages) };
    Call {
        network: Arc::new(Network::new(config).unwrap()),
        coordinator: operator.public.clone(),
        operation: Operation {
            key: SecretString::from("key"),
            model: crate::parties::MODEL.to_owned(),
            request,
            stream: true,
            max_output_tokens: Some(CEILING),
            idempotency_key: None,
            parse: Duration::ZERO,
        },
        operation_id: OperationId([4; 16]),
        affinity: [6; 16],
        candidates: Arc::new(candidates),
        text: TextModel::new(TextPack::from_gguf(File::open(path).unwrap()).unwrap()).unwrap(),
        prompt_tokens: TokenCount(1),
        opening: Opening::Free,
        ceilings: Ceilings { input: TokenCount(256), output: TokenCount(CEILING) },
        passed_over: Vec::new(),
        called_wrong: false,
        attempts: Vec::new(),
        timing: Timing::default(),
        timing_before: Timing::default(),
        started: Instant::now(),
        session: ClientSession::submitted(MonoMillis::default()),
        charge: Arc::default(),
        rates: crate::RateHeaders::default(),
        retry_after: None,
    }
}

/// What the client makes of an answer of these tokens and this text that ended for this reason.
async fn read(said: &str, text: &str, reason: FinishReason) -> Result<(), Refusal> {
    let operator = Operator::new();
    let mut provider = Provider::new(&operator, "a", clock::now());
    let mut call = call(&operator, &provider);
    let sealing = call.seal(None).unwrap();
    let submit = &sealing.seal.submit;
    let (_, opened) = provider.ring.open(&submit.header, &submit.body, &submit.wraps.0[0], clock::now()).unwrap();
    let accepted = RelayedAccepted {
        provider: provider.id,
        epoch: provider.epoch,
        attempt: AttemptNumber(1),
        salt: [7; 32],
        attempts: vec![AttemptRecord { provider: provider.id, outcome: 0 }].into(),
        timing: CoordinatorTiming::NONE,
    };
    let acceptance = Acceptance {
        request_digest: opened.request_digest,
        provider: provider.id,
        epoch: provider.epoch,
        attempt: accepted.attempt,
        salt: accepted.salt,
    };
    let mut live = call.begin_answer(accepted, &sealing).unwrap();
    let tokens: Vec<TokenId> = call.text.text_tokens(said).expose().to_vec();
    let count = TokenCount(u32::try_from(tokens.len()).unwrap());
    let delta = AnswerEvent::Delta { tokens, parts: text.into() };
    let finish = AnswerEvent::Finish { reason, input_tokens: TokenCount(1), output_tokens: count };
    let mut sealer = AnswerSealer::new(&opened.response_secret, &acceptance);
    let (first, _started) = oneshot::channel();
    let (parts, _parts) = mpsc::channel(4);
    let mut consumer = Consumer { first: Some(first), parts };
    for (event, end) in [(delta, false), (finish, true)] {
        let sealed = sealer.seal(event.to_cbor().expose(), frame_size(25), count, end).unwrap();
        let SealedFrame { sequence, tokens, end, ciphertext } = sealed;
        match call.open(&mut live, RelayedData { sequence, tokens, end, ciphertext }, &sealing, &mut consumer).await {
            Ok(()) => {}
            Err(Ended::Refused(refusal)) => return Err(refusal),
            Err(Ended::Gone) => panic!("the consumer is there"),
        }
    }
    assert_eq!(live.end, Some(End::Whole(reason, TokenCount(1))));
    Ok(())
}

#[tokio::test]
async fn an_answer_ends_for_a_reason_that_fits_it() {
    let (stop, length) = (FinishReason::Stop, FinishReason::Length);
    for (said, text, reason) in
        [("1", "1", stop), ("1", "1", length), ("1234", "1234", length), ("1b", "1", stop), ("123b", "123", stop)]
    {
        assert_eq!(read(said, text, reason).await, Ok(()), "{said}, {reason:?}");
    }
    let calls = FinishReason::ToolCalls;
    for (said, text, reason, words) in [
        ("1234", "1234", stop, "is said to have"),
        ("1b", "1", length, "is said to have"),
        ("123b", "123", length, "is said to have"),
        ("1", "1", calls, "whether a tool was called"),
    ] {
        let refusal = read(said, text, reason).await.unwrap_err();
        assert_eq!(refusal.code, RefusalCode::VerificationFailed);
        assert!(refusal.detail.contains(words), "{refusal}");
    }
    // What the tokens call must be said to be a call, unless there was no room for more.
    for (called, reason, fits) in
        [(true, stop, false), (true, calls, true), (true, length, true), (false, calls, false), (false, stop, true)]
    {
        let checked = check_reason(reason, Recounted { over: false, called }, TokenCount(1), TokenCount(4));
        assert_eq!(checked.is_ok(), fits, "{called}, {reason:?}");
    }
    let full = check_reason(calls, Recounted { over: false, called: true }, TokenCount(4), TokenCount(4));
    assert!(full.is_err(), "all tokens and no end");
}

#[test]
fn the_charge_of_a_refusal_whose_words_are_a_lie_is_noted() {
    let operator = Operator::new();
    let provider = Provider::new(&operator, "a", clock::now());
    let mut call = call(&operator, &provider);
    let sealing = call.seal(None).unwrap();
    let bill = Bill {
        operation: call.operation_id,
        request: sealing.seal.header.request,
        receipt: None,
        price: PRICE,
        hold: sealing.price_max,
        charge: NanoDollars::ZERO,
        input_tokens: TokenCount(0),
        output_tokens: TokenCount(0),
        settled_at: clock::now(),
    };
    let frame = RelayedRefused {
        code: RefusalCode::AnswerCut.number(),
        detail: String::new(),
        retry_after: None,
        sealed: Some(vec![0; 1_072]),
        attempts: Vec::new().into(),
        bill: Some(bill.sign(&operator.key).unwrap()),
        timing: Some(CoordinatorTiming { dispatch_us: Micros(7), ..CoordinatorTiming::NONE }),
    };
    // Of the sealing before, and of an acceptance that came to nothing with this one.
    let said = |dispatch_us| CoordinatorTiming { dispatch_us: Micros(dispatch_us), ..CoordinatorTiming::NONE };
    call.timing_before = call.timing.with_coordinator(&said(100));
    call.timing = call.timing_before.with_coordinator(&said(5));
    let refusal = call.refused(&frame, None, &sealing);
    assert_eq!(call.timing.dispatch_us, Some(Micros(107)), "what it says of one sealing is a sum already");
    assert_eq!(refusal.code, RefusalCode::VerificationFailed, "{refusal}");
    assert_eq!(call.charge.get(), Some(&NanoDollars::ZERO));
}
