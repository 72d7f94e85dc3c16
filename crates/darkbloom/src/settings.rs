//! The configuration file: one table a role; unknown keys are errors with a suggestion.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::error::Failure;
use crate::files;

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
    /// `[activator]`.
    pub activator: ActivatorSettings,
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
    /// A file with the URL of a Postgres database.
    pub database_url_file: Option<PathBuf>,
    /// Least tier of providers that get work.
    pub tier_min: Option<String>,
    /// Files with roots of makers of TPMs.
    pub tpm_roots: Vec<PathBuf>,
    /// A file whose bytes encrypt its key.
    pub key_secret: Option<PathBuf>,
    /// The operator's share of each charge, in hundredths of a percent.
    pub platform_fee: Option<u16>,
    /// The referrer's share of that fee, in hundredths of a percent.
    pub referral_share: Option<u16>,
    /// Requests that an account may begin in a minute.
    pub requests_per_minute: Option<u32>,
    /// Tokens that an account may ask for in a minute.
    pub tokens_per_minute: Option<u32>,
    /// Where to say what it counts, for Prometheus.
    pub metrics: Option<SocketAddr>,
}

/// `[activator]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ActivatorSettings {
    /// Where to listen.
    pub listen: Option<SocketAddr>,
    /// The folder of its key.
    pub data: Option<PathBuf>,
    /// Files with roots of makers of TPMs.
    pub tpm_roots: Vec<PathBuf>,
    /// A file whose bytes encrypt its key.
    pub key_secret: Option<PathBuf>,
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
    /// Files with roots of makers of TPMs.
    pub tpm_roots: Vec<PathBuf>,
    /// Activators to believe, by their keys.
    pub pin_activators: Vec<String>,
    /// A file with what may run on providers' machines.
    pub measurements: Option<PathBuf>,
    /// A folder for what proves answers.
    pub receipts: Option<PathBuf>,
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
    /// Where a new identity key may be made, best first.
    pub key_homes: Option<Vec<String>>,
    /// The TPM.
    pub tpm: Option<PathBuf>,
    /// Registers that a new key in the TPM is bound to.
    pub key_pcrs: Option<Vec<u32>>,
    /// A file whose bytes encrypt a key in a file.
    pub key_secret: Option<PathBuf>,
    /// The firmware's log.
    pub tpm_log: Option<PathBuf>,
    /// The kernel's folder for reports of an encrypted machine.
    pub tsm: Option<PathBuf>,
    /// Certificates of an AMD chip.
    pub snp_certificates: Option<PathBuf>,
    /// The service that says what Intel says about platforms.
    pub tdx_collateral: Option<String>,
    /// Addresses of activators besides the coordinator.
    pub activators: Vec<String>,
    /// The GGUF model, or a list of them.
    #[serde(deserialize_with = "one_or_more")]
    pub model: Vec<PathBuf>,
    /// LoRA adapters that change the model.
    #[serde(deserialize_with = "adapters")]
    pub adapters: Vec<Adapter>,
    /// Memory for all models together.
    pub memory: Option<Memory>,
    /// Minutes without a request after which a model is unloaded; 0 for never.
    pub idle_unload: Option<u64>,
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
    /// What models run on.
    pub accelerator: Option<AcceleratorPolicy>,
}

/// A path, or a list of them.
fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a path or a list of paths")]
    enum Paths {
        One(PathBuf),
        More(Vec<PathBuf>),
    }
    Ok(match Paths::deserialize(deserializer)? {
        Paths::One(path) => vec![path],
        Paths::More(paths) => paths,
    })
}

/// An adapter as `FILE` or `FILE=SCALE`, or a list of them.
fn adapters<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Adapter>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected FILE or FILE=SCALE as text, or a list of those")]
    enum Texts {
        One(String),
        More(Vec<String>),
    }
    let texts = match Texts::deserialize(deserializer)? {
        Texts::One(text) => vec![text],
        Texts::More(texts) => texts,
    };
    texts.into_iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
}

/// A LoRA adapter and how much of it is added, written as `FILE` or `FILE=SCALE`.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    /// The GGUF file.
    pub path: PathBuf,
    /// 1 for what it was made for.
    pub scale: f32,
}

impl FromStr for Adapter {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        // What stands behind the last equals sign and is no number belongs to the path.
        let scaled = text.rsplit_once('=').and_then(|(path, scale)| Some((path, scale.parse().ok()?)));
        let (path, scale) = scaled.unwrap_or((text, 1.0));
        if path.is_empty() {
            return Err(format!("`{text}` names no file: write it as FILE or FILE=SCALE"));
        }
        Ok(Self { path: PathBuf::from(path), scale })
    }
}

