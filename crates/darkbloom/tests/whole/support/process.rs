//! The binary as a child process.

use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::Value;

use super::{PATIENCE, until};

/// The command line, away from this machine's own settings and home.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_darkbloom"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("DARKBLOOM_") {
            command.env_remove(name);
        }
    }
    // Nothing may be written at home: there is none.
    // Cargo tells the loader where libraries of tests are.
    command.args(arguments).env("HOME", "/nonexistent").env_remove("XDG_DATA_HOME").env_remove("LD_LIBRARY_PATH");
    command.env("DARKBLOOM_LOG", "trace,hyper=info,mio=info");
    command
}

/// A library that, preloaded into a process, changes what the system tells it. Built here, so that the tests need no
/// package beyond the compiler that the program needs anyway.
pub fn preloaded(folder: &Path, name: &str) -> PathBuf {
    let library = folder.join(name).with_extension("so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/whole/support").join(name).with_extension("c");
    let status = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).status();
    assert!(status.unwrap().success(), "cc builds {name}");
    library
}

/// What a command that ended said.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// The words for people at the end of standard error, without the log.
    pub fn said(&self) -> &str {
        let at = self.stderr.find("error: ").unwrap_or(self.stderr.len());
        &self.stderr[at..]
    }

    /// Fails the test unless the command failed with status 1 and its message holds all of this.
    #[track_caller]
    pub fn failed_saying(&self, words: &[&str]) {
        assert_eq!(self.status.code(), Some(1), "{self:?}");
        let said = self.said();
        for word in words {
            assert!(said.contains(word), "`{word}` is not in: {said}\n{}", self.stderr);
        }
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Ended {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut process = Process::of(child);
    let status = process.ended();
    Ended { status, stdout: process.stdout(), stderr: process.log() }
}

/// A running child. It is killed when it is dropped, by its own id.
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Mutex<Receiver<String>>,
    readers: Vec<std::thread::JoinHandle<()>>,
    stdout: Arc<Mutex<String>>,
    log: Arc<Mutex<String>>,
}

impl Process {
    fn of(mut child: Child) -> Self {
        let (stdout, log) = (Arc::<Mutex<String>>::default(), Arc::<Mutex<String>>::default());
        let (sender, lines) = channel();
        let out = read(child.stdout.take().unwrap(), Arc::clone(&stdout), move |line| drop(sender.send(line)));
        let err = read(child.stderr.take().unwrap(), Arc::clone(&log), |_| {});
        let stdin = child.stdin.take();
        Self { child, stdin, lines: Mutex::new(lines), readers: vec![out, err], stdout, log }
    }

    /// Starts something that keeps running.
    pub fn start(command: &mut Command) -> Self {
        Self::of(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Starts a role under supervision and waits until it says that it is ready.
    pub fn role(command: &mut Command) -> Result<(Self, Value), Ended> {
        let mut process = Self::start(command.args(["--json", "--until-stdin-closes"]));
        match process.line() {
            Some(line) => {
                let ready: Value = serde_json::from_str(&line).unwrap();
                assert!(ready["ready"].is_string(), "{line}");
                Ok((process, ready))
            }
            None => {
                let status = process.ended();
                Err(Ended { status, stdout: process.stdout(), stderr: process.log() })
            }
        }
    }

    /// The next line of standard output; none when it ended.
    pub fn line(&mut self) -> Option<String> {
        let said = self.lines.get_mut().unwrap().recv_timeout(PATIENCE);
        match said {
            Ok(line) => Some(line),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => None,
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("says nothing; its log:\n{}", self.log()),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, by name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status().unwrap();
        assert!(status.success(), "kill -{name}");
    }

    /// Stops the process where it stands; its sockets stay open. Returns when every thread stands.
    pub fn pause(&self) {
        self.signal("STOP");
        until("the process stands still", || (self.state() == 'T').then_some(()));
    }

    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn state(&self) -> char {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        stat.rsplit_once(')').unwrap().1.trim().chars().next().unwrap()
    }

    /// Ends it at once, as a power cut would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    /// Tells it to stop in the supervised way.
    pub fn stop(&mut self) -> ExitStatus {
        drop(self.stdin.take());
        self.ended()
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(began.elapsed() < PATIENCE, "does not end; its log:\n{}", self.log());
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        status
    }

    pub fn stdout(&self) -> String {
        self.stdout.lock().unwrap().clone()
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits for something in the log.
    pub fn logged(&self, text: &str) {
        let began = Instant::now();
        while !self.log.lock().unwrap().contains(text) {
            assert!(began.elapsed() < PATIENCE, "`{text}` does not come up in:\n{}", self.log());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(
    from: impl Read + Send + 'static,
    into: Arc<Mutex<String>>,
    tell: impl Fn(String) + Send + 'static,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            let mut into = into.lock().unwrap();
            into.push_str(&line);
            into.push('\n');
            drop(into);
            tell(line);
        }
    })
}
