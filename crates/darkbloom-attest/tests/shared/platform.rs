//! An Intel platform of our own: a root, the certificates and lists that Intel makes, its word about levels, and quotes. What a
//! verifier makes of them is the real thing; only the root is another.

use darkbloom_attest::Roots;
use darkbloom_types::Digest;
use darkbloom_wire::TdxEvidence;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, CustomExtension, DnType, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, RevokedCertParams, SerialNumber,
    SigningKey as _, date_time_ymd,
};
use sha2::{Digest as _, Sha256};
use x509_cert::der::pem::{self, LineEnding};

/// What the machine was launched as.
pub const MEASUREMENT: [u8; 48] = [0x7d; 48];
/// What was measured since.
pub const REGISTERS: [[u8; 48]; 4] = [[0xa0; 48], [0xa1; 48], [0xa2; 48], [0; 48]];
/// The line of platforms.
pub const LINE: [u8; 6] = [0xb0, 0xc0, 0x6f, 0, 0, 0];

/// Serial numbers, as lists name them.
const CERTIFIER: u64 = 0x1111;
const PLATFORM: u64 = 0x2222;
const SIGNER: u64 = 0x3333;

/// What a quote says and what Intel says beside it, before anything is signed.
pub struct Draft {
    /// The quote's header.
    pub header: [u8; 48],
    /// The module's report.
    pub report: Vec<u8>,
    /// The quoting enclave's report.
    pub enclave: [u8; 384],
    /// What Intel says about levels.
    pub levels: String,
    /// What Intel says about the quoting enclave.
    pub enclaves: String,
    /// Serial numbers that are revoked, by the platforms' authority and by the root.
    pub revoked: [Vec<u64>; 2],
    /// When lists begin to count, by the year: they count for two.
    pub year: i32,
    /// Who signs the quote in place of the quoting enclave.
    pub forger: Option<KeyPair>,
}

/// A platform and all who stand for it.
pub struct Platform {
    root: Vec<u8>,
    root_issuer: Issuer<'static, KeyPair>,
    certifier_issuer: Issuer<'static, KeyPair>,
    /// The certificates that a quote has in it.
    chain: String,
    key: KeyPair,
    signer: Vec<u8>,
    signer_key: KeyPair,
    enclave_key: KeyPair,
}

pub fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

fn params(name: &str, serial: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from(serial));
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2045, 1, 1));
    params
}

fn authority(name: &str, serial: u64) -> CertificateParams {
    let mut params = params(name, serial);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// A value in DER.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let head = if length < 0x80 { vec![tag, length as u8] } else { vec![tag, 0x82, (length >> 8) as u8, length as u8] };
    [&head[..], content].concat()
}

/// A pair of a name under Intel's arc and a value.
fn pair(arc: &[u8], value: &[u8]) -> Vec<u8> {
    let name = [&[0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 1, 0x0d, 1][..], arc].concat();
    der(0x30, &[der(6, &name), value.to_vec()].concat())
}

/// What a platform's certificate says about it: each part of the firmware at level 5, the certification enclave at 11.
fn about() -> CustomExtension {
    let parts = (1..=16).map(|part| pair(&[2, part], &[2, 1, 5])).chain([pair(&[2, 17], &[2, 1, 11])]);
    let levels = der(0x30, &parts.collect::<Vec<_>>().concat());
    let all = [pair(&[2], &levels), pair(&[3], &der(4, &[0, 0])), pair(&[4], &der(4, &LINE))].concat();
    CustomExtension::from_oid_content(&[1, 2, 840, 113_741, 1, 13, 1], der(0x30, &all))
}

/// Signs: `r ‖ s`.
fn sign(key: &KeyPair, message: &[u8]) -> [u8; 64] {
    let signature = p256::ecdsa::Signature::from_der(&key.sign(message).unwrap()).unwrap();
    signature.to_bytes().into()
}

fn pem(certificate: &Certificate) -> String {
    pem::encode_string("CERTIFICATE", LineEnding::LF, certificate.der()).unwrap()
}

impl Platform {
    pub fn new() -> Self {
        Self::certified_by("Intel SGX PCK Platform CA", "Intel SGX TCB Signing")
    }

