//! Where a provider stands, for its owner: a small file in its folder, which `darkbloom status` reads. A provider listens
//! nowhere, so nobody can ask it. Nothing of a request is in it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use darkbloom_host::clock;
use darkbloom_store::{OpenStoreError, ReceiptOutbox};
use serde::{Deserialize, Serialize};

use crate::OUTBOX_FILE;

/// Where it stands in a provider's folder.
const STATUS_FILE: &str = "status.json";
/// A status has a dozen short texts.
const STATUS_BYTES_MAX: u64 = 64 << 10;

/// What the coordinator said last about a provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Whether it gets work.
    pub eligible: bool,
    /// Why, by name.
    pub reason: String,
    /// Why, for a person.
    pub sentence: String,
    /// What to do about it.
    pub next_step: String,
    /// When it was said, in milliseconds since 1970.
    pub at: i64,
}

/// Where a provider stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its identity.
    pub provider: String,
    /// Where the identity key lives.
    pub key_home: String,
    /// Whether a rotation of the key waits for the coordinator.
    #[serde(default)]
    pub key_unsettled: bool,
    /// Better homes in which no key could be made, and why.
    pub passed_over: Vec<String>,
    /// What the process does to keep others out of its memory.
    pub hardening: Vec<String>,
    /// The coordinator's address.
    pub coordinator: String,
    /// Whether it is connected.
    pub connected: bool,
    /// Why it is not.
    pub problem: Option<String>,
    /// What the coordinator said last.
    pub told: Option<Told>,
    /// When any of this changed, in milliseconds since 1970.
    pub at: i64,
}

/// The status of a running provider.
#[derive(Debug)]
pub struct Board {
    file: PathBuf,
    status: Mutex<Status>,
}

impl Board {
    /// Begins with this status.
    pub fn new(data: &Path, status: Status) -> Self {
        let board = Self { file: data.join(STATUS_FILE), status: Mutex::new(status) };
        board.write(&board.status.lock().unwrap_or_else(PoisonError::into_inner));
        board
    }

    /// The connection stands, and nothing was said on it yet.
    pub fn connected(&self) {
        self.change(|status| (status.connected, status.problem, status.told) = (true, None, None));
    }

    /// It does not, for this reason. Why there was no work stays; that there was some says nothing now.
    pub fn not_connected(&self, problem: String) {
        self.change(|status| {
            (status.connected, status.problem) = (false, Some(problem));
            status.told = status.told.take().filter(|told| !told.eligible);
        });
    }

    /// The coordinator said this.
    pub fn told(&self, notice: &darkbloom_wire::VerdictNotice) {
        self.change(|status| {
            status.told = Some(Told {
                eligible: notice.eligible,
                reason: notice.reason.clone(),
                sentence: notice.sentence.clone(),
                next_step: notice.next_step.clone(),
                at: clock::now().0,
            });
        });
    }

    /// A rotation waits for the coordinator no more.
    pub fn settled(&self) {
        self.change(|status| status.key_unsettled = false);
    }

    fn change(&self, change: impl FnOnce(&mut Status)) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut status);
        status.at = clock::now().0;
        self.write(&status);
    }

    /// Under another name first, so that nobody reads half of it. What cannot be written is in the log as well.
    fn write(&self, status: &Status) {
        let draft = self.file.with_extension("json.draft");
        let written = serde_json::to_vec_pretty(status)
            .map_err(io::Error::from)
            .and_then(|text| fs::write(&draft, text))
            .and_then(|()| fs::rename(&draft, &self.file));
        if let Err(error) = written {
            tracing::warn!(%error, "cannot write down where this provider stands");
        }
    }
}

/// What is known of the provider of a folder: its last status, and whether it runs.
///
/// # Errors
/// What the system says; [`io::ErrorKind::NotFound`] where none ever ran there.
pub fn read(data: &Path) -> io::Result<(Status, bool)> {
    let file = data.join(STATUS_FILE);
    if fs::metadata(&file)?.len() > STATUS_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too large"));
    }
    let status = serde_json::from_slice(&fs::read(&file)?)?;
    // Whoever runs has the folder's lock.
    match ReceiptOutbox::hold(&data.join(OUTBOX_FILE)) {
        Ok(_) => Ok((status, false)),
        Err(OpenStoreError::Locked { .. }) => Ok((status, true)),
        Err(error) => Err(io::Error::other(error)),
    }
}
