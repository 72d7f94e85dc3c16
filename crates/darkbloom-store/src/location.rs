//! Where a store is: a folder of this machine, or a database of a server.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use darkbloom_types::SecretString;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

/// Where a store is.
#[derive(Debug, Clone)]
pub enum StoreLocation {
    /// A folder with a SQLite database, used by one process.
    Folder(PathBuf),
    /// A Postgres database, written by one process.
    Postgres(PostgresUrl),
}

impl StoreLocation {
    /// What a person knows it by.
    #[must_use]
    pub fn place(&self) -> StorePlace {
        match self {
            Self::Folder(path) => StorePlace::Path(path.clone()),
            Self::Postgres(url) => url.place(),
        }
    }
}

/// What a person knows a store by, in messages; never with a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorePlace {
    /// A folder or file.
    Path(PathBuf),
    /// A database of a server.
    Database {
        /// The database's name.
        name: String,
        /// The server's name and port, or the folder of its socket.
        server: String,
    },
}

impl From<PathBuf> for StorePlace {
    fn from(path: PathBuf) -> Self {
        Self::Path(path)
    }
}

impl fmt::Display for StorePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Database { name, server } => write!(f, "the database {name} on {server}"),
        }
    }
}

/// The URL of a Postgres database. It may hold a password, so it cannot be printed, nor can any part of it but
/// [`PostgresUrl::place`].
#[derive(Clone)]
pub struct PostgresUrl {
    config: Box<Config>,
    /// Whether everything on the way is encrypted and the server's certificate checked. Otherwise it is on this machine.
    pub(crate) encrypted: bool,
}

/// Why a text is no URL of a database. None of these says what stood in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PostgresUrlError {
    /// It is something else.
    #[error("this is no URL such as postgres://USER:PASSWORD@HOST:PORT/DATABASE")]
    NotAUrl,
    /// Nobody knows whom to ask.
    #[error("the URL of the database names no host, no user or no database")]
    Incomplete,
    /// `sslmode=disable` beyond this machine.
    #[error("the URL of the database asks for a connection in the clear to another machine")]
    InTheClear,
}

impl PostgresUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// [`PostgresUrlError`].
    pub fn new(url: &SecretString) -> Result<Self, PostgresUrlError> {
        let text = url.expose().trim();
        if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
            return Err(PostgresUrlError::NotAUrl);
        }
        // What the parser says may quote the text.
        let mut config: Config = text.parse().map_err(|_| PostgresUrlError::NotAUrl)?;
        let somewhere = !config.get_hosts().is_empty() || !config.get_hostaddrs().is_empty();
        if !somewhere || config.get_user().is_none() || config.get_dbname().is_none() {
            return Err(PostgresUrlError::Incomplete);
        }
        let local = stays_here(&config);
        let mode = config.get_ssl_mode();
        if mode == SslMode::Disable && !local {
            return Err(PostgresUrlError::InTheClear);
        }
        // "Prefer" means that whoever is on the way may choose. On this machine nobody is.
        let encrypted = !local || !matches!(mode, SslMode::Disable | SslMode::Prefer);
        config.ssl_mode(if encrypted { SslMode::Require } else { SslMode::Disable });
        Ok(Self { config: Box::new(config), encrypted })
    }

    /// What a person knows the database by.
    #[must_use]
    pub fn place(&self) -> StorePlace {
        StorePlace::Database { name: self.name().to_owned(), server: self.server() }
    }

    /// How `pg_dump`, `pg_restore` and `psql` are told where it is: everything but the password, which they ask for or find
    /// in `~/.pgpass`.
    #[must_use]
    pub fn tool_arguments(&self) -> String {
        let mut arguments = String::new();
        if let Some(host) = self.config.get_hosts().first() {
            arguments.push_str(&format!("--host={} ", quoted(&host_text(host))));
        } else if let Some(address) = self.config.get_hostaddrs().first() {
            arguments.push_str(&format!("--host={address} "));
        }
        if let Some(port) = self.config.get_ports().first() {
            arguments.push_str(&format!("--port={port} "));
        }
        let user = self.config.get_user().unwrap_or_default();
        arguments.push_str(&format!("--username={} --dbname={}", quoted(user), quoted(self.name())));
        arguments
    }

    pub(crate) fn config(&self) -> Config {
        (*self.config).clone()
    }

    fn name(&self) -> &str {
        self.config.get_dbname().unwrap_or_default()
    }

    fn server(&self) -> String {
        let mut server = match (self.config.get_hosts().first(), self.config.get_hostaddrs().first()) {
            (Some(host), _) => host_text(host),
            (None, Some(address)) => address.to_string(),
            (None, None) => String::new(),
        };
        if let Some(port) = self.config.get_ports().first() {
            server.push_str(&format!(":{port}"));
        }
        server
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PostgresUrl(…)")
    }
}

