//! The configuration file: one table a role; unknown keys are errors with a suggestion.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::error::Failure;

/// How many batch rows a provider may have: llama.cpp holds no more sequences, and no coordinator believes in more.
pub const ROWS: RangeInclusive<usize> = 1..=256;
/// What to do about another number of them.
const ROWS_HINT: &str = "give `rows` a number from 1 to 256";

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// `[coordinator]`.
    pub coordinator: CoordinatorSettings,
    /// `[gateway]`.
    pub gateway: ClientSettings,
    /// `[proxy]`.
    pub proxy: ClientSettings,
    /// `[provider]`.
    pub provider: ProviderSettings,
}

/// `[coordinator]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CoordinatorSettings {
    /// Where to listen.
    pub listen: Option<SocketAddr>,
    /// The folder of database and key.
    pub data: Option<PathBuf>,
    /// Least tier of providers that get work.
    pub tier_min: Option<String>,
}

/// `[gateway]` and `[proxy]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientSettings {
    /// Where to listen.
    pub listen: Option<SocketAddr>,
    /// The coordinator's address.
    pub coordinator: Option<String>,
    /// The coordinator's pin.
    pub coordinator_key: Option<String>,
    /// Least tier of providers to seal to.
    pub tier_min: Option<String>,
    /// Providers to trust by name.
    pub pin_providers: Vec<String>,
}

/// `[provider]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProviderSettings {
    /// The coordinator's address.
    pub coordinator: Option<String>,
    /// The coordinator's pin.
    pub coordinator_key: Option<String>,
    /// The folder of identity and receipts.
    pub data: Option<PathBuf>,
    /// The GGUF model.
    pub model: Option<PathBuf>,
    /// The folder of downloaded models.
    pub models: Option<PathBuf>,
    /// Other folders with models.
    pub model_folders: Vec<PathBuf>,
    /// Batch rows.
    #[serde(deserialize_with = "rows")]
    pub rows: Option<usize>,
    /// Most tokens of prompt and answer together.
    pub context: Option<usize>,
    /// Threads of the engine.
    pub threads: Option<usize>,
    /// Compute with whatever is fastest.
    pub fast: Option<bool>,
}

fn rows<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    let rows = i64::deserialize(deserializer)?;
    let known = usize::try_from(rows).ok().filter(|rows| ROWS.contains(rows));
    known.map(Some).ok_or_else(|| D::Error::custom(format!("`rows` is {rows}: out of range")))
}

/// Every key that the file may have, for suggestions.
const KEYS: [&str; 18] = [
    "coordinator",
    "gateway",
    "proxy",
    "provider",
    "listen",
    "data",
    "tier_min",
    "coordinator_key",
    "pin_providers",
    "model",
    "models",
    "model_folders",
    "rows",
    "context",
    "threads",
    "fast",
    "join_token",
    "key",
];
/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads the file, before anything else happens.
pub fn load(path: Option<&Path>) -> Result<Settings, Failure> {
    let Some(path) = path else { return Ok(Settings::default()) };
    let cannot = |why: String| {
        Failure::new(
            format!("cannot read the configuration file {}: {why}", path.display()),
            "check the path given with `--config`",
        )
    };
    let length = std::fs::metadata(path).map_err(|error| cannot(error.to_string()))?.len();
    if length > FILE_BYTES_MAX {
        return Err(cannot(format!("it has {length} bytes, the limit is {FILE_BYTES_MAX}")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| cannot(error.to_string()))?;
    parse(&text).map_err(|error| {
        let hint = suggestion(&error)
            .unwrap_or_else(|| "correct the file; `docs/configuration.md` lists every key".to_owned());
        Failure::new(format!("the configuration file {} is not valid: {}", path.display(), error.trim_end()), hint)
    })
}

fn parse(text: &str) -> Result<Settings, String> {
    toml::from_str(text).map_err(|error| error.to_string())
}

/// What to do about an error: the known key that an unknown one was probably meant to be, for the most part.
fn suggestion(error: &str) -> Option<String> {
    if error.contains("`rows` is ") {
        return Some(ROWS_HINT.to_owned());
    }
    let unknown = error.split("unknown field `").nth(1)?.split('`').next()?;
    let secret = matches!(unknown, "join_token" | "key" | "api_key" | "admin_key");
    if secret {
        return Some(
            "keys and tokens do not belong into the file; set DARKBLOOM_API_KEY or DARKBLOOM_JOIN_TOKEN".to_owned(),
        );
    }
    let best = KEYS.into_iter().map(|key| (strsim::damerau_levenshtein(unknown, key), key)).min()?;
    (best.0 <= 3).then(|| format!("did you mean `{}`?", best.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_an_error_with_a_suggestion() {
        let error = parse("[coordinator]\nlisten_adr = \"127.0.0.1:1\"\n").unwrap_err();
        assert!(error.contains("unknown field `listen_adr`"), "{error}");
        assert_eq!(suggestion("unknown field `lisen`, expected").as_deref(), Some("did you mean `listen`?"));
        assert!(suggestion("unknown field `join_token`, expected").unwrap().contains("DARKBLOOM_JOIN_TOKEN"));
    }

    #[test]
    fn rows_are_checked_in_the_file_as_on_the_command_line() {
        for wrong in ["0", "257", "-1", "1000"] {
            let error = parse(&format!("[provider]\nrows = {wrong}\n")).unwrap_err();
            assert!(error.contains(&format!("`rows` is {wrong}: out of range")), "{error}");
            assert!(error.contains("line 2"), "{error}");
            assert_eq!(suggestion(&error).as_deref(), Some(ROWS_HINT));
        }
        for right in [1, 256] {
            assert_eq!(parse(&format!("[provider]\nrows = {right}\n")).unwrap().provider.rows, Some(right));
        }
    }

    #[test]
    fn a_whole_file_reads() {
        let text =
            "[coordinator]\nlisten = \"127.0.0.1:7701\"\ndata = \"/var/lib/darkbloom\"\n\n[provider]\nrows = 4\n";
        let settings = parse(text).unwrap();
        assert_eq!(settings.provider.rows, Some(4));
        assert_eq!(settings.coordinator.listen, "127.0.0.1:7701".parse().ok());
    }
}
