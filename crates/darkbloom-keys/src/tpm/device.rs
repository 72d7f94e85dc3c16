//! One TPM 2.0 and the bytes to and from it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tpm2_protocol::TpmWriter;
use tpm2_protocol::constant::TPM_MAX_COMMAND_SIZE;
use tpm2_protocol::data::{TpmSt, TpmsAuthCommand};
use tpm2_protocol::frame::{TpmFrame, TpmHeader, TpmResponse, TpmUnmarshalBody, tpm_marshal_command};

/// How long an answer over a socket may take. A small TPM makes an RSA key in a minute; the kernel's device has its own limits.
const ANSWER_WAIT: Duration = Duration::from_secs(120);
/// How often a command is given again that a TPM could not start, and after how long. One that notes first that a key is used
/// which locks itself after wrong passwords says so once.
const RETRIES_MAX: u32 = 5;
const RETRY_WAIT: Duration = Duration::from_millis(20);
/// A response's head: tag, length, code.
const HEAD_BYTES: usize = 10;

/// Why a TPM did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// There is no TPM there.
    #[error("there is no TPM at {path}", path = .path.display())]
    Absent {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// This program may not use it.
    #[error("this program may not open the TPM at {path}", path = .path.display())]
    Denied {
        /// Where it is.
        path: PathBuf,
    },
    /// Bytes could not be brought to it or back.
    #[error("the TPM at {path} cannot be reached", path = .path.display())]
    Io {
        /// Where it is.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It answered with what is no answer.
    #[error("the TPM's answer to {command} is not valid: {reason}")]
    Malformed {
        /// What it was asked.
        command: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// It refused.
    #[error("the TPM refused {command} with code {code:#x}")]
    Refused {
        /// What it was asked.
        command: &'static str,
        /// Its response code (part 2, section 6.6).
        code: u32,
    },
}

impl TpmError {
    /// What to do about it.
    #[must_use]
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::Absent { .. } => "turn the TPM on in the firmware's settings, or name another path with `tpm`",
            Self::Denied { .. } => {
                "add this user to the group that owns the device, mostly `tss`, and log in again; or choose `--key-home software`"
            }
            Self::Io { .. } => "check that nothing else holds the TPM, and the system's log",
            Self::Malformed { .. } => "check the TPM's firmware; `darkbloom doctor keys` shows which it is",
            Self::Refused { code, .. } if is_authorization(*code) => {
                "the TPM's owner or endorsement hierarchy has a password, which this program does not know: clear it"
            }
            Self::Refused { code, .. } if *code == code::LOCKOUT => "the TPM is locked after wrong passwords: wait",
            Self::Refused { code, .. } if *code == code::NV_SPACE => {
                "the TPM has no room for another key: remove one that nobody needs with `tpm2_evictcontrol`"
            }
            Self::Refused { .. } => "run `darkbloom doctor keys`, which tries each step by itself",
        }
    }
}

/// Response codes that are told apart.
pub mod code {
    /// Bits that say which handle, session or parameter a code of format one is about.
    const SUBJECT: u32 = 0xf40;

    /// The code without its subject.
    pub fn base(code: u32) -> u32 {
        if code & 0x80 == 0 { code } else { code & !SUBJECT }
    }

    /// The handle, of an object or an index, does not exist.
    pub const HANDLE: u32 = 0x8b;
    /// An authorization is wrong, with and without consequences for the lockout.
    pub const AUTHORIZATION: [u32; 2] = [0x8e, 0xa2];
    /// It could not start the command, which may be given again.
    pub const RETRY: u32 = 0x922;
    /// Locked out.
    pub const LOCKOUT: u32 = 0x921;
    /// No room for another persistent object.
    pub const NV_SPACE: u32 = 0x14b;
}

fn is_authorization(code: u32) -> bool {
    code::AUTHORIZATION.contains(&code::base(code))
}

trait Duplex: Read + Write + Send {}
impl<T: Read + Write + Send> Duplex for T {}

