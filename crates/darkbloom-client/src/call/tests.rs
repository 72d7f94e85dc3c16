//! What a refusal and the bill of a cut answer must agree with.

use darkbloom_content::{AnswerEvent, FinishReason};
use darkbloom_host::clock;
use darkbloom_seal::{Opened, RequestSeal, seal_refusal, seal_request};
use darkbloom_text::Recounted;
use darkbloom_types::{Price, SecretBytes};
use darkbloom_wire::{Bill, RelayedRefused, RequestKind, SealedHeader, Suite};

use super::opening::check_reason;
use super::refused::refusal_of;
use super::verify::Agreed;
use super::*;
use crate::parties::{BEGIN, Operator, PRICE, Provider};

/// A request sealed to three providers, two of which opened it.
struct Scene {
    operator: Operator,
    providers: Vec<Provider>,
    seal: RequestSeal,
    opened: Vec<Opened>,
}

fn scene() -> Scene {
    let operator = Operator::new();
    let mut providers: Vec<_> = ["a", "b", "c"].map(|label| Provider::new(&operator, label, BEGIN)).into();
    let header = SealedHeader {
        network: operator.public.network,
        suite: Suite::XWingAes256Gcm,
        request: RequestId([3; 16]),
        operation: OperationId([4; 16]),
        model: operator.model,
        kind: RequestKind::Chat,
        stream: true,
        input_ceiling: TokenCount(256),
        output_ceiling: TokenCount(64),
        price_version: PRICE.version,
        price_max: NanoDollars(25_600),
        tier_min: Tier::None,
        affinity: [6; 16],
        sealed_at: BEGIN,
        recipients: Digest([0; 32]),
        key_commitment: Digest([0; 32]),
    };
    let recipients: Vec<_> = providers
        .iter()
        .map(|provider| darkbloom_seal::Recipient {
            provider: provider.id,
            epoch: provider.epoch,
            sealing_key: &provider.statement.sealing_key,
        })
        .collect();
    let seal = seal_request(header, &SecretBytes::new(vec![1]), &recipients, &mut clock::rng()).unwrap();
    let submit = &seal.submit;
    let open = |(provider, wrap): (&mut Provider, &darkbloom_wire::Wrap)| {
        provider.ring.open(&submit.header, &submit.body, wrap, BEGIN).unwrap().1
    };
    let opened = providers.iter_mut().zip(&submit.wraps.0).take(2).map(open).collect();
    Scene { operator, providers, seal, opened }
}

impl Scene {
    /// What a provider seals beside its refusal.
    fn sealed(&self, provider: usize, event: &AnswerEvent) -> Vec<u8> {
        let (secret, digest) = (&self.opened[provider].response_secret, &self.opened[provider].request_digest);
        seal_refusal(secret, digest, &[7; 32], event.to_cbor().expose()).unwrap()
    }

    fn words(&self, provider: usize, code: RefusalCode) -> Vec<u8> {
        self.sealed(provider, &AnswerEvent::Failure { code, detail: SecretString::from("words") })
    }

    /// What the client makes of a refusal after these attempts.
    fn read(&self, code: RefusalCode, attempts: &[(usize, u16)], sealed: Option<Vec<u8>>) -> Result<Refusal, Refusal> {
        let attempt =
            |&(provider, outcome): &(usize, u16)| AttemptRecord { provider: self.providers[provider].id, outcome };
        let frame = RelayedRefused {
            code: code.number(),
            detail: "detail".to_owned(),
            retry_after: None,
            sealed,
            attempts: attempts.iter().map(attempt).collect::<Vec<_>>().into(),
            bill: None,
            timing: None,
        };
        let recipients = self.providers.iter().map(|provider| (provider.id, provider.epoch));
        refusal_of(&frame, &self.seal, recipients)
    }

    fn agreed(&self) -> Agreed {
        let header = &self.seal.header;
        Agreed { operation: header.operation, request: header.request, price: PRICE, price_max: header.price_max }
    }

    /// The bill of an answer of which ten tokens arrived.
    fn bill(&self) -> Bill {
        Bill {
            operation: self.seal.header.operation,
            request: self.seal.header.request,
            receipt: None,
            price: PRICE,
            hold: self.seal.header.price_max,
            charge: NanoDollars(2_000),
            input_tokens: TokenCount(0),
            output_tokens: TokenCount(10),
            settled_at: BEGIN,
        }
    }

    fn charge(&self, bill: &Bill, arrived: u32) -> Result<NanoDollars, Refusal> {
        self.agreed().charge_of_cut(&bill.sign(&self.operator.key).unwrap(), arrived, &self.operator.public.key)
    }
}

fn is_lie(outcome: &Result<Refusal, Refusal>) -> bool {
    outcome.as_ref().is_err_and(|refusal| refusal.code == RefusalCode::VerificationFailed)
}

const OVERLOADED: RefusalCode = RefusalCode::Overloaded;
const INVALID: RefusalCode = RefusalCode::InvalidRequest;

