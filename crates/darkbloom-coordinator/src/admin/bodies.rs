//! What an administrator asks for, in JSON: pure, so that it can be fuzzed as it stands.

use darkbloom_ledger::BudgetPeriod;
use darkbloom_types::{Digest, NanoDollars, Price, Tier, TokenCount};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};

/// Reads a body. An error names its fields and places: an administrator's body holds no secrets.
pub fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| format!("the body: {error}"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewAccount {
    pub name: String,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Consumer,
    Admin,
    Join,
    Account,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    pub kind: Kind,
    #[serde(default)]
    pub account: Option<String>,
    pub name: String,
    #[serde(default)]
    pub limits: KeyLimits,
    #[serde(default)]
    pub budget: Option<NewBudget>,
}

/// What a key may do beyond its kind: what is not named stays as it is, and null takes a limit away.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct KeyLimits {
    #[serde(default, deserialize_with = "named")]
    pub expires_at: Option<Option<i64>>,
    #[serde(default, deserialize_with = "named")]
    pub models: Option<Option<Vec<String>>>,
    #[serde(default, deserialize_with = "tier")]
    pub tier_min: Option<Option<Tier>>,
    #[serde(default, deserialize_with = "named")]
    pub requests_per_minute: Option<Option<u32>>,
    #[serde(default, deserialize_with = "named")]
    pub tokens_per_minute: Option<Option<u32>>,
}

/// What changes about a key: what is not named stays.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditKey {
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub limits: Option<KeyLimits>,
    #[serde(default, deserialize_with = "named")]
    pub budget: Option<Option<NewBudget>>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(deny_unknown_fields)]
pub struct NewBudget {
    #[serde(deserialize_with = "period")]
    pub period: BudgetPeriod,
    pub limit_nano_usd: i64,
}

impl NewBudget {
    /// As the ledger has it.
    pub fn checked(self) -> Result<(BudgetPeriod, NanoDollars), &'static str> {
        if self.limit_nano_usd < 0 {
            return Err("limit_nano_usd: must not be negative");
        }
        Ok((self.period, NanoDollars(self.limit_nano_usd)))
    }
}

/// What changes about an account: what is not named stays, and null takes away.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditAccount {
    #[serde(default, deserialize_with = "named")]
    pub fee_basis_points: Option<Option<u16>>,
    #[serde(default, deserialize_with = "named")]
    pub budget: Option<Option<NewBudget>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewDeposit {
    pub account: String,
    pub amount_nano_usd: i64,
    pub reference: String,
    #[serde(default)]
    pub source: Option<String>,
    #[serde(default)]
    pub state: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewInvite {
    pub name: String,
    pub amount_nano_usd: i64,
    pub uses: u32,
    pub expires_at: i64,
}

/// A code that somebody has.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Code {
    pub code: String,
}

/// What one account or one provider pays or asks for a model; without numbers, what everybody does.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnPrice {
    pub model: String,
    #[serde(default)]
    pub account: Option<String>,
    #[serde(default)]
    pub provider: Option<String>,
    #[serde(default)]
    pub price: Option<PriceNumbers>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(deny_unknown_fields)]
pub struct PriceNumbers {
    pub input_nano_per_token: u32,
    pub output_nano_per_token: u32,
}

/// Whose a machine is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewOwner {
    pub account: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewPayout {
    pub amount_nano_usd: i64,
    pub reference: String,
    pub goes_to: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditPayout {
    pub state: String,
    #[serde(default)]
    pub outside: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spend {
    pub amount_nano_usd: i64,
    pub reference: String,
}

/// What a consumer counted itself.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewDispute {
    pub request: String,
    pub input_tokens: u32,
    pub output_tokens: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    Consumer,
    Provider,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecideDispute {
    pub decision: Side,
}

/// Somebody decides about a machine's code.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecideDevice {
    pub user_code: String,
    #[serde(default)]
    pub approve: Option<bool>,
}

fn tier<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Option<Tier>>, D::Error> {
    let name = Option::<String>::deserialize(from)?;
    name.map(|name| name.parse().map_err(D::Error::custom)).transpose().map(Some)
}

fn period<'de, D: Deserializer<'de>>(from: D) -> Result<BudgetPeriod, D::Error> {
    let name = String::deserialize(from)?;
    BudgetPeriod::from_name(&name).ok_or_else(|| D::Error::custom("the periods are total, day and month"))
}

/// A field that is named, be it with null.
fn named<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(from).map(Some)
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
