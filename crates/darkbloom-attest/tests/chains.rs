//! Chains from a maker's root to a device, each wrong in one way. They are followed for an activator, which then finds that a
//! key on a curve cannot be asked: that answer means that the chain itself was good.
#![allow(clippy::unwrap_used, reason = "tests, also in what their cases share")]

use darkbloom_attest::{ActivationError, Activator, ChainError, Roots};
use darkbloom_types::UnixMillis;
use darkbloom_wire::ActivationRequest;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, SignatureAlgorithm, date_time_ymd,
};
use serde_json::Value;

/// In the middle of 2027.
const NOW: UnixMillis = UnixMillis(1_814_400_000_000);
/// The chain itself is good.
const FOLLOWED: ChainError = ChainError::Key;
/// What an endorsement key's certificate is for.
const ENDORSEMENT: [u64; 5] = [2, 23, 133, 8, 1];

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    (params.not_before, params.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2036, 1, 1));
    params
}

fn authority(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn device() -> CertificateParams {
    let mut params = params("device");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(ENDORSEMENT.to_vec())];
    params
}

fn key(algorithm: &'static SignatureAlgorithm) -> KeyPair {
    KeyPair::generate_for(algorithm).unwrap()
}

/// A root, certificates between, and a device.
struct Chain {
    root: CertificateParams,
    between: Vec<CertificateParams>,
    device: CertificateParams,
    algorithm: &'static SignatureAlgorithm,
}

impl Chain {
    fn good() -> Self {
        let between = vec![authority("one"), authority("two")];
        Self { root: authority("root"), between, device: device(), algorithm: &PKCS_ECDSA_P256_SHA256 }
    }

    fn with(change: impl FnOnce(&mut Self)) -> Self {
        let mut chain = Self::good();
        change(&mut chain);
        chain
    }

    /// The root, those between, and the device, in DER.
    fn made(&self) -> (Vec<u8>, Vec<Vec<u8>>, Vec<u8>) {
        let root_key = key(self.algorithm);
        let root = self.root.self_signed(&root_key).unwrap().der().to_vec();
        let mut issuer = Issuer::from_params(&self.root, root_key);
        let mut between = Vec::new();
        for params in &self.between {
            let own = key(self.algorithm);
            between.push(params.signed_by(&own, &issuer).unwrap().der().to_vec());
            issuer = Issuer::from_params(params, own);
        }
        let device = self.device.signed_by(&key(self.algorithm), &issuer).unwrap().der().to_vec();
        (root, between, device)
    }

    fn outcome(&self) -> ChainError {
        let (root, between, device) = self.made();
        follow(&[&root], between, device)
    }
}

/// Randomness that is never asked for: no chain here ends at a key that a credential could be made for.
struct Unasked;

impl rand_core::TryRng for Unasked {
    type Error = std::convert::Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(0)
    }
    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(0)
    }
    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), Self::Error> {
        to.fill(0);
        Ok(())
    }
}

impl rand_core::TryCryptoRng for Unasked {}