    /// A platform whose authorities have these names.
    pub fn certified_by(certifier: &str, signer: &str) -> Self {
        let (root, certifier) = (authority("Intel SGX Root CA", 1), authority(certifier, CERTIFIER));
        let root_key = key();
        let root_certificate = root.self_signed(&root_key).unwrap();
        let root_issuer = Issuer::new(root, root_key);
        let certifier_key = key();
        let certifier_certificate = certifier.signed_by(&certifier_key, &root_issuer).unwrap();
        let certifier_issuer = Issuer::new(certifier, certifier_key);
        let (key, signer_key, enclave_key) = (key(), key(), key());
        let mut platform = params("Intel SGX PCK Certificate", PLATFORM);
        platform.custom_extensions = vec![about()];
        let certificate = platform.signed_by(&key, &certifier_issuer).unwrap();
        let chain = [&certificate, &certifier_certificate, &root_certificate].map(pem).concat();
        let signer = params(signer, SIGNER).signed_by(&signer_key, &root_issuer).unwrap().der().to_vec();
        let root = root_certificate.der().to_vec();
        Self { root, root_issuer, certifier_issuer, chain, key, signer, signer_key, enclave_key }
    }

    /// The root, for those who believe it.
    pub fn roots(&self) -> Roots {
        Roots::read([&self.root[..]]).unwrap()
    }

    /// Evidence as this platform, its quoting enclave and Intel sign it.
    pub fn evidence(&self, draft: &Draft) -> TdxEvidence {
        let genuine = &self.enclave_key.public_key_raw()[1..];
        let signer = draft.forger.as_ref().unwrap_or(&self.enclave_key);
        let beside = [7; 32];
        let mut enclave = draft.enclave;
        let about = Sha256::new().chain_update(genuine).chain_update(beside).finalize();
        enclave[320..352].copy_from_slice(&about);
        let version = u16::from_le_bytes([draft.header[0], draft.header[1]]);
        let mut signed = draft.header.to_vec();
        if version == 5 {
            signed.extend([3, 0]);
            signed.extend((draft.report.len() as u32).to_le_bytes());
        }
        signed.extend(&draft.report);
        let chain = &self.chain;
        let certified = [
            &enclave[..],
            &sign(&self.key, &enclave),
            &32_u16.to_le_bytes(),
            &beside,
            &5_u16.to_le_bytes(),
            &(chain.len() as u32).to_le_bytes(),
            chain.as_bytes(),
        ]
        .concat();
        let proof = [
            &sign(signer, &signed)[..],
            &signer.public_key_raw()[1..],
            &6_u16.to_le_bytes(),
            &(certified.len() as u32).to_le_bytes(),
            &certified,
        ]
        .concat();
        let quote = [&signed[..], &(proof.len() as u32).to_le_bytes(), &proof].concat();
        let [platforms, others] = &draft.revoked;
        TdxEvidence {
            quote,
            tcb_info_signature: sign(&self.signer_key, draft.levels.as_bytes()),
            tcb_info: draft.levels.clone().into_bytes(),
            qe_identity_signature: sign(&self.signer_key, draft.enclaves.as_bytes()),
            qe_identity: draft.enclaves.clone().into_bytes(),
            signer: self.signer.clone(),
            platform_crl: revocations(&self.certifier_issuer, platforms, draft.year),
            root_crl: revocations(&self.root_issuer, others, draft.year),
        }
    }
}

fn revocations(issuer: &Issuer<'static, KeyPair>, serials: &[u64], year: i32) -> Vec<u8> {
    let revoked = |serial: &u64| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: date_time_ymd(2020, 1, 1),
        reason_code: None,
        invalidity_date: None,
    };
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(year, 1, 1),
        next_update: date_time_ymd(year + 2, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: serials.iter().map(revoked).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(issuer).unwrap().der().to_vec()
}

