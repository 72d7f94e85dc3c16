//! Arrows between crates, transitively. ARCHITECTURE.md says why each of them matters.

use std::collections::BTreeSet;

use crate::graph::{Edges, GRAPH};

/// Crates that get time, randomness and bytes as arguments.
pub const PURE: [&str; 11] = [
    "darkbloom-types",
    "darkbloom-wire",
    "darkbloom-seal",
    "darkbloom-attest",
    "darkbloom-content",
    "darkbloom-text",
    "darkbloom-dialect",
    "darkbloom-session",
    "darkbloom-registry",
    "darkbloom-ledger",
    "darkbloom-batch",
];
/// What would give them sockets, files, clocks, threads or global randomness.
const IMPURE: [&str; 18] = [
    "tokio",
    "mio",
    "socket2",
    "hyper",
    "reqwest",
    "axum",
    "tungstenite",
    "tokio-tungstenite",
    "rustls",
    "rusqlite",
    "tokio-postgres",
    "getrandom",
    "rand",
    "fastrand",
    "rayon",
    "time",
    "chrono",
    "tracing",
];

#[test]
fn pure_crates_reach_no_socket_file_clock_or_global_randomness() {
    for name in PURE {
        GRAPH.refuse(name, Edges::Linked, &IMPURE);
    }
}

#[test]
fn the_coordinator_cannot_name_a_prompt() {
    let banned = [
        "darkbloom-content",
        "darkbloom-text",
        "darkbloom-dialect",
        "darkbloom-engine",
        "darkbloom-batch",
        "darkbloom-provider",
        "darkbloom-client",
    ];
    GRAPH.refuse("darkbloom-coordinator", Edges::Shipped, &banned);
}

#[test]
fn the_client_never_reaches_the_operators_side() {
    let banned = [
        "darkbloom-coordinator",
        "darkbloom-registry",
        "darkbloom-ledger",
        "darkbloom-store",
        "darkbloom-provider",
        "darkbloom-engine",
        "darkbloom-batch",
    ];
    GRAPH.refuse("darkbloom-client", Edges::Shipped, &banned);
}

#[test]
fn the_provider_reaches_no_other_role() {
    let banned = ["darkbloom-coordinator", "darkbloom-client", "darkbloom-registry", "darkbloom-dialect"];
    GRAPH.refuse("darkbloom-provider", Edges::Shipped, &banned);
}

#[test]
fn arrows_between_our_crates_run_one_way() {
    // Each crate may reach those of earlier rows, and within its row only what is named with it.
    let rows: [&[&str]; 8] = [
        &["darkbloom-types"],
        &["darkbloom-wire", "darkbloom-content", "darkbloom-ledger", "darkbloom-batch"],
        &[
            "darkbloom-seal",
            "darkbloom-attest",
            "darkbloom-text",
            "darkbloom-dialect",
            "darkbloom-session",
            "darkbloom-enclave",
            "darkbloom-harden",
        ],
        &["darkbloom-registry", "darkbloom-host", "darkbloom-store", "darkbloom-keys", "darkbloom-engine"],
        &["darkbloom-coordinator", "darkbloom-provider", "darkbloom-client"],
        &["darkbloom"],
        &["darkbloom-testbed"],
        &["darkbloom-attacks", "darkbloom-weakened"],
    ];
    let members = GRAPH.members();
    let placed: BTreeSet<_> = rows.iter().copied().flatten().copied().collect();
    let homeless: Vec<_> = members.difference(&placed).collect();
    assert!(homeless.is_empty(), "say in this test and in ARCHITECTURE.md where these belong: {homeless:?}");
    for (index, row) in rows.iter().enumerate() {
        for name in row.iter().filter(|name| members.contains(*name)) {
            let later: Vec<_> =
                rows[index..].iter().copied().flatten().copied().filter(|other| other != name).collect();
            GRAPH.refuse(name, Edges::Shipped, &later);
        }
    }
}

#[test]
fn the_program_ships_one_tls_stack_and_one_runtime() {
    let other_tls =
        ["openssl", "openssl-sys", "native-tls", "aws-lc-rs", "aws-lc-sys", "boring", "boring-sys", "mbedtls"];
    let other_runtimes = ["async-std", "smol", "async-executor", "glommio", "monoio", "actix-rt"];
    let other_codecs = ["ciborium", "serde_cbor", "cbor4ii", "coset"];
    for banned in [&other_tls[..], &other_runtimes, &other_codecs] {
        GRAPH.refuse("darkbloom", Edges::Linked, banned);
    }
}

#[test]
fn the_program_needs_no_test_bed() {
    GRAPH.refuse(
        "darkbloom",
        Edges::Shipped,
        &["darkbloom-testbed", "darkbloom-attacks", "darkbloom-weakened", "proptest", "insta", "tempfile"],
    );
}

#[test]
fn a_forbidden_arrow_is_found() {
    // Both ends of long paths: the graph is really read, and through other crates.
    assert!(GRAPH.reach("darkbloom", Edges::Linked).contains_key("minicbor"));
    let path = &GRAPH.reach("darkbloom-coordinator", Edges::Linked)["rusqlite"];
    assert!(path.starts_with("darkbloom-coordinator → darkbloom-store → "), "{path}");
    let refused = std::panic::catch_unwind(|| GRAPH.refuse("darkbloom-coordinator", Edges::Linked, &["rusqlite"]));
    assert!(refused.is_err());
}
