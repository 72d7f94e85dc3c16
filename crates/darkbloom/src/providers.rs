//! `darkbloom providers`: who is connected, and what an operator holds against whom.

use clap::{Args, Subcommand};
use darkbloom_types::ProviderId;
use serde_json::{Value, json};

use crate::admin::admin;
use crate::arguments::AdminOptions;
use crate::error::{Failure, say};

/// Options of `providers`.
#[derive(Debug, Args)]
pub struct Providers {
    /// What to do.
    #[command(subcommand)]
    action: Action,
}

/// What can be done with providers.
#[derive(Debug, Subcommand)]
enum Action {
    /// List the providers that are connected, and those against which something is held.
    List {
        /// Where.
        #[command(flatten)]
        admin: AdminOptions,
    },
    /// Refuse an identity for good, with those that it took over from and those that took over from it.
    Revoke {
        /// Which: 64 hex digits.
        provider: ProviderId,
        /// Why, for other operators: it is kept beside the revocation.
        #[arg(long)]
        note: Option<String>,
        /// Where.
        #[command(flatten)]
        admin: AdminOptions,
    },
    /// Trust a distrusted identity again, before its time is over.
    Trust {
        /// Which: 64 hex digits.
        provider: ProviderId,
        /// Where.
        #[command(flatten)]
        admin: AdminOptions,
    },
}

/// `darkbloom providers`.
pub async fn run(options: Providers) -> Result<(), Failure> {
    match options.action {
        Action::List { admin: at } => {
            let admin = admin(at)?;
            let connected = admin.get("/admin/v1/providers").await?;
            let connected = connected["data"].as_array().cloned().unwrap_or_default();
            for row in &connected {
                let verdict = if row["eligible"] == true { "eligible" } else { text(row, "reason") };
                say(format!("{}  {:<12}  {verdict}", text(row, "provider"), text(row, "tier")))?;
            }
            let held = admin.get("/admin/v1/standings").await?;
            for row in held["data"].as_array().into_iter().flatten() {
                say(standing(row))?;
            }
            Ok(())
        }
        Action::Revoke { provider, note, admin: at } => {
            let answer = put(at, &provider, json!({"standing": "revoked", "note": note})).await?;
            for identity in answer["providers"].as_array().into_iter().flatten() {
                say(format!("{} is refused for good", identity.as_str().unwrap_or("?")))?;
            }
            Ok(())
        }
        Action::Trust { provider, admin: at } => {
            put(at, &provider, json!({"standing": "clean"})).await?;
            say(format!("nothing is held against {provider} any more"))
        }
    }
}

async fn put(at: AdminOptions, provider: &ProviderId, body: Value) -> Result<Value, Failure> {
    admin(at)?.put(&format!("/admin/v1/standings/{provider}"), body).await
}

fn text<'a>(row: &'a Value, name: &str) -> &'a str {
    row[name].as_str().unwrap_or("?")
}

/// What is held against one identity, in a line.
fn standing(row: &Value) -> String {
    let mut line = format!("{}  {}", text(row, "provider"), text(row, "standing"));
    if let Some(reason) = row["reason"].as_str() {
        line.push_str(&format!(": {reason}, {} times", row["times"]));
    }
    if row["standing"] == "distrusted"
        && let Some(until) = row["until"].as_i64()
    {
        line.push_str(&format!(", until {until} ms"));
    }
    if let Some(note) = row["note"].as_str() {
        line.push_str(&format!(" ({note})"));
    }
    if let Some(successor) = row["successor"].as_str() {
        line.push_str(&format!("; {successor} has its place"));
    }
    line
}
