//! Bounds on the number of tokens, and what they save.

use std::sync::OnceLock;

use darkbloom_content::{Message, Role};
use proptest::prelude::*;

use super::*;

fn tiny() -> &'static TextModel {
    static MODEL: OnceLock<TextModel> = OnceLock::new();
    MODEL.get_or_init(|| {
        let file =
            std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/darkbloom-tiny-q8_0.gguf")).unwrap();
        TextModel::new(TextPack::from_gguf(file.as_slice()).unwrap()).unwrap()
    })
}

fn request(content: &str) -> ChatRequest {
    ChatRequest::new(vec![Message::new(Role::User, content)])
}

fn longest(model: &TextModel) -> (TokenId, usize) {
    let tokens = (0..u32::try_from(model.vocabulary()).unwrap()).map(TokenId);
    let lengths = tokens.map(|token| (token, model.token_bytes(token).unwrap().len()));
    lengths.max_by_key(|(_, length)| *length).unwrap()
}

#[test]
fn a_text_of_the_longest_tokens_has_exactly_the_fewest() {
    let (token, bytes) = longest(tiny());
    let text = String::from_utf8(tiny().token_bytes(token).unwrap().to_vec()).unwrap();
    assert!(bytes > 2, "{text}");
    let prompt = |content: &str| tiny().prompt_tokens(&request(content)).unwrap().len();
    assert_eq!(prompt(&text.repeat(2)) - prompt(&text), 1, "{text:?} is one token");
    assert_eq!(tiny().tokens_min(bytes), TokenCount(1));
    assert_eq!(tiny().tokens_min(bytes + 1), TokenCount(2));
    assert_eq!(tiny().tokens_min(0), TokenCount(0));
}

#[test]
fn what_cannot_fit_is_not_tokenised_at_all() {
    for text in ["a".repeat(1 << 20), "a b ".repeat(1 << 18), "<think>".repeat(150_000)] {
        let segments = tiny().0.template.render(&request(&text)).unwrap();
        let (tokens, whole) = tiny().segment_tokens(&segments, 256);
        assert_eq!((tokens.len(), whole), (0, false));
    }
}

#[test]
fn what_turns_out_not_to_fit_is_tokenised_no_further_than_the_limit() {
    // By their length all could be 256 tokens. Their pieces are of three bytes at most, so that the last overshoots little.
    let bytes = 200 * longest(tiny()).1;
    for text in ["x1".repeat(bytes / 2), "!? ".repeat(bytes / 3), "<think>7".repeat(bytes / 8)] {
        let segments = tiny().0.template.render(&request(&text)).unwrap();
        let (tokens, whole) = tiny().segment_tokens(&segments, 256);
        let all = tiny().segment_tokens(&segments, usize::MAX).0.len();
        assert_eq!(whole, all <= 256, "{all} tokens");
        assert!(tokens.len() <= 258, "{} tokens of {all} were made", tokens.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_text_has_fewer_tokens_than_its_bytes_allow(
        text in prop_oneof![any::<String>(), "[a-c \n.,'1]{0,80}", "(<think>|<|th|in|k|>| |the ){0,30}"],
    ) {
        prop_assert!(tiny().text_tokens(&text).len() >= tiny().tokens_min(text.len()).0 as usize);
        let segments = tiny().0.template.render(&request(&text)).unwrap();
        let bytes = segments.iter().map(|segment| match segment {
            Segment::Plain(text) => text.len(),
            Segment::Control(_) => 0,
        });
        let prompt = tiny().prompt_tokens(&request(&text)).unwrap();
        prop_assert!(prompt.len() >= tiny().tokens_min(bytes.sum()).0 as usize);
    }

    #[test]
    fn a_limit_lets_through_what_has_so_many_tokens_and_nothing_more(
        text in prop_oneof![any::<String>(), "[a-c \n.,'1]{0,80}", "(<think>|<|th|in|k|>| |the ){0,30}"],
        spare in 0..3_u32,
    ) {
        let prompt = tiny().prompt_tokens(&request(&text)).unwrap();
        let count = u32::try_from(prompt.len()).unwrap();
        let within = tiny().prompt_tokens_within(&request(&text), TokenCount(count + spare));
        let within = within.unwrap();
        prop_assert_eq!(within.expose(), prompt.expose());
        let most = TokenCount(count.saturating_sub(1 + spare));
        let refused = tiny().prompt_tokens_within(&request(&text), most);
        prop_assert_eq!(refused.err(), Some(MakePromptError::TooManyTokens { most }));
    }
}
