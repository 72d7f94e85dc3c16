//! The encoding of requests and events through the public surface.

use darkbloom_content::{
    AnswerEvent, AnswerParts, AnswerShape, CALL_ARGUMENTS_BYTES_MAX, CALL_ID_BYTES_MAX, CALLS_MAX, ChatRequest,
    DecodeContentError, EVENT_TOKENS_MAX, FinishReason, InvalidRequestError, InvalidToolError, MESSAGES_MAX, Message,
    PartKind, PrefixSecret, Role, STOP_BYTES_MAX, TOOL_DESCRIPTION_BYTES_MAX, TOOL_PARAMETERS_BYTES_MAX, TOOLS_MAX,
    Tool, ToolCall, ToolChoice, Tweaks,
};
use darkbloom_types::{RefusalCode, SecretString, TokenCount, TokenId};
use proptest::prelude::*;

fn message(role: Role, content: &str) -> Message {
    Message::new(role, content)
}

fn sample() -> ChatRequest {
    ChatRequest {
        messages: vec![message(Role::System, "be brief"), message(Role::User, "how far is the moon?")],
        temperature: 0.5,
        top_p: 0.25,
        seed: Some(300),
        stop: vec![SecretString::from("END")],
        ..ChatRequest::new(Vec::new())
    }
}

fn tool(name: &str) -> Tool {
    Tool { name: name.into(), description: "looks".into(), parameters: "{}".into() }
}

fn call(id: &str) -> ToolCall {
    ToolCall { id: id.into(), name: "look".into(), arguments: "{}".into() }
}

/// A conversation about tools.
fn calling() -> ChatRequest {
    let asked = Message { reasoning: "hm".into(), calls: vec![call("a"), call("b")], ..message(Role::Assistant, "") };
    let messages = vec![message(Role::User, "x"), asked, Message::of_tool("b", "seen")];
    ChatRequest { messages, tools: vec![tool("look")], ..sample() }
}

/// An answer's parts of every kind.
fn parts() -> AnswerParts {
    let mut parts = AnswerParts::from("far");
    parts.push(PartKind::Reasoning, "hm");
    parts.push(PartKind::CallName, "look");
    parts.push(PartKind::CallArguments, "{}");
    parts
}

fn sample_events() -> Vec<AnswerEvent> {
    vec![
        AnswerEvent::Delta { tokens: vec![TokenId(1), TokenId(70_000)], parts: "far".into() },
        AnswerEvent::Finish {
            reason: FinishReason::Length,
            input_tokens: TokenCount(900),
            output_tokens: TokenCount(u32::MAX),
        },
        AnswerEvent::Failure { code: RefusalCode::ContextLengthExceeded, detail: SecretString::from("1030 tokens") },
        AnswerEvent::Delta { tokens: vec![TokenId(9)], parts: parts() },
    ]
}

#[test]
fn request_bytes_are_fixed() {
    let request = ChatRequest { stop: Vec::new(), seed: None, ..sample() };
    let mut expected = b"\xa3\x01\x82\x82\x00\x68be brief\x82\x01\x74how far is the moon?".to_vec();
    expected.extend(b"\x02\xfa\x3f\x00\x00\x00\x03\xfa\x3e\x80\x00\x00");
    assert_eq!(request.to_cbor().expose(), expected);

    let full = sample().to_cbor();
    assert_eq!(full.expose()[0], 0xa5);
    assert!(full.expose().ends_with(b"\x04\x19\x01\x2c\x05\x81\x63END"));
}

#[test]
fn the_bytes_of_a_request_about_tools_are_fixed() {
    let mut expected = b"\xa6\x01\x83\x82\x01\x61x\x83\x02\x60\xa2\x01\x62hm\x02\x82".to_vec();
    expected.extend(b"\x83\x61a\x64look\x62{}\x83\x61b\x64look\x62{}\x83\x03\x64seen\xa1\x03\x61b");
    expected.extend(b"\x02\xfa\x3f\x00\x00\x00\x03\xfa\x3e\x80\x00\x00\x04\x19\x01\x2c\x05\x81\x63END");
    expected.extend(b"\x14\x81\x83\x64look\x65looks\x62{}");
    assert_eq!(calling().to_cbor().expose(), expected);
    assert_eq!(ChatRequest::from_cbor(&expected), Ok(calling()));
}

