//! The machine that loads or makes a key, against a simulated Mac.
#![allow(clippy::unwrap_used, reason = "tests, also in what their cases share")]

mod claims;
mod entitlements;
mod root;
mod simulator;

use std::sync::Arc;

use darkbloom_enclave::Keychain;
use simulator::Process;

/// Has a program use the simulated keychain as it is.
fn directly(process: &Process) -> Arc<dyn Keychain> {
    Arc::new(process.clone())
}

macro_rules! hold {
    ($($claim:ident)*) => { $(
        #[test]
        fn $claim() {
            claims::$claim(&directly);
        }
    )* };
}

claims::each!(hold);
