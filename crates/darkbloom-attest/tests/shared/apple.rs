//! An Apple of our own: a root, what it certifies of a Mac and of an app's key, and what that key signs. What a verifier makes of
//! them is the real thing; only the root is another.

use darkbloom_attest::Roots;
use darkbloom_wire::{AppleAppAttestEvidence, AppleMdaEvidence};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, SigningKey as _, date_time_ymd,
};
use sha2::{Digest as _, Sha256};

/// The app that is believed.
pub const APP: &str = "TEAM123456.example.provider";
/// The environment of apps that are distributed.
pub const PRODUCTION: [u8; 16] = *b"appattest\0\0\0\0\0\0\0";
/// When what is certified here was certified: 2027-06-01, in milliseconds.
pub const CERTIFIED_AT: i64 = 1_811_808_000_000;
/// Zero as an INTEGER in DER.
pub const ZERO: [u8; 3] = [2, 1, 0];
pub const SERIAL: &str = "C02SERIALNUM";
pub const UDID: &str = "00008103-000A1B2C3D4E5F60";

pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    Sha256::digest(parts.concat()).into()
}

/// A root, and what it lets sign for devices.
pub struct Authority {
    root: Vec<u8>,
    between: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    (params.not_before, params.not_after) = (date_time_ymd(2022, 1, 1), date_time_ymd(2045, 1, 1));
    params
}

