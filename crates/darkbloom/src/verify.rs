//! `darkbloom verify`: every claim about a provider, whose word it is and how old it may be; also from a file, long after.

use std::path::Path;

use darkbloom_client::{Checked, Claim, Freshness, Measured, Published, TrustPolicy, Undefended, Which, printable};
use darkbloom_types::{Tier, UnixMillis};
use serde_json::{Value, json};

use crate::arguments::{Verify, VerifyWhat};
use crate::error::{Failure, say};
use crate::files;
use crate::roles::{self, Demanded};
use crate::settings::ClientSettings;

/// The exit status when something does not hold: what was asked was done, and the answer is no.
const DOES_NOT_HOLD: u8 = 3;
/// Largest bundle that is read: one list.
const BUNDLE_BYTES_MAX: u64 = 2 << 20;

/// Checks providers of a network, or a bundle.
pub async fn run(options: Verify, settings: ClientSettings) -> Result<(), Failure> {
    let (published, tier_min, json) = match options.what {
        VerifyWhat::Provider { provider, after, save, trust, json } => {
            let client = roles::client(trust, &settings, "verify")?;
            let published = client.published(provider.map_or(Which::After(after), Which::Only)).await?;
            if let Some(path) = save {
                keep(&path, &published.bundle)?;
            }
            (published, client.tier_min(), json)
        }
        VerifyWhat::Bundle { file, demands, json } => {
            let demanded = roles::demanded(demands, &settings)?;
            let tier_min = demanded.tier_min;
            (bundle(&file, demanded)?, tier_min, json)
        }
    };
    if json {
        say(as_json(&published, tier_min).to_string())?;
    } else {
        in_words(&published, tier_min).into_iter().try_for_each(say)?;
    }
    let refused = published.providers.iter().filter(|checked| !checked.admitted).count();
    if refused == 0 {
        return Ok(());
    }
    let said = format!("{refused} of {} providers do not meet what is asked", published.providers.len());
    let proven = published.providers.iter().all(|checked| checked.verdict.is_ok());
    let hint = if proven {
        "name the makers that you believe with `--tpm-roots`, or lower `--tier-min`"
    } else {
        "seal nothing to a provider whose statement does not verify, and tell the network's operator"
    };
    Err(Failure::new(said, hint).with_status(DOES_NOT_HOLD))
}

fn keep(path: &Path, bundle: &[u8]) -> Result<(), Failure> {
    std::fs::write(path, bundle).map_err(|error| {
        Failure::new(format!("cannot write {}: {error}", path.display()), "choose another path for `--save`")
    })
}

fn bundle(file: &Path, demanded: Demanded) -> Result<Published, Failure> {
    let cannot = |why: String| {
        let hint = "name a file that `darkbloom verify provider --save` wrote";
        Failure::new(format!("cannot read {}: {why}", file.display()), hint)
    };
    let bytes = files::read(file, BUNDLE_BYTES_MAX).map_err(cannot)?;
    let Demanded { network, tier_min, pinned, hardware } = demanded;
    let policy = |own| TrustPolicy { network: network.unwrap_or(own), tier_min, pinned, hardware };
    // Nothing holds of what its coordinator did not sign.
    Published::read_bundle(&bytes, policy).map_err(|refusal| Failure::from(refusal).with_status(DOES_NOT_HOLD))
}

/// How old a claim may be, from when the list was signed.
fn age(freshness: Freshness, of: UnixMillis) -> String {
    const MINUTE: i64 = 60_000;
    match freshness {
        Freshness::Epoch => "this epoch".to_owned(),
        Freshness::Unstated => "no time".to_owned(),
        Freshness::Seen(at) => match of.0.saturating_sub(at.0) / MINUTE {
            minutes @ ..120 => format!("{} min ago", minutes.max(0)),
            minutes @ 120..2_880 => format!("{} h ago", minutes / 60),
            minutes => format!("{} days ago", minutes / 1_440),
        },
    }
}

