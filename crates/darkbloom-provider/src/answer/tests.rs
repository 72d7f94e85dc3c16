//! What the sizes of an answer's frames say, with the model that ships with the repository.

use std::fs::File;
use std::path::Path;
use std::sync::OnceLock;

use darkbloom_content::{AnswerPart, ChatRequest, PartKind, Tool};
use darkbloom_seal::{Acceptance, AnswerOpener, Epoch, EpochRing, Opened, Recipient, seal_request};
use darkbloom_text::gguf::{Value, read_metadata};
use darkbloom_text::{AnswerRecount, Opening, TextModel, TextPack};
use darkbloom_types::{
    AttemptNumber, CatalogueDigest, Digest, NanoDollars, NetworkId, OperationId, ProviderId, RequestId, SecretBytes,
    SecretString, Tier, UnixMillis,
};
use darkbloom_wire::{RequestKind, SealedHeader, Suite};
use proptest::prelude::*;

use super::*;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
/// Ordinary tokens of the model; control tokens follow them.
const ORDINARY: u32 = 441;

fn model() -> TextModel {
    static MODEL: OnceLock<TextModel> = OnceLock::new();
    let built = MODEL.get_or_init(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/darkbloom-tiny-q8_0.gguf");
        TextModel::new(TextPack::from_gguf(File::open(path).unwrap()).unwrap()).unwrap()
    });
    built.clone()
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

fn request(stops: &[SecretString]) -> ChatRequest {
    ChatRequest { stop: stops.to_vec(), ..ChatRequest::new(Vec::new()) }
}

fn assembler(model: &TextModel, stops: &[SecretString]) -> AnswerAssembler {
    AnswerAssembler::new(model, &request(stops), Opening::Free)
}

/// What parts say, of whatever kind.
fn text(parts: &AnswerParts) -> String {
    parts.iter().map(|part| part.text.expose()).collect()
}

/// An answer of these tokens, flushed whenever so many more are there; the frames, and the text as the client reads it.
fn written(model: &TextModel, tokens: &[u32], stops: &[SecretString], flushes: &[usize]) -> (Vec<SealedFrame>, String) {
    let (opened, acceptance) = opened();
    let sealer = AnswerSealer::new(&opened.response_secret, &acceptance);
    let mut writer = AnswerWriter::new(sealer, assembler(model, stops), token_text_max(model));
    let (mut frames, mut flushes) = (Vec::new(), flushes.iter().cycle());
    let mut next = *flushes.next().unwrap();
    for token in tokens {
        if writer.push(TokenId(*token)) {
            break;
        }
        if writer.waiting() >= next {
            frames.extend(writer.flush().unwrap());
            next = *flushes.next().unwrap();
        }
    }
    frames.extend(writer.finish(FinishReason::Stop, TokenCount(5)).unwrap());
    let text = read(&opened, &acceptance, &frames, writer.total());
    let mut recount = AnswerRecount::new(model, &request(stops), Opening::Free);
    for (tokens, parts) in deltas(&opened, &acceptance, &frames) {
        recount.push(&tokens, parts).unwrap();
    }
    recount.finish().unwrap();
    (frames, text)
}

/// The tokens and parts of the frames.
fn deltas(opened: &Opened, acceptance: &Acceptance, frames: &[SealedFrame]) -> Vec<(Vec<TokenId>, AnswerParts)> {
    let mut opener = AnswerOpener::new(&opened.response_secret, acceptance);
    let events = frames.iter().map(|frame| AnswerEvent::from_cbor(opener.open(frame).unwrap().expose()).unwrap());
    let deltas = events.filter_map(|event| match event {
        AnswerEvent::Delta { tokens, parts } => Some((tokens, parts)),
        AnswerEvent::Finish { .. } | AnswerEvent::Failure { .. } => None,
    });
    let deltas = deltas.collect();
    assert!(opener.ended());
    deltas
}

/// The text as the client reads it.
fn read(opened: &Opened, acceptance: &Acceptance, frames: &[SealedFrame], total: TokenCount) -> String {
    let deltas = deltas(opened, acceptance, frames);
    assert_eq!(deltas.iter().map(|(tokens, _)| tokens.len()).sum::<usize>(), total.0 as usize);
    assert!(frames.last().is_some_and(|last| last.tokens == total));
    deltas.iter().map(|(_, parts)| text(parts)).collect()
}

/// What the coordinator sees of each frame.
fn seen(frames: &[SealedFrame]) -> Vec<(u32, TokenCount, bool, usize)> {
    frames.iter().map(|frame| (frame.sequence, frame.tokens, frame.end, frame.ciphertext.len())).collect()
}

