//! Model files of this machine: finding them, naming them by digest, downloading and removing them.
//!
//! A model here is one GGUF file, or one of several that belong together and cannot be loaded yet. What lies in a cache or a
//! folder, and what a hub says, was written by somebody else: names are checked before anything is opened by them, headers
//! before a file is offered, and nothing is written outside of the folder that the owner chose.

mod download;
mod folder;
mod hub;
mod known;
mod listing;
mod manifest;
mod matching;
mod meter;
mod names;
mod partial;
mod remove;
mod scan;

pub use download::{Downloaded, Event, Order, download};
pub use hub::{DownloadError, Hub, HubOptions, Waits};
pub(crate) use known::{KnownWeights, Seen};
pub use listing::{ChooseError, Listing, ListingError, PlannedFile, Wanted};
pub use manifest::{Manifest, ManifestError, read_manifest};
pub(crate) use manifest::{Unchanged, digest_of};
pub use matching::{Match, Offered};
pub use meter::Progress;
pub use names::{FilePath, NameError, RepositoryName, Revision};
pub use remove::{RemoveError, Removed, remove};
pub use scan::{FoundModel, Inventory, Parts, Place, Places, Skipped, hugging_face_cache, quantisation, scan};
