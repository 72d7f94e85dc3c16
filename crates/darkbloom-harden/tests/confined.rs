//! What a confined process can still do, and what others can do to it: each in a process of its own, since none of it can be
//! taken back.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, clippy::unwrap_used, clippy::print_stdout, reason = "tests, and the process that they look at")]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use darkbloom_harden::{Measure, Needs, close, confine};

/// Where the child is told its folder; without it the child's test does nothing.
const FOLDER: &str = "DARKBLOOM_HARDEN_FOLDER";

/// A user who is nobody in particular.
const SOMEBODY: &str = "65534";

/// A command as somebody: root may do anything to any process, so what is shown about root shows nothing.
fn as_somebody(program: &str) -> Command {
    if rustix::process::getuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", SOMEBODY, "--regid", SOMEBODY, "--clear-groups", program]);
        command
    } else {
        Command::new(program)
    }
}

/// A process that is confined to its folder.
struct Confined {
    child: Child,
    stdin: ChildStdin,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Confined {
    fn start(folder: &Path) -> Self {
        let mut command = as_somebody(std::env::current_exe().unwrap().to_str().unwrap());
        command.args(["--exact", "the_child", "--ignored", "--nocapture", "--test-threads", "1"]);
        let mut child = command
            .env(FOLDER, folder)
            .env_remove("LD_LIBRARY_PATH")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut confined = Self { child, stdin, lines: BufReader::new(stdout).lines() };
        confined.wait_for("ready");
        confined
    }

    fn wait_for(&mut self, what: &str) -> String {
        loop {
            let line = self.lines.next().expect("the child goes on").unwrap();
            // The test runner writes before what the child does.
            if let Some(at) = line.find(what) {
                return line[at + what.len()..].trim().to_owned();
            }
        }
    }

    /// What the child can do: `ok`, or the system's error.
    fn tries(&mut self, what: &str) -> String {
        writeln!(self.stdin, "{what}").unwrap();
        self.wait_for("tried:")
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn outcome<T>(result: std::io::Result<T>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => format!("{:?}", error.kind()),
    }
}

/// What the kernel says to a call by number.
fn call(what: &str) -> String {
    let socket = |family: i32, kind: i32, protocol: i32| {
        // SAFETY: it takes numbers and gives one.
        i64::from(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) })
    };
    let said = match what {
        "tcp" => socket(libc::AF_INET, libc::SOCK_STREAM, 0),
        "udp" => socket(libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDP),
        "unix" => socket(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0),
        "netlink" => socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE),
        "mptcp" => socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP),
        "mptcp6" => socket(libc::AF_INET6, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, libc::IPPROTO_MPTCP),
        "sctp" => socket(libc::AF_INET, libc::SOCK_SEQPACKET, 0),
        // SOCK_PACKET, of which the kernel makes a packet socket.
        "packet" => socket(libc::AF_INET, 10, 0),
        "vsock" => socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0),
        // SAFETY: it opens a folder that is named by text that stays.
        "open_tree" => unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, c"/".as_ptr(), libc::O_CLOEXEC) },
        // SAFETY: x32's number of `getpid`, which takes nothing.
        "x32" => unsafe { libc::syscall(0x4000_0000 | libc::SYS_getpid) },
        other => panic!("the child does not know {other}"),
    };
    outcome(if said >= 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) })
}

#[test]
#[ignore = "the process that the other tests look at"]
fn the_child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let folder = Path::new(&folder);
    let port = fs::read_to_string(folder.join("port")).unwrap().parse().unwrap();
    let needs = Needs {
        read: vec![folder.join("read")],
        write: vec![folder.join("write")],
        connect: vec![port],
        listens: false,
    };
    // The test runner has other threads, which the kernel leaves alone: all that follows is done by this one.
    let report = close().and(confine(&needs));
    println!("ready {:?}", report.active().map(Measure::name).collect::<Vec<_>>());
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let (what, of) = line.split_once(' ').unwrap_or((&line, ""));
        let said = match what {
            "report" => report
                .missing()
                // Not every kernel has them.
                .filter(|(measure, _)| *measure != Measure::SecretPages)
                .map(|(measure, why)| format!("{}: {why};", measure.name()))
                .collect(),
            "read" => outcome(fs::read(of)),
            "write" => outcome(fs::write(of, "x")),
            "list" => outcome(fs::read_dir(of)),
            "run" => outcome(Command::new(of).output()),
            "connect" => outcome(TcpStream::connect(("127.0.0.1", of.parse().unwrap()))),
            "call" => call(of),
            "listen" => outcome(TcpListener::bind("127.0.0.1:0")),
            other => panic!("the child does not know {other}"),
        };
        println!("tried:{said}");
    }
}

