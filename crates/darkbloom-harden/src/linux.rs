//! The measures of Linux.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use darkbloom_types::armed;
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, NetPort, PathBeneath, PathFd,
    Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetStatus,
};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter_all_threads,
};

use crate::{Measure, Needs, Report};

/// The rules that are asked for; an older kernel holds those that it knows.
const RULES: ABI = ABI::V5;
/// What every program reads: libraries, certificates, how names are resolved, what the machine is.
const SYSTEM_READ: [&str; 9] = [
    "/usr",
    "/lib",
    "/lib64",
    "/etc",
    "/proc",
    "/sys",
    "/run/systemd/resolve",
    "/nix/store",
    // openSUSE's certificates, to which `/etc/ssl/certs` leads.
    "/var/lib/ca-certificates",
];
/// Which name servers there are.
const RESOLVERS: &str = "/etc/resolv.conf";
/// Devices: randomness, nothing, and accelerators. Rights to each are the file's own.
const DEVICES: &str = "/dev";

pub fn close(report: &mut Report) {
    let wanted =
        if armed!("process_not_dumpable") { DumpableBehavior::NotDumpable } else { DumpableBehavior::Dumpable };
    let dumpable = set_dumpable_behavior(wanted);
    report.note(Measure::NotDumpable, dumpable.map_err(|error| error.to_string()));
    report.note(Measure::SecretPages, crate::pages::prepare());
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
    for path in led_to(Path::new(RESOLVERS)) {
        made = allow(made, &path, read);
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

/// The file that a link leads to, and the folder in which it is replaced when the network changes: Windows keeps it in
/// `/mnt/wsl`, resolvconf in `/run/resolvconf`. A folder right below the root holds too much else.
fn led_to(link: &Path) -> Vec<PathBuf> {
    let Ok(file) = link.canonicalize() else { return Vec::new() };
    let folder = file.parent().filter(|folder| folder.components().count() > 2).map(Path::to_owned);
    folder.into_iter().chain([file]).collect()
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
        libc::SYS_open_tree,
        libc::SYS_move_mount,
        libc::SYS_fsopen,
        libc::SYS_fsconfig,
        libc::SYS_fsmount,
        libc::SYS_fspick,
        libc::SYS_mount_setattr,
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
        libc::SYS_kexec_file_load,
        libc::SYS_reboot,
        libc::SYS_swapon,
        libc::SYS_swapoff,
        libc::SYS_acct,
        libc::SYS_settimeofday,
        libc::SYS_clock_settime,
        libc::SYS_adjtimex,
        libc::SYS_clock_adjtime,
        libc::SYS_quotactl,
        libc::SYS_quotactl_fd,
        libc::SYS_personality,
        libc::SYS_io_uring_setup,
    ];
    #[cfg(target_arch = "x86_64")]
    refused.extend([libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt]);
    let target = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| error.to_string())?;
    let mut rules: BTreeMap<i64, Vec<_>> = refused.into_iter().map(|call| (call, Vec::new())).collect();
    rules.insert(libc::SYS_socket, sockets().map_err(|error| error.to_string())?);
    let denied = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, denied, target).map_err(|error| error.to_string())?;
    let program = BpfProgram::try_from(filter).map_err(|error| error.to_string())?;
    apply_filter_all_threads(&program).map_err(|error| error.to_string())?;
    #[cfg(target_arch = "x86_64")]
    apply_filter_all_threads(&other_numbers()).map_err(|error| error.to_string())?;
    Ok(())
}

/// Sockets that a provider has no use for: of other families than those of the Internet, of this machine, and of the kernel's
/// answers about addresses; and on the Internet all but TCP and UDP. Landlock's rules about connections hold TCP alone:
/// whoever asks for MPTCP or SCTP would walk around them.
fn sockets() -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    const INTERNET: [i32; 2] = [libc::AF_INET, libc::AF_INET6];
    const OTHERS: [i32; 2] = [libc::AF_UNIX, libc::AF_NETLINK];
    const PROTOCOLS: [i32; 3] = [libc::IPPROTO_IP, libc::IPPROTO_TCP, libc::IPPROTO_UDP];
    /// Of old: the kernel makes a socket of another family of it.
    const SOCK_PACKET: i32 = 10;
    /// The kind of socket is in these bits; others are flags.
    const KIND: u64 = 0xf;
    let is = |argument, how, value: i32| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, how, u64::from(value.cast_unsigned()))
    };
    let other_family = INTERNET.iter().chain(&OTHERS).map(|family| is(0, SeccompCmpOp::Ne, *family));
    let mut rules = vec![SeccompRule::new(other_family.collect::<Result<_, _>>()?)?];
    for family in INTERNET {
        let mut other_protocol = vec![is(0, SeccompCmpOp::Eq, family)?];
        for protocol in PROTOCOLS {
            other_protocol.push(is(2, SeccompCmpOp::Ne, protocol)?);
        }
        rules.push(SeccompRule::new(other_protocol)?);
        for kind in [libc::SOCK_RAW, libc::SOCK_RDM, libc::SOCK_SEQPACKET, libc::SOCK_DCCP, SOCK_PACKET] {
            let of_kind = is(1, SeccompCmpOp::MaskedEq(KIND), kind)?;
            rules.push(SeccompRule::new(vec![is(0, SeccompCmpOp::Eq, family)?, of_kind])?);
        }
    }
    Ok(rules)
}

/// On x86-64 most system calls have a second number, with this bit: that of x32. No call of ours has it, and a filter by
/// numbers would let it through.
#[cfg(target_arch = "x86_64")]
fn other_numbers() -> BpfProgram {
    const X32: u32 = 0x4000_0000;
    // linux/bpf_common.h: load a word, jump if it is at least so much, return.
    const LOAD: u16 = 0x20;
    const AT_LEAST: u16 = 0x35;
    const RETURN: u16 = 0x06;
    let step = |code, jf, k| seccompiler::sock_filter { code, jt: 0, jf, k };
    vec![
        // The number is the first word of what a filter sees (`struct seccomp_data`).
        step(LOAD, 0, 0),
        step(AT_LEAST, 1, X32),
        step(RETURN, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned()),
        step(RETURN, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_link_to_name_servers_leads_to_its_file_and_the_folder_where_that_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let (inner, link) = (root.join("run/resolvconf"), root.join("resolv.conf"));
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::write(inner.join("resolv.conf"), "nameserver ::1").unwrap();
        std::os::unix::fs::symlink("run/resolvconf/resolv.conf", &link).unwrap();
        assert_eq!(led_to(&link), [inner.clone(), inner.join("resolv.conf")]);
        assert_eq!(led_to(Path::new("/etc/passwd")), [Path::new("/etc/passwd")], "a folder below the root is none");
        assert!(led_to(&root.join("nothing")).is_empty());
    }
}
