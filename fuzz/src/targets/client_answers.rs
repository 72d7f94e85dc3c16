//! What a client reads from a coordinator in JSON. The module is taken as it stands: its crate would bring an HTTP client
//! along.

#![no_main]
#![allow(dead_code, unreachable_pub, missing_docs, reason = "the module belongs to another crate")]

#[path = "../../../crates/darkbloom-client/src/network/answers.rs"]
mod answers;

use answers::{Coordinator, Introduction, read_catalogue, read_refusal};
use darkbloom_fuzz::{memory, parties};
use darkbloom_wire::PublicKey;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((which, body)) = bytes.split_first() else { return };
    let coordinator = Coordinator { network: parties::own_network(), key: PublicKey::P256(parties::identity()) };
    // Entries in hex and read, and room for more of them.
    memory::within((32 << 10) + 16 * body.len(), || match which % 3 {
        0 => {
            if let Ok(known) = Introduction::read(body).and_then(|said| said.prove(&parties::NONCE)) {
                assert_eq!(known.network, coordinator.network, "a key that signed nothing is proven");
            }
        }
        1 => {
            for offer in read_catalogue(body, &coordinator).unwrap_or_default() {
                assert_eq!(offer.entry, parties::entry(), "an entry that nobody signed");
            }
        }
        _ => drop(read_refusal(body)),
    });
});