#[test]
fn the_bytes_of_a_shape_and_of_a_choice_are_fixed() {
    let plain = ChatRequest { tools: vec![tool("look")], ..ChatRequest::new(vec![message(Role::User, "x")]) };
    let head = |members: u8| {
        [&[0xa0 + members], b"\x01\x81\x82\x01\x61x\x02\xfa\x3f\x80\0\0\x03\xfa\x3f\x80\0\0".as_slice()].concat()
    };
    let tools = b"\x14\x81\x83\x64look\x65looks\x62{}".as_slice();
    for (shape, bytes) in
        [(AnswerShape::JsonObject, b"\x08\x81\x01".as_slice()), (AnswerShape::Json("{}".into()), b"\x08\x82\x02\x62{}")]
    {
        let request = ChatRequest { shape, ..plain.clone() };
        let expected = [head(5).as_slice(), bytes, tools].concat();
        assert_eq!(request.to_cbor().expose(), expected);
        assert_eq!(ChatRequest::from_cbor(&expected), Ok(request));
    }
    for (choice, bytes) in [
        (ToolChoice::Required { once: false }, b"\x15\x81\x01".as_slice()),
        (ToolChoice::Required { once: true }, b"\x15\x81\x02"),
        (ToolChoice::Named("look".into()), b"\x15\x82\x03\x64look"),
    ] {
        let request = ChatRequest { choice, ..plain.clone() };
        let expected = [head(5).as_slice(), tools, bytes].concat();
        assert_eq!(request.to_cbor().expose(), expected);
        assert_eq!(ChatRequest::from_cbor(&expected), Ok(request));
    }
    // Free, with too much, with too little, unknown.
    for bytes in [
        b"\x80".as_slice(),
        b"\x81\x00",
        b"\x82\x01\x62{}",
        b"\x81\x02",
        b"\x81\x03",
        b"\x82\x04\x62{}",
        b"\x83\x02\x60\x60",
    ] {
        let shaped = [head(5).as_slice(), b"\x08", bytes, tools].concat();
        let chosen = [head(5).as_slice(), tools, b"\x15", bytes].concat();
        assert!(ChatRequest::from_cbor(&shaped).is_err(), "{bytes:02x?}");
        // Two of them say something about a call.
        let known = bytes == b"\x81\x02";
        assert_eq!(ChatRequest::from_cbor(&chosen).is_ok(), known, "{bytes:02x?}");
    }
}

#[test]
fn a_choice_names_a_tool_that_is_there_and_a_schema_has_a_limit() {
    let check = |choice: ToolChoice, tools: Vec<Tool>| {
        ChatRequest { choice, tools, ..ChatRequest::new(vec![message(Role::User, "x")]) }.check()
    };
    assert_eq!(check(ToolChoice::Named("look".into()), vec![tool("look")]), Ok(()));
    for choice in [ToolChoice::Named("look".into()), ToolChoice::Required { once: true }] {
        assert_eq!(check(choice, Vec::new()), Err(InvalidRequestError::ToolChoice));
    }
    assert_eq!(check(ToolChoice::Named("other".into()), vec![tool("look")]), Err(InvalidRequestError::ToolChoice));
    let shaped = |bytes: usize| {
        let shape = AnswerShape::Json("x".repeat(bytes).as_str().into());
        ChatRequest { shape, ..ChatRequest::new(vec![message(Role::User, "x")]) }.check()
    };
    assert_eq!(shaped(65_536), Ok(()));
    assert_eq!(shaped(65_537), Err(InvalidRequestError::SchemaLength(65_537)));
}