fn follow(roots: &[&[u8]], intermediates: Vec<Vec<u8>>, endorsement: Vec<u8>) -> ChainError {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/vectors/tpm-evidence.json");
    let vector: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let recorded = hex::decode(vector["activation_request"].as_str().unwrap()).unwrap();
    let attestation_key = ActivationRequest::decode(&recorded).unwrap().attestation_key;
    let request = ActivationRequest { endorsement, intermediates: intermediates.into(), attestation_key, answer: None };
    let signer = p256::ecdsa::SigningKey::from_slice(&[9; 32]).unwrap();
    let activator = Activator::new(Roots::read(roots.iter().copied()).unwrap(), &mut Unasked);
    match activator.reply(&request, &signer, &[4; 65], NOW, &mut Unasked) {
        Err(ActivationError::Chain(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn good_chains_are_followed_in_any_order_and_on_either_curve() {
    assert_eq!(Chain::good().outcome(), FOLLOWED);
    assert_eq!(Chain::with(|chain| chain.algorithm = &PKCS_ECDSA_P384_SHA384).outcome(), FOLLOWED);
    assert_eq!(Chain::with(|chain| chain.between.clear()).outcome(), FOLLOWED, "signed by the root itself");
    let (root, mut between, device) = Chain::good().made();
    between.reverse();
    assert_eq!(follow(&[&root], between.clone(), device.clone()), FOLLOWED);
    between.push(Chain::good().made().1[0].clone());
    assert_eq!(follow(&[&root], between, device), FOLLOWED, "another of the same name is of no consequence");
}

#[test]
fn a_certificate_that_may_not_sign_others_signs_none() {
    let plain = |chain: &mut Chain| chain.between[1].is_ca = IsCa::NoCa;
    assert_eq!(Chain::with(plain).outcome(), ChainError::NotAuthority, "no authority");
    let explicit = |chain: &mut Chain| chain.between[1].is_ca = IsCa::ExplicitNoCa;
    assert_eq!(Chain::with(explicit).outcome(), ChainError::NotAuthority, "said so");
    let usage = |chain: &mut Chain| chain.between[0].key_usages = vec![KeyUsagePurpose::CrlSign];
    assert_eq!(Chain::with(usage).outcome(), ChainError::NotAuthority, "its key is for other things");
    // A device's own certificate at the place of one that signs.
    let by_device = |chain: &mut Chain| chain.between[1] = device();
    assert_eq!(Chain::with(by_device).outcome(), ChainError::NotAuthority);
}

#[test]
fn path_lengths_are_held() {
    let of_root = |most| move |chain: &mut Chain| chain.root.is_ca = IsCa::Ca(BasicConstraints::Constrained(most));
    assert_eq!(Chain::with(of_root(2)).outcome(), FOLLOWED);
    assert_eq!(Chain::with(of_root(1)).outcome(), ChainError::NotAuthority);
    let of_first =
        |most| move |chain: &mut Chain| chain.between[0].is_ca = IsCa::Ca(BasicConstraints::Constrained(most));
    assert_eq!(Chain::with(of_first(1)).outcome(), FOLLOWED);
    assert_eq!(Chain::with(of_first(0)).outcome(), ChainError::NotAuthority);
    let long = |names: &[&'static str]| {
        let between: Vec<_> = names.iter().map(|name| authority(name)).collect();
        Chain::with(move |chain| chain.between = between).outcome()
    };
    assert_eq!(long(&["a", "b", "c", "d"]), FOLLOWED);
    assert_eq!(long(&["a", "b", "c", "d", "e"]), ChainError::TooLong);
}

#[test]
fn what_is_critical_must_be_understood_everywhere() {
    let critical = || {
        let mut unknown = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![5, 0]);
        unknown.set_criticality(true);
        unknown
    };
    let at_device = |chain: &mut Chain| chain.device.custom_extensions.push(critical());
    assert_eq!(Chain::with(at_device).outcome(), ChainError::Critical);
    let between = |chain: &mut Chain| chain.between[0].custom_extensions.push(critical());
    assert_eq!(Chain::with(between).outcome(), ChainError::Critical);
    let tolerated = |chain: &mut Chain| {
        let plain = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![5, 0]);
        chain.device.custom_extensions.push(plain);
    };
    assert_eq!(Chain::with(tolerated).outcome(), FOLLOWED);
    let (root, ..) = Chain::with(|chain| chain.root.custom_extensions.push(critical())).made();
    assert_eq!(Roots::read([root.as_slice()]).err(), Some(ChainError::Critical));
}

#[test]
fn a_devices_certificate_is_for_endorsement_and_signs_nothing() {
    let no_purpose = |chain: &mut Chain| chain.device.extended_key_usages.clear();
    assert_eq!(Chain::with(no_purpose).outcome(), ChainError::Purpose);
    let server = |chain: &mut Chain| chain.device.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    assert_eq!(Chain::with(server).outcome(), ChainError::Purpose);
    let authority = |chain: &mut Chain| chain.device.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    assert_eq!(Chain::with(authority).outcome(), ChainError::Purpose);
}

#[test]
fn every_certificate_must_be_valid_now() {
    let over = |params: &mut CertificateParams| params.not_after = date_time_ymd(2027, 1, 1);
    let early = |params: &mut CertificateParams| params.not_before = date_time_ymd(2028, 1, 1);
    assert_eq!(Chain::with(|chain| over(&mut chain.device)).outcome(), ChainError::Time);
    assert_eq!(Chain::with(|chain| early(&mut chain.between[0])).outcome(), ChainError::Time);
    assert_eq!(Chain::with(|chain| over(&mut chain.between[1])).outcome(), ChainError::Time);
    assert_eq!(Chain::with(|chain| over(&mut chain.root)).outcome(), ChainError::Time, "the root too");
}

#[test]
fn a_name_is_no_signature() {
    let (root, between, device) = Chain::good().made();
    let (other_root, other_between, other_device) = Chain::good().made();
    assert_eq!(follow(&[&other_root], between.clone(), device.clone()), ChainError::Signature);
    assert_eq!(follow(&[&root], other_between, device.clone()), ChainError::Signature);
    assert_eq!(follow(&[&root], between.clone(), other_device), ChainError::Signature);
    assert_eq!(
        follow(&[&other_root, &root], between.clone(), device.clone()),
        FOLLOWED,
        "the one that signed it counts"
    );
    assert_eq!(follow(&[&root], between[..1].to_vec(), device.clone()), ChainError::NoRoot, "one is missing");
    assert_eq!(follow(&[], between, device), ChainError::NoRoot, "nobody is believed");
}

/// Numbers that nobody has to guess (splitmix64).
struct Numbers(u64);

impl rand_core::TryRng for Numbers {
    type Error = std::convert::Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        self.try_next_u64().map(|number| (number >> 32) as u32)
    }
    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Ok(z ^ (z >> 31))
    }
    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), Self::Error> {
        for byte in to {
            *byte = self.try_next_u64()? as u8;
        }
        Ok(())
    }
}

