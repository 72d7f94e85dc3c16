//! What an administrator asks for, in JSON: pure, so that it can be fuzzed as it stands.

use darkbloom_types::{Digest, Price, TokenCount};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Reads a body. An error names its fields and places: an administrator's body holds no secrets.
pub fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| format!("the body: {error}"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewAccount {
    pub name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Consumer,
    Admin,
    Join,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    pub kind: Kind,
    #[serde(default)]
    pub account: Option<String>,
    pub name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewDeposit {
    pub account: String,
    pub amount_nano_usd: i64,
    pub reference: String,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    Clean,
    Revoked,
}

impl Wanted {
    pub fn name(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Revoked => "revoked",
        }
    }
}

/// What an operator holds against an identity from now on.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewStanding {
    pub standing: Wanted,
    #[serde(default)]
    pub note: Option<String>,
}

/// A policy in TOML.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewPolicy {
    pub policy: String,
}

/// A model to put on offer.
#[derive(Deserialize)]
#[serde(try_from = "NewModelAsWritten")]
pub struct NewModel {
    pub name: String,
    pub weights: Digest,
    pub text_pack: Digest,
    pub context: TokenCount,
    pub quantisation: String,
    pub price: Price,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewModelAsWritten {
    name: String,
    weights: String,
    text_pack: String,
    context: u32,
    quantisation: String,
    price_version: u32,
    input_nano_per_token: u32,
    output_nano_per_token: u32,
}

impl TryFrom<NewModelAsWritten> for NewModel {
    type Error = String;

    fn try_from(written: NewModelAsWritten) -> Result<Self, String> {
        let digest = |text: &str, field: &str| text.parse::<Digest>().map_err(|error| format!("{field}: {error}"));
        if written.context == 0 {
            return Err("context: must be at least 1".to_owned());
        }
        Ok(Self {
            weights: digest(&written.weights, "weights")?,
            text_pack: digest(&written.text_pack, "text_pack")?,
            name: written.name,
            context: TokenCount(written.context),
            quantisation: written.quantisation,
            price: Price {
                version: written.price_version,
                input_nano_per_token: written.input_nano_per_token,
                output_nano_per_token: written.output_nano_per_token,
            },
        })
    }
}
