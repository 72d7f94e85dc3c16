//! A Postgres server of the test's own: a data folder and a socket in a temporary folder, no port, gone with the test.

use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long the server may take to start, also on a busy machine and after a crash.
const START: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);
const USER: &str = "darkbloom";

pub struct Server {
    process: Option<Child>,
    /// Where it speaks TLS, on this machine.
    port: Option<u16>,
    account: Option<Account>,
    folder: TempDir,
}

/// The server refuses to run as root; then somebody else runs it.
#[derive(Clone, Copy)]
struct Account {
    user: u32,
    group: u32,
}

impl Server {
    /// Makes a database cluster, and starts a server on it.
    pub fn start() -> Self {
        Self::start_in(&std::env::temp_dir())
    }

    /// The same in a folder within this one.
    pub fn start_in(parent: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("pg").tempdir_in(parent).unwrap();
        let account = (std::fs::metadata(folder.path()).unwrap().uid() == 0).then(unprivileged);
        if let Some(Account { user, group }) = account {
            chown(folder.path(), Some(user), Some(group)).unwrap();
        }
        let mut server = Self { process: None, port: None, account, folder };
        let mut initdb = server.command("initdb");
        initdb.args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", "--wal-segsize=1"]);
        let made = initdb.arg("--username").arg(USER).arg("--pgdata").arg(server.data()).output().unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        server.start_again();
        server
    }

    /// Starts the server on the data that is there, and waits until it answers.
    pub fn start_again(&mut self) {
        let until = Instant::now() + START;
        while self.query("SELECT 1").is_err() {
            assert!(Instant::now() < until, "the server does not start; its log: {}", self.log());
            // After a crash it may find that the last one's processes are not all gone yet, and give up.
            if self.process.as_mut().is_none_or(|process| process.try_wait().unwrap().is_some()) {
                self.process = Some(self.spawn());
            }
            std::thread::sleep(LOOK);
        }
    }

    fn spawn(&self) -> Child {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let mut postgres = self.command("postgres");
        postgres.arg("-D").arg(self.data()).arg("-k").arg(self.folder.path());
        // Little memory; its durability is left as it is.
        postgres.args(["-c", "shared_buffers=16MB", "-c", "max_connections=20"]);
        match self.port {
            None => postgres.args(["-c", "listen_addresses="]),
            Some(port) => postgres.args(["-c", "listen_addresses=127.0.0.1", "-c", "ssl=on", "-p", &port.to_string()]),
        };
        postgres.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
    }

    /// Starts it again, now also at a port where it speaks TLS with this certificate. Answers the port.
    #[allow(dead_code, reason = "the program's own tests use it")]
    pub fn start_with_tls(&mut self, certificate: &str, key: &str) -> u16 {
        self.kill();
        for (name, text) in [("server.crt", certificate), ("server.key", key)] {
            let path = self.data().join(name);
            std::fs::write(&path, text).unwrap();
            // It takes no key that others could read.
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            if let Some(Account { user, group }) = self.account {
                chown(&path, Some(user), Some(group)).unwrap();
            }
        }
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        self.port = Some(free);
        self.start_again();
        free
    }

    /// Kills the server and every process of it, in the middle of whatever they do.
    pub fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        let id = process.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        process.kill().unwrap();
        for child in children.split_whitespace() {
            // One that has ended meanwhile is as dead.
            Command::new("kill").args(["-9", child]).stderr(Stdio::null()).status().unwrap();
        }
        process.wait().unwrap();
    }

    /// The URL of the database, with its tables in this schema.
    pub fn url(&self, schema: &str) -> String {
        let socket = self.folder.path().to_str().unwrap().replace('/', "%2F");
        let port = self.port.unwrap_or(5432);
        format!("postgres://{USER}:unused@{socket}:{port}/postgres?options=-csearch_path%3D{schema}")
    }

    /// Carries statements out as a person at a console would.
    pub fn query(&self, sql: &str) -> Result<(), String> {
        let (url, sql) = (self.url("public"), sql.to_owned());
        let query = async move {
            let (client, session) =
                tokio_postgres::connect(&url, tokio_postgres::NoTls).await.map_err(|error| error.to_string())?;
            tokio::spawn(session);
            client.batch_execute(&sql).await.map_err(|error| error.to_string())
        };
        // A thread of its own: the caller may be within a runtime.
        let run = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(query);
        std::thread::scope(|scope| scope.spawn(run).join().unwrap())
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// A program of the server's, run by somebody whom it accepts, that ends with the test's thread however that ends.
    fn command(&self, program: &str) -> Command {
        let path = programs().join(program);
        let setpriv = Path::new("/usr/bin/setpriv");
        if !setpriv.exists() {
            assert!(self.account.is_none(), "setpriv is missing, which runs Postgres as somebody else than root");
            return Command::new(path);
        }
        let mut command = Command::new(setpriv);
        if let Some(Account { user, group }) = self.account {
            command.arg(format!("--reuid={user}")).arg(format!("--regid={group}")).arg("--clear-groups");
        }
        command.args(["--pdeathsig", "KILL", "--"]).arg(path).current_dir(self.folder.path());
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
    }
}

fn unprivileged() -> Account {
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap();
    let find = |name: &str| {
        let line = accounts.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut numbers = line.split(':').skip(2).map(|field| field.parse().unwrap());
        Some(Account { user: numbers.next()?, group: numbers.next()? })
    };
    find("postgres").or_else(|| find("nobody")).expect("a user who is not root, to run Postgres")
}

/// Where the server's programs are: on the path, or where Debian puts those of each release.
fn programs() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = std::env::split_paths(&path).collect();
    let releases = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    folders.extend(releases.map(|release| release.unwrap().path().join("bin")));
    let complete = |folder: &PathBuf| folder.join("initdb").exists() && folder.join("postgres").exists();
    folders.into_iter().find(complete).expect("Postgres is not installed: `./x test` installs it on Debian; elsewhere, put its `initdb` and `postgres` on the path")
}