fn authority(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

impl Authority {
    pub fn new() -> Self {
        let key = || KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        let (root_key, between_key) = (key(), key());
        let named = authority("A root of attestation");
        let root = named.self_signed(&root_key).unwrap().der().to_vec();
        let root_issuer = Issuer::from_params(&named, root_key);
        let named = authority("A certificate between");
        let between = named.signed_by(&between_key, &root_issuer).unwrap().der().to_vec();
        Self { root, between, issuer: Issuer::new(named, between_key) }
    }

    /// The root, for those who believe it.
    pub fn roots(&self) -> Roots {
        Roots::read([&self.root[..]]).unwrap()
    }

    /// The root's certificate.
    pub fn root(&self) -> &[u8] {
        &self.root
    }

    /// Certifies a key, with extensions under Apple's arc.
    fn certify(&self, key: &KeyPair, extensions: &[(&[u64], Vec<u8>)]) -> Vec<u8> {
        let mut named = params("leaf");
        (named.not_before, named.not_after) = (date_time_ymd(2027, 6, 1), date_time_ymd(2028, 6, 1));
        let extension = |(arc, content): &(&[u64], Vec<u8>)| {
            let oid: Vec<u64> = [1, 2, 840, 113_635, 100, 8].iter().chain(*arc).copied().collect();
            CustomExtension::from_oid_content(&oid, content.clone())
        };
        named.custom_extensions = extensions.iter().map(extension).collect();
        named.signed_by(key, &self.issuer).unwrap().der().to_vec()
    }
}

/// What a managed Mac's certificate holds; nothing where the extension is absent.
#[derive(Clone)]
pub struct Mac {
    pub freshness: Option<Vec<u8>>,
    pub sip: Option<Vec<u8>>,
    pub secure_boot: Option<Vec<u8>>,
    pub kernel_extensions: Option<Vec<u8>>,
    pub os_version: Option<Vec<u8>>,
    pub sepos_version: Option<Vec<u8>>,
}

impl Mac {
    /// One that boots as it should and was asked about this identity key.
    pub fn about(identity: &[u8; 65]) -> Self {
        Self {
            freshness: Some(sha256(&[identity]).to_vec()),
            sip: Some(ZERO.to_vec()),
            secure_boot: Some(b"Full Security".to_vec()),
            kernel_extensions: Some(ZERO.to_vec()),
            os_version: Some(b"26.4.1".to_vec()),
            sepos_version: Some(b"26.4".to_vec()),
        }
    }

    pub fn evidence(&self, apple: &Authority) -> AppleMdaEvidence {
        let told: [(&[u64], Option<Vec<u8>>); 8] = [
            (&[9, 1], Some(SERIAL.into())),
            (&[9, 2], Some(UDID.into())),
            (&[10, 1], self.os_version.clone()),
            (&[10, 2], self.sepos_version.clone()),
            (&[11, 1], self.freshness.clone()),
            (&[13, 1], self.sip.clone()),
            (&[13, 2], self.secure_boot.clone()),
            (&[13, 3], self.kernel_extensions.clone()),
        ];
        let told: Vec<_> = told.into_iter().filter_map(|(arc, value)| Some((arc, value?))).collect();
        let device = apple.certify(&KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap(), &told);
        AppleMdaEvidence { device, intermediates: vec![apple.between.clone()].into() }
    }
}

/// An instance of an app with an attested key, and what it signs.
#[derive(Clone)]
pub struct App {
    /// The app's id, in its attestation and its assertion.
    pub ids: [&'static str; 2],
    /// The client data hashes of both.
    pub about: [[u8; 32]; 2],
    pub counters: [u32; 2],
    pub environment: [u8; 16],
    /// What the system adds to the authenticator data of both.
    pub added: [Vec<u8>; 2],
    /// A credential's name, where it is not the key's.
    pub credential: Option<[u8; 32]>,
    /// A credential's coordinates, where they are not the key's.
    pub coordinates: Option<[u8; 64]>,
    /// What stands before the nonce in the certificate.
    pub before_nonce: Vec<u8>,
    /// What is done to the nonce there.
    pub nonce: fn([u8; 32]) -> Vec<u8>,
    /// Whether another key signs the assertion.
    pub foreign_assertion: bool,
    /// Whether the certificate says what must be so for the key to sign.
    pub access_control: bool,
    /// Whether the key is on P-256.
    pub p256: bool,
    /// What is done to the object at the end.
    pub object: fn(Vec<u8>) -> Vec<u8>,
}

impl App {
    /// One that was asked about this identity key, and signs for this epoch.
    pub fn about(identity: &[u8; 65], nonce: &[u8; 32]) -> Self {
        Self {
            ids: [APP; 2],
            about: [sha256(&[identity]), *nonce],
            counters: [0, 7],
            environment: PRODUCTION,
            added: [extensions(), extensions()],
            credential: None,
            coordinates: None,
            before_nonce: vec![0x30, 36, 0xa1, 34, 4, 32],
            nonce: |nonce| nonce.to_vec(),
            foreign_assertion: false,
            access_control: true,
            p256: true,
            object: |object| object,
        }
    }

    pub fn evidence(&self, apple: &Authority) -> AppleAppAttestEvidence {
        let algorithm = if self.p256 { &PKCS_ECDSA_P256_SHA256 } else { &PKCS_ECDSA_P384_SHA384 };
        let (key, other) = (KeyPair::generate_for(algorithm).unwrap(), KeyPair::generate().unwrap());
        let point = key.public_key_raw();
        let coordinates = self.coordinates.unwrap_or_else(|| point[1..65].try_into().unwrap());
        let attested = [
            &head(self.ids[0], self.counters[0])[..],
            &self.environment,
            &[0, 32],
            &self.credential.unwrap_or_else(|| sha256(&[point])),
            &[0xa5, 1, 2, 3, 0x26, 0x20, 1, 0x21, 0x58, 32],
            &coordinates[..32],
            &[0x22, 0x58, 32],
            &coordinates[32..],
            &self.added[0],
        ]
        .concat();
        let nonce = (self.nonce)(sha256(&[&attested, &self.about[0]]));
        let mut told: Vec<(&[u64], Vec<u8>)> = vec![(&[2], [&self.before_nonce[..], &nonce].concat())];
        if self.access_control {
            told.push((&[6], vec![0x30, 0]));
        }
        let leaf = apple.certify(&key, &told);
        let object = [
            &map(3)[..],
            &text("fmt"),
            &text("apple-appattest"),
            &text("attStmt"),
            &map(2),
            &text("x5c"),
            &[0x82],
            &bytes(&leaf),
            &bytes(&apple.between),
            &text("receipt"),
            &bytes(b"for Apple alone"),
            &text("authData"),
            &bytes(&attested),
        ]
        .concat();
        let data = [&head(self.ids[1], self.counters[1])[..], &self.added[1]].concat();
        // What is signed is a hash; signing hashes it again.
        let signer = if self.foreign_assertion { &other } else { &key };
        let signature = signer.sign(&sha256(&[&data, &self.about[1]])).unwrap();
        let assertion =
            [&map(2)[..], &text("signature"), &bytes(&signature), &text("authenticatorData"), &bytes(&data)].concat();
        AppleAppAttestEvidence { attestation: (self.object)(object), assertion }
    }
}

/// Authenticator data up to its counter, with the flags that Apple sets.
fn head(app: &str, counter: u32) -> Vec<u8> {
    [&sha256(&[app.as_bytes()])[..], &[0x40], &counter.to_be_bytes()].concat()
}

/// What the system adds, as in the sample of Apple's guide.
pub fn extensions() -> Vec<u8> {
    let (version, category) = (text("apple_bundle_version_01"), text("apple_validation_category_01"));
    [&map(2)[..], &version, &text("1"), &category, &bytes(&[6, 0, 0, 0])].concat()
}

fn map(pairs: u8) -> Vec<u8> {
    vec![0xa0 | pairs]
}

/// The head of an item of CBOR in shortest form, with what follows it.
fn item(kind: u8, content: &[u8]) -> Vec<u8> {
    let kind = kind << 5;
    let head = match content.len() {
        short @ 0..=23 => vec![kind | short as u8],
        byte @ 24..=255 => vec![kind | 24, byte as u8],
        long => [&[kind | 25][..], &u16::try_from(long).unwrap().to_be_bytes()].concat(),
    };
    [&head[..], content].concat()
}

pub fn bytes(content: &[u8]) -> Vec<u8> {
    item(2, content)
}

pub fn text(content: &str) -> Vec<u8> {
    item(3, content.as_bytes())
}
