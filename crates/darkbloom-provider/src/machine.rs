//! What kind of machine this is, how much memory it has for models, how full and how warm it is, and how much this process takes.

use std::path::Path;

use darkbloom_wire::MachineLoad;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, ProcessRefreshKind, ProcessesToUpdate, RefreshKind, System};

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

/// Thermal zones and trip points of each that are looked at: more than any machine has that was seen.
const ZONES: usize = 32;
const TRIPS: usize = 8;
/// So close to a trip point, in thousandths of a degree, a machine counts as having reached it.
const NEAR: i64 = 5_000;

/// What kind of machine this is: those of a kind are about as fast.
#[must_use]
pub fn hardware() -> String {
    let known = RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let brand = System::new_with_specifics(known)
        .ok()
        .and_then(|system| system.cpus().first().map(|cpu| cpu.brand().trim().to_owned()))
        .unwrap_or_default();
    let mut kind = format!("{} {brand} x{cores}", std::env::consts::ARCH);
    // A name that is longer is nobody's.
    kind.truncate(kind.floor_char_boundary(128));
    kind
}

/// How full and how warm it is now.
#[must_use]
pub fn load() -> MachineLoad {
    let known = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let total = System::new_with_specifics(known).map_or(0, |system| {
        let all = system.total_memory();
        system.cgroup_limits().map_or(all, |limits| all.min(limits.total_memory))
    });
    let free = available_memory().unwrap_or(total).min(total);
    let used = (total - free).saturating_mul(1_000).checked_div(total).unwrap_or(0);
    let memory_permille = u16::try_from(used).unwrap_or(1_000);
    MachineLoad { memory_permille, thermal: thermal(Path::new("/sys/class/thermal")) }
}

/// The thermal state by the kernel's zones and their trip points (Linux, `Documentation/driver-api/thermal/sysfs-api.rst`):
/// 0 where there are none, 1 near one where the kernel begins to slow down, 2 from there on, 3 near one where it stops.
fn thermal(zones: &Path) -> u16 {
    let number = |path: &Path| std::fs::read_to_string(path).ok()?.trim().parse::<i64>().ok();
    let mut worst = 0;
    for zone in (0..ZONES).map(|zone| zones.join(format!("thermal_zone{zone}"))) {
        let Some(now) = number(&zone.join("temp")) else { continue };
        for trip in 0..TRIPS {
            let kind = std::fs::read_to_string(zone.join(format!("trip_point_{trip}_type"))).unwrap_or_default();
            let Some(at) = number(&zone.join(format!("trip_point_{trip}_temp"))).filter(|at| *at > 0) else { break };
            worst = worst.max(match kind.trim() {
                "critical" | "hot" if now + NEAR >= at => 3,
                "passive" if now >= at => 2,
                "passive" if now + NEAR >= at => 1,
                _ => 0,
            });
        }
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_says_how_full_and_how_warm_it_is() {
        let now = load();
        assert!((1..=1_000).contains(&now.memory_permille), "{now:?}");
        assert!(hardware().contains(std::env::consts::ARCH) && hardware().len() <= 128);
        let zones = tempfile::tempdir().unwrap();
        let zone = zones.path().join("thermal_zone0");
        assert_eq!(thermal(zones.path()), 0, "no zone");
        std::fs::create_dir(&zone).unwrap();
        for (trip, (kind, at)) in [("passive", 80_000), ("critical", 100_000)].into_iter().enumerate() {
            std::fs::write(zone.join(format!("trip_point_{trip}_type")), format!("{kind}\n")).unwrap();
            std::fs::write(zone.join(format!("trip_point_{trip}_temp")), format!("{at}\n")).unwrap();
        }
        for (temperature, state) in [(40_000, 0), (76_000, 1), (85_000, 2), (96_000, 3)] {
            std::fs::write(zone.join("temp"), format!("{temperature}\n")).unwrap();
            assert_eq!(thermal(zones.path()), state, "{temperature}");
        }
    }

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
