//! `darkbloom doctor`: what this machine offers to models.

use darkbloom_provider::{devices, machine, processor_features};
use serde_json::json;

use crate::arguments::Doctor;
use crate::error::{Failure, say};

const MIB: u64 = 1 << 20;

/// Looks at the machine and prints what it finds.
pub async fn run(options: Doctor) -> Result<(), Failure> {
    let look = || (devices(), processor_features(), machine::available_memory(), machine::default_budget());
    // Drivers of accelerators may take seconds.
    let (devices, features, free, budget) = tokio::task::spawn_blocking(look)
        .await
        .map_err(|error| Failure::new(format!("the machine could not be looked at: {error}"), ""))?;
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let accelerators = devices.iter().filter(|device| device.is_accelerator).count();
    if options.json {
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
            "processor_features": features, "devices": devices,
        })
        .to_string());
    }
    let mib = |bytes: Option<u64>| {
        bytes.map_or_else(|| "an unknown amount".to_owned(), |bytes| format!("{} MiB", bytes / MIB))
    };
    say(format!("machine      {cores} cores, {} of memory free; models get {}", mib(free), mib(budget)))?;
    say(format!("processor    {}", features.join(", ")))?;
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