/// What models may run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AcceleratorPolicy {
    /// On an accelerator, or not at all.
    Required,
    /// On an accelerator where there is one.
    Preferred,
    /// On the processor.
    Cpu,
}

impl FromStr for AcceleratorPolicy {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "required" => Ok(Self::Required),
            "preferred" => Ok(Self::Preferred),
            "cpu" => Ok(Self::Cpu),
            other => Err(format!("`{other}` is none of `required`, `preferred` and `cpu`")),
        }
    }
}

/// An amount of memory in bytes, written as `12GiB` or `800MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory(pub u64);

impl FromStr for Memory {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no amount of memory: write it like 12GiB or 800MiB");
        let (number, unit) = match (text.strip_suffix("GiB"), text.strip_suffix("MiB")) {
            (Some(number), _) => (number, 1 << 30),
            (None, Some(number)) => (number, 1 << 20),
            (None, None) => return Err(wrong()),
        };
        let number: u64 = number.trim().parse().map_err(|_| wrong())?;
        number.checked_mul(unit).filter(|bytes| *bytes > 0).map(Self).ok_or_else(wrong)
    }
}

impl<'de> Deserialize<'de> for Memory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

fn rows<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    let rows = i64::deserialize(deserializer)?;
    let known = usize::try_from(rows).ok().filter(|rows| ROWS.contains(rows));
    known.map(Some).ok_or_else(|| D::Error::custom(format!("`rows` is {rows}: out of range")))
}

/// Every key that the file may have, for suggestions.
const KEYS: [&str; 42] = [
    "platform_fee",
    "referral_share",
    "requests_per_minute",
    "tokens_per_minute",
    "metrics",
    "coordinator",
    "activator",
    "gateway",
    "proxy",
    "provider",
    "listen",
    "data",
    "database_url_file",
    "tier_min",
    "coordinator_key",
    "pin_providers",
    "tpm_roots",
    "pin_activators",
    "measurements",
    "receipts",
    "key_homes",
    "tpm",
    "key_pcrs",
    "key_secret",
    "tpm_log",
    "tsm",
    "snp_certificates",
    "tdx_collateral",
    "activators",
    "model",
    "adapters",
    "models",
    "model_folders",
    "memory",
    "idle_unload",
    "rows",
    "context",
    "threads",
    "fast",
    "accelerator",
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
    let text = files::read_text(path, FILE_BYTES_MAX).map_err(cannot)?;
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
    fn one_model_or_several_are_served_with_so_much_memory() {
        let read = |text: &str| parse(text).map(|settings| settings.provider);
        assert_eq!(read("[provider]\nmodel = \"a\"\n").unwrap().model, [PathBuf::from("a")]);
        let several = read("[provider]\nmodel = [\"a\", \"b\"]\nmemory = \"12GiB\"\nidle_unload = 0\n").unwrap();
        assert_eq!(several.model, [PathBuf::from("a"), PathBuf::from("b")]);
        assert_eq!((several.memory, several.idle_unload), (Some(Memory(12 << 30)), Some(0)));
        assert_eq!("800MiB".parse(), Ok(Memory(800 << 20)));
        for wrong in ["12", "12GB", "-1GiB", "0MiB", "99999999999GiB", "GiB"] {
            let error = read(&format!("[provider]\nmemory = \"{wrong}\"\n")).unwrap_err();
            assert!(error.contains("write it like 12GiB or 800MiB"), "{error}");
        }
        let adapters =
            |value: &str| read(&format!("[provider]\nadapters = {value}\n")).map(|provider| provider.adapters);
        let [one, half] = [1.0, 0.5].map(|scale| Adapter { path: PathBuf::from("a.gguf"), scale });
        assert_eq!(adapters("\"a.gguf=0.5\""), Ok(vec![half.clone()]));
        assert_eq!(adapters("[\"a.gguf\", \"a.gguf=0.5\"]"), Ok(vec![one, half]));
        assert!(adapters("7").unwrap_err().contains("FILE=SCALE") && adapters("\"=1\"").is_err());
        assert!(read("[provider]\nmodel = 7\n").unwrap_err().contains("a path or a list of paths"));
    }

    #[test]
    fn an_adapter_is_a_file_and_how_much_of_it() {
        let read = |text: &str| text.parse::<Adapter>().map(|adapter| (adapter.path, adapter.scale));
        assert_eq!(read("a.gguf"), Ok((PathBuf::from("a.gguf"), 1.0)));
        assert_eq!(read("a.gguf=0.5"), Ok((PathBuf::from("a.gguf"), 0.5)));
        assert_eq!(read("b=1/a=-2"), Ok((PathBuf::from("b=1/a"), -2.0)));
        assert_eq!(read("b=1/a.gguf"), Ok((PathBuf::from("b=1/a.gguf"), 1.0)));
        assert!(read("=0.5").is_err() && read("").is_err());
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
