//! `darkbloom dev --prompt`: one question, sealed and verified in this very process.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use darkbloom_client::{
    AnswerMeta, CANDIDATES_DEFAULT, Client, Completed, Config, HardwareTrust, Operation, Part, printable_answer,
};
use darkbloom_content::{ChatRequest, Message, Role};
use darkbloom_types::{Refusal, SecretString, Tier};
use serde_json::json;

use super::Network;
use crate::error::{Failure, say, say_piece};

/// Asks, streams the answer, and prints what was verified and where the time went.
pub async fn ask(network: &Network, prompt: &str, as_json: bool) -> Result<(), Failure> {
    let wrong = |_| Failure::new("the roles said something unreadable at their start", "report this");
    let client = Client::new(Config {
        coordinator: network.coordinator_url.clone(),
        network: Some(network.network.parse().map_err(wrong)?),
        pin_file: None,
        tier_min: Tier::Hardware,
        pinned: BTreeSet::from([network.provider_id.parse().map_err(wrong)?]),
        hardware: HardwareTrust::default(),
        candidates: CANDIDATES_DEFAULT,
        receipts: None,
    })?;
    let mut request = ChatRequest::new(vec![Message::new(Role::User, prompt)]);
    request.temperature = 0.0;
    let began = Instant::now();
    let operation = Operation {
        key: network.key.clone(),
        model: network.model.clone(),
        request,
        stream: true,
        max_output_tokens: None,
        idempotency_key: None,
        parse: Duration::ZERO,
    };
    let mut answer = client.chat(operation).await.map_err(Refusal::from)?;
    let first = began.elapsed();
    let mut text = SecretString::default();
    let completed = loop {
        match answer.parts.recv().await {
            Some(Part::Text(piece)) => {
                if !as_json {
                    // What a model writes must not drive the terminal; `--json` has it as it is.
                    say_piece(&printable_answer(piece.expose()))?;
                }
                text.push_str(piece.expose());
            }
            // The question offers no tools, and what the model thought before is not the answer.
            Some(Part::Reasoning(_) | Part::Call(_) | Part::Arguments(_)) => {}
            Some(Part::Completed(completed)) => break completed,
            Some(Part::Failed(failed)) => return Err(failed.refusal.into()),
            None => return Err(Failure::new("the answer broke off", "try again")),
        }
    };
    let total = began.elapsed();
    if as_json {
        return say(as_object(network, &answer.meta, &completed, &text, first, total).to_string());
    }
    report(network, &answer.meta, &completed, first, total)
}

fn report(
    network: &Network,
    meta: &AnswerMeta,
    completed: &Completed,
    first: Duration,
    total: Duration,
) -> Result<(), Failure> {
    let undefended = meta.undefended;
    say("\n")?;
    say("verified by this process, before sealing and after:")?;
    say(format!("  provider     {}", meta.provider))?;
    say(format!("  tier         {}", meta.tier))?;
    say(format!("  trust        {} (this run's own provider; no hardware is proven)", meta.trust.name()))?;
    say(format!("  owner_root   {}", undefended.owner_root.name()))?;
    say(format!("  owner_physical_access  {}", undefended.owner_physical_access.name()))?;
    say(format!("  dishonest_coordinator  {}", undefended.dishonest_coordinator.name()))?;
    say(format!("  key epoch    {}", meta.epoch))?;
    say(format!("  catalogue    {}", meta.catalogue))?;
    if let Some(settled) = &completed.settled {
        say(format!("  receipt      {}", settled.receipt))?;
    }
    say(format!("  attempts     {}", meta.attempts.len()))?;
    for attempt in &meta.attempts {
        say(format!("    {} {}", attempt.provider, attempt.outcome().name()))?;
    }
    say(format!("  tokens       {} in, {} out", completed.input_tokens, completed.output_tokens))?;
    if let Some(settled) = &completed.settled {
        say(format!("  charge       {}", settled.charge))?;
    }
    let part = |micros: Option<darkbloom_types::Micros>| {
        micros.map_or_else(|| "-".to_owned(), |micros| format!("{:>9.3} ms", micros.0 as f64 / 1_000.0))
    };
    let timing = &completed.timing;
    say("where the time went:")?;
    say(format!("  parse        {}   this process", part(timing.parse_us)))?;
    say(format!("  encrypt      {}   this process", part(timing.encrypt_us)))?;
    say(format!("  reserve      {}   coordinator", part(timing.reserve_us)))?;
    say(format!("  route        {}   coordinator", part(timing.route_us)))?;
    say(format!("  queue        {}   coordinator", part(timing.queue_us)))?;
    say(format!("  dispatch     {}   coordinator", part(timing.dispatch_us)))?;
    say(format!("  provider     {}   said by the provider", part(timing.provider_us)))?;
    say(format!(
        "  first text   {:>9.3} ms   after the question, first request of a new client",
        first.as_secs_f64() * 1_000.0
    ))?;
    say(format!("  in all       {:>9.3} ms", total.as_secs_f64() * 1_000.0))?;
    say(format!("network ready after {:.2} s", network.ready_after.as_secs_f64()))
}

fn as_object(
    network: &Network,
    meta: &AnswerMeta,
    completed: &Completed,
    text: &SecretString,
    first: Duration,
    total: Duration,
) -> serde_json::Value {
    let attempts: Vec<_> = meta
        .attempts
        .iter()
        .map(|attempt| json!({"provider": attempt.provider, "outcome": attempt.outcome().name()}))
        .collect();
    json!({
        "answer": text.expose(),
        "model": network.model,
        "verified": {
            "by": "client",
            "provider": meta.provider,
            "tier": meta.tier,
            "trust": meta.trust.name(),
            "undefended": {
                "owner_root": meta.undefended.owner_root.name(),
                "owner_physical_access": meta.undefended.owner_physical_access.name(),
                "dishonest_coordinator": meta.undefended.dishonest_coordinator.name(),
            },
            "epoch": meta.epoch,
            "catalogue": meta.catalogue,
            "receipt": completed.settled.map(|settled| settled.receipt),
            "attempts": attempts,
        },
        "usage": {"input_tokens": completed.input_tokens, "output_tokens": completed.output_tokens, "charge_nano_usd": completed.settled.map(|settled| settled.charge)},
        "timing": completed.timing,
        "first_text_us": u64::try_from(first.as_micros()).unwrap_or(u64::MAX),
        "total_us": u64::try_from(total.as_micros()).unwrap_or(u64::MAX),
        "ready_us": u64::try_from(network.ready_after.as_micros()).unwrap_or(u64::MAX),
    })
}