/// Whether nothing of what is said to the server leaves this machine.
fn stays_here(config: &Config) -> bool {
    let (hosts, addresses) = (config.get_hosts(), config.get_hostaddrs());
    let here = |host: &Host| match host {
        Host::Tcp(name) => name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback()),
        #[cfg(unix)]
        Host::Unix(_) => true,
    };
    // Where there are addresses they are dialled, and names only stand in certificates.
    if addresses.is_empty() { hosts.iter().all(here) } else { addresses.iter().all(IpAddr::is_loopback) }
}

fn host_text(host: &Host) -> String {
    match host {
        Host::Tcp(name) => name.clone(),
        #[cfg(unix)]
        Host::Unix(path) => path.display().to_string(),
    }
}

/// The word as a shell reads it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Result<PostgresUrl, PostgresUrlError> {
        PostgresUrl::new(&SecretString::from(text))
    }

    #[test]
    fn beyond_this_machine_everything_is_encrypted() {
        let encrypted = |text: &str| url(text).map(|url| (url.encrypted, url.config().get_ssl_mode()));
        let (clear, tls) = (Ok((false, SslMode::Disable)), Ok((true, SslMode::Require)));
        assert_eq!(encrypted("postgres://u:p@localhost/d"), clear);
        assert_eq!(encrypted("postgres://u:p@127.0.0.1:5432/d?sslmode=prefer"), clear);
        assert_eq!(encrypted("postgres://u:p@[::1]/d"), clear);
        assert_eq!(encrypted("postgres://u@%2Frun%2Fpostgresql/d?sslmode=disable"), clear);
        assert_eq!(encrypted("postgres://u:p@localhost/d?sslmode=require"), tls);
        for sslmode in ["", "?sslmode=prefer", "?sslmode=require"] {
            assert_eq!(encrypted(&format!("postgresql://u:p@db.example/d{sslmode}")), tls);
            assert_eq!(encrypted(&format!("postgres://u:p@10.0.0.1/d{sslmode}")), tls);
        }
        assert_eq!(encrypted("postgres://u:p@localhost,db.example/d"), tls);
        assert_eq!(encrypted("postgres://u:p@localhost/d?hostaddr=10.0.0.1"), tls);
        assert_eq!(encrypted("postgres://u:p@db.example/d?sslmode=disable"), Err(PostgresUrlError::InTheClear));
        assert_eq!(
            encrypted("postgres://u:p@localhost/d?hostaddr=10.0.0.1&sslmode=disable"),
            Err(PostgresUrlError::InTheClear)
        );
    }

    #[test]
    fn a_password_is_printed_nowhere() {
        let good = url("postgres://user:s3cret@db.example:6432/money").unwrap();
        assert_eq!(good.place().to_string(), "the database money on db.example:6432");
        assert_eq!(good.tool_arguments(), "--host=db.example --port=6432 --username=user --dbname=money");
        let location = StoreLocation::Postgres(good.clone());
        for shown in [format!("{good:?} {location:?}"), format!("{:?} {}", location.place(), good.tool_arguments())] {
            assert!(!shown.contains("s3cret"), "{shown}");
        }
        for bad in
            ["postgres://user:s3cret@db:notaport/d", "host=db password=s3cret", "postgres://u:s3cret@db/d?s3cret=1"]
        {
            let error = url(bad).unwrap_err();
            assert!(!format!("{error:?} {error}").contains("s3cret"), "{error:?}");
        }
    }

    #[test]
    fn names_are_quoted_for_a_shell() {
        let url = url("postgres://o'neil@localhost/my%20db").unwrap();
        assert_eq!(url.tool_arguments(), r"--host=localhost --port=5432 --username='o'\''neil' --dbname='my db'");
    }

    #[test]
    fn a_url_names_host_user_and_database() {
        for text in ["postgres://u@/d", "postgres://localhost/d", "postgres://u@localhost"] {
            assert_eq!(url(text).unwrap_err(), PostgresUrlError::Incomplete, "{text}");
        }
    }
}
