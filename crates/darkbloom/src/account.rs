//! `darkbloom account` and `darkbloom login`: somebody's own affairs.

use std::io::{BufRead as _, Write as _};
use std::path::Path;
use std::time::Duration;

use darkbloom_types::SecretString;
use serde_json::{Value, json};

use crate::admin::{Admin, dollars_of};
use crate::arguments::{Account, AccountAction, AccountOptions, Login, LoginKind};
use crate::error::{Failure, say};
use crate::files;
use crate::operator::{money, payout_words, price_body, price_words, rows, text};

/// Where an account's key comes from.
pub const KEY_HINT: &str = "set DARKBLOOM_ACCOUNT_KEY to an account's key; `darkbloom login --kind account` gets one";
/// Longest pause between two questions for a key that the coordinator may ask for.
const INTERVAL_S_MAX: u64 = 60;

fn connection(options: AccountOptions) -> Result<Admin, Failure> {
    let key = options.account_key.filter(|key| !key.is_empty());
    let key = key.ok_or_else(|| Failure::new("no account's key is given", KEY_HINT))?;
    Admin::of_account(&options.coordinator, SecretString::new(key))
}

fn kind_name(kind: LoginKind) -> &'static str {
    match kind {
        LoginKind::Consumer => "consumer",
        LoginKind::Join => "join",
        LoginKind::Account => "account",
    }
}

/// `darkbloom account`.
pub async fn run(options: Account) -> Result<(), Failure> {
    let here = connection(options.at)?;
    match options.action {
        AccountAction::Balance => {
            let balance = here.get("/v1/balance").await?;
            let earnings = here.get("/v1/earnings").await?;
            let line = |what: &str, amount: &Value| say(format!("{what:<28}{:>16}", money(amount)));
            line("available", &balance["available_nano_usd"])?;
            line("held for requests", &balance["held_nano_usd"])?;
            line("may be paid out", &earnings["withdrawable_nano_usd"])?;
            line("earned, not yet", &earnings["earned_nano_usd"])?;
            line("by referrals, not yet", &earnings["referral_nano_usd"])?;
            line("on its way out", &earnings["withdrawing_nano_usd"])
        }
        AccountAction::Machines => {
            for row in rows(&here.get("/v1/machines").await?["data"]) {
                say(format!(
                    "{}  {:>8} jobs  {:>10} tokens  {:>16}",
                    text(&row["provider"]),
                    row["jobs"],
                    row["output_tokens"],
                    money(&row["earned_nano_usd"])
                ))?;
            }
            Ok(())
        }
        AccountAction::Jobs { after } => {
            let table = here.get_text(&format!("/v1/earnings/jobs.csv?after={after}")).await?;
            write!(std::io::stdout().lock(), "{table}").map_err(|error| Failure::new(error.to_string(), ""))
        }
        AccountAction::Payout { dollars, to, reference } => {
            let body = json!({"amount_nano_usd": dollars_of(&dollars)?, "goes_to": to, "reference": reference});
            say(payout_words(&here.post("/v1/payouts", body).await?))
        }
        AccountAction::Payouts => {
            for row in rows(&here.get("/v1/payouts").await?["data"]) {
                say(payout_words(row))?;
            }
            Ok(())
        }
        AccountAction::Spend { dollars, reference } => {
            let body = json!({"amount_nano_usd": dollars_of(&dollars)?, "reference": reference});
            let answer = here.post("/v1/earnings/spend", body).await?;
            let already = if answer["already"] == true { " already" } else { "" };
            say(format!("{} is credit{already}", money(&answer["amount_nano_usd"])))
        }
        AccountAction::Redeem { code } => {
            let answer = here.post("/v1/invites/redeem", json!({"code": code})).await?;
            let already = if answer["already"] == true { " was redeemed before" } else { "" };
            say(format!("{}{already}", money(&answer["amount_nano_usd"])))
        }
        AccountAction::Refer => say(text(&here.post("/v1/referral", json!({})).await?["code"])),
        AccountAction::ReferredBy { code } => {
            here.post("/v1/referral/apply", json!({"code": code})).await?;
            say("whoever gave you the code gets a share of the operator's fee from now on")
        }
        AccountAction::Dispute { request, input, output } => {
            let body = json!({"request": request, "input_tokens": input, "output_tokens": output});
            let answer = here.post("/v1/disputes", body).await?;
            say(format!("{} is disputed", money(&answer["disputed_nano_usd"])))
        }
        AccountAction::Price { model, provider, input_price, output_price } => {
            let body = price_body(&model, None, Some(&provider), input_price.zip(output_price));
            say(price_words(&model, &here.put("/v1/prices", body).await?["price"]))
        }
        AccountAction::Approve { code, yes, deny } => approve(&here, &code, yes, deny).await,
        AccountAction::Keys => {
            for key in rows(&here.get("/v1/keys").await?["data"]) {
                let state = if key["revoked"] == true { "revoked" } else { "active" };
                say(format!("{:>6}  {:<8}  {state:<7}  {}", key["id"], text(&key["kind"]), text(&key["name"])))?;
            }
            Ok(())
        }
        AccountAction::Key { kind, name } => {
            let answer = here.post("/v1/keys", json!({"kind": kind_name(kind), "name": name})).await?;
            say(text(&answer["key"]))
        }
        AccountAction::RotateKey { id } => {
            say(text(&here.post(&format!("/v1/keys/{id}/rotate"), json!({})).await?["key"]))
        }
        AccountAction::RevokeKey { id } => {
            here.delete(&format!("/v1/keys/{id}")).await?;
            say(format!("key {id} opens nothing any more"))
        }
    }
}