/// An answer whose tokens bring texts of these lengths, flushed after so many tokens in turn.
fn of_lengths(model: &TextModel, token_text_max: usize, lengths: &[usize], flushes: &[usize]) -> Vec<SealedFrame> {
    of_parts(
        model,
        token_text_max,
        &lengths.iter().map(|length| (PartKind::Text, *length)).collect::<Vec<_>>(),
        flushes,
    )
}

/// The same, of parts of these kinds.
fn of_parts(
    model: &TextModel,
    token_text_max: usize,
    parts: &[(PartKind, usize)],
    flushes: &[usize],
) -> Vec<SealedFrame> {
    let (opened, acceptance) = opened();
    let sealer = AnswerSealer::new(&opened.response_secret, &acceptance);
    let mut writer = AnswerWriter::new(sealer, assembler(model, &[]), token_text_max);
    writer.assembler = None;
    let (mut frames, mut flushes, mut whole) = (Vec::new(), flushes.iter().cycle(), String::new());
    let mut next = *flushes.next().unwrap();
    for (at, (kind, length)) in parts.iter().enumerate() {
        // Characters of three bytes where they fit, so that cuts find no boundary where they want one.
        let mut text = "\u{20ac}".repeat(length / 3);
        text.push_str(&"xy"[..length % 3]);
        // Numbers of every length: small ones leave more room than the bound counts on.
        let mut part = AnswerParts::default();
        part.push(*kind, &text);
        writer.take(TokenId(if at % 3 == 0 { 7 } else { u32::MAX }), &part);
        whole.push_str(&text);
        if writer.waiting() >= next {
            frames.extend(writer.flush().unwrap());
            next = *flushes.next().unwrap();
        }
    }
    frames.extend(writer.finish(FinishReason::Stop, TokenCount(5)).unwrap());
    assert_eq!(read(&opened, &acceptance, &frames, writer.total()), whole, "nothing is lost");
    frames
}

/// The same vocabulary with a template that knows tools and thoughts.
fn calling_model() -> TextModel {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/darkbloom-tiny-q8_0.gguf");
    let mut metadata = read_metadata(File::open(path).unwrap()).unwrap();
    let template = "{% for tool in tools or [] %}<tool_call>{{ tool | tojson }}{% endfor %}{% for m in messages %}<think>\
                    {{ m.content }}{{ m.tool_calls | tojson }}{% endfor %}";
    metadata.entries.insert("tokenizer.chat_template".to_owned(), Value::Text(template.to_owned()));
    let model = TextModel::new(TextPack::from_metadata(&metadata).unwrap()).unwrap();
    assert!(model.takes_tools());
    model
}

/// The frames of an answer to a request with a tool, which the client's recount accepts; and what it says.
fn called(model: &TextModel, answer: &[TokenId], flushes: &[usize]) -> (Vec<SealedFrame>, AnswerParts) {
    let (opened, acceptance) = opened();
    let tool = Tool { name: "f".into(), description: "".into(), parameters: "{}".into() };
    let request = ChatRequest { tools: vec![tool], ..request(&[]) };
    let sealer = AnswerSealer::new(&opened.response_secret, &acceptance);
    let assembler = AnswerAssembler::new(model, &request, Opening::Free);
    let mut writer = AnswerWriter::new(sealer, assembler, token_text_max(model));
    let (mut frames, mut flushes) = (Vec::new(), flushes.iter().cycle());
    let mut next = *flushes.next().unwrap();
    for token in answer {
        assert!(!writer.push(*token));
        if writer.waiting() >= next {
            frames.extend(writer.flush().unwrap());
            next = *flushes.next().unwrap();
        }
    }
    let reason = writer.turn_ended();
    frames.extend(writer.finish(reason, TokenCount(5)).unwrap());
    let (mut recount, mut all) = (AnswerRecount::new(model, &request, Opening::Free), AnswerParts::default());
    for (tokens, parts) in deltas(&opened, &acceptance, &frames) {
        all.append(&parts);
        recount.push(&tokens, parts).unwrap();
    }
    let recounted = recount.finish().unwrap();
    assert_eq!(reason, if recounted.called { FinishReason::ToolCalls } else { FinishReason::Stop });
    (frames, all)
}

/// The tokens of a text in which markers are the model's own tokens.
fn marked_tokens(model: &TextModel, text: &str) -> Vec<TokenId> {
    let (mut tokens, mut rest) = (Vec::new(), text);
    let all = || (0..u32::try_from(model.vocabulary()).unwrap()).map(TokenId);
    let marker = |text: &str| all().find(|token| model.token_bytes(*token) == Some(text.as_bytes())).unwrap();
    while !rest.is_empty() {
        let marks = ["<think>", "</think>", "<tool_call>", "</tool_call>"];
        let first = marks.iter().filter_map(|mark| Some((rest.find(mark)?, *mark))).min();
        let (at, mark) = first.unwrap_or((rest.len(), ""));
        tokens.extend(model.text_tokens(&rest[..at]).expose());
        tokens.extend((!mark.is_empty()).then(|| marker(mark)));
        rest = &rest[at + mark.len()..];
    }
    tokens
}