#[test]
fn words_that_agree_leave_the_refusal_as_it_came() {
    let scene = scene();
    let read = scene.read(INVALID, &[(0, OVERLOADED.number()), (1, INVALID.number())], Some(scene.words(1, INVALID)));
    assert_eq!(read, Ok(Refusal::new(INVALID, "detail")));
    assert_eq!(scene.read(INVALID, &[(0, INVALID.number())], None), Ok(Refusal::new(INVALID, "detail")));
}

#[test]
fn sealed_words_that_do_not_open_are_a_lie() {
    let scene = scene();
    let attempts = [(0, INVALID.number())];
    let mut changed = scene.words(0, INVALID);
    changed[40] ^= 1;
    let of_another_request = self::scene().words(0, INVALID);
    for sealed in [changed, vec![], vec![0; 1_072], scene.words(0, INVALID)[..1_071].to_vec(), of_another_request] {
        assert!(is_lie(&scene.read(INVALID, &attempts, Some(sealed))));
    }
}

#[test]
fn sealed_words_that_are_no_refusal_are_a_lie() {
    let scene = scene();
    let finish =
        AnswerEvent::Finish { reason: FinishReason::Stop, input_tokens: TokenCount(1), output_tokens: TokenCount(1) };
    let attempts = [(0, INVALID.number())];
    assert!(is_lie(&scene.read(INVALID, &attempts, Some(scene.sealed(0, &finish)))));
}

#[test]
fn a_reason_in_clear_that_the_provider_did_not_give_is_a_lie() {
    let scene = scene();
    let said = |said, recorded: RefusalCode, clear| {
        is_lie(&scene.read(clear, &[(0, recorded.number())], Some(scene.words(0, said))))
    };
    assert!(said(OVERLOADED, OVERLOADED, INVALID), "another reason of a provider");
    assert!(said(INVALID, OVERLOADED, OVERLOADED), "the record says something else");
    assert!(said(INVALID, INVALID, RefusalCode::NoCapacity), "a final word is passed on");
    assert!(said(RefusalCode::ContextLengthExceeded, INVALID, INVALID));
    // The provider whose words came must have been asked.
    assert!(is_lie(&scene.read(OVERLOADED, &[(1, OVERLOADED.number())], Some(scene.words(0, OVERLOADED)))));
    assert!(is_lie(&scene.read(OVERLOADED, &[], Some(scene.words(0, OVERLOADED)))));
}

#[test]
fn a_coordinator_may_give_up_for_a_reason_of_its_own_after_a_provider_was_busy() {
    let scene = scene();
    let busy = [(0, OVERLOADED.number())];
    for own in [RefusalCode::NoCapacity, RefusalCode::Timeout, RefusalCode::ProviderLost, RefusalCode::Internal] {
        assert!(scene.read(own, &busy, Some(scene.words(0, OVERLOADED))).is_ok(), "{own}");
    }
    // Another provider was lost after it; and one answered, and broke off.
    let then_lost = [(0, OVERLOADED.number()), (1, RefusalCode::ProviderLost.number())];
    assert!(scene.read(RefusalCode::ProviderLost, &then_lost, Some(scene.words(0, OVERLOADED))).is_ok());
    let then_cut = [(0, OVERLOADED.number()), (1, 0)];
    assert!(scene.read(RefusalCode::AnswerCut, &then_cut, Some(scene.words(0, OVERLOADED))).is_ok());
}

#[test]
fn a_word_that_is_not_a_providers_is_passed_on_as_a_lost_provider() {
    let scene = scene();
    let not_its = RefusalCode::InvalidApiKey;
    let lost = [(0, RefusalCode::ProviderLost.number())];
    assert!(scene.read(RefusalCode::ProviderLost, &lost, Some(scene.words(0, not_its))).is_ok());
    assert!(is_lie(&scene.read(not_its, &[(0, not_its.number())], Some(scene.words(0, not_its)))));
}

#[test]
fn a_detail_from_the_network_cannot_drive_a_terminal() {
    let scene = scene();
    let frame = RelayedRefused {
        code: INVALID.number(),
        detail: "\u{1b}[2Jx\nerror: y".to_owned(),
        retry_after: None,
        sealed: None,
        attempts: vec![].into(),
        bill: None,
        timing: None,
    };
    let refusal = refusal_of(&frame, &scene.seal, std::iter::empty()).unwrap();
    assert_eq!(refusal.detail, "\\u{1b}[2Jx\\u{a}error: y");
}

#[test]
fn the_bill_of_a_cut_answer_is_for_what_arrived() {
    let scene = scene();
    assert_eq!(scene.charge(&scene.bill(), 10), Ok(NanoDollars(2_000)));
    assert_eq!(scene.charge(&scene.bill(), 11), Ok(NanoDollars(2_000)));
    let nothing = Bill { charge: NanoDollars(0), output_tokens: TokenCount(0), ..scene.bill() };
    assert_eq!(scene.charge(&nothing, 0), Ok(NanoDollars(0)));
}

