//! A quote, taken apart at its offsets.

use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::{Signature, VerifyingKey};
use sha2::{Digest as _, Sha256};

use super::*;

/// What a quote begins with.
const HEADER: usize = 48;
/// ECDSA on P-256.
const KEY_KIND: u16 = 2;
/// An encrypted machine, not an enclave.
const TEE_KIND: u32 = 0x81;
/// Intel's quoting enclave: `939a7233-f79c-4ca9-940a-0db3957f0607`.
const VENDOR: [u8; 16] = [0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 6, 7];
/// A report of TDX 1.0, and one of 1.5, which goes on.
const REPORT: usize = 584;
const REPORT_15: usize = 648;
/// How version 5 names the two.
const BODY_10: u16 = 2;
const BODY_15: u16 = 3;
/// An enclave's report.
const ENCLAVE: usize = 384;
/// A point, or a signature: two numbers of 32 bytes.
const PAIR: usize = 64;
/// What certifies the key that signed: a quoting enclave's report, and in it a chain in PEM.
const BY_ENCLAVE: u16 = 6;
const BY_CHAIN: u16 = 5;

/// A quote.
pub(super) struct Quote<'a> {
    /// What the quoting enclave's key signed: all up to the end of the report.
    signed: &'a [u8],
    report: &'a [u8],
    signature: &'a [u8],
    key: &'a [u8],
    enclave: &'a [u8],
    enclave_signature: &'a [u8],
    /// What the enclave's report is about beside its key.
    beside: &'a [u8],
    chain: &'a [u8],
}

/// Takes pieces off the front.
struct Pieces<'a>(&'a [u8]);

impl<'a> Pieces<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], TdxError> {
        let (piece, rest) = self.0.split_at_checked(length).ok_or(TdxError::Malformed)?;
        self.0 = rest;
        Ok(piece)
    }

    fn short(&mut self) -> Result<u16, TdxError> {
        self.take(2).map(|bytes| u16::from_le_bytes(part(bytes, 0)))
    }

    fn length(&mut self) -> Result<usize, TdxError> {
        let bytes = part(self.take(4)?, 0);
        usize::try_from(u32::from_le_bytes(bytes)).map_err(|_| TdxError::Malformed)
    }

    /// What a length in front says, and no more.
    fn counted(&mut self) -> Result<Self, TdxError> {
        let length = self.length()?;
        self.take(length).map(Self)
    }

    fn end(self) -> Result<(), TdxError> {
        if self.0.is_empty() { Ok(()) } else { Err(TdxError::Malformed) }
    }
}

/// So many bytes from an offset.
fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&bytes[at..at + N]);
    part
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// What a quote says: its header and its report.
fn said<'a>(pieces: &mut Pieces<'a>) -> Result<(&'a [u8], &'a [u8]), TdxError> {
    let header = pieces.take(HEADER)?;
    let version = u16::from_le_bytes(part(header, 0));
    let report = match version {
        4 => pieces.take(REPORT)?,
        5 => {
            let kind = pieces.short()?;
            let body = pieces.counted()?.0;
            match (kind, body.len()) {
                (BODY_10, REPORT) | (BODY_15, REPORT_15) => body,
                (BODY_10 | BODY_15, _) => return Err(TdxError::Malformed),
                _ => return Err(TdxError::Body(kind)),
            }
        }
        _ => return Err(TdxError::Version(version)),
    };
    Ok((header, report))
}