#[test]
fn thoughts_and_calls_do_not_show_in_number_or_sizes_of_frames() {
    let model = calling_model();
    let call = "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": [1, 2]}}</tool_call>";
    let mut answer = Vec::new();
    for text in ["<think>hm, so it is</think>", "Look.", call, call, "And then", call] {
        answer.extend(marked_tokens(&model, text));
    }
    let plain = vec![model.text_tokens("a").expose()[0]; answer.len()];
    for flushes in [&[1][..], &[1, 3, 7, 2], &[25], &[1_000]] {
        let (frames, said) = called(&model, &answer, flushes);
        let kinds: Vec<_> = said.iter().map(|part| part.kind).collect();
        let (text, reasoning) = (PartKind::Text, PartKind::Reasoning);
        let (name, arguments) = (PartKind::CallName, PartKind::CallArguments);
        assert_eq!(kinds, [reasoning, text, name, arguments, name, arguments, text, name, arguments]);
        assert_eq!(said.iter().last(), Some(&AnswerPart { kind: arguments, text: "{\"a\": [1, 2]}".into() }));
        assert_eq!(seen(&frames), seen(&called(&model, &plain, flushes).0));
    }
}

#[test]
fn an_answer_that_ran_out_of_room_in_front_of_a_stop_string_ended_itself() {
    let model = calling_model();
    let (opened, acceptance) = opened();
    let tool = Tool { name: "f".into(), description: "".into(), parameters: "{}".into() };
    for (answer, stops, expected) in [
        // What was held back for a call is text, and that has the stop string.
        ("So <tool_call>{\"name\"", &["{\"na"][..], FinishReason::Stop),
        ("So <tool_call>{\"name\"", &["no"][..], FinishReason::Length),
        ("<tool_call>{\"name\": \"f\"}</tool_call>So <tool_call>{\"name\"", &["{\"na"][..], FinishReason::ToolCalls),
    ] {
        let stop: Vec<_> = stops.iter().map(|stop| SecretString::from(*stop)).collect();
        let request = ChatRequest { tools: vec![tool.clone()], ..request(&stop) };
        let sealer = AnswerSealer::new(&opened.response_secret, &acceptance);
        let assembler = AnswerAssembler::new(&model, &request, Opening::Free);
        let mut writer = AnswerWriter::new(sealer, assembler, token_text_max(&model));
        for token in marked_tokens(&model, answer) {
            assert!(!writer.push(token));
        }
        let frames = writer.finish(FinishReason::Length, TokenCount(5)).unwrap();
        let mut opener = AnswerOpener::new(&opened.response_secret, &acceptance);
        let events = frames.iter().map(|frame| AnswerEvent::from_cbor(opener.open(frame).unwrap().expose()).unwrap());
        let reason = events.into_iter().find_map(|event| match event {
            AnswerEvent::Finish { reason, .. } => Some(reason),
            AnswerEvent::Delta { .. } | AnswerEvent::Failure { .. } => None,
        });
        assert_eq!(reason, Some(expected));
        let mut recount = AnswerRecount::new(&model, &request, Opening::Free);
        for (tokens, parts) in deltas(&opened, &acceptance, &frames) {
            recount.push(&tokens, parts).unwrap();
        }
        let recounted = recount.finish().unwrap();
        assert_eq!(
            (recounted.over, recounted.called),
            (expected != FinishReason::Length, expected == FinishReason::ToolCalls)
        );
    }
}

/// The ordinary tokens that are whole text by themselves, shortest text first.
fn by_length(model: &TextModel) -> Vec<u32> {
    let text = |token: u32| assembler(model, &[]).push(TokenId(token)).0.len();
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
            let (short_frames, short_text) = written(&model, &vec![short; count], &[], flushes);
            let (long_frames, long_text) = written(&model, &vec![long; count], &[], flushes);
            assert!(count == 0 || long_text.len() >= 4 * short_text.len(), "the texts differ much in length");
            assert_eq!(seen(&short_frames), seen(&long_frames), "{count} tokens");
        }
    }
}

