//! What administrators do from the command line, over the coordinator's HTTP interface.

use std::error::Error as _;
use std::path::Path;

use darkbloom_client::check_address;
use darkbloom_provider::{AdapterFile, CheckedModel, LoadError};
use darkbloom_types::{Digest, NanoDollars, SecretString};
use serde_json::{Value, json};

use crate::arguments::{Accounts, AccountsAction, AdminOptions, Catalogue, CatalogueAction, KeyKind, Keys, KeysAction};
use crate::error::{Failure, say};
use crate::operator::{budget_of, text};

/// Where an administrator's key comes from and where it goes.
const KEY_HINT: &str =
    "set DARKBLOOM_ADMIN_KEY to an administrator's key; the coordinator shows the first one at its first start";

/// An administrator's connection to a coordinator.
pub struct Admin {
    http: reqwest::Client,
    coordinator: String,
    key: SecretString,
    /// Where such a key comes from.
    key_hint: &'static str,
}

/// A model's file as the catalogue names it.
pub struct ModelFile {
    weights: Digest,
    text_pack: Vec<u8>,
    context: u32,
    /// How it says that its weights are stored.
    pub quantisation: &'static str,
}

/// What a model is offered as.
pub struct Offer<'a> {
    /// The name in requests.
    pub name: &'a str,
    /// How the weights are stored.
    pub quantisation: &'a str,
    /// Edition of the price.
    pub price_version: u32,
    /// Nano-dollars for one input token.
    pub input_price: u32,
    /// Nano-dollars for one output token.
    pub output_price: u32,
}

impl ModelFile {
    /// Checks a model's file, and the adapters that change it, as far as a provider does before it loads them, hashes them and
    /// reads the tokenizer. Blocks.
    pub fn read(path: &Path, adapters: &[AdapterFile]) -> Result<Self, Failure> {
        let CheckedModel { weights, text_pack, quantisation } =
            CheckedModel::read(path, adapters).map_err(|error| {
                if let LoadError::ReadAdapter { .. } | LoadError::Adapter { .. } | LoadError::Embeds { .. } = error {
                    return Failure::new(error.to_string(), error.hint());
                }
                let hint =
                    if matches!(error, LoadError::Read { .. }) { "check the path" } else { "get the file again" };
                // The source says what is wrong; the error itself would name the path a second time.
                let why = error.source().map_or_else(|| error.to_string(), ToString::to_string);
                Failure::new(format!("cannot use the model file {}: {why}", path.display()), hint)
            })?;
        Ok(Self { weights, context: text_pack.context_length().0, text_pack: text_pack.to_bytes(), quantisation })
    }
}

impl Admin {
    /// A connection with this key.
    pub fn new(coordinator: &str, key: SecretString) -> Result<Self, Failure> {
        Self::with(coordinator, key, KEY_HINT)
    }

    /// A connection with an account's key.
    pub fn of_account(coordinator: &str, key: SecretString) -> Result<Self, Failure> {
        Self::with(coordinator, key, crate::account::KEY_HINT)
    }

    fn with(coordinator: &str, key: SecretString, key_hint: &'static str) -> Result<Self, Failure> {
        check_address(coordinator)?;
        Ok(Self { http: http()?, coordinator: coordinator.trim_end_matches('/').to_owned(), key, key_hint })
    }

