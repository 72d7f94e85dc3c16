//! Attacks on evidence of Apple's two kinds. The attacker here has a Mac of his own, that Apple certifies as what it is, and
//! whatever others have shown before.

use std::sync::LazyLock;

use darkbloom_attacks::attacks;
use darkbloom_attest::{HardwareTrust, verify_apple_app_attest, verify_apple_mda};
use darkbloom_types::Digest;

use crate::forge::{NOW, key};
use crate::other_apple::{APP, App, Authority, Mac, sha256};

const NONCE: Digest = Digest([5; 32]);

static APPLE: LazyLock<Authority> = LazyLock::new(Authority::new);

/// Whether a verifier believes what Apple certified of a Mac, for the identity with key 7.
fn mac_believed(change: impl Fn(&mut Mac)) -> bool {
    let mut mac = Mac::about(&key(7).1);
    change(&mut mac);
    verify_apple_mda(&mac.evidence(&APPLE).encode(), &key(7).1, &APPLE.roots(), NOW).is_ok()
}

/// Whether a verifier believes what Apple certified of an app's key, and what that key signed.
fn app_believed(change: impl Fn(&mut App)) -> bool {
    let mut app = App::about(&key(7).1, &NONCE.0);
    change(&mut app);
    let trust = HardwareTrust {
        apple_app_attest_roots: APPLE.roots().into(),
        apple_app_id: Some(APP.to_owned()),
        ..HardwareTrust::default()
    };
    verify_apple_app_attest(&app.evidence(&APPLE).encode(), &key(7).1, &NONCE, &trust, NOW).is_ok()
}

attacks! {
    /// Another provider's certificate, taken from its statement.
    attack_a_macs_certificate_is_shown_for_another_identity against "apple_mda_freshness": || {
        mac_believed(|mac| mac.freshness = Some(sha256(&[&key(8).1]).to_vec()))
    };
    attack_a_mac_without_integrity_protection_is_shown against "apple_mda_sip": || {
        mac_believed(|mac| mac.sip = Some(vec![2, 1, 1]))
    };
    attack_a_certificate_that_is_silent_about_integrity_protection_is_shown against "apple_mda_sip": || {
        mac_believed(|mac| mac.sip = None)
    };
    attack_a_mac_that_boots_with_less_security_is_shown against "apple_mda_secure_boot": || {
        mac_believed(|mac| mac.secure_boot = Some(b"Reduced Security".to_vec()))
    };
    attack_a_mac_that_loads_kernel_extensions_is_shown against "apple_mda_kernel_extensions": || {
        mac_believed(|mac| mac.kernel_extensions = Some(vec![2, 1, 1]))
    };
    /// A genuine app's key, attested for another identity.
    attack_an_attestation_is_shown_for_another_identity against "apple_app_nonce": || {
        app_believed(|app| app.about[0] = sha256(&[&key(8).1]))
    };
    attack_an_attestation_names_another_key_than_is_certified against "apple_app_key": || {
        app_believed(|app| app.credential = Some([1; 32]))
    };
    /// An app that the attacker made himself, genuine in all else.
    attack_another_app_is_shown against "apple_app_id": || {
        app_believed(|app| app.ids = ["EVILTEAM00.example.provider"; 2])
    };
    attack_an_app_under_development_is_shown against "apple_app_environment": || {
        app_believed(|app| app.environment = *b"appattestdevelop")
    };
    attack_an_assertion_of_another_epoch_is_replayed against "apple_app_assertion": || {
        app_believed(|app| app.about[1] = [6; 32])
    };
    attack_an_assertion_is_signed_by_another_key against "apple_app_assertion": || {
        app_believed(|app| app.foreign_assertion = true)
    };
}

#[test]
fn what_apple_says_here_is_good_when_nobody_touches_it() {
    assert!(mac_believed(|_| ()) && app_believed(|_| ()));
}