impl Draft {
    /// What an honest machine says about these bytes, on a platform that is up to date in the middle of 2027.
    pub fn about(asked: &[u8; 64]) -> Self {
        let mut header = [0; 48];
        header[..8].copy_from_slice(&[4, 0, 2, 0, 0x81, 0, 0, 0]);
        header[12..28].copy_from_slice(&[
            0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 6, 7,
        ]);
        let mut report = vec![0; 584];
        let mut put = |at: usize, bytes: &[u8]| report[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &[6, 1, 3]);
        put(120, &(1_u64 << 28).to_le_bytes());
        put(136, &MEASUREMENT);
        for (number, register) in REGISTERS.iter().enumerate() {
            put(328 + 48 * number, register);
        }
        put(520, asked);
        let mut enclave = [0; 384];
        enclave[48..64].copy_from_slice(&[0x15, 0, 0, 0, 0, 0, 0, 0, 0xe7, 0, 0, 0, 0, 0, 0, 0]);
        enclave[128..160].copy_from_slice(&[0xdc; 32]);
        enclave[256..260].copy_from_slice(&[2, 0, 6, 0]);
        Self {
            header,
            report,
            enclave,
            levels: levels(),
            enclaves: enclaves(),
            revoked: [Vec::new(), Vec::new()],
            year: 2027,
            forger: None,
        }
    }

    /// The same of a newer module, whose report is longer and whose quotes have version 5.
    pub fn newer(mut self) -> Self {
        self.header[0] = 5;
        self.report.resize(648, 0);
        self
    }

    /// What an honest machine asks about.
    pub fn asked(nonce: &Digest) -> [u8; 64] {
        let mut asked = [0; 64];
        asked[..32].copy_from_slice(&nonce.0);
        asked
    }

    /// Takes the platform's certificate back.
    pub fn revoke_platform(&mut self) {
        self.revoked[0].push(PLATFORM);
    }

    /// Takes back the certificate of who certifies platforms.
    pub fn revoke_certifier(&mut self) {
        self.revoked[1].push(CERTIFIER);
    }

    /// Takes back the certificate of who says which levels are sound.
    pub fn revoke_signer(&mut self) {
        self.revoked[1].push(SIGNER);
    }
}

/// Levels: 5 of each part is up to date, less is not.
fn levels() -> String {
    let level = |part: u8, module: u8, status: &str| {
        let parts = vec![format!(r#"{{"svn":{part}}}"#); 16].join(",");
        let mut modules = vec![r#"{"svn":0}"#.to_owned(); 16];
        modules[2] = format!(r#"{{"svn":{module}}}"#);
        let modules = modules.join(",");
        format!(
            r#"{{"tcb":{{"sgxtcbcomponents":[{parts}],"pcesvn":11,"tdxtcbcomponents":[{modules}]}},"tcbDate":"2026-01-01T00:00:00Z","tcbStatus":"{status}","advisoryIDs":["INTEL-SA-{status}"]}}"#
        )
    };
    let (signer, zeros, ones) = ("00".repeat(48), "00".repeat(8), "FF".repeat(8));
    let module = format!(r#""mrsigner":"{signer}","attributes":"{zeros}","attributesMask":"{ones}""#);
    format!(
        r#"{{"id":"TDX","version":3,"issueDate":"2027-01-01T00:00:00Z","nextUpdate":"2029-01-01T00:00:00Z","fmspc":"{}","pceId":"0000","tcbType":0,"tcbEvaluationDataNumber":17,"tdxModule":{{{module}}},"tdxModuleIdentities":[{{"id":"TDX_01",{module},"tcbLevels":[{{"tcb":{{"isvsvn":4}},"tcbDate":"2026-01-01T00:00:00Z","tcbStatus":"UpToDate"}},{{"tcb":{{"isvsvn":2}},"tcbDate":"2026-01-01T00:00:00Z","tcbStatus":"OutOfDate"}}]}}],"tcbLevels":[{},{}]}}"#,
        LINE.map(|byte| format!("{byte:02X}")).concat(),
        level(5, 3, "UpToDate"),
        level(4, 2, "OutOfDate"),
    )
    .replace(r#","advisoryIDs":["INTEL-SA-UpToDate"]"#, "")
}

fn enclaves() -> String {
    format!(
        r#"{{"id":"TD_QE","version":2,"issueDate":"2027-01-01T00:00:00Z","nextUpdate":"2029-01-01T00:00:00Z","tcbEvaluationDataNumber":17,"miscselect":"00000000","miscselectMask":"FFFFFFFF","attributes":"11000000000000000000000000000000","attributesMask":"FBFFFFFFFFFFFFFF0000000000000000","mrsigner":"{}","isvprodid":2,"tcbLevels":[{{"tcb":{{"isvsvn":4}},"tcbDate":"2026-01-01T00:00:00Z","tcbStatus":"UpToDate"}}]}}"#,
        "DC".repeat(32)
    )
}
