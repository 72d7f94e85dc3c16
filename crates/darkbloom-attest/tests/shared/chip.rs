//! A processor of our own: a root, a chip's certificate as AMD writes them, and reports that it signs. What a verifier makes of
//! them is the real thing; only the root is another.

use darkbloom_attest::Roots;
use darkbloom_types::Digest;
use darkbloom_wire::{SNP_REPORT_BYTES, SnpEvidence};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P384_SHA384, SigningKey as _, date_time_ymd,
};

/// What is signed of a report.
const SIGNED: usize = 0x2a0;
/// The levels of the chip's firmware: loader, operating system, firmware, microcode.
pub const LEVELS: [u8; 4] = [10, 1, 23, 84];
/// What the guest was launched as.
pub const MEASUREMENT: [u8; 48] = [0x5e; 48];

/// A chip and its chain.
pub struct Chip {
    root: Vec<u8>,
    between: Vec<u8>,
    certificate: Vec<u8>,
    key: KeyPair,
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap()
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2045, 1, 1));
    params
}

fn authority(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// A level in DER: a number of one or two bytes.
fn level(value: u8) -> Vec<u8> {
    if value < 0x80 { vec![2, 1, value] } else { vec![2, 2, 0, value] }
}

impl Chip {
    /// A chip of Genoa's line.
    pub fn new() -> Self {
        let (root_key, between_key, key) = (key(), key(), key());
        let root = authority("ARK-Genoa");
        let root_der = root.self_signed(&root_key).unwrap().der().to_vec();
        let root_issuer = Issuer::from_params(&root, root_key);
        let between = authority("SEV-Genoa");
        let between_der = between.signed_by(&between_key, &root_issuer).unwrap().der().to_vec();
        let mut chip = params("SEV-VCEK");
        let extension = |arc: &[u64], content: Vec<u8>| {
            let oid: Vec<u64> = [1, 3, 6, 1, 4, 1, 3704, 1].iter().chain(arc).copied().collect();
            CustomExtension::from_oid_content(&oid, content)
        };
        let [bootloader, tee, snp, microcode] = LEVELS;
        chip.custom_extensions = vec![
            extension(&[2], [&[0x16, 5][..], b"Genoa"].concat()),
            extension(&[3, 1], level(bootloader)),
            extension(&[3, 2], level(tee)),
            extension(&[3, 3], level(snp)),
            extension(&[3, 8], level(microcode)),
            extension(&[4], vec![0xc4; 64]),
        ];
        chip.custom_extensions.extend([4, 5, 6, 7].map(|reserved| extension(&[3, reserved], level(0))));
        let issuer = Issuer::from_params(&between, between_key);
        let certificate = chip.signed_by(&key, &issuer).unwrap().der().to_vec();
        Self { root: root_der, between: between_der, certificate, key }
    }

    /// The root, for those who believe it.
    pub fn roots(&self) -> Roots {
        Roots::read([&self.root[..]]).unwrap()
    }

    /// What a host gives its guest: the table of certificates.
    pub fn table(&self) -> Vec<u8> {
        let guids = [
            [0x63, 0xda, 0x75, 0x8d, 0xe6, 0x64, 0x45, 0x64, 0xad, 0xc5, 0xf4, 0xb9, 0x3b, 0xe8, 0xac, 0xcd],
            [0x4a, 0xb7, 0xb3, 0x79, 0xbb, 0xac, 0x4f, 0xe4, 0xa0, 0x2f, 0x05, 0xae, 0xf3, 0x27, 0xc7, 0x82],
            [0; 16],
        ];
        let contents: [&[u8]; 3] = [&self.certificate, &self.between, &[]];
        let (mut entries, mut at) = (Vec::new(), 24 * contents.len());
        for (guid, content) in guids.iter().zip(contents) {
            let place = if content.is_empty() { [0, 0] } else { [at as u32, content.len() as u32] };
            entries.extend([&guid[..], &place[0].to_le_bytes(), &place[1].to_le_bytes()].concat());
            at += content.len();
        }
        [&entries[..], &contents.concat()].concat()
    }

    /// An honest report about these bytes, not signed yet.
    pub fn report(asked: &[u8; 64]) -> [u8; SNP_REPORT_BYTES] {
        let mut report = [0; SNP_REPORT_BYTES];
        let mut put = |at: usize, bytes: &[u8]| report[at..at + bytes.len()].copy_from_slice(bytes);
        put(0x00, &3_u32.to_le_bytes());
        // The guest's policy: any interface, threads, and the bit that is always set.
        put(0x08, &0x3_0000_u64.to_le_bytes());
        put(0x34, &1_u32.to_le_bytes());
        put(0x40, &0x27_u64.to_le_bytes());
        put(0x50, asked);
        put(0x90, &MEASUREMENT);
        let [bootloader, tee, snp, microcode] = LEVELS;
        for at in [0x38, 0x180, 0x1e0, 0x1f0] {
            put(at, &[bootloader, tee, 0, 0, 0, 0, snp, microcode]);
        }
        put(0x188, &[0x19, 0x11, 1]);
        put(0x1a0, &[0xc4; 64]);
        report
    }

    /// Signs a report: two numbers of 72 bytes, the least significant first.
    pub fn sign(&self, mut report: [u8; SNP_REPORT_BYTES]) -> Vec<u8> {
        let der = self.key.sign(&report[..SIGNED]).unwrap();
        // SEQUENCE { INTEGER, INTEGER }, each shorter than 128 bytes.
        let mut numbers = &der[2..];
        for at in [SIGNED, SIGNED + 72] {
            let length = usize::from(numbers[1]);
            let number = &numbers[2..2 + length];
            report[at..at + 72].fill(0);
            for (place, byte) in report[at..].iter_mut().zip(number.iter().rev()) {
                *place = *byte;
            }
            // The sign's byte of a number that begins with a bit.
            report[at + 48] = 0;
            numbers = &numbers[2 + length..];
        }
        report.to_vec()
    }

    /// Evidence with a report.
    pub fn evidence(&self, report: [u8; SNP_REPORT_BYTES]) -> SnpEvidence {
        let (report, chip) = (self.sign(report), self.certificate.clone());
        SnpEvidence { report, chip, intermediates: vec![self.between.clone()].into() }
    }

    /// What an honest guest asks about.
    pub fn asked(nonce: &Digest) -> [u8; 64] {
        let mut asked = [0; 64];
        asked[..32].copy_from_slice(&nonce.0);
        asked
    }
}