#[test]
fn long_tokens_do_not_show_in_number_or_sizes_of_frames() {
    let model = model();
    for longest in [13, 44, 128, 256] {
        for flushes in [&[1][..], &[1, 3, 7, 2], &[25], &[6, 400, 401, 1]] {
            for count in [1, 2, 9, 60, 500] {
                let none = seen(&of_lengths(&model, longest, &vec![0; count], flushes));
                let last_long: Vec<_> = (0..count).map(|at| if at + 12 > count { longest } else { 4 }).collect();
                let mixed: Vec<_> = (0..count).map(|at| at * 7_919 % (longest + 1)).collect();
                for lengths in [vec![longest; count], last_long, mixed] {
                    let frames = seen(&of_lengths(&model, longest, &lengths, flushes));
                    assert_eq!(frames, none, "{count} tokens of {longest} bytes, flushed by {flushes:?}");
                }
                // Each token is a marker, and what follows is of another kind: its head takes the marker's place.
                let kinds = [PartKind::Text, PartKind::Reasoning, PartKind::CallName, PartKind::CallArguments];
                let length = longest - PART_HEAD_BYTES_MAX;
                let parts: Vec<_> = kinds.into_iter().cycle().take(count).map(|kind| (kind, length)).collect();
                let frames = seen(&of_parts(&model, longest, &parts, flushes));
                assert_eq!(frames, none, "{count} parts of {longest} bytes, flushed by {flushes:?}");
            }
        }
    }
}

#[test]
fn text_that_was_held_back_does_not_show_either() {
    let model = model();
    let (opened, acceptance) = opened();
    let token = *by_length(&model).last().unwrap();
    let text = String::from_utf8(model.token_bytes(TokenId(token)).unwrap().to_vec()).unwrap();
    // A stop string that all of the answer could begin, and that never comes.
    let held = SecretString::from(format!("{}!", text.repeat(255 / text.len())));
    let sizes = [&[][..], &[held]].map(|stops| {
        let sealer = AnswerSealer::new(&opened.response_secret, &acceptance);
        let mut writer = AnswerWriter::new(sealer, assembler(&model, stops), token_text_max(&model));
        let mut frames = Vec::new();
        for _ in 0..300 {
            writer.push(TokenId(token));
            frames.extend(writer.flush().unwrap());
        }
        frames.extend(writer.finish(FinishReason::Length, TokenCount(5)).unwrap());
        assert_eq!(read(&opened, &acceptance, &frames, writer.total()), text.repeat(300));
        seen(&frames)
    });
    assert_eq!(sizes[0], sizes[1]);
}

#[test]
fn what_monsters_leave_over_still_arrives() {
    let model = model();
    let frames = of_lengths(&model, 256, &[60_000, 3], &[1]);
    assert!(frames.len() > of_lengths(&model, 256, &[3, 3], &[1]).len());
}

#[test]
fn the_text_of_a_backlog_stands_beside_its_own_tokens() {
    let model = model();
    let token = by_length(&model)[0];
    let text = String::from_utf8(model.token_bytes(TokenId(token)).unwrap().to_vec()).unwrap();
    let (opened, acceptance) = opened();
    let sealer = AnswerSealer::new(&opened.response_secret, &acceptance);
    let mut writer = AnswerWriter::new(sealer, assembler(&model, &[]), token_text_max(&model));
    let stopped = (0..1_000).any(|_| writer.push(TokenId(token)));
    assert!(!stopped);
    let frames = writer.finish(FinishReason::Length, TokenCount(5)).unwrap();
    let deltas = deltas(&opened, &acceptance, &frames);
    let lengths: Vec<_> = deltas.iter().map(|(tokens, parts)| (tokens.len(), parts.len())).collect();
    let [first, second, third, ..] = lengths[..] else { panic!("{lengths:?}") };
    assert_eq!([first, second, third], [400, 400, 200].map(|tokens| (tokens, tokens * text.len())));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// `written` recounts each answer; what it does not say is that its sizes are those of any other answer.
    #[test]
    fn the_clients_recount_accepts_whatever_the_writer_writes(
        tokens in prop::collection::vec(0..ORDINARY, 0..900),
        stops in prop::collection::vec("[a-e ]{1,4}", 0..3),
        never in prop::bool::ANY,
        flushes in prop::collection::vec(prop_oneof![1_usize..20, 300_usize..900], 1..4),
    ) {
        let model = model();
        // Stop strings of the vocabulary's own letters end most answers soon: half of them have none that comes.
        let end = if never { "\u{1}" } else { "" };
        let stops: Vec<_> = stops.iter().map(|stop| SecretString::from(format!("{stop}{end}"))).collect();
        let (frames, text) = written(&model, &tokens, &stops, &flushes);
        prop_assert!(!frames.is_empty());
        prop_assert!(stops.iter().all(|stop| !text.contains(stop.expose())));
    }
}