impl<'a> Quote<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, TdxError> {
        let mut pieces = Pieces(bytes);
        let (header, report) = said(&mut pieces)?;
        let signed = &bytes[..bytes.len() - pieces.0.len()];
        let mut proof = pieces.counted()?;
        pieces.end()?;
        let (signature, key) = (proof.take(PAIR)?, proof.take(PAIR)?);
        let by_enclave = proof.short()? == BY_ENCLAVE;
        let mut certified = proof.counted()?;
        proof.end()?;
        let (enclave, enclave_signature) = (certified.take(ENCLAVE)?, certified.take(PAIR)?);
        let length = certified.short()?;
        let beside = certified.take(usize::from(length))?;
        let by_chain = certified.short()? == BY_CHAIN;
        let chain = certified.counted()?.0;
        certified.end()?;
        let of_kind = u16::from_le_bytes(part(header, 2)) == KEY_KIND
            && u32::from_le_bytes(part(header, 4)) == TEE_KIND
            && header[12..28] == VENDOR;
        if !of_kind || !by_enclave || !by_chain {
            return Err(TdxError::Kind);
        }
        Ok(Self { signed, report, signature, key, enclave, enclave_signature, beside, chain })
    }

    /// How long a quote is, whatever comes after it.
    pub(super) fn length(bytes: &[u8]) -> Result<usize, TdxError> {
        let mut pieces = Pieces(bytes);
        said(&mut pieces)?;
        pieces.counted()?;
        Ok(bytes.len() - pieces.0.len())
    }

    /// The platform's certificate, and those that came with it.
    pub(super) fn certificates(&self) -> Result<(Certificate, Vec<Certificate>), TdxError> {
        let text = std::str::from_utf8(self.chain).map_err(|_| TdxError::Malformed)?;
        let read = read_pem(text)?;
        let mut certificates = read.iter().take(2).map(|der| Certificate::read(der)).collect::<Result<Vec<_>, _>>()?;
        let between = certificates.split_off(1);
        Ok((certificates.swap_remove(0), between))
    }

    /// That the platform's key signed for the quoting enclave, that one for its key, and that key for the report.
    pub(super) fn check_signatures(&self, platform: &Certificate) -> Result<(), TdxError> {
        let point = platform.p256_point().ok_or(TdxError::Platform)?;
        let by_platform = has_signed(&point, self.enclave, self.enclave_signature);
        if armed!("tdx_enclave_signature") && !by_platform {
            return Err(TdxError::Signature("the quoting enclave"));
        }
        let about = Sha256::new().chain_update(self.key).chain_update(self.beside).finalize();
        let same = self.enclave[320..352] == about[..] && is_zero(&self.enclave[352..]);
        if armed!("tdx_enclave_key") && !same {
            return Err(TdxError::Key);
        }
        let mut point = [4; 65];
        point[1..].copy_from_slice(self.key);
        let by_enclave = has_signed(&point, self.signed, self.signature);
        if armed!("tdx_signature") && !by_enclave { Err(TdxError::Signature("the quote")) } else { Ok(()) }
    }

    pub(super) fn check_reserved(&self) -> Result<(), TdxError> {
        let (header, enclave) = (self.signed, self.enclave);
        // Of a later module's report: a machine that serves this one, and might move it.
        let serving = self.report.get(600..).unwrap_or_default();
        let zero = is_zero(&header[8..12])
            // Attributes of the module, which has none.
            && is_zero(&self.report[112..120])
            && is_zero(serving)
            && is_zero(&enclave[20..48])
            && is_zero(&enclave[96..128])
            && is_zero(&enclave[160..256])
            && is_zero(&enclave[260..320]);
        if zero || !armed!("tdx_reserved") { Ok(()) } else { Err(TdxError::Reserved) }
    }

    /// Levels of the module and of what loads it (`TEE_TCB_SVN`).
    pub(super) fn levels(&self) -> [u8; 16] {
        part(self.report, 0)
    }

    /// Who signed the module: zeros are Intel.
    pub(super) fn module_signer(&self) -> [u8; 48] {
        part(self.report, 64)
    }

    pub(super) fn module_attributes(&self) -> u64 {
        u64::from_le_bytes(part(self.report, 112))
    }

    /// What the machine may do, and what may be done to it (`TDATTRIBUTES`).
    pub(super) fn attributes(&self) -> u64 {
        u64::from_le_bytes(part(self.report, 120))
    }

    pub(super) fn measurement(&self) -> [u8; 48] {
        part(self.report, 136)
    }

    pub(super) fn config(&self) -> [u8; 48] {
        part(self.report, 184)
    }

    pub(super) fn registers(&self) -> [[u8; 48]; 4] {
        [328, 376, 424, 472].map(|at| part(self.report, at))
    }

    pub(super) fn asked(&self) -> [u8; 64] {
        part(self.report, 520)
    }

    /// What the quoting enclave saves beside its registers (`MISCSELECT`).
    pub(super) fn enclave_saved(&self) -> u32 {
        u32::from_le_bytes(part(self.enclave, 16))
    }

    pub(super) fn enclave_attributes(&self) -> u128 {
        u128::from_be_bytes(part(self.enclave, 48))
    }

    pub(super) fn enclave_signer(&self) -> [u8; 32] {
        part(self.enclave, 128)
    }

    /// Which of its signer's enclaves it is, and its level.
    pub(super) fn enclave_product(&self) -> (u16, u16) {
        (u16::from_le_bytes(part(self.enclave, 256)), u16::from_le_bytes(part(self.enclave, 258)))
    }
}

/// Whether the key of this point signed a message: ECDSA on P-256 with SHA-256, `r ‖ s`.
pub(super) fn has_signed(point: &[u8; 65], message: &[u8], signature: &[u8]) -> bool {
    let Ok(key) = VerifyingKey::from_sec1_bytes(point) else { return false };
    Signature::from_slice(signature).is_ok_and(|signature| key.verify(message, &signature).is_ok())
}