#[test]
fn parts_and_messages_have_no_second_encoding() {
    for parts in [
        // Nothing, text alone, an empty part, neighbours of one kind, an unknown kind, more than a kind and a text.
        b"\x80".as_slice(),
        b"\x81\x82\x00\x63far",
        b"\x82\x82\x01\x61a\x82\x00\x60",
        b"\x82\x82\x01\x61a\x82\x01\x61b",
        b"\x81\x82\x04\x61a",
        b"\x81\x83\x01\x61a\x00",
    ] {
        let event = [b"\xa3\x01\x00\x02\x80\x09".as_slice(), parts].concat();
        assert!(
            matches!(
                AnswerEvent::from_cbor(&event),
                Err(DecodeContentError::OutOfRange { .. } | DecodeContentError::TooMany { .. })
            ),
            "{parts:02x?}"
        );
    }
    for message in
        [b"\x83\x01\x61x\xa0".as_slice(), b"\x83\x02\x61x\xa1\x01\x60", b"\x83\x02\x61x\xa1\x02\x80", b"\x81\x01"]
    {
        let request = [b"\xa3\x01\x81".as_slice(), message, b"\x02\xfa\0\0\0\0\x03\xfa\0\0\0\0"].concat();
        assert!(
            matches!(ChatRequest::from_cbor(&request), Err(DecodeContentError::OutOfRange { .. })),
            "{message:02x?}"
        );
    }
    let no_tools = b"\xa4\x01\x81\x82\x01\x61x\x02\xfa\0\0\0\0\x03\xfa\0\0\0\0\x14\x80";
    assert!(matches!(ChatRequest::from_cbor(no_tools), Err(DecodeContentError::OutOfRange { .. })));
}

#[test]
fn equal_parts_are_equal_however_they_came() {
    let mut pieces = AnswerParts::default();
    for (kind, text) in [(PartKind::Text, "f"), (PartKind::Reasoning, ""), (PartKind::Text, "ar")] {
        pieces.push(kind, text);
    }
    assert_eq!(pieces, "far".into());
    assert_eq!(pieces.len(), 3);
    let mut whole = pieces.clone();
    whole.push(PartKind::CallName, "look");
    assert!(
        whole.begins_with(&pieces) && whole.begins_with(&"fa".into()) && whole.begins_with(&AnswerParts::default())
    );
    assert!(!pieces.begins_with(&whole) && !whole.begins_with(&"fab".into()));
    let mut other = AnswerParts::default();
    other.push(PartKind::Reasoning, "fa");
    assert!(!whole.begins_with(&other), "the kind counts");
}

#[test]
fn tools_and_calls_out_of_their_limits_are_refused() {
    let of_tools = |tools: Vec<Tool>| ChatRequest { tools, ..calling() }.check();
    let refused = |error: InvalidToolError| Err(InvalidRequestError::Tool(error));
    assert_eq!(of_tools(vec![tool("look")]), Ok(()));
    for name in ["", "a b", "a.b", "<|im_end|>", "\u{e9}", &"n".repeat(65)] {
        assert_eq!(of_tools(vec![tool(name)]), refused(InvalidToolError::Name));
    }
    assert_eq!(of_tools(vec![tool("a"), tool("b"), tool("a")]), refused(InvalidToolError::Twice));
    let many = (0..=TOOLS_MAX).map(|number| tool(&number.to_string())).collect();
    assert_eq!(of_tools(many), refused(InvalidToolError::TooManyTools(129)));
    let long = Tool { description: "d".repeat(TOOL_DESCRIPTION_BYTES_MAX + 1).into(), ..tool("a") };
    assert_eq!(of_tools(vec![long]), refused(InvalidToolError::Description(16_385)));
    let long = Tool { parameters: "p".repeat(TOOL_PARAMETERS_BYTES_MAX + 1).into(), ..tool("a") };
    assert_eq!(of_tools(vec![long]), refused(InvalidToolError::Parameters(65_537)));

    let with = |messages: Vec<Message>| ChatRequest { messages, ..calling() }.check();
    let calls = |calls: Vec<ToolCall>| with(vec![Message { calls, ..message(Role::Assistant, "") }]);
    assert_eq!(calls(vec![call("a"); CALLS_MAX]), Ok(()));
    assert_eq!(calls(vec![call("a"); CALLS_MAX + 1]), refused(InvalidToolError::TooManyCalls(129)));
    assert_eq!(calls(vec![ToolCall { name: "a b".into(), ..call("a") }]), refused(InvalidToolError::Name));
    let long = ToolCall { arguments: "a".repeat(CALL_ARGUMENTS_BYTES_MAX + 1).into(), ..call("a") };
    assert_eq!(calls(vec![long]), refused(InvalidToolError::Arguments(262_145)));
    for id in [String::new(), "i".repeat(CALL_ID_BYTES_MAX + 1)] {
        assert_eq!(calls(vec![call(&id)]), refused(InvalidToolError::CallId));
    }
    assert_eq!(with(vec![Message::new(Role::Tool, "x")]), refused(InvalidToolError::CallId));
    assert_eq!(
        with(vec![Message { call_id: Some("a".into()), ..message(Role::User, "x") }]),
        refused(InvalidToolError::CallId)
    );
    assert_eq!(with(vec![Message::of_tool("a", "x")]), refused(InvalidToolError::UnknownCall));
    for message in [
        Message { reasoning: "hm".into(), ..message(Role::User, "x") },
        Message { calls: vec![call("a")], ..message(Role::System, "x") },
    ] {
        assert_eq!(with(vec![message]), refused(InvalidToolError::NotTheModels));
    }
    // A tool says something before it was asked.
    let mut early = calling();
    early.messages.swap(1, 2);
    assert_eq!(early.check(), refused(InvalidToolError::UnknownCall));
}

