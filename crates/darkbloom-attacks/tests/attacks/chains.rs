//! Attacks on certificates: from another root, out of time, in the wrong place, for something else.

use darkbloom_attacks::attacks;
use darkbloom_attest::{ActivationError, Activator, ChainError, Roots};
use darkbloom_host::clock::rng;
use darkbloom_types::UnixMillis;
use darkbloom_wire::ActivationRequest;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use crate::forge::{NOW, key, minutes};

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    (params.not_before, params.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2036, 1, 1));
    params
}

/// Who may sign others.
pub fn authority(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// An endorsement key's certificate.
pub fn device() -> CertificateParams {
    let mut params = params("device");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1])];
    params
}

/// A root that a verifier believes, and a chain from another place that may look like it.
struct Chain {
    root: CertificateParams,
    between: CertificateParams,
    device: CertificateParams,
    /// Whether the believed root's key signed what is between.
    genuine: bool,
    /// Whether the device's certificate and the one above it have each other's places.
    swapped: bool,
}

impl Chain {
    fn good() -> Self {
        Self { root: authority("root"), between: authority("between"), device: device(), genuine: true, swapped: false }
    }

    fn with(change: impl Fn(&mut Self)) -> Self {
        let mut chain = Self::good();
        change(&mut chain);
        chain
    }

    /// Whether the chain leads to the root. An activator follows it, and then finds that it cannot ask a key on a curve.
    fn followed(&self, now: UnixMillis) -> bool {
        let pair = || KeyPair::generate().unwrap();
        let (root_key, between_key) = (pair(), pair());
        let root = self.root.self_signed(&root_key).unwrap().der().to_vec();
        let signer = Issuer::from_params(&self.root, if self.genuine { root_key } else { pair() });
        let between = self.between.signed_by(&between_key, &signer).unwrap().der().to_vec();
        let endorsement =
            self.device.signed_by(&pair(), &Issuer::from_params(&self.between, between_key)).unwrap().der().to_vec();
        let (endorsement, between) = if self.swapped { (between, endorsement) } else { (endorsement, between) };
        let activator = Activator::new(Roots::read([&root[..]]).unwrap(), &mut rng());
        let request = ActivationRequest {
            endorsement,
            intermediates: vec![between].into(),
            attestation_key: Vec::new(),
            answer: None,
        };
        let reply = activator.reply(&request, &key(3).0, &key(3).1, now, &mut rng());
        match reply.map(drop).unwrap_err() {
            // The next thing that an activator looks at.
            ActivationError::AttestationKey | ActivationError::Chain(ChainError::Key) => true,
            ActivationError::Chain(_) | ActivationError::Late | ActivationError::Wrong | ActivationError::Key(_) => {
                false
            }
        }
    }
}

attacks! {
    attack_a_chain_leads_to_another_root against "chain_root": || {
        // Of another name: the believed root is not asked.
        let stranger = authority("stranger");
        let (root_key, own) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let believed = authority("root").self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
        let endorsement = device().signed_by(&own, &Issuer::from_params(&stranger, root_key)).unwrap().der().to_vec();
        let activator = Activator::new(Roots::read([&believed[..]]).unwrap(), &mut rng());
        let request = ActivationRequest {
            endorsement,
            intermediates: Vec::new().into(),
            attestation_key: Vec::new(),
            answer: None,
        };
        let reply = activator.reply(&request, &key(3).0, &key(3).1, NOW, &mut rng());
        matches!(reply, Err(ActivationError::AttestationKey))
    };
    attack_a_root_of_the_same_name_is_made against "chain_signature": || {
        Chain::with(|it| it.genuine = false).followed(NOW)
    };
    attack_an_expired_certificate_is_used against "chain_time": || Chain::good().followed(minutes(60 * 24 * 365 * 10));
    attack_a_certificate_is_used_before_its_time against "chain_time": || {
        Chain::with(|it| it.between.not_before = date_time_ymd(2030, 1, 1)).followed(NOW)
    };
    /// The owner of one device signs certificates for others with its key.
    attack_a_certificate_that_may_not_signs_others against "chain_authority": || {
        Chain::with(|it| it.between.is_ca = IsCa::NoCa).followed(NOW)
    };
    attack_a_certificate_for_something_else_is_shown against "chain_purpose": || {
        Chain::with(|it| it.device.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]).followed(NOW)
    };
    /// In the wrong order, whoever signs devices' certificates would pass for a device.
    attack_a_chain_is_shown_in_the_wrong_order against "chain_purpose": || {
        Chain::with(|it| {
            it.swapped = true;
            it.between.extended_key_usages.clone_from(&it.device.extended_key_usages);
        })
        .followed(NOW)
    };
    attack_a_certificate_demands_what_is_not_understood against "chain_critical": || {
        Chain::with(|it| {
            let mut limit = CustomExtension::from_oid_content(&[1, 2, 3], vec![0x05, 0x00]);
            limit.set_criticality(true);
            it.device.custom_extensions = vec![limit];
        })
        .followed(NOW)
    };
}

#[test]
fn the_chain_here_is_good_when_nobody_touches_it() {
    assert!(Chain::good().followed(NOW));
}
