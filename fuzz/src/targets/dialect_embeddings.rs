//! Bodies of OpenAI's interface of embeddings: what is understood is within every limit; what is not is refused without
//! quoting it.

#![no_main]

use darkbloom_content::{EMBEDDING_INPUTS_MAX, EmbeddingInput};
use darkbloom_dialect::openai::{MODEL_NAME_BYTES_MAX, parse_embeddings};
use darkbloom_fuzz::memory;
use libfuzzer_sys::fuzz_target;

/// Bytes of memory that a byte of a body may take, as `darkbloom-dialect` promises.
const FACTOR: usize = 48;

fuzz_target!(|bytes: &[u8]| {
    memory::within((64 << 10) + FACTOR * bytes.len(), || match parse_embeddings(bytes) {
        Ok(call) => {
            assert!((1..=MODEL_NAME_BYTES_MAX).contains(&call.model.len()));
            assert!((1..=EMBEDDING_INPUTS_MAX).contains(&call.request.inputs.len()));
            assert_ne!(call.request.dimensions, Some(0));
            for input in &call.request.inputs {
                match input {
                    EmbeddingInput::Text(text) => assert!(!text.is_empty()),
                    EmbeddingInput::Tokens(tokens) => assert!(!tokens.is_empty()),
                }
            }
        }
        Err(error) => {
            assert_eq!(error.status, 400);
            assert!(!error.message.is_empty());
            assert!(
                error.message.len() + error.param.map_or(0, |param| param.len()) < 1_024,
                "an error quotes the body"
            );
        }
    });
});