async fn approve(here: &Admin, code: &str, yes: bool, deny: bool) -> Result<(), Failure> {
    let path = "/v1/device/approve";
    let about = here.post(path, json!({"user_code": code})).await?;
    let (name, scope) = (text(&about["name"]), text(&about["scope"]));
    let give = if yes || deny {
        yes
    } else {
        say(format!("`{name}` wants a key of kind {scope}. Only approve what you began yourself. Give it? [y/N]"))?;
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer).map_err(|error| Failure::new(error.to_string(), ""))?;
        answer.trim().eq_ignore_ascii_case("y")
    };
    here.post(path, json!({"user_code": code, "approve": give})).await?;
    say(if give { format!("`{name}` gets its key") } else { format!("`{name}` gets none") })
}

/// `darkbloom login`: signs in by device code (RFC 8628).
pub async fn login(options: Login) -> Result<(), Failure> {
    if let Some(path) = &options.out {
        refuse_existing(path)?;
    }
    let scope = kind_name(options.kind);
    let begun =
        Admin::form(&options.coordinator, "/v1/device/code", &[("client_id", options.name.as_str()), ("scope", scope)])
            .await?;
    let failed = |said: &Value| {
        let why = said["error_description"].as_str().or_else(|| said["error"].as_str());
        let why = darkbloom_client::printable(why.unwrap_or("the coordinator sent no code"));
        Failure::new(why, "begin again with `darkbloom login`")
    };
    let code = begun["device_code"].as_str().ok_or_else(|| failed(&begun))?;
    say(format!("approve this code where you are signed in: darkbloom account approve {}", text(&begun["user_code"])))?;
    let mut wait = begun["interval"].as_u64().unwrap_or(5).clamp(1, INTERVAL_S_MAX);
    let mut left = begun["expires_in"].as_u64().unwrap_or(900).min(3_600);
    loop {
        tokio::time::sleep(Duration::from_secs(wait)).await;
        let form = [("grant_type", "urn:ietf:params:oauth:grant-type:device_code"), ("device_code", code)];
        let said = Admin::form(&options.coordinator, "/v1/device/token", &form).await?;
        if let Some(key) = said["access_token"].as_str() {
            return keep(options.out.as_deref(), key);
        }
        match said["error"].as_str() {
            Some("authorization_pending") => {}
            Some("slow_down") => wait = (wait + 5).min(INTERVAL_S_MAX),
            _ => return Err(failed(&said)),
        }
        left = left.checked_sub(wait).ok_or_else(|| Failure::new("nobody approved the code in time", "begin again"))?;
    }
}

fn refuse_existing(path: &Path) -> Result<(), Failure> {
    if path.exists() {
        return Err(Failure::new(format!("{} exists", path.display()), "choose another file with `--out`"));
    }
    Ok(())
}

fn keep(out: Option<&Path>, key: &str) -> Result<(), Failure> {
    let Some(path) = out else { return say(darkbloom_client::printable(key)) };
    files::write_new_private(path, key.as_bytes()).map_err(|error| {
        Failure::new(format!("cannot write {}: {error}", path.display()), "choose another file with `--out`")
    })?;
    say(format!("the key is in {}", path.display()))
}