#[test]
fn event_bytes_are_fixed() {
    let expected: [&[u8]; 4] = [
        b"\xa3\x01\x00\x02\x82\x01\x1a\x00\x01\x11\x70\x03\x63far",
        b"\xa4\x01\x01\x04\x01\x05\x19\x03\x84\x06\x1a\xff\xff\xff\xff",
        b"\xa3\x01\x02\x07\x05\x08\x6b1030 tokens",
        b"\xa3\x01\x00\x02\x81\x09\x09\x84\x82\x00\x63far\x82\x01\x62hm\x82\x02\x64look\x82\x03\x62{}",
    ];
    for (event, expected) in sample_events().iter().zip(expected) {
        assert_eq!(event.to_cbor().expose(), expected);
    }
}

#[test]
fn unknown_repeated_and_misplaced_keys_are_refused() {
    let ok = b"\xa3\x01\x81\x82\x01\x61x\x02\xfa\0\0\0\0\x03\xfa\0\0\0\0";
    assert!(ChatRequest::from_cbor(ok).is_ok());
    let cases: [(&[u8], DecodeContentError); 8] = [
        (
            b"\xa4\x01\x81\x82\x01\x61x\x02\xfa\0\0\0\0\x03\xfa\0\0\0\0\x09\x00",
            DecodeContentError::UnknownKey { key: 9 },
        ),
        (b"\xa4\x01\x81\x82\x01\x61x\x02\xfa\0\0\0\0\x02\xfa\0\0\0\0", DecodeContentError::KeyOrder { key: 2 }),
        (b"\xa3\x02\xfa\0\0\0\0\x01\x81\x82\x01\x61x\x03\xfa\0\0\0\0", DecodeContentError::KeyOrder { key: 1 }),
        (b"\xa2\x01\x81\x82\x01\x61x\x02\xfa\0\0\0\0", DecodeContentError::MissingKey { key: 3 }),
        (b"\xb8\x03\x01\x81\x82\x01\x61x", DecodeContentError::NotShortest { position: 0 }),
        (b"\xbf\x01\x81\x82\x01\x61x\xff", DecodeContentError::NotShortest { position: 0 }),
        (b"\xa3\x18\x01\x81\x82\x01\x61x", DecodeContentError::NotShortest { position: 1 }),
        (b"\xa3\x01\x81\x82\x01\x78\x01x", DecodeContentError::NotShortest { position: 5 }),
    ];
    for (bytes, error) in cases {
        assert_eq!(ChatRequest::from_cbor(bytes), Err(error), "{bytes:02x?}");
    }
    let delta: &[u8] = b"\xa4\x01\x00\x02\x80\x03\x61x\x08\x60";
    assert_eq!(AnswerEvent::from_cbor(delta), Err(DecodeContentError::UnknownKey { key: 8 }));
}

