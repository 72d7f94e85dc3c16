//! Golden vectors of a sealed request and an answer; `docs/vectors/README.md` explains the fields.

use darkbloom_seal::{Acceptance, AnswerOpener, AnswerSealer, Transcript, open_refusal, seal_refusal};
use darkbloom_types::{AttemptNumber, Digest, Micros, RequestId, TokenCount, UnixMillis};
use darkbloom_wire::{ClientFrame, Receipt, receipt_id};
use hpke::{Kem as _, Serializable as _};
use serde_json::{Value, json};

use crate::fixed::FixedRng;
use crate::golden;
use crate::parties::{Provider, header, open, seal};
use crate::reference;

const LABELS: [&str; 2] = ["darkbloom vector provider 1", "darkbloom vector provider 2"];
const CLIENT: &str = "darkbloom vector client";
const PLAINTEXT: &[u8] = b"The quick brown fox jumps over the lazy dog.";

fn providers() -> [Provider; 2] {
    LABELS.map(Provider::new)
}

#[test]
fn the_sealed_request_is_as_published() {
    let mut providers = providers();
    let [one, two] = &providers;
    let sealed = seal(header(), PLAINTEXT, &[one, two], CLIENT);
    let submit = &sealed.submit;
    let mut content_key = Vec::new();
    let mut recipients: Vec<Value> = Vec::new();
    for ((index, provider), label) in providers.iter_mut().enumerate().zip(LABELS) {
        let (private, public) = hpke::kem::XWing::gen_keypair_with_rng(&mut FixedRng::new(label));
        let wrap = &submit.wraps.0[index];
        let opened = reference::open(&private, &submit.header, &submit.body, wrap);
        assert_eq!(opened.plaintext, PLAINTEXT);
        assert_eq!(open(provider, &sealed, index).unwrap().plaintext.expose(), PLAINTEXT);
        content_key = opened.content_key.to_vec();
        recipients.push(json!({
            "private_key": hex::encode(private.to_bytes()),
            "sealing_key": hex::encode(public.to_bytes()),
            "identity": hex::encode(provider.identity),
            "provider": provider.id,
            "epoch": provider.current(),
            "encapsulation": hex::encode(&wrap.encapsulation),
            "wrap_ciphertext": hex::encode(&wrap.ciphertext),
            "response_secret": hex::encode(opened.response_secret),
        }));
    }
    let content_key: [u8; 32] = content_key.try_into().unwrap();
    golden::check(
        "sealed-request.json",
        &json!({
            "plaintext": hex::encode(PLAINTEXT),
            "header": hex::encode(&submit.header),
            "header_digest": Digest::of(&[&submit.header]),
            "content_key": hex::encode(content_key),
            "key_commitment": sealed.header.key_commitment,
            "body_key": hex::encode(reference::body_key(&content_key, &submit.header)),
            "body": hex::encode(&submit.body),
            "body_digest": Digest::of(&[&submit.body]),
            "recipient_list_digest": sealed.header.recipients,
            "recipients": recipients,
            "request_digest": sealed.request_digest,
            "submit_frame": hex::encode(ClientFrame::from(submit.clone()).encode()),
        }),
    );
}

fn receipt(acceptance: &Acceptance, request_id: RequestId, transcript: Digest) -> Receipt {
    Receipt {
        request: acceptance.request_digest,
        request_id,
        attempt: acceptance.attempt,
        transcript,
        model: header().model,
        weights: Digest([0x66; 32]),
        provider: acceptance.provider,
        epoch: acceptance.epoch,
        input_tokens: TokenCount(12),
        output_tokens: TokenCount(8),
        queue_us: Micros(1_000),
        prefill_us: Micros(20_000),
        decode_us: Micros(300_000),
        finished_at: UnixMillis(header().sealed_at.0 + 400),
    }
}

#[test]
fn the_answer_is_as_published() {
    let [one, mut two] = providers();
    let sealed = seal(header(), PLAINTEXT, &[&one, &two], CLIENT);
    let opened = open(&mut two, &sealed, 1).unwrap();
    let secret = sealed.response_secret(&two.id, &two.current()).unwrap();
    let acceptance = Acceptance {
        request_digest: sealed.request_digest,
        provider: two.id,
        epoch: two.current(),
        attempt: AttemptNumber(2),
        salt: [0x77; 32],
    };
    let (private, _) = hpke::kem::XWing::gen_keypair_with_rng(&mut FixedRng::new(LABELS[1]));
    let submit = &sealed.submit;
    let response_secret = reference::open(&private, &submit.header, &submit.body, &submit.wraps.0[1]).response_secret;
    let (key, nonce_base) = reference::answer_key(&response_secret, &acceptance);

    let mut sealer = AnswerSealer::new(&opened.response_secret, &acceptance);
    let mut opener = AnswerOpener::new(secret, &acceptance);
    let mut frames = Vec::new();
    for (content, size, tokens, end) in
        [(&b"Pack my box"[..], 64, 1, false), (b" with five dozen liquor jugs.", 256, 7, false), (b"", 64, 8, true)]
    {
        let frame = sealer.seal(content, size, TokenCount(tokens), end).unwrap();
        assert_eq!(opener.open(&frame).unwrap().expose(), content);
        let nonce = reference::frame_nonce(nonce_base, frame.sequence);
        let aad = [&frame.sequence.to_be_bytes()[..], &tokens.to_be_bytes(), &[u8::from(end)]].concat();
        assert_eq!(frame.ciphertext, reference::encrypt(&key, &nonce, &aad, &reference::padded(content, size)));
        frames.push(json!({
            "sequence": frame.sequence,
            "tokens": tokens,
            "end": end,
            "size": size,
            "nonce": hex::encode(nonce),
            "aad": hex::encode(aad),
            "content": hex::encode(content),
            "ciphertext": hex::encode(&frame.ciphertext),
            "transcript_after": sealer.transcript(),
        }));
    }
    assert!(opener.ended());

    let words = b"the prompt has 300 tokens, its header allows 256";
    let refusal = seal_refusal(&opened.response_secret, &sealed.request_digest, &[0x88; 32], words).unwrap();
    assert_eq!(open_refusal(secret, &sealed.request_digest, &refusal).unwrap().expose(), words);
    let signed =
        receipt(&acceptance, sealed.header.request, sealer.transcript()).sign(&*two.ring.current().receipt_key());
    let signed = signed.unwrap();
    golden::check(
        "answer.json",
        &json!({
            "acceptance": {
                "request_digest": acceptance.request_digest,
                "provider": acceptance.provider,
                "epoch": acceptance.epoch,
                "attempt": acceptance.attempt,
                "salt": hex::encode(acceptance.salt),
            },
            "response_secret": hex::encode(response_secret),
            "answer_key": hex::encode(key),
            "nonce_base": hex::encode(nonce_base),
            "transcript_begin": Transcript::begin(&acceptance).digest(),
            "frames": frames,
            "transcript": sealer.transcript(),
            "receipt_key": hex::encode(two.ring.current().receipt_key().verifying_key().to_bytes()),
            "receipt": hex::encode(&signed),
            "receipt_id": receipt_id(&signed),
            "refusal": {
                "salt": hex::encode([0x88; 32]),
                "words": hex::encode(words),
                "key": hex::encode::<[u8; 32]>(reference::hkdf(
                    &[0x88; 32],
                    &response_secret,
                    &[b"darkbloom/v1/refusal", &sealed.request_digest.0],
                )),
                "sealed": hex::encode(&refusal),
            },
        }),
    );
}
