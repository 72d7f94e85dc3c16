//! What an administrator sends in JSON. The module is taken as it stands: its crate would bring the coordinator along.

#![no_main]
#![allow(dead_code, unreachable_pub, missing_docs, reason = "the module belongs to another crate")]

#[path = "../../../crates/darkbloom-coordinator/src/admin/bodies.rs"]
mod bodies;

use darkbloom_fuzz::memory;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((which, body)) = bytes.split_first() else { return };
    // Nothing is kept but strings that stand in the body, and an error that quotes a part of it.
    memory::within((16 << 10) + 4 * body.len(), || match which % 18 {
        0 => drop(bodies::read::<bodies::NewAccount>(body)),
        1 => drop(bodies::read::<bodies::NewKey>(body)),
        2 => drop(bodies::read::<bodies::NewDeposit>(body)),
        3 => drop(bodies::read::<bodies::NewStanding>(body)),
        4 => drop(bodies::read::<bodies::NewPolicy>(body)),
        5 => drop(bodies::read::<bodies::EditKey>(body)),
        6 => drop(bodies::read::<bodies::EditAccount>(body)),
        7 => drop(bodies::read::<bodies::NewInvite>(body)),
        8 => drop(bodies::read::<bodies::Code>(body)),
        9 => drop(bodies::read::<bodies::OwnPrice>(body)),
        10 => drop(bodies::read::<bodies::NewOwner>(body)),
        11 => drop(bodies::read::<bodies::NewPayout>(body)),
        12 => drop(bodies::read::<bodies::EditPayout>(body)),
        13 => drop(bodies::read::<bodies::Spend>(body)),
        14 => drop(bodies::read::<bodies::NewDispute>(body)),
        15 => drop(bodies::read::<bodies::DecideDispute>(body)),
        16 => drop(bodies::read::<bodies::DecideDevice>(body)),
        _ => {
            if let Ok(model) = bodies::read::<bodies::NewModel>(body) {
                assert!(model.context.0 > 0, "a model without room for a token is accepted");
            }
        }
    });
});