#[test]
fn an_empty_stop_list_has_no_second_encoding() {
    let bytes = b"\xa4\x01\x81\x82\x01\x61x\x02\xfa\0\0\0\0\x03\xfa\0\0\0\0\x05\x80";
    assert!(matches!(ChatRequest::from_cbor(bytes), Err(DecodeContentError::OutOfRange { .. })));
}

#[test]
fn numbers_out_of_range_are_refused() {
    // A NaN, a negative zero, an infinity, a number over 2 and a half-width float.
    for float in
        [b"\xfa\x7f\xc0\0\0".as_slice(), b"\xfa\x80\0\0\0", b"\xfa\x7f\x80\0\0", b"\xfa\x40\x40\0\0", b"\xf9\0\0"]
    {
        let bytes = [b"\xa3\x01\x81\x82\x01\x61x\x02".as_slice(), float, b"\x03\xfa\0\0\0\0"].concat();
        assert!(ChatRequest::from_cbor(&bytes).is_err(), "{float:02x?}");
    }
    let negative_zero = ChatRequest { temperature: -0.0, ..sample() };
    assert_eq!(ChatRequest::from_cbor(negative_zero.to_cbor().expose()), Ok(negative_zero));
}

#[test]
fn requests_over_a_limit_are_refused() {
    let many = ChatRequest::new(vec![message(Role::User, "x"); MESSAGES_MAX + 1]);
    assert_eq!(many.check(), Err(InvalidRequestError::TooManyMessages(1_025)));
    assert!(matches!(
        ChatRequest::from_cbor(many.to_cbor().expose()),
        Err(DecodeContentError::TooMany { count: 1_025, .. })
    ));
    let none = ChatRequest::new(Vec::new());
    assert_eq!(
        ChatRequest::from_cbor(none.to_cbor().expose()),
        Err(DecodeContentError::Invalid(InvalidRequestError::NoMessages))
    );
    for (stop, valid) in [("", false), (&"x".repeat(STOP_BYTES_MAX), true), (&"x".repeat(STOP_BYTES_MAX + 1), false)] {
        let request = ChatRequest { stop: vec![SecretString::from(stop)], ..sample() };
        assert_eq!(ChatRequest::from_cbor(request.to_cbor().expose()).is_ok(), valid);
    }
    let stops = ChatRequest { stop: vec![SecretString::from("x"); 5], ..sample() };
    assert!(ChatRequest::from_cbor(stops.to_cbor().expose()).is_err());
    let warm = ChatRequest { temperature: 2.1, ..sample() };
    assert_eq!(warm.check(), Err(InvalidRequestError::Temperature));
    assert_eq!(ChatRequest { top_p: f32::NAN, ..sample() }.check(), Err(InvalidRequestError::TopP));
}

#[test]
fn events_over_a_limit_are_refused() {
    let event = AnswerEvent::Delta { tokens: vec![TokenId(7); EVENT_TOKENS_MAX + 1], parts: AnswerParts::default() };
    assert!(matches!(AnswerEvent::from_cbor(event.to_cbor().expose()), Err(DecodeContentError::TooMany { .. })));
    // An announced count far beyond what follows allocates nothing and is refused.
    assert!(AnswerEvent::from_cbor(b"\xa3\x01\x00\x02\x9b\xff\xff\xff\xff\xff\xff\xff\xff").is_err());
    assert!(AnswerEvent::from_cbor(b"\xa3\x01\x02\x07\x19\xff\xff\x08\x60").is_err());
}

#[test]
fn truncation_at_every_byte_is_refused() {
    for request in [sample(), calling()] {
        let whole = request.to_cbor();
        for end in 0..whole.len() {
            assert_eq!(ChatRequest::from_cbor(&whole.expose()[..end]), Err(DecodeContentError::Truncated), "{end}");
        }
    }
    for event in sample_events() {
        let whole = event.to_cbor();
        for end in 0..whole.len() {
            assert_eq!(AnswerEvent::from_cbor(&whole.expose()[..end]), Err(DecodeContentError::Truncated), "{end}");
        }
    }
}

