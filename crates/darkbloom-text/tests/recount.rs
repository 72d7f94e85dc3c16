//! An honest writer's answer is always accepted, and no other text with the same tokens ever is.

#![allow(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use std::fs::File;
use std::sync::OnceLock;

use darkbloom_content::{AnswerParts, ChatRequest};
use darkbloom_text::{AnswerAssembler, AnswerRecount, Opening, RecountError, TextModel, TextPack};
use darkbloom_types::{SecretString, TokenId};
use proptest::prelude::*;

const VOCABULARY: u32 = 448;
const ENDOFTEXT: u32 = 441;
const IM_END: u32 = 443;

fn model() -> &'static TextModel {
    static MODEL: OnceLock<TextModel> = OnceLock::new();
    MODEL.get_or_init(|| {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/darkbloom-tiny-q8_0.gguf");
        TextModel::new(TextPack::from_gguf(File::open(path).unwrap()).unwrap()).unwrap()
    })
}

fn request(stops: &[String]) -> ChatRequest {
    let stop = stops.iter().map(|stop| SecretString::from(stop.as_str())).collect();
    ChatRequest { stop, ..ChatRequest::new(Vec::new()) }
}

fn text(parts: &AnswerParts) -> String {
    parts.iter().map(|part| part.text.expose()).collect()
}

fn recount(stops: &[String]) -> AnswerRecount {
    AnswerRecount::new(model(), &request(stops), Opening::Free)
}

/// One frame: its tokens, and the text that had room.
type Piece = (Vec<TokenId>, String);

/// Packs an answer as the provider does: whatever is ready at a flush goes into frames of so many tokens, text into the
/// first frame that has room, of its last token or later, and what is left over into frames without tokens.
fn written(tokens: &[u32], stops: &[String], flushes: &[usize], rooms: &[usize], chunk: usize) -> Vec<Piece> {
    let mut assembler = Some(AnswerAssembler::new(model(), &request(stops), Opening::Free));
    let (mut pieces, mut text, mut waiting) = (Vec::new(), String::new(), Vec::new());
    let (mut flushes, mut rooms) = (flushes.iter().cycle(), rooms.iter().cycle());
    let mut flush = |waiting: &mut Vec<(TokenId, usize)>, text: &mut String| {
        let whole = text.len();
        for chunk in std::mem::take(waiting).chunks(chunk) {
            let given = chunk.last().unwrap().1 - (whole - text.len());
            let cut = text.floor_char_boundary(given.min(*rooms.next().unwrap()));
            pieces.push((chunk.iter().map(|(token, _)| *token).collect(), text.drain(..cut).collect()));
        }
    };
    let mut next = *flushes.next().unwrap();
    for token in tokens.iter().map(|token| TokenId(*token)) {
        let (certain, stopped) = assembler.as_mut().unwrap().push(token);
        text.push_str(&self::text(&certain));
        waiting.push((token, text.len()));
        if stopped {
            assembler = None;
            break;
        }
        if waiting.len() >= next {
            flush(&mut waiting, &mut text);
            next = *flushes.next().unwrap();
        }
    }
    flush(&mut waiting, &mut text);
    if let Some(assembler) = assembler {
        text.push_str(&self::text(&assembler.finish().parts));
    }
    while !text.is_empty() {
        let cut = text.ceil_char_boundary(7);
        pieces.push((Vec::new(), text.drain(..cut).collect()));
    }
    pieces
}

fn recounted(pieces: &[Piece], stops: &[String]) -> Result<(), RecountError> {
    ended_itself(pieces, stops).map(drop)
}

fn ended_itself(pieces: &[Piece], stops: &[String]) -> Result<bool, RecountError> {
    let mut recount = recount(stops);
    for (tokens, text) in pieces {
        recount.push(tokens, text.as_str().into())?;
    }
    recount.finish().map(|recounted| recounted.over)
}

fn ids(text: &str) -> Vec<u32> {
    model().text_tokens(text).expose().iter().map(|token| token.0).collect()
}

fn piece(tokens: &[u32], text: &str) -> Piece {
    (tokens.iter().map(|token| TokenId(*token)).collect(), text.to_owned())
}

#[test]
fn an_answer_as_its_tokens_say_is_accepted() {
    let tokens = ids("grün, 中文 👍");
    assert_eq!(recounted(&[piece(&tokens, "grün, "), piece(&[], "中文 👍"), piece(&[IM_END], "")], &[]), Ok(()));
    assert_eq!(recounted(&[], &[]), Ok(()));
}

