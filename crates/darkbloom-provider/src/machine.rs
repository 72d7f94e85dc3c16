//! How much memory this machine has for models, and how much this process takes.

use sysinfo::{MemoryRefreshKind, ProcessRefreshKind, ProcessesToUpdate, RefreshKind, System};

/// Bytes that are free for programs, within the limits of a container where there is one: what that holds of files can be
/// taken from it. Nothing where the system does not say.
#[must_use]
pub fn available_memory() -> Option<u64> {
    let known = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(known).ok()?;
    let free = system.available_memory();
    Some(system.cgroup_limits().map_or(free, |limits| free.min(limits.total_memory.saturating_sub(limits.rss))))
}

/// Bytes for all models together, where their owner says nothing: three quarters of what is free. Nothing where the system does
/// not say that.
#[must_use]
pub fn default_budget() -> Option<u64> {
    available_memory().map(|free| free / 4 * 3)
}

/// Bytes of memory that this process holds; zero where the system does not say.
#[must_use]
pub fn resident_memory() -> u64 {
    let (Ok(own), Ok(mut system)) = (sysinfo::get_current_pid(), System::new()) else { return 0 };
    let memory = ProcessRefreshKind::nothing().with_memory();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[own]), false, memory);
    system.process(own).map_or(0, sysinfo::Process::memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_counted_and_was_available() {
        const MORE: usize = 64 << 20;
        let before = resident_memory();
        let held = vec![1u8; MORE];
        let after = resident_memory();
        assert!(held.iter().all(|byte| *byte == 1));
        assert!(after >= before + MORE as u64 / 2, "{before} before, {after} after");
        assert!(available_memory().is_some());
    }
}
