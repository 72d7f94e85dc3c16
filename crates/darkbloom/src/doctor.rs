//! `darkbloom doctor`: what this machine offers to models.

use darkbloom_harden::{Measure, Report};
use darkbloom_provider::{EvidenceFound, devices, evidence_found, machine, processor_features};
use serde_json::{Value, json};

use crate::arguments::{Doctor, DoctorAbout, EvidenceOptions, KeyPlace};
use crate::error::{Failure, say};
use crate::key;
use crate::roles::evidence_config;
use crate::settings::ProviderSettings;

const MIB: u64 = 1 << 20;

/// Looks at the machine and prints what it finds.
pub async fn run(options: Doctor, settings: ProviderSettings, hardening: &Report) -> Result<(), Failure> {
    match options.about {
        None => machine(options.json, &settings, hardening).await,
        Some(DoctorAbout::Keys(place)) => keys(place, settings),
    }
}

fn keys(place: KeyPlace, settings: ProviderSettings) -> Result<(), Failure> {
    let as_json = place.json;
    let homes = key::availabilities(place, settings)?;
    if as_json {
        return say(json!({"key_homes": homes.iter().map(key::as_json).collect::<Vec<_>>()}).to_string());
    }
    homes.iter().flat_map(key::in_words).try_for_each(say)
}

async fn machine(as_json: bool, settings: &ProviderSettings, hardening: &Report) -> Result<(), Failure> {
    let EvidenceFound { boot_log, confidential } =
        evidence_found(&evidence_config(EvidenceOptions::default(), settings)?);
    let look = || (devices(), processor_features(), machine::available_memory(), machine::default_budget());
    // Drivers of accelerators may take seconds.
    let (devices, features, free, budget) = tokio::task::spawn_blocking(look)
        .await
        .map_err(|error| Failure::new(format!("the machine could not be looked at: {error}"), ""))?;
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let accelerators = devices.iter().filter(|device| device.is_accelerator).count();
    if as_json {
        let devices: Vec<_> = devices
            .iter()
            .map(|device| {
                json!({
                    "name": device.name, "description": device.description, "accelerator": device.is_accelerator,
                    "free_bytes": device.memory.0, "total_bytes": device.memory.1,
                })
            })
            .collect();
        return say(json!({
            "version": env!("CARGO_PKG_VERSION"), "cores": cores, "free_bytes": free, "model_budget_bytes": budget,
            "processor_features": features, "devices": devices, "hardening": hardening_as_json(hardening),
            "evidence": {"boot_log_entries": boot_log.ok(), "encrypted_machine": confidential},
        })
        .to_string());
    }
    let mib = |bytes: Option<u64>| {
        bytes.map_or_else(|| "an unknown amount".to_owned(), |bytes| format!("{} MiB", bytes / MIB))
    };
    say(format!("machine      {cores} cores, {} of memory free; models get {}", mib(free), mib(budget)))?;
    say(format!("processor    {}", features.join(", ")))?;
    let active: Vec<_> = hardening.active().map(Measure::name).collect();
    say(format!("hardening    {}", if active.is_empty() { "none".to_owned() } else { active.join(", ") }))?;
    for (measure, why) in hardening.missing() {
        say(format!("  not {}: {why}", measure.name()))?;
    }
    let log = boot_log.map_or_else(
        |why| format!("no log of what was booted, so a TPM's registers stand alone: {why}"),
        |entries| format!("{entries} entries of the firmware's log say what was booted"),
    );
    let machine = if confidential { "the kernel makes reports of it" } else { "none, or its kernel makes no reports" };
    say(format!("evidence     {log}"))?;
    say(format!("             encrypted machine: {machine}"))?;
    for device in &devices {
        let kind = if device.is_accelerator { "accelerator" } else { "device" };
        let (free, total) = (device.memory.0 / MIB, device.memory.1 / MIB);
        say(format!("{kind:<12} {} ({}): working set {free} of {total} MiB", device.name, device.description))?;
    }
    if accelerators == 0 {
        say("accelerator  none that this build can use; `--accelerator required` would not start")?;
    }
    Ok(())
}

/// Each measure against other processes, and why it does not hold.
fn hardening_as_json(hardening: &Report) -> Value {
    let missing: Vec<_> =
        hardening.missing().map(|(measure, why)| json!({"measure": measure.name(), "why": why})).collect();
    json!({"active": hardening.active().map(Measure::name).collect::<Vec<_>>(), "missing": missing})
}
