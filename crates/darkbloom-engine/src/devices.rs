//! What this build of the engine can compute on.

use crate::llama::raw;

/// Something that computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its name in the engine, such as `CPU`, `CUDA0` or `Metal`.
    pub name: String,
    /// What its makers call it.
    pub description: String,
    /// Whether it is more than the processor and its libraries.
    pub is_accelerator: bool,
    /// Bytes of its memory that are free, and in all; zero where it does not say.
    pub memory: (u64, u64),
}

/// Whether models may run on something else than the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accelerator {
    /// On an accelerator, or not at all.
    Required,
    /// On an accelerator where there is one.
    Preferred,
    /// On the processor.
    #[default]
    Cpu,
}

impl Accelerator {
    /// The device that a model runs on; nothing where an accelerator is required and there is none.
    #[must_use]
    pub fn choose(self, devices: &[Device]) -> Option<&Device> {
        let find = |accelerator| devices.iter().find(|device| device.is_accelerator == accelerator);
        match self {
            Self::Required => find(true),
            Self::Preferred => find(true).or_else(|| find(false)),
            Self::Cpu => find(false),
        }
    }
}

/// Every device of this machine that this build can use, the processor among them.
#[must_use]
pub fn devices() -> Vec<Device> {
    raw::devices()
}

/// How the processor's part of the engine was built, and what it uses of this processor: names such as `AVX2`.
#[must_use]
pub fn processor_features() -> Vec<String> {
    // Groups such as `CPU : AVX2 = 1 | FMA = 1 | `; what is 0 is not used.
    let all = raw::system_info();
    let pairs = all.split('|').filter_map(|part| part.rsplit(':').next().unwrap_or(part).split_once('='));
    pairs.filter(|(_, value)| value.trim() == "1").map(|(name, _)| name.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, is_accelerator: bool) -> Device {
        Device { name: name.to_owned(), description: String::new(), is_accelerator, memory: (1, 2) }
    }

    #[test]
    fn the_policy_decides_what_a_model_runs_on() {
        let (cpu, gpu) = (device("CPU", false), device("CUDA0", true));
        let name = |policy: Accelerator, devices: &[Device]| policy.choose(devices).map(|device| device.name.clone());
        let both = [gpu, cpu.clone()];
        assert_eq!(name(Accelerator::Required, &both).as_deref(), Some("CUDA0"));
        assert_eq!(name(Accelerator::Preferred, &both).as_deref(), Some("CUDA0"));
        assert_eq!(name(Accelerator::Cpu, &both).as_deref(), Some("CPU"));
        assert_eq!(name(Accelerator::Required, std::slice::from_ref(&cpu)), None);
        assert_eq!(name(Accelerator::Preferred, &[cpu]).as_deref(), Some("CPU"));
    }

    #[test]
    fn this_machine_has_a_processor_with_memory_and_features() {
        let devices = devices();
        let cpu = Accelerator::Cpu.choose(&devices).unwrap();
        assert!(!cpu.description.is_empty() && cpu.memory.1 > 0, "{cpu:?}");
        let features = processor_features();
        assert!(
            features.iter().all(|name| name.chars().all(|sign| sign.is_ascii_alphanumeric() || sign == '_')),
            "{features:?}"
        );
        assert!(cfg!(not(target_arch = "x86_64")) || features.iter().any(|name| name == "AVX2"), "{features:?}");
    }
}
