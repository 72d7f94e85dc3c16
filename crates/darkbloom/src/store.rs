//! `darkbloom store`: a coordinator's data, looked after while no coordinator runs or beside one.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use darkbloom_coordinator::data::{Audited, Data, DataError, PostgresUrl};
use darkbloom_types::SecretString;

use crate::error::{Failure, say};
use crate::files;
use crate::roles::default_data;
use crate::settings::CoordinatorSettings;

/// Longer than any URL of a database.
const URL_BYTES_MAX: u64 = 4 << 10;
/// A URL of a database, for those who have no file for it.
const URL_VARIABLE: &str = "DARKBLOOM_DATABASE_URL";
/// The exit status when the books do not balance: what was asked was done, and the answer is no.
const UNSOUND: u8 = 3;

/// Options of `store`.
#[derive(Debug, Args)]
pub struct StoreOptions {
    /// What to do.
    #[command(subcommand)]
    action: Action,
}

/// What can be done with a coordinator's data.
#[derive(Debug, Subcommand)]
enum Action {
    /// Bring the database to what this release needs. The coordinator must not run; make a backup before.
    Migrate {
        /// Whose.
        #[command(flatten)]
        place: Place,
    },
    /// Copy database and keys, as they are at one moment, into a new folder. The coordinator may run. Of a Postgres database
    /// print what to run.
    Backup {
        /// Whose.
        #[command(flatten)]
        place: Place,
        /// The folder, which must be empty or not there. It holds the network's key: keep it as you keep that.
        #[arg(long, value_name = "FOLDER")]
        to: PathBuf,
    },
    /// Put a backup in place, into a data folder that is empty or not there, and count everything again. Of a Postgres
    /// database print what to run.
    Restore {
        /// Whose.
        #[command(flatten)]
        place: Place,
        /// The folder of the backup.
        #[arg(long, value_name = "FOLDER")]
        from: PathBuf,
    },
    /// Count everything again, as each start does: that no money was made or lost. The coordinator may run. Exit with 3 when
    /// something does not hold.
    Audit {
        /// Whose.
        #[command(flatten)]
        place: Place,
    },
}

/// Where a coordinator's data is.
#[derive(Debug, Args)]
struct Place {
    /// The coordinator's folder.
    #[arg(long)]
    data: Option<PathBuf>,
    /// A file with the URL of its Postgres database, if it has one; or the URL by DARKBLOOM_DATABASE_URL.
    #[arg(long, value_name = "FILE")]
    database_url_file: Option<PathBuf>,
}

impl Place {
    fn data(self, settings: CoordinatorSettings) -> Result<Data, Failure> {
        let database = database(self.database_url_file, settings.database_url_file)?;
        let folder = self.data.or(settings.data).unwrap_or_else(|| default_data("coordinator"));
        Ok(Data { folder, database })
    }
}

/// `darkbloom store`.
pub fn run(options: StoreOptions, settings: CoordinatorSettings) -> Result<(), Failure> {
    let failed = |error: DataError| Failure::new(error.to_string(), error.hint());
    match options.action {
        Action::Migrate { place } => {
            let data = place.data(settings)?;
            let (from, to) = data.migrate().map_err(failed)?;
            let place = data.location().place();
            say(if from == to {
                format!("{place} has schema {to} already; nothing was done")
            } else {
                format!("{place} now has schema {to}; it had {from}")
            })
        }
        Action::Backup { place, to } => {
            let data = place.data(settings)?;
            data.backup(&to).map_err(failed)?;
            say(format!("{} holds the database and the keys of {}", to.display(), data.folder.display()))
        }
        Action::Restore { place, from } => {
            let data = place.data(settings)?;
            let audited = data.restore(&from).map_err(failed)?;
            say(format!("{} is restored from {}", data.folder.display(), from.display()))?;
            shown(&audited)
        }
        Action::Audit { place } => shown(&place.data(settings)?.audit().map_err(failed)?),
    }
}

fn shown(audited: &Audited) -> Result<(), Failure> {
    say(format!("{} transfers, {} open holds", audited.transfers, audited.open_holds))?;
    if audited.findings.is_empty() {
        return say("the books balance");
    }
    for finding in &audited.findings {
        say(format!("found: {finding}"))?;
    }
    Err(Failure::new("the books do not balance", "do not run on these books; restore the last good backup")
        .with_status(UNSOUND))
}

/// The Postgres database that flag, variable or configuration file name, in this order.
pub fn database(flag: Option<PathBuf>, setting: Option<PathBuf>) -> Result<Option<PostgresUrl>, Failure> {
    if let Some(file) = flag {
        return from_file(&file).map(Some);
    }
    if let Ok(url) = std::env::var(URL_VARIABLE) {
        return read(url, URL_VARIABLE).map(Some);
    }
    setting.map(|file| from_file(&file)).transpose()
}

fn from_file(file: &Path) -> Result<PostgresUrl, Failure> {
    let text = files::read_text(file, URL_BYTES_MAX).map_err(|error| {
        Failure::new(format!("cannot read {}: {error}", file.display()), "give a file with the URL of a database")
    })?;
    read(text, &file.display().to_string())
}

fn read(text: String, source: &str) -> Result<PostgresUrl, Failure> {
    PostgresUrl::new(&SecretString::new(text)).map_err(|error| {
        Failure::new(
            format!("{source}: {error}"),
            "write it as postgres://USER:PASSWORD@HOST:PORT/DATABASE; beyond this machine it is always encrypted",
        )
    })
}