#[test]
fn other_text_is_refused_by_place() {
    let tokens = ids("42");
    let refused = recounted(&[piece(&tokens, "43")], &[]).unwrap_err();
    assert_eq!(refused, RecountError::Differs { byte: 1, token: 2 });
    assert_eq!(refused.to_string(), "the text differs from its tokens at byte 1, in token 2");
}

#[test]
fn text_that_is_missing_at_the_end_is_refused() {
    let tokens = ids("forty-two");
    let missing = RecountError::Missing { byte: 5, tokens: tokens.len() as u64 };
    assert_eq!(recounted(&[piece(&tokens, "forty")], &[]), Err(missing));
    let nothing = RecountError::Missing { byte: 0, tokens: tokens.len() as u64 };
    assert_eq!(recounted(&[piece(&tokens, "")], &[]), Err(nothing));
}

#[test]
fn text_without_tokens_is_refused() {
    let free = [piece(&ids("4"), "4"), piece(&[], "2 and more")];
    assert_eq!(recounted(&free, &[]), Err(RecountError::NotInTokens { byte: 1, bytes: 10, tokens: 1 }));
}

#[test]
fn text_that_precedes_its_tokens_is_refused() {
    let tokens = ids("forty-two");
    let (first, rest) = tokens.split_at(1);
    let length = model().token_bytes(TokenId(first[0])).unwrap().len();
    let ahead = "forty-two".len() - length;
    let early = [piece(first, "forty-two"), piece(rest, "")];
    assert_eq!(recounted(&early, &[]), Err(RecountError::NotInTokens { byte: length as u64, bytes: ahead, tokens: 1 }));
    assert_eq!(recounted(&[piece(first, &"forty-two"[..length]), piece(rest, &"forty-two"[length..])], &[]), Ok(()));
    let mut recount = recount(&[]);
    assert!(recount.push(&[], "f".into()).is_err(), "nor by one byte");
}

#[test]
fn what_is_held_back_is_of_the_tokens_that_came() {
    let stops = ["STOP".to_owned()];
    let (begun, more) = (ids("so STO"), ids("NE"));
    // It may come early; whether it was the end the next token says.
    assert_eq!(recounted(&[piece(&begun, "so STO"), piece(&more, "NE")], &stops), Ok(()));
    assert!(recounted(&[piece(&begun, "so STO"), piece(&ids("P"), "")], &stops).is_err());
    assert!(recounted(&[piece(&begun, "so STON"), piece(&more, "E")], &stops).is_err());
    let first_half = ids("é")[0];
    assert_eq!(recounted(&[piece(&[first_half], ""), piece(&[], "\u{fffd}")], &[]), Ok(()));
    assert!(recounted(&[piece(&ids("é")[..1], "é"), piece(&ids("é")[1..], "")], &[]).is_err());
}

#[test]
fn what_was_held_back_comes_at_the_end_and_a_stop_string_never() {
    let stops = ["STOP".to_owned()];
    let tokens = ids("so STO");
    assert_eq!(recounted(&[piece(&tokens, "so "), piece(&[], "STO")], &stops), Ok(()));
    assert!(matches!(recounted(&[piece(&tokens, "so ")], &stops), Err(RecountError::Missing { byte: 3, .. })));
    let tokens = ids("so STOP");
    assert_eq!(recounted(&[piece(&tokens, "so ")], &stops), Ok(()));
    assert!(matches!(
        recounted(&[piece(&tokens, "so STOP")], &stops),
        Err(RecountError::NotInTokens { byte: 3, bytes: 4, .. })
    ));
}

#[test]
fn tokens_after_the_end_are_refused() {
    let stops = ["b".to_owned()];
    assert_eq!(
        recounted(&[piece(&[ids("a"), ids("b"), ids("c")].concat(), "a")], &stops),
        Err(RecountError::AfterStop { token: 3 })
    );
    for end in [ENDOFTEXT, IM_END] {
        let refused = recounted(&[piece(&ids("a"), "a"), piece(&[end], ""), piece(&ids("b"), "b")], &[]);
        assert_eq!(refused, Err(RecountError::AfterEndToken { token: 3 }));
    }
}