#[test]
fn a_bill_of_a_cut_answer_for_more_is_refused() {
    let scene = scene();
    let bills = [
        ("output token count", Bill { charge: NanoDollars(2_200), output_tokens: TokenCount(11), ..scene.bill() }),
        ("input token count", Bill { charge: NanoDollars(2_050), input_tokens: TokenCount(1), ..scene.bill() }),
        ("charge", Bill { charge: NanoDollars(2_001), ..scene.bill() }),
        ("hold", Bill { hold: NanoDollars(25_601), ..scene.bill() }),
        ("price", Bill { price: Price { version: 4, ..PRICE }, ..scene.bill() }),
        ("receipt", Bill { receipt: Some(ReceiptId([1; 32])), ..scene.bill() }),
        ("operation", Bill { operation: OperationId([9; 16]), ..scene.bill() }),
        ("request", Bill { request: RequestId([9; 16]), ..scene.bill() }),
    ];
    for (what, bill) in bills {
        let refused = scene.charge(&bill, 10).unwrap_err();
        assert_eq!(refused.code, RefusalCode::VerificationFailed);
        assert!(refused.detail.contains(what), "{what}: {}", refused.detail);
    }
    let forged = scene.bill().sign(&scene.providers[0].key).unwrap();
    assert!(scene.agreed().charge_of_cut(&forged, 10, &scene.operator.public.key).is_err());
}

#[test]
fn words_that_are_a_lie_hide_no_charge() {
    let scene = scene();
    let attempts = [(0, INVALID.number())];
    let bill = scene.bill().sign(&scene.operator.key).unwrap();
    let with_cost = |words, bill: Option<&[u8]>| {
        let key = &scene.operator.public.key;
        scene.agreed().with_cost(words, bill, 10, key)
    };
    let lie = || scene.read(INVALID, &attempts, Some(vec![0; 1_072]));
    assert!(is_lie(&lie()));

    let (refusal, charge) = with_cost(lie(), Some(&bill));
    assert_eq!((refusal.code, charge), (RefusalCode::VerificationFailed, Some(NanoDollars(2_000))));
    assert!(refusal.detail.contains("do not open; 10 tokens arrived and cost "), "{refusal}");
    let (refusal, charge) = with_cost(scene.read(INVALID, &attempts, None), Some(&bill));
    assert_eq!((refusal.code, charge), (INVALID, Some(NanoDollars(2_000))));
    assert!(refusal.detail.starts_with("detail; 10 tokens arrived"), "{refusal}");
    let (refusal, charge) = with_cost(lie(), None);
    assert_eq!((Err(refusal), charge), (lie(), None));

    // A bill that is no better: both lies are named, and nothing counts as charged.
    let dear = Bill { charge: NanoDollars(2_001), ..scene.bill() }.sign(&scene.operator.key).unwrap();
    let (refusal, charge) = with_cost(lie(), Some(&dear));
    assert_eq!((refusal.code, charge), (RefusalCode::VerificationFailed, None));
    assert!(refusal.detail.contains("do not open; of a cut answer: "), "{refusal}");
    let (refusal, charge) = with_cost(scene.read(INVALID, &attempts, None), Some(&dear));
    assert_eq!((refusal.code, charge), (RefusalCode::VerificationFailed, None));
}

#[test]
fn a_reason_that_the_answer_contradicts_is_a_lie() {
    let (stop, length) = (FinishReason::Stop, FinishReason::Length);
    for (reason, over, tokens, holds) in [
        (stop, true, 5, true),
        (stop, true, 64, true),
        (stop, false, 0, true),
        (stop, false, 63, true),
        (stop, false, 64, false),
        (length, false, 64, true),
        // The provider's row may have been shorter.
        (length, false, 5, true),
        (length, true, 5, false),
        (length, true, 64, false),
    ] {
        let checked = check_reason(reason, Recounted { over, called: false }, TokenCount(tokens), TokenCount(64));
        let lied = checked.as_ref().is_err_and(|refusal| refusal.code == RefusalCode::VerificationFailed);
        assert_eq!((checked.is_ok(), lied), (holds, !holds), "{reason:?}, {over}, {tokens}");
    }
}

#[test]
fn turns_of_a_conversation_have_one_name_and_others_have_others() {
    let secret = |n| PrefixSecret::new([n; 32]);
    let said =
        |words: &[(Role, &str)]| -> Vec<_> { words.iter().map(|(role, text)| Message::new(*role, *text)).collect() };
    let first = said(&[(Role::System, "be brief"), (Role::User, "who was it?")]);
    let next =
        said(&[(Role::System, "be brief"), (Role::User, "who was it?"), (Role::Assistant, "he"), (Role::User, "why?")]);
    let name = conversation_tag(&secret(1), &first);
    assert_eq!(conversation_tag(&secret(1), &next), name);
    let others = [
        conversation_tag(&secret(2), &first),
        conversation_tag(&secret(1), &first[1..]),
        conversation_tag(&secret(1), &said(&[(Role::System, "be brief"), (Role::User, "who was she?")])),
        conversation_tag(&secret(1), &said(&[(Role::System, "be briefuser:who was it?")])),
    ];
    assert!(others.iter().all(|other| *other != name));
}
