//! Attacks on a process's memory by another process of the same user.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use darkbloom_attacks::attacks;
use darkbloom_harden::Measure;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use crate::memory;

/// A user who is nobody in particular.
pub const SOMEBODY: &str = "65534";
/// What the victim has in its memory.
const SECRET: &str = "the words of a prompt";
/// What a child of these tests is to do.
const ROLE: &str = "DARKBLOOM_ATTACK_ROLE";

/// This program again, as somebody, in a role: root may do anything to any process, so what root can do shows nothing.
pub fn role(what: &str) -> Command {
    role_with(what, &[])
}

/// The same with more variables, which no program but this one gets.
fn role_with(what: &str, variables: &[String]) -> Command {
    let mut command = if rustix::process::getuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", SOMEBODY, "--regid", SOMEBODY, "--clear-groups", "env", "-u", "LD_LIBRARY_PATH"]);
        command
    } else {
        let mut command = Command::new("env");
        command.args(["-u", "LD_LIBRARY_PATH"]);
        command
    };
    command.args(variables).arg(std::env::current_exe().unwrap());
    command.args(["--exact", "process::the_child", "--ignored", "--nocapture", "--test-threads", "1"]);
    command.env(ROLE, what).stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// What is switched off here and the victim therefore leaves out.
#[cfg(feature = "weakened")]
pub fn left_out() -> &'static str {
    let checks = ["process_not_dumpable", "process_no_core", "process_preloaded", "secret_pages"];
    checks.into_iter().find(|name| !darkbloom_types::weakened::armed(name)).unwrap_or("nothing")
}

/// The victim leaves nothing out.
#[cfg(not(feature = "weakened"))]
pub fn left_out() -> &'static str {
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

/// Does this without one measure, in the second build.
#[cfg(feature = "weakened")]
pub fn leaving_out<T>(without: &str, what: impl FnOnce() -> T) -> T {
    match darkbloom_types::weakened::CHECKS.iter().find(|name| **name == without) {
        Some(name) => darkbloom_types::weakened::without(name, what),
        None => what(),
    }
}

/// Does this, with all measures.
#[cfg(not(feature = "weakened"))]
pub fn leaving_out<T>(_: &str, what: impl FnOnce() -> T) -> T {
    what()
}

fn victim(without: &str) {
    // As if nobody had thought of core files before.
    let core = rustix::process::getrlimit(rustix::process::Resource::Core);
    let open = rustix::process::Rlimit { current: core.maximum, maximum: core.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Core, open).unwrap();
    let report = leaving_out(without, darkbloom_harden::close);
    let missing: Vec<_> = report.missing().filter(|(measure, _)| *measure != Measure::SecretPages).collect();
    assert_eq!(missing, [], "but for pages, which not every kernel has");
    let secret = SECRET.to_owned().into_bytes();
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let core = core.split_whitespace().nth(4).unwrap();
    println!("ready {} {core}", secret.as_ptr().addr());
    std::io::stdout().flush().unwrap();
    // Until the test is over.
    let _ = std::io::stdin().read_line(&mut String::new());
    drop(secret);
}

/// A process that seals what it has, and writes it on the way to whoever does that.
fn writer(without: &str, file: &Path) {
    if leaving_out(without, darkbloom_harden::preloaded).is_ok() {
        File::create(file).unwrap().write_all(SECRET.as_bytes()).unwrap();
    }
}

/// Whether a library that was preloaded gets the secret.
fn preloaded() -> bool {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/attacks/listener.c");
    let (library, copied) = (folder.path().join("listener.so"), folder.path().join("copied"));
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).status();
    assert!(built.unwrap().success(), "cc builds the library");
    let variables = [format!("LD_PRELOAD={}", library.display()), format!("COPY_TO={}", copied.display())];
    let file = folder.path().join("file");
    let output = role_with(&format!("writer {} {}", left_out(), file.display()), &variables).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let copied = fs::read_to_string(&copied).unwrap();
    assert!(copied.contains("running 1 test"), "the library is there: {copied}");
    copied.contains(SECRET)
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
        ["writer", without, file] => writer(without, file.as_ref()),
        ["keys", without, folder] => memory::victim(without, folder.as_ref()),
        ["scan", pid] => memory::attacker(pid),
        ["attacker", how, pid, address] => attacker(how, pid.parse().unwrap(), address.parse().unwrap()),
        _ => panic!("{role}"),
    }
}

attacks! {
    attack_memory_is_read_through_proc against "process_not_dumpable": || Victim::start().read("mem");
    attack_memory_is_read_by_process_vm_readv against "process_not_dumpable": || Victim::start().read("readv");
    attack_a_process_is_traced against "process_not_dumpable": || Victim::start().read("ptrace");
    /// The library takes its name out of the variables before the process sees them.
    attack_a_library_is_preloaded against "process_preloaded": preloaded;
    attack_a_core_file_is_taken against "process_no_core": || Victim::start().said[1] != "0";
}