#[test]
fn an_answer_that_its_tokens_end_says_so() {
    let stops = ["STOP".to_owned()];
    let open = [piece(&ids("so STO"), "so "), piece(&[], "STO")];
    assert_eq!(ended_itself(&open, &stops), Ok(false));
    assert_eq!(ended_itself(&[], &stops), Ok(false));
    assert_eq!(ended_itself(&[piece(&ids("so STOP"), "so ")], &stops), Ok(true));
    // Its text may come after all of its tokens.
    assert_eq!(ended_itself(&[piece(&ids("so STOP"), ""), piece(&[], "so ")], &stops), Ok(true));
    assert_eq!(ended_itself(&[piece(&ids("STOP"), "")], &stops), Ok(true));
    assert_eq!(ended_itself(&[piece(&ids("so STOP"), "so STOP")], &[]), Ok(false));
    assert_eq!(ended_itself(&[piece(&ids("so"), "so"), piece(&[IM_END], "")], &stops), Ok(true));
    // Also what only the end makes of an incomplete character is a stop string.
    let incomplete = [piece(&ids("é")[..1], "")];
    assert_eq!(ended_itself(&incomplete, &["\u{fffd}".to_owned()]), Ok(true));
}

#[test]
fn a_number_that_is_no_token_is_refused() {
    for number in [VOCABULARY, u32::MAX] {
        let unknown = RecountError::UnknownToken { token: 2, vocabulary: VOCABULARY as usize };
        assert_eq!(recounted(&[piece(&ids("a"), "a"), piece(&[number], "")], &[]), Err(unknown));
    }
}

#[test]
fn an_incomplete_character_at_the_end_shows_as_the_replacement_character() {
    let first_half = ids("é")[0];
    assert_eq!(model().token_bytes(TokenId(first_half)).unwrap().len(), 1, "the vocabulary has no é of its own");
    assert_eq!(recounted(&[piece(&[first_half], "\u{fffd}")], &[]), Ok(()));
    assert!(recounted(&[piece(&[first_half], "")], &[]).is_err());
}

#[test]
fn a_long_answer_whose_text_comes_in_drops_is_read_in_linear_time() {
    // 200,000 tokens whose text comes a letter a frame, after all of them: nothing is moved more than twice.
    let token = ids("a")[0];
    let mut recount = recount(&["b".repeat(256)]);
    recount.push(&vec![TokenId(token); 200_000], "".into()).unwrap();
    for _ in 0..200_000 {
        recount.push(&[], "a".into()).unwrap();
    }
    recount.finish().unwrap();
}

#[test]
fn debug_shows_nothing_of_the_answer() {
    let mut recount = recount(&[]);
    recount.push(&[TokenId(ids("a")[0])], "".into()).unwrap();
    assert_eq!(format!("{recount:?}"), "AnswerRecount(…)");
}

/// Tokens that make whole words, single bytes, controls that end no answer, and the tokens that stay whole.
fn token() -> impl Strategy<Value = u32> {
    (0..VOCABULARY).prop_filter("an end token is the last", |token| ![ENDOFTEXT, IM_END].contains(token))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn what_an_honest_writer_sends_is_always_accepted(
        tokens in prop::collection::vec(token(), 0..60),
        end in prop::option::of(prop::sample::select(vec![ENDOFTEXT, IM_END])),
        stops in prop::collection::vec("[a-eé�\u{80} ]{1,3}", 0..4),
        flushes in prop::collection::vec(1_usize..20, 1..4),
        rooms in prop::collection::vec(0_usize..60, 1..4),
        chunk in 1_usize..10,
    ) {
        let tokens: Vec<u32> = tokens.into_iter().chain(end).collect();
        prop_assert_eq!(recounted(&written(&tokens, &stops, &flushes, &rooms, chunk), &stops), Ok(()));
    }

    #[test]
    fn any_other_text_is_refused(
        tokens in prop::collection::vec(token(), 1..40),
        stops in prop::collection::vec("[a-e ]{1,3}", 0..3),
        flushes in prop::collection::vec(1_usize..20, 1..4),
        rooms in prop::collection::vec(0_usize..60, 1..4),
        chunk in 1_usize..10,
        at in any::<prop::sample::Index>(),
        other in prop_oneof![Just(String::new()), "[a-z]{1,2}", any::<String>()],
    ) {
        let honest = written(&tokens, &stops, &flushes, &rooms, chunk);
        let text: String = honest.iter().map(|(_, text)| text.as_str()).collect();
        // One character of one frame is replaced, removed, or has something put before it.
        let mut changed = honest;
        let frame = at.index(changed.len());
        let said = &mut changed[frame].1;
        let (from, to) = match said.chars().next() {
            Some(first) if said.len().is_multiple_of(2) => (0, first.len_utf8()),
            _ => (said.len(), said.len()),
        };
        said.replace_range(from..to, &other);
        let different = changed.iter().map(|(_, text)| text.as_str()).collect::<String>() != text;
        prop_assert_eq!(recounted(&changed, &stops).is_err(), different);
    }
}