#[test]
fn trailing_bytes_are_refused() {
    let mut bytes = sample().to_cbor().expose().to_vec();
    bytes.push(0);
    assert_eq!(ChatRequest::from_cbor(&bytes), Err(DecodeContentError::TrailingBytes { count: 1 }));
}

#[test]
fn one_flipped_bit_gives_another_value_or_an_error() {
    for sound in [sample(), calling()] {
        let whole = sound.to_cbor();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.expose().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(request) = ChatRequest::from_cbor(&bytes) {
                assert_ne!(request, sound);
                assert_eq!(request.to_cbor().expose(), bytes, "bit {bit} opened a second encoding");
            }
        }
    }
    for event in sample_events() {
        let whole = event.to_cbor();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.expose().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(other) = AnswerEvent::from_cbor(&bytes) {
                assert_ne!(other, event);
                assert_eq!(other.to_cbor().expose(), bytes, "bit {bit} opened a second encoding");
            }
        }
    }
}

#[test]
fn debug_shows_no_content() {
    let shown = format!("{:?} {:?} {:?}", sample(), calling(), sample_events());
    for content in ["look", "seen", "hm", "moon", "brief", "END", "far", "70000", "1030"] {
        assert!(!shown.contains(content), "{content} in {shown}");
    }
}

prop_compose! {
    fn any_request()(
        messages in prop::collection::vec((0..3usize, any::<String>()), 1..8),
        temperature in 0.0..=2.0f32,
        top_p in 0.0..=1.0f32,
        seed in any::<Option<u64>>(),
        stop in prop::collection::vec("[^\u{0}]{1,64}", 0..=4),
        calls in prop::collection::vec(("[a-z]{1,9}", "[a-zA-Z0-9_-]{1,64}", any::<String>(), any::<String>()), 0..4),
        tools in prop::collection::btree_map("[a-zA-Z0-9_-]{1,64}", (any::<String>(), any::<String>()), 0..4),
    ) -> ChatRequest {
        let mut messages: Vec<_> =
            messages.into_iter().map(|(role, content)| message(Role::ALL[role], &content)).collect();
        for (id, name, arguments, said) in calls {
            let call = ToolCall { id: id.as_str().into(), name: name.into(), arguments: arguments.into() };
            let reasoning = said.as_str().into();
            messages.push(Message { reasoning, calls: vec![call], ..message(Role::Assistant, "") });
            messages.push(Message::of_tool(id, said));
        }
        let tools = tools.into_iter().map(|(name, (description, parameters))| Tool {
            name: name.into(),
            description: description.into(),
            parameters: parameters.into(),
        });
        let stop = stop.into_iter().map(SecretString::new).collect();
        ChatRequest { messages, temperature, top_p, seed, stop, tools: tools.collect(), ..ChatRequest::new(Vec::new()) }
    }
}

fn any_event() -> impl Strategy<Value = AnswerEvent> {
    let kinds = [PartKind::Text, PartKind::Reasoning, PartKind::CallName, PartKind::CallArguments];
    let parts = prop::collection::vec((prop::sample::select(kinds.to_vec()), any::<String>()), 0..4);
    let delta = (prop::collection::vec(any::<u32>(), 0..64), parts).prop_map(|(tokens, pieces)| {
        let mut parts = AnswerParts::default();
        pieces.iter().for_each(|(kind, text)| parts.push(*kind, text));
        AnswerEvent::Delta { tokens: tokens.into_iter().map(TokenId).collect(), parts }
    });
    let reasons = [FinishReason::Stop, FinishReason::Length, FinishReason::ToolCalls];
    let reason = prop::sample::select(reasons.to_vec());
    let finish = (reason, any::<u32>(), any::<u32>()).prop_map(|(reason, input, output)| AnswerEvent::Finish {
        reason,
        input_tokens: TokenCount(input),
        output_tokens: TokenCount(output),
    });
    let failure = (0..RefusalCode::ALL.len(), any::<String>()).prop_map(|(code, detail)| AnswerEvent::Failure {
        code: RefusalCode::ALL[code],
        detail: SecretString::new(detail),
    });
    prop_oneof![delta, finish, failure]
}

