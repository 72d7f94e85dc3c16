//! `darkbloom verify`: every claim about a provider, whose word it is and how old it may be; also from a file, long after.

use std::path::Path;

use darkbloom_client::{
    Checked, Claim, Freshness, Measured, Proven, Published, TrustPolicy, Undefended, Verdict, Which, printable,
};
use darkbloom_types::{NetworkId, Tier, UnixMillis};
use serde_json::{Value, json};

use crate::arguments::{Verify, VerifyWhat};
use crate::error::{Failure, say};
use crate::files;
use crate::roles::{self, Demanded};
use crate::settings::ClientSettings;

/// The exit status when something does not hold: what was asked was done, and the answer is no.
pub const DOES_NOT_HOLD: u8 = 3;
/// Largest bundle that is read: one list.
const BUNDLE_BYTES_MAX: u64 = 2 << 20;

/// Checks providers of a network, or a bundle.
pub async fn run(options: Verify, settings: ClientSettings) -> Result<(), Failure> {
    let (published, tier_min, json) = match options.what {
        VerifyWhat::Receipt { file, demands, json } => {
            return receipt(&file, roles::demanded(demands, &settings)?, json);
        }
        VerifyWhat::Provider { provider, after, save, trust, json } => {
            let client = roles::client(trust, &settings, "verify", None)?;
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

/// A file's bytes, and whom its reader trusts: any network, where none is pinned.
fn saved(
    file: &Path,
    demanded: Demanded,
    hint: &'static str,
) -> Result<(Vec<u8>, impl FnOnce(NetworkId) -> TrustPolicy), Failure> {
    let cannot = |why: String| Failure::new(format!("cannot read {}: {why}", file.display()), hint);
    let bytes = files::read(file, BUNDLE_BYTES_MAX).map_err(cannot)?;
    let Demanded { network, tier_min, pinned, hardware } = demanded;
    Ok((bytes, move |own| TrustPolicy { network: network.unwrap_or(own), tier_min, pinned, hardware }))
}

fn bundle(file: &Path, demanded: Demanded) -> Result<Published, Failure> {
    let (bytes, policy) = saved(file, demanded, "name a file that `darkbloom verify provider --save` wrote")?;
    // Nothing holds of what its coordinator did not sign.
    Published::read_bundle(&bytes, policy).map_err(|refusal| Failure::from(refusal).with_status(DOES_NOT_HOLD))
}

/// Checks what proves one answer.
fn receipt(file: &Path, demanded: Demanded, json: bool) -> Result<(), Failure> {
    let tier_min = demanded.tier_min;
    let (bytes, policy) = saved(file, demanded, "name a file that a proxy or gateway kept with `--receipts`")?;
    let proven = Proven::read(&bytes, policy).map_err(|refusal| Failure::from(refusal).with_status(DOES_NOT_HOLD))?;
    if json {
        say(receipt_as_json(&proven, tier_min).to_string())?;
    } else {
        receipt_in_words(&proven, tier_min).into_iter().try_for_each(say)?;
    }
    if proven.admitted {
        return Ok(());
    }
    let said = "the provider that answered does not meet what is asked";
    let hint = "name the makers that you believe with `--tpm-roots`, or lower `--tier-min`";
    Err(Failure::new(said, hint).with_status(DOES_NOT_HOLD))
}

fn receipt_in_words(proven: &Proven, tier_min: Tier) -> Vec<String> {
    let Proven { network, verdict, admitted, entry, receipt, bill } = proven;
    let mut lines = vec![format!("network      {network}, as its coordinator signed it"), String::new()];
    lines.extend(verdict_in_words(verdict, receipt.finished_at));
    let said = if *admitted { "would have been sealed to" } else { "would not have been sealed to" };
    lines.push(format!("verdict      {said} with a minimum of `{tier_min}`"));
    lines.extend([
        String::new(),
        format!("answer       signed by the provider, {} ms after 1970 by its clock", receipt.finished_at.0),
        format!("  model      {}, catalogue digest {}", printable(&entry.name), receipt.model),
        format!("  weights    {}", receipt.weights),
        format!("  tokens     {} in, {} out", receipt.input_tokens.0, receipt.output_tokens.0),
        format!("  request    {}, of what was sealed {}", receipt.request_id, receipt.request),
        format!("  transcript {}", receipt.transcript),
        String::new(),
        "bill         signed by the coordinator, for this answer".to_owned(),
        format!("  charge     {} of {} held", bill.charge, bill.hold),
        format!("  operation  {}", bill.operation),
        String::new(),
        "not shown    what was agreed to beforehand (ceilings, highest price), and times but by whom they are signed"
            .to_owned(),
    ]);
    lines
}

fn receipt_as_json(proven: &Proven, tier_min: Tier) -> Value {
    let Proven { network, verdict, admitted, entry, receipt, bill } = proven;
    json!({
        "network": network, "tier_min": tier_min, "provider": verdict_as_json(verdict, *admitted, None),
        "receipt": {
            "model": entry.name, "catalogue": receipt.model, "weights": receipt.weights,
            "request": receipt.request_id, "request_digest": receipt.request, "transcript": receipt.transcript,
            "input_tokens": receipt.input_tokens.0, "output_tokens": receipt.output_tokens.0,
            "finished_at": receipt.finished_at,
        },
        "bill": {
            "operation": bill.operation, "charge_nano_usd": bill.charge.0, "hold_nano_usd": bill.hold.0,
            "price_version": bill.price.version, "settled_at": bill.settled_at,
        },
    })
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
    let mut lines = verdict_in_words(verdict, time);
    let work = checked
        .reason
        .as_deref()
        .map_or_else(|| "gets work".to_owned(), |reason| format!("gets no work: {}", printable(reason)));
    lines.push(format!("coordinator  {work}"));
    let said = if checked.admitted { "would be sealed to" } else { "would not be sealed to" };
    lines.push(format!("verdict      {said} with a minimum of `{tier_min}`"));
    lines
}

fn verdict_in_words(verdict: &Verdict, time: UnixMillis) -> Vec<String> {
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
    lines
}

fn as_json(published: &Published, tier_min: Tier) -> Value {
    let provider = |checked: &Checked| match &checked.verdict {
        Err(error) => json!({"admitted": false, "error": error.to_string(), "reason": checked.reason}),
        Ok(verdict) => verdict_as_json(verdict, checked.admitted, checked.reason.as_deref()),
    };
    json!({
        "network": published.network, "time": published.time, "tier_min": tier_min,
        "activator": published.activator.map(hex::encode), "more": published.more,
        "providers": published.providers.iter().map(provider).collect::<Vec<_>>(),
    })
}

fn verdict_as_json(verdict: &Verdict, admitted: bool, reason: Option<&str>) -> Value {
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
        "admitted": admitted, "provider": verdict.provider, "tier": verdict.tier,
        "trust": verdict.trust.name(), "epoch": verdict.epoch, "reason": reason,
        "claims": verdict.claims.iter().map(claim).collect::<Vec<_>>(),
        "measured": verdict.measured.iter().map(Measured::as_accepted).collect::<Vec<_>>(),
        "undefended": {
            "owner_root": undefended.owner_root.name(),
            "owner_physical_access": undefended.owner_physical_access.name(),
            "dishonest_coordinator": undefended.dishonest_coordinator.name(),
        },
    })
}