    /// Sends a form as anybody, and returns what came, be it an error in the words of OAuth.
    pub async fn form(coordinator: &str, path: &str, form: &[(&str, &str)]) -> Result<Value, Failure> {
        check_address(coordinator)?;
        let coordinator = coordinator.trim_end_matches('/');
        let body = serde_urlencoded::to_string(form).map_err(|error| Failure::new(error.to_string(), ""))?;
        let sent = http()?
            .post(format!("{coordinator}{path}"))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body);
        let sent = sent.send().await;
        let answer = sent.map_err(|_| unreachable(coordinator))?.bytes().await;
        let answer = answer.map_err(|_| unreachable(coordinator))?;
        serde_json::from_slice(&answer).map_err(|_| Failure::new("the answer is not a coordinator's", ""))
    }

    async fn call(&self, method: reqwest::Method, path: &str, body: Option<Body>) -> Result<Value, Failure> {
        let bytes = self.bytes(method, path, body).await?;
        Ok(serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    async fn bytes(&self, method: reqwest::Method, path: &str, body: Option<Body>) -> Result<Vec<u8>, Failure> {
        let mut request =
            self.http.request(method, format!("{}{path}", self.coordinator)).bearer_auth(self.key.expose());
        request = match body {
            Some(Body::Json(value)) => request.header("content-type", "application/json").body(value.to_string()),
            Some(Body::Bytes(bytes)) => request.body(bytes),
            None => request,
        };
        let unreachable = |_| unreachable(&self.coordinator);
        let response = request.send().await.map_err(unreachable)?;
        let ok = response.status().is_success();
        let bytes = response.bytes().await.map_err(unreachable)?;
        if ok {
            return Ok(bytes.to_vec());
        }
        let value: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let message = value["error"]["message"].as_str().unwrap_or("the coordinator refused").to_owned();
        let code = value["error"]["code"].as_str();
        let hint = if matches!(code, Some("invalid_api_key" | "forbidden")) { self.key_hint } else { "" };
        Err(Failure::new(message, hint))
    }

    /// Asks for something.
    pub async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.call(reqwest::Method::GET, path, None).await
    }

    /// Asks for a text.
    pub async fn get_text(&self, path: &str) -> Result<String, Failure> {
        let bytes = self.bytes(reqwest::Method::GET, path, None).await?;
        String::from_utf8(bytes).map_err(|_| Failure::new("the answer is not text", ""))
    }

    /// Changes a part of something.
    pub async fn patch(&self, path: &str, body: Value) -> Result<Value, Failure> {
        self.call(reqwest::Method::PATCH, path, Some(Body::Json(body))).await
    }

    /// Ends something.
    pub async fn delete(&self, path: &str) -> Result<Value, Failure> {
        self.call(reqwest::Method::DELETE, path, None).await
    }

    /// Makes something.
    pub async fn post(&self, path: &str, body: Value) -> Result<Value, Failure> {
        self.call(reqwest::Method::POST, path, Some(Body::Json(body))).await
    }

    /// Has something be so.
    pub async fn put(&self, path: &str, body: Value) -> Result<Value, Failure> {
        self.call(reqwest::Method::PUT, path, Some(Body::Json(body))).await
    }

    /// Whether there is an account of this name.
    pub async fn has_account(&self, name: &str) -> Result<bool, Failure> {
        let accounts = self.get("/admin/v1/accounts").await?;
        Ok(accounts["data"].as_array().into_iter().flatten().any(|row| row["name"] == name))
    }

    /// What to do about a failure, where the account that it is about does not exist.
    async fn about_account(&self, name: &str, failure: Failure) -> Failure {
        match self.has_account(name).await {
            Ok(false) => failure.with_hint(format!("darkbloom accounts create {name}")),
            Ok(true) | Err(_) => failure,
        }
    }

    /// Makes a key and returns it.
    pub async fn create_key(&self, kind: &str, account: Option<&str>, name: &str) -> Result<SecretString, Failure> {
        let answer = self.post("/admin/v1/keys", json!({"kind": kind, "account": account, "name": name})).await?;
        let key = answer["key"].as_str().ok_or_else(|| Failure::new("the coordinator sent no key", ""))?;
        Ok(SecretString::from(key))
    }

    /// Puts a model on offer and returns its catalogue digest.
    pub async fn offer_model(&self, file: &ModelFile, offer: &Offer<'_>) -> Result<String, Failure> {
        let blob =
            self.call(reqwest::Method::PUT, "/admin/v1/blobs", Some(Body::Bytes(file.text_pack.clone()))).await?;
        let entry = json!({
            "name": offer.name,
            "weights": file.weights,
            "text_pack": blob["digest"],
            "context": file.context,
            "quantisation": offer.quantisation,
            "price_version": offer.price_version,
            "input_nano_per_token": offer.input_price,
            "output_nano_per_token": offer.output_price,
        });
        let answer = self.call(reqwest::Method::PUT, "/admin/v1/catalogue", Some(Body::Json(entry))).await?;
        Ok(answer["digest"].as_str().unwrap_or_default().to_owned())
    }
}

fn http() -> Result<reqwest::Client, Failure> {
    let http = reqwest::Client::builder().timeout(std::time::Duration::from_secs(60)).build();
    http.map_err(|error| Failure::new(error.to_string(), ""))
}

fn unreachable(coordinator: &str) -> Failure {
    Failure::new(format!("cannot reach the coordinator at {coordinator}"), "check `--coordinator` and that it runs")
}

enum Body {
    Json(Value),
    Bytes(Vec<u8>),
}

/// An administrator's connection as the command line says.
pub fn admin(options: AdminOptions) -> Result<Admin, Failure> {
    let key = options.admin_key.filter(|key| !key.is_empty());
    let key = key.ok_or_else(|| Failure::new("no administrator's key is given", KEY_HINT))?;
    Admin::new(&options.coordinator, SecretString::new(key))
}