impl rand_core::TryCryptoRng for Numbers {}

/// An RSA key that signs certificates: `rcgen` makes none itself.
struct RsaKey {
    private: rsa::PrivateKey,
    public: Vec<u8>,
}

impl RsaKey {
    fn new(bits: usize) -> Self {
        use rsa::pkcs1::EncodeRsaPublicKey as _;
        let private = rsa::PrivateKey::new(&mut Numbers(bits as u64), bits).unwrap();
        let public = private.to_public_key().to_pkcs1_der().unwrap().as_bytes().to_vec();
        Self { private, public }
    }
}

impl rcgen::PublicKeyData for RsaKey {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }
    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

impl rcgen::SigningKey for RsaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        use rsa::signature::{SignatureEncoding as _, Signer as _};
        let key = rsa::pkcs1v15::SigningKey::<sha2::Sha256>::new(self.private.clone());
        Ok(key.sign(message).to_vec())
    }
}

#[test]
fn rsa_keys_of_under_2048_bits_sign_nothing() {
    for (bits, outcome) in [(2_048, FOLLOWED), (1_024, ChainError::Signature)] {
        let root_key = RsaKey::new(bits);
        let named = authority("root");
        let root = named.self_signed(&root_key).unwrap().der().to_vec();
        let issuer = Issuer::from_params(&named, root_key);
        let endorsement = device().signed_by(&key(&PKCS_ECDSA_P256_SHA256), &issuer).unwrap().der().to_vec();
        assert_eq!(follow(&[&root], Vec::new(), endorsement), outcome, "{bits}");
    }
}
