//! Options of `models`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use darkbloom_types::NetworkId;

/// Options of `models`.
#[derive(Debug, Args)]
pub struct Models {
    /// What to do.
    #[command(subcommand)]
    pub action: ModelsAction,
}

/// What can be done with model files.
#[derive(Debug, Subcommand)]
pub enum ModelsAction {
    /// List the models of this machine by their headers: in the models folder, in the Hugging Face cache, in folders that are
    /// named. Nothing is hashed.
    List {
        /// Where to look.
        #[command(flatten)]
        places: ModelPlaces,
        /// Print a JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Show what a coordinator offers, and which files of this machine could serve it.
    Catalog {
        /// Whose catalogue.
        #[command(flatten)]
        coordinator: CatalogueSource,
        /// Where to look.
        #[command(flatten)]
        places: ModelPlaces,
        /// Hash the files that can be loaded, and say for certain.
        #[arg(long)]
        hash: bool,
        /// Print a JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Download a model file into the models folder, and verify it. One that was broken off goes on where it ended.
    Download(Download),
    /// Remove a model from the models folder.
    Remove {
        /// OWNER/NAME/FILE, as `models list` shows it, or OWNER/NAME for everything of a repository.
        name: String,
        /// The models folder; by default darkbloom/models in the user's data folder.
        #[arg(long)]
        models: Option<PathBuf>,
        /// Print a JSON object.
        #[arg(long)]
        json: bool,
    },
}

/// Where model files are looked for.
#[derive(Debug, Args)]
pub struct ModelPlaces {
    /// The models folder; by default darkbloom/models in the user's data folder.
    #[arg(long)]
    pub models: Option<PathBuf>,
    /// Another folder with models; may be given again.
    #[arg(long = "folder")]
    pub folders: Vec<PathBuf>,
}

/// Whose catalogue it is about.
#[derive(Debug, Args)]
pub struct CatalogueSource {
    /// The coordinator's address.
    #[arg(long)]
    pub coordinator: Option<String>,
    /// The coordinator's pin: 64 hex digits. Without it the first one met is pinned.
    #[arg(long)]
    pub coordinator_key: Option<NetworkId>,
    /// The provider's folder, where the pin is.
    #[arg(long)]
    pub data: Option<PathBuf>,
}

/// Options of `models download`.
#[derive(Debug, Args)]
pub struct Download {
    /// The repository, as OWNER/NAME.
    pub repository: String,
    /// The file, where the repository has several models.
    #[arg(long)]
    pub file: Option<String>,
    /// A branch, tag or commit.
    #[arg(long, default_value = "main")]
    pub revision: String,
    /// The name of a model in the coordinator's catalogue: its digest chooses the file, and must be the file's.
    #[arg(long = "for")]
    pub offered: Option<String>,
    /// Whose catalogue.
    #[command(flatten)]
    pub coordinator: CatalogueSource,
    /// A server that is compatible with the Hugging Face hub.
    #[arg(long, env = "HF_ENDPOINT", default_value = "https://huggingface.co")]
    pub endpoint: String,
    /// The token of an account there; better by HF_TOKEN.
    #[arg(long, env = "HF_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// The models folder; by default darkbloom/models in the user's data folder.
    #[arg(long)]
    pub models: Option<PathBuf>,
    /// Print a JSON object a line: what happens, and the result.
    #[arg(long)]
    pub json: bool,
}