struct Place {
    folder: tempfile::TempDir,
    listener: TcpListener,
}

/// Whatever is refused there is refused by the measures, not by whose files these are.
fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        open_to_all(folder.path());
        for name in ["read", "write", "other"] {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("file"), "contents").unwrap();
            open_to_all(&folder.path().join(name));
            open_to_all(&folder.path().join(name).join("file"));
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        fs::write(folder.path().join("port"), listener.local_addr().unwrap().port().to_string()).unwrap();
        Self { folder, listener }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }
}

#[test]
fn a_confined_process_reaches_what_it_needs_and_nothing_else() {
    let place = Place::new();
    let mut child = Confined::start(place.folder.path());
    assert_eq!(child.tries("report"), "", "all measures hold on this kernel");
    for (what, said) in [
        (format!("read {}", place.path("read/file")), "ok"),
        (format!("write {}", place.path("read/file")), "PermissionDenied"),
        (format!("write {}", place.path("read/new")), "PermissionDenied"),
        (format!("write {}", place.path("write/new")), "ok"),
        (format!("read {}", place.path("write/new")), "ok"),
        (format!("read {}", place.path("other/file")), "PermissionDenied"),
        (format!("list {}", place.path("other")), "PermissionDenied"),
        (format!("write {}", place.path("new")), "PermissionDenied"),
        ("read /etc/passwd".to_owned(), "ok"),
        ("write /dev/null".to_owned(), "ok"),
        ("run /bin/true".to_owned(), "PermissionDenied"),
        (format!("connect {}", place.listener.local_addr().unwrap().port()), "ok"),
        ("connect 1".to_owned(), "PermissionDenied"),
        ("listen".to_owned(), "PermissionDenied"),
        ("call tcp".to_owned(), "ok"),
        ("call udp".to_owned(), "ok"),
        ("call unix".to_owned(), "ok"),
        ("call netlink".to_owned(), "ok"),
    ] {
        assert_eq!(child.tries(&what), said, "{what}");
    }
}

#[test]
fn sockets_and_calls_around_the_rules_are_refused_to_a_confined_process_alone() {
    let place = Place::new();
    let mut child = Confined::start(place.folder.path());
    let mut calls = vec!["mptcp", "mptcp6", "sctp", "packet", "vsock", "open_tree"];
    if cfg!(target_arch = "x86_64") {
        calls.push("x32");
    }
    for what in calls {
        assert_ne!(call(what), "PermissionDenied", "{what}: the kernel would let it or not know it");
        assert_eq!(child.tries(&format!("call {what}")), "PermissionDenied", "{what}");
    }
}

/// What a process of the same user reads of another's.
fn peeks(pid: u32, file: &str) -> bool {
    let read = as_somebody("head").args(["-c", "1", &format!("/proc/{pid}/{file}")]).output().unwrap();
    read.status.success()
}

#[test]
fn another_process_of_the_same_user_reads_nothing_of_it() {
    let place = Place::new();
    let child = Confined::start(place.folder.path());
    let mut open = as_somebody("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut to, from) = (open.stdin.take().unwrap(), open.stdout.take().unwrap());
    // What comes back shows that it is `cat` by now, and nobody who is about to become it.
    writeln!(to, "here").unwrap();
    assert_eq!(BufReader::new(from).lines().next().unwrap().unwrap(), "here");
    for file in ["environ", "maps", "auxv"] {
        assert!(peeks(open.id(), file), "{file} of a process that is not closed");
        assert!(!peeks(child.child.id(), file), "{file}");
    }
    // It ends with what it reads, also where this test fails.
    drop(to);
    open.wait().unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", child.child.id())).unwrap();
    let says = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert_eq!((says("NoNewPrivs:").as_str(), says("Seccomp:").as_str()), ("1", "2"), "2 is a filter");
}