/// An open TPM. What it loads is flushed by whoever loads it: not every TPM has a resource manager in front.
pub struct Device {
    path: PathBuf,
    stream: Box<dyn Duplex>,
}

impl Device {
    /// Opens the kernel's device, or a socket behind which a TPM speaks, as those of virtual machines do.
    ///
    /// # Errors
    /// [`TpmError`]: not there, not allowed, not reachable.
    pub fn open(path: &Path) -> Result<Self, TpmError> {
        let failed = |source: io::Error| {
            let path = path.to_owned();
            if source.kind() == io::ErrorKind::NotFound {
                TpmError::Absent { path }
            } else if source.kind() == io::ErrorKind::PermissionDenied {
                TpmError::Denied { path }
            } else {
                TpmError::Io { path, source }
            }
        };
        let is_socket = std::fs::metadata(path).map_err(failed)?.file_type().is_socket();
        let stream: Box<dyn Duplex> = if is_socket {
            let stream = UnixStream::connect(path).map_err(failed)?;
            stream.set_read_timeout(Some(ANSWER_WAIT)).map_err(failed)?;
            stream.set_write_timeout(Some(ANSWER_WAIT)).map_err(failed)?;
            Box::new(stream)
        } else {
            let file: File = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
            Box::new(file)
        };
        Ok(Self { path: path.to_owned(), stream })
    }

    /// Runs one command.
    ///
    /// # Errors
    /// [`TpmError`]: not reachable, refused, or no answer to this command.
    pub fn run<C, R>(&mut self, name: &'static str, command: &C, auth: &[TpmsAuthCommand]) -> Result<R, TpmError>
    where
        C: TpmFrame,
        R: TpmUnmarshalBody + TpmHeader,
    {
        let malformed =
            |error: tpm2_protocol::TpmError| TpmError::Malformed { command: name, reason: error.to_string() };
        let mut buffer = [0; TPM_MAX_COMMAND_SIZE];
        let mut writer = TpmWriter::new(&mut buffer);
        let tag = if auth.is_empty() { TpmSt::NoSessions } else { TpmSt::Sessions };
        tpm_marshal_command(command, tag, auth, &mut writer).map_err(malformed)?;
        let length = writer.len();
        let mut retries = 0;
        loop {
            let answer = self.transmit(name, &buffer[..length])?;
            let response = TpmResponse::cast(&answer).map_err(malformed)?;
            // Read from the bytes: makers have codes of their own.
            let code = u32::from_be_bytes([answer[6], answer[7], answer[8], answer[9]]);
            if code == code::RETRY && retries < RETRIES_MAX {
                retries += 1;
                std::thread::sleep(RETRY_WAIT);
            } else if code != 0 {
                return Err(TpmError::Refused { command: name, code });
            } else {
                return response.unmarshal().map_err(malformed);
            }
        }
    }

    fn transmit(&mut self, name: &'static str, command: &[u8]) -> Result<Vec<u8>, TpmError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| TpmError::Io { path, source }
        };
        // One write: the kernel's device takes a whole command at a time.
        self.stream.write_all(command).map_err(failed(&self.path))?;
        self.stream.flush().map_err(failed(&self.path))?;
        let mut answer = vec![0; TPM_MAX_COMMAND_SIZE];
        let mut have = 0;
        loop {
            let read = self.stream.read(&mut answer[have..]).map_err(failed(&self.path))?;
            have += read;
            let stated = if have < HEAD_BYTES {
                HEAD_BYTES
            } else {
                u32::from_be_bytes([answer[2], answer[3], answer[4], answer[5]]) as usize
            };
            let malformed = |reason: &str| TpmError::Malformed { command: name, reason: reason.to_owned() };
            if !(HEAD_BYTES..=TPM_MAX_COMMAND_SIZE).contains(&stated) {
                return Err(malformed("its length is not possible"));
            }
            if have >= HEAD_BYTES && have >= stated {
                answer.truncate(have);
                return Ok(answer);
            }
            if read == 0 {
                return Err(malformed("it ends too early"));
            }
        }
    }
}
