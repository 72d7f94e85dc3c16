//! Asking the kernel for a report of the encrypted machine that it runs in (`Documentation/ABI/testing/configfs-tsm-report`).
//!
//! A request is a folder: what is asked about is written into its `inblob`, and the report is read from its `outblob`. Which
//! kind of report it is says `provider`, and `generation` counts what was written, by whomever.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use darkbloom_attest::TdxError;
use darkbloom_host::clock;
use rand_core::Rng as _;

/// Where the kernel takes requests.
pub const FOLDER: &str = "/sys/kernel/config/tsm/report";
/// What the kernel calls reports of AMD SEV-SNP.
pub const SNP: &str = "sev_guest";
/// What it calls quotes of Intel TDX.
pub const TDX: &str = "tdx_guest";

/// Largest file that is read: the kernel gives out no more than 64 KiB of certificates.
const BYTES_MAX: u64 = 64 << 10;
/// Bytes of an entry in the host's table of certificates: which one, where, and how long.
const ENTRY: usize = 24;
/// The chip's key, in the table (GHCB Specification 2.03, 56421, section 4.1.8.1): `63da758d-e664-4564-adc5-f4b93be8accd`.
const VCEK: [u8; 16] = [0x63, 0xda, 0x75, 0x8d, 0xe6, 0x64, 0x45, 0x64, 0xad, 0xc5, 0xf4, 0xb9, 0x3b, 0xe8, 0xac, 0xcd];
/// AMD's key for the product: `4ab7b379-bbac-4fe4-a02f-05aef327c782`.
const ASK: [u8; 16] = [0x4a, 0xb7, 0xb3, 0x79, 0xbb, 0xac, 0x4f, 0xe4, 0xa0, 0x2f, 0x05, 0xae, 0xf3, 0x27, 0xc7, 0x82];

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum TsmError {
    /// The kernel refused.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// What was tried with which file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Somebody else wrote into this request.
    #[error("somebody else used the same request meanwhile")]
    Disturbed,
    /// The report is about something else.
    #[error("the report is not about what was asked")]
    OtherSubject,
    /// Of a kind that has no format in statements.
    #[error("the kernel makes reports of `{0}`, which statements have no format for")]
    OtherProvider(String),
    /// Nothing says whose key signed the report.
    #[error(
        "the host gives the guest no certificate of the chip's key: name a file with it as `snp_certificates`; AMD's key distribution service has it"
    )]
    NoCertificates,
    /// A quote that cannot be read.
    #[error("the quote is none that is understood: {0}")]
    Quote(#[from] TdxError),
    /// What Intel says about this platform is still to be fetched.
    #[error("what Intel says about this platform is not known yet")]
    NoCollateral,
}

/// A report, as the kernel gave it.
#[derive(Debug)]
pub struct Report {
    /// Which kind.
    pub provider: String,
    /// The report.
    pub report: Vec<u8>,
    /// What came with it; often nothing.
    pub auxiliary: Vec<u8>,
}

/// The kernel's folder for requests.
#[derive(Debug)]
pub struct Tsm {
    folder: PathBuf,
    /// The kernel's files are there as soon as a request is. Tests play that.
    #[cfg(all(test, target_os = "linux"))]
    pub kernel: super::machine::Kernel,
}

impl Tsm {
    /// Finds it: nothing on a machine that is not encrypted.
    pub fn find(folder: &Path) -> Option<Self> {
        folder.is_dir().then(|| Self {
            folder: folder.to_owned(),
            #[cfg(all(test, target_os = "linux"))]
            kernel: super::machine::Kernel::default(),
        })
    }

    /// Asks for a report about these bytes.
    pub fn report(&self, asked: &[u8; 64]) -> Result<Report, TsmError> {
        // A request of nobody else's: other containers may have the same folder, and the same process numbers.
        let mut own = [0; 8];
        clock::rng().fill_bytes(&mut own);
        let request = self.folder.join(format!("darkbloom-{:016x}", u64::from_be_bytes(own)));
        fs::create_dir(&request).map_err(|source| TsmError::Io { path: request.clone(), source })?;
        #[cfg(all(test, target_os = "linux"))]
        self.kernel.appears(&request);
        let report = Request(&request).ask(asked);
        // The kernel keeps nothing in it that anybody needs.
        let _ = fs::remove_dir(&request);
        report
    }
}

/// The folder of one request.
pub struct Request<'a>(pub &'a Path);

impl Request<'_> {
    /// Asks in it about these bytes.
    pub fn ask(&self, asked: &[u8; 64]) -> Result<Report, TsmError> {
        let path = self.0.join("inblob");
        // It is the kernel's file: one that has to be made is none.
        let written = fs::OpenOptions::new().write(true).open(&path).and_then(|mut file| file.write_all(asked));
        written.map_err(|source| TsmError::Io { path, source })?;
        let generation = self.read("generation")?;
        let report = self.read("outblob")?;
        let auxiliary = match self.read("auxblob") {
            Err(TsmError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            other => other?,
        };
        let provider = String::from_utf8_lossy(&self.read("provider")?).trim().to_owned();
        if self.read("generation")? != generation {
            return Err(TsmError::Disturbed);
        }
        Ok(Report { provider, report, auxiliary })
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, TsmError> {
        let path = self.0.join(name);
        let mut bytes = Vec::new();
        let read = fs::File::open(&path).and_then(|file| file.take(BYTES_MAX).read_to_end(&mut bytes));
        read.map(|_| bytes).map_err(|source| TsmError::Io { path, source })
    }
}

/// The certificates in the host's table, the chip's first; none where there is no such table, or no chip's in it. The host wrote
/// it: who relies on them follows their chain.
pub fn certificates(table: &[u8]) -> Vec<Vec<u8>> {
    let number = |bytes: &[u8]| usize::try_from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])).ok();
    let of = |which: &[u8; 16]| {
        let entries = table.chunks_exact(ENTRY).take_while(|entry| entry[..16] != [0; 16]);
        let entry = entries.into_iter().find(|entry| entry[..16] == which[..])?;
        let (at, length) = (number(&entry[16..20])?, number(&entry[20..24])?);
        table.get(at..at.checked_add(length)?).map(<[u8]>::to_vec)
    };
    of(&VCEK).map_or_else(Vec::new, |chip| std::iter::once(chip).chain(of(&ASK)).collect())
}