proptest! {
    #[test]
    fn requests_read_back(request in any_request()) {
        let bytes = request.to_cbor();
        prop_assert_eq!(bytes.len(), request.encoded_len());
        prop_assert_eq!(ChatRequest::from_cbor(bytes.expose()), Ok(request));
    }

    #[test]
    fn events_read_back(event in any_event()) {
        let bytes = event.to_cbor();
        prop_assert_eq!(bytes.len(), event.encoded_len());
        prop_assert_eq!(AnswerEvent::from_cbor(bytes.expose()), Ok(event));
    }

    #[test]
    fn whatever_is_accepted_is_the_one_encoding(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(event) = AnswerEvent::from_cbor(&bytes) {
            let again = event.to_cbor();
            prop_assert_eq!(again.expose(), bytes.as_slice());
        }
        if let Ok(request) = ChatRequest::from_cbor(&bytes) {
            let again = request.to_cbor();
            prop_assert_eq!(again.expose(), bytes.as_slice());
        }
    }
}

fn tweaked() -> ChatRequest {
    let tweaks = Tweaks {
        frequency_penalty: -0.5,
        presence_penalty: 1.5,
        repetition_penalty: 1.25,
        top_k: 40,
        min_p: 0.0625,
        logit_bias: vec![(TokenId(3), 100.0), (TokenId(70_000), -2.5)],
    };
    ChatRequest { tweaks, prefix: Some(PrefixSecret::new([9; 32])), ..sample() }
}

#[test]
fn tweaks_and_the_prefix_secret_come_back_as_they_were_and_neutral_ones_are_not_written() {
    assert_eq!(ChatRequest::from_cbor(tweaked().to_cbor().expose()), Ok(tweaked()));
    let neutral = ChatRequest { tweaks: Tweaks::default(), ..sample() };
    assert_eq!(neutral.to_cbor(), sample().to_cbor());
    assert!(tweaked().encoded_len() == tweaked().to_cbor().len());
    assert!(!format!("{:?}", tweaked()).contains("70000") && !format!("{:?}", tweaked()).contains("9, 9"));
}

#[test]
fn tweaks_out_of_their_limits_are_refused_by_everybody() {
    let with = |change: &dyn Fn(&mut Tweaks)| {
        let mut request = tweaked();
        change(&mut request.tweaks);
        let refused = request.check().is_err();
        assert_eq!(ChatRequest::from_cbor(request.to_cbor().expose()).is_err(), refused);
        refused
    };
    assert!(!with(&|_| {}));
    assert!(with(&|tweaks| tweaks.frequency_penalty = 2.1));
    assert!(with(&|tweaks| tweaks.presence_penalty = f32::NAN));
    assert!(with(&|tweaks| tweaks.repetition_penalty = 0.0));
    assert!(with(&|tweaks| tweaks.repetition_penalty = f32::INFINITY));
    assert!(with(&|tweaks| tweaks.min_p = 1.5));
    assert!(with(&|tweaks| tweaks.logit_bias = vec![(TokenId(2), 1.0), (TokenId(2), 1.0)]));
    assert!(with(&|tweaks| tweaks.logit_bias = vec![(TokenId(2), 101.0)]));
    assert!(with(&|tweaks| tweaks.logit_bias = (0..1_025).map(|token| (TokenId(token), 1.0)).collect()));
}

#[test]
fn every_changed_byte_of_a_tweaked_request_is_another_request_or_none() {
    let bytes = tweaked().to_cbor();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut changed = bytes.expose().to_vec();
            changed[at] ^= 1 << bit;
            if let Ok(request) = ChatRequest::from_cbor(&changed) {
                assert_eq!(request.to_cbor().expose(), changed, "byte {at} has two encodings");
            }
        }
    }
}
