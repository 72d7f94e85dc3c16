//! The measures of Linux.

use std::collections::BTreeMap;
use std::path::Path;

use darkbloom_types::armed;
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, NetPort, PathBeneath, PathFd,
    Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetStatus,
};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter_all_threads};

use crate::{Measure, Needs, Report};

/// The rules that are asked for; an older kernel holds those that it knows.
const RULES: ABI = ABI::V5;
/// What every program reads: libraries, certificates, how names are resolved, what the machine is.
const SYSTEM_READ: [&str; 8] =
    ["/usr", "/lib", "/lib64", "/etc", "/proc", "/sys", "/run/systemd/resolve", "/nix/store"];
/// Devices: randomness, nothing, and accelerators. Rights to each are the file's own.
const DEVICES: &str = "/dev";

pub fn close(report: &mut Report) {
    let wanted =
        if armed!("process_not_dumpable") { DumpableBehavior::NotDumpable } else { DumpableBehavior::Dumpable };
    let dumpable = set_dumpable_behavior(wanted);
    report.note(Measure::NotDumpable, dumpable.map_err(|error| error.to_string()));
    let privileges = rustix::thread::set_no_new_privs(true);
    report.note(Measure::NoNewPrivileges, privileges.map_err(|error| error.to_string()));
}

pub fn confine(needs: &Needs, report: &mut Report) {
    report.note(Measure::Files, files(needs));
    report.note(Measure::Network, network(needs));
    report.note(Measure::SystemCalls, system_calls());
}

/// Whether all that was asked for holds.
fn restrict(ruleset: Result<RulesetCreated, landlock::RulesetError>) -> Result<(), String> {
    let status = ruleset.and_then(RulesetCreated::restrict_self).map_err(|error| error.to_string())?;
    match status.ruleset {
        RulesetStatus::FullyEnforced => Ok(()),
        RulesetStatus::PartiallyEnforced => Err("this kernel holds a part of the rules only".to_owned()),
        RulesetStatus::NotEnforced => Err("this kernel has no Landlock".to_owned()),
    }
}

fn files(needs: &Needs) -> Result<(), String> {
    let read = AccessFs::from_read(RULES);
    let all = AccessFs::from_all(RULES);
    let mut made =
        Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(all).and_then(Ruleset::create);
    for path in SYSTEM_READ {
        made = allow(made, Path::new(path), read);
    }
    // Listing and making nothing there: opening what the file's own rights allow, and speaking to the device.
    made = allow(made, Path::new(DEVICES), read | AccessFs::WriteFile | AccessFs::IoctlDev);
    for path in &needs.read {
        made = allow(made, path, read);
    }
    for path in &needs.write {
        made = allow(made, path, all);
    }
    restrict(made)
}

/// What is not there needs no rule.
fn allow(
    ruleset: Result<RulesetCreated, landlock::RulesetError>,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, landlock::RulesetError> {
    let Ok(file) = PathFd::new(path) else { return ruleset };
    // A rule about a file that names rights of folders is refused.
    let access = if path.is_dir() { access } else { access & AccessFs::from_file(RULES) };
    ruleset.and_then(|ruleset| ruleset.add_rule(PathBeneath::new(file, access)))
}

fn network(needs: &Needs) -> Result<(), String> {
    let handled = if needs.listens { AccessNet::ConnectTcp.into() } else { AccessNet::from_all(RULES) };
    let mut made =
        Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(handled).and_then(Ruleset::create);
    for port in &needs.connect {
        made = made.and_then(|ruleset| ruleset.add_rule(NetPort::new(*port, AccessNet::ConnectTcp)));
    }
    restrict(made)
}

/// System calls that a provider has no use for: programs, other processes, the kernel's own settings, and parts of it that
/// are rarely used and often broken. They fail as if they were not permitted.
fn system_calls() -> Result<(), String> {
    let mut refused: Vec<libc::c_long> = vec![
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_process_madvise,
        libc::SYS_pidfd_getfd,
        libc::SYS_kcmp,
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_setns,
        libc::SYS_unshare,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_open_by_handle_at,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_kexec_load,
        libc::SYS_reboot,
        libc::SYS_swapon,
        libc::SYS_swapoff,
        libc::SYS_acct,
        libc::SYS_settimeofday,
        libc::SYS_clock_settime,
        libc::SYS_adjtimex,
        libc::SYS_quotactl,
        libc::SYS_personality,
        libc::SYS_io_uring_setup,
    ];
    #[cfg(target_arch = "x86_64")]
    refused.extend([libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt, libc::SYS_kexec_file_load]);
    let target = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| error.to_string())?;
    let rules: BTreeMap<i64, Vec<_>> = refused.into_iter().map(|call| (call, Vec::new())).collect();
    let denied = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, denied, target).map_err(|error| error.to_string())?;
    let program = BpfProgram::try_from(filter).map_err(|error| error.to_string())?;
    apply_filter_all_threads(&program).map_err(|error| error.to_string())
}
