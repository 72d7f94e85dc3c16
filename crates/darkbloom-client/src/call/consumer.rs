//! Whoever reads the answer, and the ways in which a call ends early.

use std::time::Duration;

use darkbloom_types::{Refusal, RefusalCode};
use darkbloom_wire::limits;
use tokio::sync::{mpsc, oneshot};

use super::{AnswerMeta, Failed, Part};

/// A consumer that takes nothing for this long is gone.
const CONSUMER_WAIT: Duration = Duration::from_millis(limits::CONSUMER_WAIT.0);

/// Whoever reads the answer.
pub struct Consumer {
    pub first: Option<oneshot::Sender<Result<AnswerMeta, Box<Failed>>>>,
    pub parts: mpsc::Sender<Part>,
}

/// The consumer went away.
pub struct Gone;

impl Consumer {
    pub async fn gone(&mut self) {
        match &mut self.first {
            Some(first) => first.closed().await,
            None => self.parts.closed().await,
        }
    }

    pub fn begin(&mut self, meta: AnswerMeta) -> Result<(), Gone> {
        match self.first.take() {
            Some(first) => first.send(Ok(meta)).map_err(|_| Gone),
            None => Ok(()),
        }
    }

    pub async fn part(&self, part: Part) -> Result<(), Gone> {
        match tokio::time::timeout(CONSUMER_WAIT, self.parts.send(part)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Gone),
        }
    }

    /// The last word: an error in place of the answer, or behind what came of it. Nobody may be there to hear it.
    pub async fn fail(&mut self, failed: Failed) {
        match self.first.take() {
            Some(first) => drop(first.send(Err(failed.into()))),
            None => drop(self.part(Part::Failed(failed.into())).await),
        }
    }
}

/// Why a call ends early.
pub enum Ended {
    Refused(Refusal),
    Gone,
}

impl From<Refusal> for Ended {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<RefusalCode> for Ended {
    fn from(code: RefusalCode) -> Self {
        Self::Refused(code.into())
    }
}

impl From<Gone> for Ended {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

/// Something that no honest network sends.
pub fn lie(detail: impl Into<String>) -> Refusal {
    Refusal::new(RefusalCode::VerificationFailed, detail)
}