/// `darkbloom keys`.
pub async fn keys(options: Keys) -> Result<(), Failure> {
    match options.action {
        KeysAction::Create { kind, account, name, admin: at } => {
            let kind = match kind {
                KeyKind::Consumer => "consumer",
                KeyKind::Admin => "admin",
                KeyKind::Join => "join",
                KeyKind::Account => "account",
            };
            let admin = admin(at)?;
            match (admin.create_key(kind, account.as_deref(), &name).await, account) {
                (Ok(key), _) => say(key.expose()),
                (Err(failure), Some(account)) => Err(admin.about_account(&account, failure).await),
                (Err(failure), None) => Err(failure),
            }
        }
        KeysAction::List { admin: at } => {
            let answer = admin(at)?.get("/admin/v1/keys").await?;
            for key in answer["data"].as_array().into_iter().flatten() {
                let state = if key["revoked"] == true { "revoked" } else { "active" };
                say(format!(
                    "{:>6}  {:<8}  {:<7}  {}",
                    key["id"],
                    key["kind"].as_str().unwrap_or("?"),
                    state,
                    key["name"].as_str().unwrap_or("?")
                ))?;
            }
            Ok(())
        }
        KeysAction::Edit { id, name, budget, limits, admin: at } => {
            let mut body = json!({});
            if let Some(name) = name {
                body["name"] = name.into();
            }
            if let Some(budget) = budget {
                body["budget"] = budget_of(&budget)?;
            }
            if let Some(limits) = limits {
                let wrong = |error: serde_json::Error| {
                    Failure::new(
                        format!("the limits are no JSON: {error}"),
                        r#"give them as '{"tokens_per_minute": 10000}'"#,
                    )
                };
                body["limits"] = serde_json::from_str(&limits).map_err(wrong)?;
            }
            let answer = admin(at)?.patch(&format!("/admin/v1/keys/{id}"), body).await?;
            say(format!("key {id} `{}`", text(&answer["name"])))
        }
        KeysAction::Rotate { id, admin: at } => {
            say(text(&admin(at)?.post(&format!("/admin/v1/keys/{id}/rotate"), json!({})).await?["key"]))
        }
        KeysAction::Revoke { id, admin: at } => {
            admin(at)?.call(reqwest::Method::DELETE, &format!("/admin/v1/keys/{id}"), None).await?;
            say(format!("key {id} opens nothing any more"))
        }
    }
}

/// `darkbloom accounts`.
pub async fn accounts(options: Accounts) -> Result<(), Failure> {
    match options.action {
        AccountsAction::Create { name, admin: at } => {
            let answer = admin(at)?.post("/admin/v1/accounts", json!({"name": name})).await?;
            say(format!("account {} `{name}`", answer["account"]))
        }
        AccountsAction::Credit { name, dollars, reference, admin: at } => {
            let body = json!({"account": name, "amount_nano_usd": dollars_of(&dollars)?, "reference": reference});
            let admin = admin(at)?;
            let answer = match admin.post("/admin/v1/deposits", body).await {
                Ok(answer) => answer,
                Err(failure) => return Err(admin.about_account(&name, failure).await),
            };
            let already =
                if answer["already"] == true { " (this reference was credited before; nothing changed)" } else { "" };
            say(format!("available {}{already}", NanoDollars(answer["available_nano_usd"].as_i64().unwrap_or(0))))
        }
        AccountsAction::List { admin: at } => {
            let answer = admin(at)?.get("/admin/v1/accounts").await?;
            for row in answer["data"].as_array().into_iter().flatten() {
                let available = NanoDollars(row["available_nano_usd"].as_i64().unwrap_or(0));
                let held = NanoDollars(row["held_nano_usd"].as_i64().unwrap_or(0));
                say(format!(
                    "{:>6}  {available:>16}  held {held:>16}  {}",
                    row["account"],
                    row["name"].as_str().unwrap_or("?")
                ))?;
            }
            Ok(())
        }
    }
}

/// `darkbloom catalogue`.
pub async fn catalogue(options: Catalogue) -> Result<(), Failure> {
    let CatalogueAction::Add {
        model,
        adapters,
        name,
        quantisation,
        price_version,
        input_price,
        output_price,
        admin: at,
    } = options.action;
    let admin = admin(at)?;
    let adapters: Vec<_> = adapters.into_iter().map(AdapterFile::from).collect();
    let file = ModelFile::read(&model, &adapters)?;
    let offer = Offer { name: &name, quantisation: &quantisation, price_version, input_price, output_price };
    let digest = admin.offer_model(&file, &offer).await?;
    say(format!("`{name}` is on offer as {digest}"))
}

/// An amount that somebody gave in dollars.
pub fn dollars_of(dollars: &str) -> Result<NanoDollars, Failure> {
    parse_dollars(dollars).ok_or_else(|| {
        Failure::new(
            format!("`{dollars}` is not an amount"),
            "give dollars with up to nine decimal places, such as 2.50",
        )
    })
}

/// Dollars with up to nine decimal places, exactly.
fn parse_dollars(text: &str) -> Option<NanoDollars> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let nanos: i64 = format!("{fraction:0<9}").parse().ok()?;
    let dollars = NanoDollars::from_dollars(whole.parse().ok()?).ok()?;
    dollars.plus(NanoDollars(nanos)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dollars_are_read_exactly() {
        assert_eq!(parse_dollars("2.5"), Some(NanoDollars(2_500_000_000)));
        assert_eq!(parse_dollars("0.000000001"), Some(NanoDollars(1)));
        for wrong in ["", ".5", "1.0000000001", "-1", "1e9", "1.2.3", "99999999999999"] {
            assert_eq!(parse_dollars(wrong), None, "{wrong}");
        }
    }
}
