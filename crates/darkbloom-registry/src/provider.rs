//! One connected provider.

use darkbloom_types::{CatalogueDigest, ConnectionId, EpochId, ProviderId, Tier, UnixMillis};
use darkbloom_wire::ModelLoad;

/// How long things may take.
pub mod times {
    use darkbloom_types::Millis;

    /// Providers send a heartbeat this often.
    pub const HEARTBEAT: Millis = Millis::from_secs(10);
    /// Three heartbeats and a little: a provider not heard for that long gets no work.
    pub const SILENCE: Millis = Millis::from_secs(35);
    /// Least and most time between two challenges of one provider; the moment between is drawn.
    pub const CHALLENGE_AFTER: (Millis, Millis) = (Millis::from_minutes(2), Millis::from_minutes(6));
    /// A challenge is answered within this time: a slow hardware key takes a second.
    pub const CHALLENGE_ANSWER: Millis = Millis::from_secs(30);
    /// Failures in a row after which a provider pauses.
    pub const FAULTS_MAX: u32 = 3;
    /// How long it pauses; then one request may try.
    pub const PAUSE: Millis = Millis::from_secs(30);
}

/// What was verified about a provider when it introduced itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Who.
    pub provider: ProviderId,
    /// On which connection.
    pub connection: ConnectionId,
    /// What is proven.
    pub tier: Tier,
    /// The signed statement of the current epoch, for candidates.
    pub statement: Vec<u8>,
    /// The current epoch.
    pub epoch: EpochId,
    /// When clients stop sealing to it.
    pub use_until: UnixMillis,
    /// What it has loaded.
    pub models: Vec<ModelLoad>,
}

/// Rows that a provider is believed to have: no engine of today has more, and a boast must not draw all work.
const ROWS_MAX: u32 = 256;

#[derive(Debug)]
pub(crate) struct Provider {
    pub registration: Registration,
    /// The epoch before this one and until when clients may still seal to it: requests in flight name it.
    pub previous_epoch: Option<(EpochId, UnixMillis)>,
    pub heard: UnixMillis,
    pub draining: bool,
    /// Rows that this coordinator gave out and did not get back, a model each.
    pub reserved: Vec<(CatalogueDigest, u32)>,
    pub faults: u32,
    pub suspended_until: Option<UnixMillis>,
    /// The open challenge: its nonce and when it was sent.
    pub challenge: Option<([u8; 32], UnixMillis)>,
    pub challenge_at: UnixMillis,
}

impl Provider {
    pub fn challenge_missed(&self, now: UnixMillis) -> bool {
        self.challenge.is_some_and(|(_, sent)| now.since(sent) >= times::CHALLENGE_ANSWER)
    }

    /// Rows of a model, when it is loaded.
    pub fn rows_max(&self, model: &CatalogueDigest) -> Option<u32> {
        self.registration.models.iter().find(|load| load.model == *model).map(|load| load.rows_max.min(ROWS_MAX))
    }

    pub fn rows_reserved(&self, model: &CatalogueDigest) -> u32 {
        self.reserved.iter().find(|(reserved, _)| reserved == model).map_or(0, |(_, rows)| *rows)
    }

    /// Rows that are free, as far as this coordinator knows: what it gave out counts before any heartbeat shows it.
    pub fn rows_free(&self, model: &CatalogueDigest) -> u32 {
        self.rows_max(model).unwrap_or(0).saturating_sub(self.rows_reserved(model))
    }

    pub fn waiting(&self, model: &CatalogueDigest) -> u32 {
        self.registration.models.iter().find(|load| load.model == *model).map_or(0, |load| load.waiting)
    }

    pub fn reserve(&mut self, model: &CatalogueDigest) {
        match self.reserved.iter_mut().find(|(reserved, _)| reserved == model) {
            Some((_, rows)) => *rows += 1,
            None => self.reserved.push((*model, 1)),
        }
    }

    pub fn release(&mut self, model: &CatalogueDigest) {
        if let Some((_, rows)) = self.reserved.iter_mut().find(|(reserved, _)| reserved == model) {
            *rows = rows.saturating_sub(1);
        }
    }

    /// Whether a request sealed to this epoch can still be opened there.
    pub fn opens(&self, epoch: &EpochId, now: UnixMillis) -> bool {
        self.registration.epoch == *epoch
            || self.previous_epoch.is_some_and(|(previous, until)| previous == *epoch && now < until)
    }
}
