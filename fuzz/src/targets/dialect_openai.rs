//! Bodies of OpenAI's interface: what is understood is within every limit and survives the seal's encoding; what is
//! not is refused without quoting it.

#![no_main]

use darkbloom_content::ChatRequest;
use darkbloom_dialect::openai::{MODEL_NAME_BYTES_MAX, parse_chat};
use darkbloom_fuzz::memory;
use libfuzzer_sys::fuzz_target;

/// Bytes of memory that a byte of a body may take, as `darkbloom-dialect` promises.
const FACTOR: usize = 48;

fuzz_target!(|bytes: &[u8]| {
    memory::within((64 << 10) + FACTOR * bytes.len(), || match parse_chat(bytes) {
        Ok(call) => {
            assert_eq!(call.request.check(), Ok(()));
            assert!((1..=MODEL_NAME_BYTES_MAX).contains(&call.model.len()));
            assert_ne!(call.max_output_tokens, Some(0));
            assert!(call.stream || !call.include_usage);
            let encoded = call.request.to_cbor();
            assert_eq!(ChatRequest::from_cbor(encoded.expose()).as_ref(), Ok(&call.request));
        }
        Err(error) => {
            assert_eq!(error.status, 400);
            assert!(!error.message.is_empty());
            // The longest path and sentence have about 300 bytes; a body that was quoted would have no bound.
            assert!(
                error.message.len() + error.param.map_or(0, |param| param.len()) < 1_024,
                "an error quotes the body"
            );
        }
    });
});
