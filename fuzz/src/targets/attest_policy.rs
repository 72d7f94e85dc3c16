//! Operators' policies: whatever is read assesses any verdict, and one that only shows things bars nobody.

#![no_main]

use std::collections::BTreeSet;
use std::sync::LazyLock;

use darkbloom_attest::{HardwareTrust, Policy, TrustPolicy, Verdict, verify_statement};
use darkbloom_fuzz::{memory, parties, text};
use darkbloom_seal::Epoch;
use darkbloom_types::Tier;
use libfuzzer_sys::fuzz_target;

static VERDICT: LazyLock<Verdict> = LazyLock::new(|| {
    let epoch = Epoch::begin(parties::identity(), parties::NOW, &mut parties::FixedRng::new("policy"));
    let statement = epoch.statement(parties::NETWORK, Vec::new(), Vec::new(), "darkbloom/1.2.3");
    let trust = TrustPolicy {
        network: parties::NETWORK,
        tier_min: Tier::None,
        pinned: BTreeSet::new(),
        hardware: HardwareTrust::default(),
    };
    let signed = statement.sign(&parties::p256()).expect("software keys sign");
    verify_statement(&signed, &trust, parties::NOW).expect("the statement here is good")
});

fuzz_target!(|bytes: &[u8]| {
    let verdict = &*VERDICT;
    let written = text(bytes);
    // The parser keeps a place for every byte of a key; an error quotes the line that it is about.
    memory::within((256 << 10) + 512 * bytes.len(), || {
        let Ok(policy) = Policy::parse(&written) else { return };
        let assessment = policy.assess(verdict);
        assert!(assessment.shut.iter().all(|gate| !assessment.shadow.contains(gate)), "a gate has one mode");
        assert_eq!(policy.assess(verdict), assessment);
        if !written.contains("enforce") {
            assert!(assessment.shut.is_empty(), "nothing is enforced that is not said so");
        }
    });
});
