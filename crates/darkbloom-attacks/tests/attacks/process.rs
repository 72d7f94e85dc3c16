//! Attacks on a process's memory by another process of the same user.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::FileExt as _;
use std::process::{Child, Command, Stdio};

use darkbloom_attacks::attacks;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

/// A user who is nobody in particular.
const SOMEBODY: &str = "65534";
/// What the victim has in its memory.
const SECRET: &str = "the words of a prompt";
/// What a child of these tests is to do.
const ROLE: &str = "DARKBLOOM_ATTACK_ROLE";

/// This program again, as somebody, in a role: root may do anything to any process, so what root can do shows nothing.
fn role(what: &str) -> Command {
    let program = std::env::current_exe().unwrap();
    let mut command = if rustix::process::getuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", SOMEBODY, "--regid", SOMEBODY, "--clear-groups"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.args(["--exact", "process::the_child", "--ignored", "--nocapture", "--test-threads", "1"]);
    command.env(ROLE, what).stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// What is switched off here and the victim therefore leaves out.
#[cfg(feature = "weakened")]
fn left_out() -> &'static str {
    let checks = ["process_not_dumpable", "process_no_core"];
    checks.into_iter().find(|name| !darkbloom_types::weakened::armed(name)).unwrap_or("nothing")
}

/// The victim leaves nothing out.
#[cfg(not(feature = "weakened"))]
fn left_out() -> &'static str {
    "nothing"
}

/// A process that closed itself, with a secret in its memory.
struct Victim {
    child: Child,
    /// Where the secret is, and how large a core file of it may be.
    said: Vec<String>,
}

impl Victim {
    fn start() -> Self {
        let mut child = role(&format!("victim {}", left_out())).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready =
            lines.map(Result::unwrap).find_map(|line| line.split_once("ready ").map(|(_, said)| said.to_owned()));
        let said = ready.unwrap().split(' ').map(str::to_owned).collect();
        Self { child, said }
    }

    /// Whether an attacker of the same user gets the secret this way.
    fn read(&self, how: &str) -> bool {
        let attack = format!("attacker {how} {} {}", self.child.id(), self.said[0]);
        let output = role(&attack).output().unwrap();
        String::from_utf8_lossy(&output.stdout).contains(&format!("got {SECRET}"))
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn victim(without: &str) {
    // As if nobody had thought of core files before.
    let core = rustix::process::getrlimit(rustix::process::Resource::Core);
    let open = rustix::process::Rlimit { current: core.maximum, maximum: core.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Core, open).unwrap();
    let close = || darkbloom_harden::close();
    #[cfg(feature = "weakened")]
    let report = match darkbloom_types::weakened::CHECKS.iter().find(|name| **name == without) {
        Some(name) => darkbloom_types::weakened::without(name, close),
        None => close(),
    };
    #[cfg(not(feature = "weakened"))]
    let report = {
        let _ = without;
        close()
    };
    assert_eq!(report.missing().count(), 0);
    let secret = SECRET.to_owned().into_bytes();
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let core = core.split_whitespace().nth(4).unwrap();
    println!("ready {} {core}", secret.as_ptr().addr());
    std::io::stdout().flush().unwrap();
    // Until the test is over.
    let _ = std::io::stdin().read_line(&mut String::new());
    drop(secret);
}

fn attacker(how: &str, pid: i32, address: usize) {
    let mut bytes = vec![0; SECRET.len()];
    let got = match how {
        "mem" => {
            File::open(format!("/proc/{pid}/mem")).and_then(|mem| mem.read_exact_at(&mut bytes, address as u64)).is_ok()
        }
        "readv" => {
            let remote = [RemoteIoVec { base: address, len: bytes.len() }];
            let mut local = [std::io::IoSliceMut::new(&mut bytes)];
            process_vm_readv(Pid::from_raw(pid), &mut local, &remote).is_ok()
        }
        "ptrace" => {
            let pid = Pid::from_raw(pid);
            let attached = nix::sys::ptrace::attach(pid).is_ok() && nix::sys::wait::waitpid(pid, None).is_ok();
            // Whoever traces a process may read its memory, a word at a time.
            attached && {
                let words: Vec<u8> = (0..bytes.len().div_ceil(8))
                    .filter_map(|word| nix::sys::ptrace::read(pid, (address + 8 * word) as *mut _).ok())
                    .flat_map(i64::to_ne_bytes)
                    .collect();
                words.get(..SECRET.len()).is_some_and(|words| {
                    bytes.copy_from_slice(words);
                    true
                })
            }
        }
        other => panic!("{other}"),
    };
    if got {
        println!("got {}", String::from_utf8_lossy(&bytes));
    }
}

/// What a child does; without a role, nothing.
#[test]
#[ignore = "the other side of the tests here"]
fn the_child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    match &role.split(' ').collect::<Vec<_>>()[..] {
        ["victim", without] => victim(without),
        ["attacker", how, pid, address] => attacker(how, pid.parse().unwrap(), address.parse().unwrap()),
        _ => panic!("{role}"),
    }
}

attacks! {
    attack_memory_is_read_through_proc against "process_not_dumpable": || Victim::start().read("mem");
    attack_memory_is_read_by_process_vm_readv against "process_not_dumpable": || Victim::start().read("readv");
    attack_a_process_is_traced against "process_not_dumpable": || Victim::start().read("ptrace");
    attack_a_core_file_is_taken against "process_no_core": || Victim::start().said[1] != "0";
}
