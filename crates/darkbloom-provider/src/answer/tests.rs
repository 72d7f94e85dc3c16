//! What the sizes of an answer's frames say, with the model that ships with the repository.

use std::fs::File;
use std::path::Path;

use darkbloom_seal::{Acceptance, AnswerOpener, Epoch, EpochRing, Opened, Recipient, seal_request};
use darkbloom_text::{TextModel, TextPack};
use darkbloom_types::{
    AttemptNumber, CatalogueDigest, Digest, NanoDollars, NetworkId, OperationId, ProviderId, RequestId, SecretBytes,
    Tier, UnixMillis,
};
use darkbloom_wire::{RequestKind, SealedHeader, Suite};

use super::*;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
/// Ordinary tokens of the model; control tokens follow them.
const ORDINARY: u32 = 441;

fn model() -> TextModel {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/darkbloom-tiny-q8_0.gguf");
    TextModel::new(TextPack::from_gguf(File::open(path).unwrap()).unwrap()).unwrap()
}

fn opened() -> (Opened, Acceptance) {
    let network = NetworkId([1; 32]);
    let provider = ProviderId([2; 32]);
    let mut rng = darkbloom_host::clock::rng();
    let epoch = Epoch::begin([4; 65], NOW, &mut rng);
    let (id, key) = (epoch.id(), epoch.statement(network, vec![], vec![], "").sealing_key);
    let header = SealedHeader {
        network,
        suite: Suite::XWingAes256Gcm,
        request: RequestId([3; 16]),
        operation: OperationId([4; 16]),
        model: CatalogueDigest([5; 32]),
        kind: RequestKind::Chat,
        stream: true,
        input_ceiling: TokenCount(64),
        output_ceiling: TokenCount(64),
        price_version: 1,
        price_max: NanoDollars(1),
        tier_min: Tier::None,
        affinity: [6; 16],
        sealed_at: NOW,
        recipients: Digest([0; 32]),
        key_commitment: Digest([0; 32]),
    };
    let to = Recipient { provider, epoch: id, sealing_key: &key };
    let sealed = seal_request(header, &SecretBytes::new(b"hello".to_vec()), &[to], &mut rng).unwrap();
    let submit = &sealed.submit;
    let (_, opened) =
        EpochRing::new(network, epoch).open(&submit.header, &submit.body, &submit.wraps.0[0], NOW).unwrap();
    let acceptance = Acceptance {
        request_digest: opened.request_digest,
        provider,
        epoch: id,
        attempt: AttemptNumber(1),
        salt: [7; 32],
    };
    (opened, acceptance)
}

/// An answer of these tokens, flushed whenever so many more are there; the frames, and the text as the client reads it.
fn written(model: &TextModel, tokens: &[u32], flushes: &[usize]) -> (Vec<SealedFrame>, String) {
    let (opened, acceptance) = opened();
    let sealer = AnswerSealer::new(&opened.response_secret, &acceptance);
    let mut writer = AnswerWriter::new(sealer, AnswerAssembler::new(model.decoder(), &[]));
    let (mut frames, mut flushes) = (Vec::new(), flushes.iter().cycle());
    let mut next = *flushes.next().unwrap();
    for token in tokens {
        writer.push(TokenId(*token));
        if writer.waiting() >= next {
            frames.extend(writer.flush().unwrap());
            next = *flushes.next().unwrap();
        }
    }
    frames.extend(writer.finish(FinishReason::Stop, TokenCount(5)).unwrap());
    let mut opener = AnswerOpener::new(&opened.response_secret, &acceptance);
    let mut text = String::new();
    for frame in &frames {
        if let AnswerEvent::Delta { text: piece, .. } =
            AnswerEvent::from_cbor(opener.open(frame).unwrap().expose()).unwrap()
        {
            text.push_str(piece.expose());
        }
    }
    assert!(opener.ended());
    assert_eq!(opener.tokens(), writer.total());
    (frames, text)
}

/// The ordinary tokens that are whole text by themselves, shortest text first.
fn by_length(model: &TextModel) -> Vec<u32> {
    let text = |token: u32| {
        let mut assembler = AnswerAssembler::new(model.decoder(), &[]);
        assembler.push(TokenId(token)).0.expose().len()
    };
    let mut tokens: Vec<_> = (0..ORDINARY).filter(|token| text(*token) > 0).collect();
    tokens.sort_by_key(|token| text(*token));
    tokens
}

#[test]
fn two_answers_of_equal_token_counts_have_frames_of_equal_sizes() {
    let model = model();
    let tokens = by_length(&model);
    let (short, long) = (tokens[0], *tokens.last().unwrap());
    for flushes in [&[1][..], &[1, 3, 7, 2], &[6, 25, 26], &[100], &[1_000]] {
        for count in [0, 1, 2, 6, 7, 60, 401, 900] {
            let (short_frames, short_text) = written(&model, &vec![short; count], flushes);
            let (long_frames, long_text) = written(&model, &vec![long; count], flushes);
            assert!(count == 0 || long_text.len() >= 4 * short_text.len(), "the texts differ much in length");
            let seen = |frames: &[SealedFrame]| {
                frames
                    .iter()
                    .map(|frame| (frame.sequence, frame.tokens, frame.end, frame.ciphertext.len()))
                    .collect::<Vec<_>>()
            };
            assert_eq!(seen(&short_frames), seen(&long_frames), "{count} tokens");
        }
    }
}
