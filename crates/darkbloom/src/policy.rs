//! `darkbloom policy`: what an operator demands of providers, and what a change would come to before it is made.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::admin::admin;
use crate::arguments::AdminOptions;
use crate::error::{Failure, say};
use crate::files;

/// More than any policy has; the coordinator says how large one may be.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The exit status when a policy would take work from somebody: what was asked was done, and the answer is no.
const LOSES_WORK: u8 = 3;

/// Options of `policy`.
#[derive(Debug, Args)]
pub struct PolicyOptions {
    /// What to do.
    #[command(subcommand)]
    action: Action,
}

/// What can be done with the policy.
#[derive(Debug, Subcommand)]
enum Action {
    /// Print the policy as it stands.
    Show {
        /// Where.
        #[command(flatten)]
        admin: AdminOptions,
    },
    /// Show which connected providers a policy would keep from work. Nothing changes. Exit with 3 when one would lose it.
    Check {
        /// The policy, in TOML.
        file: PathBuf,
        /// Where.
        #[command(flatten)]
        admin: AdminOptions,
    },
    /// Let this policy hold from now on, for connected providers too.
    Apply {
        /// The policy, in TOML.
        file: PathBuf,
        /// Where.
        #[command(flatten)]
        admin: AdminOptions,
    },
}

/// `darkbloom policy`.
pub async fn run(options: PolicyOptions) -> Result<(), Failure> {
    match options.action {
        Action::Show { admin: at } => {
            let answer = admin(at)?.get("/admin/v1/policy").await?;
            let text = answer["policy"].as_str().unwrap_or_default();
            say(if text.is_empty() {
                "# nothing is demanded beyond the coordinator's `tier_min`"
            } else {
                text.trim_end()
            })
        }
        Action::Check { file, admin: at } => {
            let answer = admin(at)?.post("/admin/v1/policy/check", read(&file)?).await?;
            shown(&answer)
        }
        Action::Apply { file, admin: at } => {
            let answer = admin(at)?.put("/admin/v1/policy", read(&file)?).await?;
            say(format!("the policy holds; it keeps {} connected providers from work", answer["barred"]))
        }
    }
}

fn read(file: &Path) -> Result<Value, Failure> {
    let text = files::read_text(file, FILE_BYTES_MAX);
    let text = text.map_err(|error| {
        Failure::new(
            format!("cannot read {}: {error}", file.display()),
            "give a file in TOML; docs/policy.md shows one",
        )
    })?;
    Ok(json!({"policy": text}))
}

fn names(row: &Value, list: &str) -> String {
    let names: Vec<_> = row[list].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    names.join(", ")
}

/// Each provider in a line, and whether one would lose its work.
fn shown(answer: &Value) -> Result<(), Failure> {
    let rows: Vec<_> = answer["data"].as_array().cloned().unwrap_or_default();
    let (mut lose, mut gain) = (0, 0);
    for row in &rows {
        let (shut, shadow) = (names(row, "shut"), names(row, "shadow"));
        let what = if row["loses_work"] == true {
            lose += 1;
            format!("would lose its work: {shut}")
        } else if row["may_work_again"] == true {
            gain += 1;
            "would no longer be kept from work by the policy".to_owned()
        } else if !shut.is_empty() {
            format!("gets no work now and would not: {shut}")
        } else {
            "would not notice".to_owned()
        };
        let shadow = if shadow.is_empty() { String::new() } else { format!(" (in shadow: {shadow})") };
        say(format!("{}  {what}{shadow}", row["provider"].as_str().unwrap_or("?")))?;
    }
    say(format!("{lose} of {} connected providers would lose their work, {gain} could get it again", rows.len()))?;
    if lose > 0 { Err(Failure::said(LOSES_WORK)) } else { Ok(()) }
}