fn in_words(published: &Published, tier_min: Tier) -> Vec<String> {
    let mut lines = vec![format!("network      {}, as its coordinator signed it", published.network)];
    for checked in &published.providers {
        lines.push(String::new());
        lines.extend(provider_in_words(checked, published.time, tier_min));
    }
    if published.more {
        let last = published.providers.iter().rev().find_map(|checked| checked.verdict.as_ref().ok());
        let last = last.map(|verdict| verdict.provider.to_string()).unwrap_or_default();
        lines.push(format!("\nmore providers follow: add `--after {last}`"));
    }
    if published.providers.is_empty() {
        lines.push("no provider is connected".to_owned());
    }
    lines
}

fn provider_in_words(checked: &Checked, time: UnixMillis, tier_min: Tier) -> Vec<String> {
    let verdict = match &checked.verdict {
        Ok(verdict) => verdict,
        Err(error) => return vec![format!("provider     unknown: {}", printable(&error.to_string()))],
    };
    let mut lines = vec![
        format!("provider     {}", verdict.provider),
        format!("tier         {}", verdict.tier),
        format!("trust        {}", verdict.trust.name()),
        format!("epoch        {}", verdict.epoch),
    ];
    let claim = |claim: &Claim| {
        let (name, source) = (claim.name, claim.source.name());
        format!("  {name:<22} {source:<22} {:<12} {}", age(claim.freshness, time), printable(&claim.value))
    };
    lines.push("claims       what, whose word, how old, in words".to_owned());
    lines.extend(verdict.claims.iter().map(claim));
    let Undefended { owner_root, owner_physical_access, dishonest_coordinator } = verdict.undefended();
    if !verdict.measured.is_empty() {
        lines.push("measured     as `--measurements` would name it, if it is to be accepted".to_owned());
        lines.extend(verdict.measured.iter().map(|measured| format!("  {}", measured.as_accepted())));
    }
    lines.push("defended     against whom".to_owned());
    lines.push(format!("  {:<22} {}", "owner_root", owner_root.name()));
    lines.push(format!("  {:<22} {}", "owner_physical_access", owner_physical_access.name()));
    lines.push(format!("  {:<22} {}", "dishonest_coordinator", dishonest_coordinator.name()));
    let work = checked
        .reason
        .as_deref()
        .map_or_else(|| "gets work".to_owned(), |reason| format!("gets no work: {}", printable(reason)));
    lines.push(format!("coordinator  {work}"));
    let said = if checked.admitted { "would be sealed to" } else { "would not be sealed to" };
    lines.push(format!("verdict      {said} with a minimum of `{tier_min}`"));
    lines
}

fn as_json(published: &Published, tier_min: Tier) -> Value {
    let provider = |checked: &Checked| match &checked.verdict {
        Err(error) => json!({"admitted": false, "error": error.to_string(), "reason": checked.reason}),
        Ok(verdict) => {
            let claim = |claim: &Claim| {
                let (fresh, seen_at) = match claim.freshness {
                    Freshness::Epoch => ("epoch", None),
                    Freshness::Seen(at) => ("seen", Some(at)),
                    Freshness::Unstated => ("unstated", None),
                };
                json!({
                    "name": claim.name, "value": claim.value, "source": claim.source.name(), "freshness": fresh,
                    "seen_at": seen_at,
                })
            };
            let undefended = verdict.undefended();
            json!({
                "admitted": checked.admitted, "provider": verdict.provider, "tier": verdict.tier,
                "trust": verdict.trust.name(), "epoch": verdict.epoch, "reason": checked.reason,
                "claims": verdict.claims.iter().map(claim).collect::<Vec<_>>(),
                "measured": verdict.measured.iter().map(Measured::as_accepted).collect::<Vec<_>>(),
                "undefended": {
                    "owner_root": undefended.owner_root.name(),
                    "owner_physical_access": undefended.owner_physical_access.name(),
                    "dishonest_coordinator": undefended.dishonest_coordinator.name(),
                },
            })
        }
    };
    json!({
        "network": published.network, "time": published.time, "tier_min": tier_min,
        "activator": published.activator.map(hex::encode), "more": published.more,
        "providers": published.providers.iter().map(provider).collect::<Vec<_>>(),
    })
}
