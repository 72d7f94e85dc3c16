//! The ways of [`crate::sql`] on Postgres: a session of a server, driven by the thread that uses it.
//!
//! The session that writes holds an advisory lock for as long as it lives, and a lock lives no longer than its session:
//! whatever was written was written by the one who has the lock. When the session is lost, another takes the lock again
//! before it writes, or is refused.

mod tls;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use tokio::runtime::Runtime;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::error::{DbError, Severity};
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, NoTls, Statement};

use crate::error::{OpenStoreError, StoreError};
use crate::location::PostgresUrl;
use crate::sql::postgres::tls::Rustls;
use crate::sql::{Row, Value};

/// How long a server may take to answer the first time.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a statement may take that a request waits for. A group of 256 jobs is far under a second.
const STATEMENT: Duration = Duration::from_secs(30);
/// How long a statement may take that nobody waits for: an audit of years, a migration.
const LONG_STATEMENT: Duration = Duration::from_secs(3_600);
/// How much longer a server may take than it was told to: then it is taken for gone.
const SLACK: Duration = Duration::from_secs(10);
/// How long a statement waits for another's lock. There is one writer: only people at a console can be in the way.
const LOCK_WAIT_MS: u64 = 5_000;
/// How long a transaction may stand still: the server frees its rows from a process that hangs.
const IDLE_IN_TRANSACTION_MS: u64 = 60_000;
/// How long what was sent may be unacknowledged before the connection counts as gone.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);
/// How long a session's end waits for the server to have heard of it.
const GOOD_BYE: Duration = Duration::from_secs(2);
/// Waits between attempts to connect again.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// A session that ended is noticed by its server a moment later; only then is its lock free.
const LOCK_TRIES: u32 = 20;
const LOCK_TRY: Duration = Duration::from_millis(50);
/// The advisory lock's first number, the ASCII text `DBst`; the second is the schema's.
const LOCK_CLASS: i64 = 0x4442_7374;

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Write; one in the world does.
    Write,
    /// Change the schema; as a writer, but it may take long.
    Migrate,
    /// Read.
    Read,
    /// Read for long, for nobody who waits.
    ReadLong,
}

impl Purpose {
    fn writes(self) -> bool {
        match self {
            Self::Write | Self::Migrate => true,
            Self::Read | Self::ReadLong => false,
        }
    }

    fn statement(self) -> Duration {
        match self {
            Self::Write | Self::Read => STATEMENT,
            Self::Migrate | Self::ReadLong => LONG_STATEMENT,
        }
    }
}

/// A session.
pub(crate) struct Postgres {
    url: PostgresUrl,
    purpose: Purpose,
    // Dropped in this order: a client tells its task to say good-bye, which the runtime has to do.
    client: Client,
    statements: RefCell<HashMap<String, Statement>>,
    state: Cell<State>,
    job: Cell<Job>,
    retry: Duration,
    retry_at: Instant,
    retry_why: String,
    runtime: Runtime,
}

/// What became of the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// There is none, or it goes on.
    Good,
    /// A statement failed: the server takes no more until something is undone.
    Failed,
    /// The session has ended.
    Lost,
}

/// What the server has not been told yet about the bounds of jobs. It is told with the next statement, so that a job that
/// comes to nothing costs no round trip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Job {
    keep: bool,
    begin: bool,
}

impl Job {
    fn sql(self) -> Option<&'static str> {
        match (self.keep, self.begin) {
            (false, false) => None,
            (true, false) => Some("RELEASE job"),
            (false, true) => Some("SAVEPOINT job"),
            (true, true) => Some("RELEASE job; SAVEPOINT job"),
        }
    }
}

impl Postgres {
    /// Connects. Must be called outside of any asynchronous runtime, and so must everything else here.
    pub(crate) fn connect(url: &PostgresUrl, purpose: Purpose) -> Result<Self, OpenStoreError> {
        let unreachable = |detail: String| OpenStoreError::Unreachable { place: url.place(), detail };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| unreachable(format!("no runtime could be started: {error}")))?;
        let client = runtime.block_on(dial(url, purpose))?;
        let mut session = Self {
            url: url.clone(),
            purpose,
            client,
            statements: RefCell::default(),
            state: Cell::new(State::Good),
            job: Cell::default(),
            retry: RETRY_MIN,
            retry_at: Instant::now(),
            retry_why: String::new(),
            runtime,
        };
        session.set_up()?;
        Ok(session)
    }

    /// Checks the server, and takes the lock where the purpose is to write.
    fn set_up(&mut self) -> Result<(), OpenStoreError> {
        let place = self.url.place();
        let failed =
            |error: StoreError| OpenStoreError::Unreachable { place: self.url.place(), detail: error.to_string() };
        let statement_ms = self.purpose.statement().as_millis();
        let read_only = if self.purpose.writes() { "off" } else { "on" };
        self.control(&format!(
            "SET synchronous_commit = on; SET statement_timeout = {statement_ms}; SET lock_timeout = {LOCK_WAIT_MS};
             SET idle_in_transaction_session_timeout = {IDLE_IN_TRANSACTION_MS};
             SET default_transaction_read_only = {read_only}"
        ))
        .map_err(failed)?;
        let setting = |name: &str| {
            let value: String = self.only_text("SELECT current_setting(?1)", name).map_err(failed)?;
            Ok::<_, OpenStoreError>(value)
        };
        let unfit = |detail: &str| OpenStoreError::Unfit { place: place.clone(), detail: detail.to_owned() };
        if setting("server_encoding")? != "UTF8" {
            return Err(unfit("its encoding is not UTF8"));
        }
        if !self.purpose.writes() {
            return Ok(());
        }
        if setting("transaction_read_only")? != "off" {
            return Err(unfit("it can only be read, as the copy that a standby is"));
        }
        if setting("synchronous_commit")? != "on" || setting("fsync")? != "on" || setting("full_page_writes")? != "on" {
            return Err(unfit(
                "it does not keep what it acknowledged when its machine fails: set fsync, full_page_writes and synchronous_commit on",
            ));
        }
        for attempt in 0..LOCK_TRIES {
            if attempt > 0 {
                std::thread::sleep(LOCK_TRY);
            }
            let taken = self.row(
                "SELECT CASE WHEN pg_try_advisory_lock(CAST(?1 AS INTEGER), hashtext(current_schema())) THEN 1 ELSE 0 END",
                &[Value::Integer(LOCK_CLASS)],
                |row| row.get::<bool>(0),
            );
            if taken.map_err(failed)? == Some(true) {
                return Ok(());
            }
        }
        Err(OpenStoreError::Locked { place })
    }

    /// Makes a lost session anew. Whoever comes before the next attempt is due is told why the last one failed: others wait
    /// behind him.
    pub(crate) fn renew(&mut self) -> Result<(), StoreError> {
        if Instant::now() < self.retry_at {
            return Err(StoreError::Database { detail: self.retry_why.clone() });
        }
        self.statements.borrow_mut().clear();
        self.job.set(Job::default());
        let renewed = self.runtime.block_on(dial(&self.url, self.purpose)).and_then(|client| {
            self.client = client;
            self.state.set(State::Good);
            self.set_up()
        });
        match renewed {
            Ok(()) => {
                self.retry = RETRY_MIN;
                Ok(())
            }
            Err(error) => {
                self.state.set(State::Lost);
                self.retry_at = Instant::now() + self.retry;
                self.retry = (self.retry * 2).min(RETRY_MAX);
                self.retry_why = error.to_string();
                Err(StoreError::Database { detail: self.retry_why.clone() })
            }
        }
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.state.get() == State::Lost
    }

    pub(crate) fn in_transaction(&self) -> bool {
        self.state.get() == State::Good
    }

    pub(crate) fn begin_job(&self) {
        self.job.set(Job { begin: true, ..self.job.get() });
    }

    pub(crate) fn keep_job(&self) {
        let job = self.job.get();
        // Of a job that did nothing the server was told nothing.
        self.job.set(if job.begin { Job { begin: false, ..job } } else { Job { keep: true, ..job } });
    }

    pub(crate) fn undo_job(&self) -> Result<(), StoreError> {
        let job = self.job.get();
        if job.begin {
            self.job.set(Job { begin: false, ..job });
            return Ok(());
        }
        self.control("ROLLBACK TO job; RELEASE job")?;
        self.state.set(State::Good);
        Ok(())
    }

    /// Tells the server what has no values, at once: bounds of transactions, settings, migrations.
    pub(crate) fn control(&self, sql: &str) -> Result<(), StoreError> {
        self.wait(self.client.batch_execute(sql))
    }

    pub(crate) fn commit(&self) -> Result<(), StoreError> {
        self.job.set(Job::default());
        // To COMMIT a server answers without an error even where a failure before it has made a ROLLBACK of it.
        if self.state.get() != State::Good {
            return Err(StoreError::Database {
                detail: "the transaction had failed before it was committed".to_owned(),
            });
        }
        match self.control("COMMIT") {
            Err(StoreError::Database { detail }) if self.is_lost() => Err(StoreError::Database {
                detail: format!("{detail}; it is not known whether the transaction was committed"),
            }),
            other => other,
        }
    }

    pub(crate) fn roll_back(&self) -> Result<(), StoreError> {
        self.job.set(Job::default());
        self.control("ROLLBACK")?;
        self.state.set(State::Good);
        Ok(())
    }

    pub(crate) fn execute(&self, sql: &str, values: &[Value<'_>]) -> Result<u64, StoreError> {
        let statement = self.prepared(sql)?;
        self.told(async { self.client.execute_raw(&statement, values.iter().copied()).await })
    }

    pub(crate) fn execute_all(&self, statements: &[(&str, &[Value<'_>])]) -> Result<Vec<u64>, StoreError> {
        let prepared: Vec<_> = statements
            .iter()
            .map(|(sql, values)| Ok((self.prepared(sql)?, *values)))
            .collect::<Result<_, StoreError>>()?;
        let all = prepared.iter().map(|(statement, values)| self.client.execute_raw(statement, values.iter().copied()));
        // In the order in which they were sent: the first failure is the one that the others follow from.
        self.told(async { join_all(all).await.into_iter().collect() })
    }

    pub(crate) fn row<T>(
        &self,
        sql: &str,
        values: &[Value<'_>],
        read: impl FnOnce(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let statement = self.prepared(sql)?;
        let first = self.told(async {
            let mut rows = std::pin::pin!(self.client.query_raw(&statement, values.iter().copied()).await?);
            let first = rows.next().await.transpose()?;
            // To its end, which may be an error; a stream that has ended is asked for nothing more.
            let mut more = first.is_some();
            while more {
                more = rows.next().await.transpose()?.is_some();
            }
            Ok(first)
        })?;
        first.map(|row| read(&Row::Postgres(&row))).transpose()
    }

    pub(crate) fn each(
        &self,
        sql: &str,
        values: &[Value<'_>],
        mut see: impl FnMut(&Row<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let statement = self.prepared(sql)?;
        self.told(async {
            let mut rows = std::pin::pin!(self.client.query_raw(&statement, values.iter().copied()).await?);
            while let Some(row) = rows.next().await.transpose()? {
                if let Err(error) = see(&Row::Postgres(&row)) {
                    return Ok(Err(error));
                }
            }
            Ok(Ok(()))
        })?
    }

    fn only_text(&self, sql: &str, value: &str) -> Result<String, StoreError> {
        let text = self.row(sql, &[Value::Text(value)], |row| row.get(0))?;
        text.ok_or(StoreError::ImpossibleRow { what: "answer without a row" })
    }

    fn prepared(&self, sql: &str) -> Result<Statement, StoreError> {
        if let Some(statement) = self.statements.borrow().get(sql) {
            return Ok(statement.clone());
        }
        let theirs = sql.replace('?', "$");
        let statement = self.wait(self.client.prepare(&theirs))?;
        self.statements.borrow_mut().insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    /// Waits for what was asked, and tells the server before it where jobs begin and end.
    fn told<T>(&self, asked: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, StoreError> {
        match self.job.take().sql() {
            None => self.wait(asked),
            // Both are sent before either is answered, in this order.
            Some(bounds) => self.wait(async {
                let (bounded, answer) = tokio::join!(biased; self.client.batch_execute(bounds), asked);
                bounded?;
                answer
            }),
        }
    }

    fn wait<T>(&self, asked: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, StoreError> {
        if self.is_lost() {
            return Err(StoreError::Database { detail: "the connection to the database was lost".to_owned() });
        }
        let limit = self.purpose.statement() + SLACK;
        match self.runtime.block_on(async { tokio::time::timeout(limit, asked).await }) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                self.state.set(if ends_session(&error) { State::Lost } else { State::Failed });
                Err(StoreError::Database { detail: said(&error) })
            }
            Err(_) => {
                self.state.set(State::Lost);
                Err(StoreError::Database { detail: "the database does not answer".to_owned() })
            }
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.purpose.writes() && !self.is_lost() {
            // The session's end would free the lock a moment later; whoever waits for this one's end need not try twice.
            let unlock = self.client.batch_execute("SELECT pg_advisory_unlock_all()");
            drop(self.runtime.block_on(async { tokio::time::timeout(GOOD_BYE, unlock).await }));
        }
    }
}

async fn dial(url: &PostgresUrl, purpose: Purpose) -> Result<Client, OpenStoreError> {
    let unreachable = |detail: String| OpenStoreError::Unreachable { place: url.place(), detail };
    let mut config = url.config();
    config.connect_timeout(CONNECT).tcp_user_timeout(UNACKNOWLEDGED).keepalives(true).keepalives_idle(UNACKNOWLEDGED);
    // Also readers ask the one that is written to: a copy of it may lag behind what a caller was told was written.
    config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    config.application_name(match purpose {
        Purpose::Write => "darkbloom writer",
        Purpose::Migrate => "darkbloom migration",
        Purpose::Read => "darkbloom reader",
        Purpose::ReadLong => "darkbloom audit",
    });
    let connect = async {
        if url.encrypted {
            let (client, session) = config
                .connect(Rustls::with_system_roots().map_err(unreachable)?)
                .await
                .map_err(|error| unreachable(said(&error)))?;
            tokio::spawn(session);
            Ok(client)
        } else {
            let (client, session) = config.connect(NoTls).await.map_err(|error| unreachable(said(&error)))?;
            // Its failure reaches whoever waits for an answer.
            tokio::spawn(session);
            Ok(client)
        }
    };
    // The configuration's own limit is for each address, and for dialling alone.
    let limit = CONNECT * 2;
    tokio::time::timeout(limit, connect).await.unwrap_or_else(|_| Err(unreachable("it does not answer".to_owned())))
}

/// Whether after this error there is no session any more.
fn ends_session(error: &tokio_postgres::Error) -> bool {
    match error.as_db_error().map(DbError::parsed_severity) {
        Some(Some(Severity::Fatal | Severity::Panic)) => true,
        Some(_) => false,
        // Nothing that the server said: the way to it is broken, or what came on it made no sense.
        None => true,
    }
}

/// What a server says, without the parts that may quote values.
fn said(error: &tokio_postgres::Error) -> String {
    if let Some(theirs) = error.as_db_error() {
        return format!("{} ({})", theirs.message(), theirs.code().code());
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// The value of a row's column.
pub(crate) fn value(row: &tokio_postgres::Row, column: usize) -> Result<Value<'_>, StoreError> {
    let impossible = StoreError::ImpossibleRow { what: "value of a column" };
    let kind = row.columns().get(column).map(|column| column.type_().clone()).ok_or(impossible.clone())?;
    fn of<'a, T: Into<Value<'a>>>(value: Result<Option<T>, tokio_postgres::Error>) -> Option<Value<'a>> {
        value.ok().map(Value::from)
    }
    let value = match kind {
        Type::INT8 => of(row.try_get::<_, Option<i64>>(column)),
        Type::INT4 => of(row.try_get::<_, Option<i32>>(column).map(|number| number.map(i64::from))),
        Type::BYTEA => of(row.try_get::<_, Option<&[u8]>>(column)),
        Type::TEXT => of(row.try_get::<_, Option<&str>>(column)),
        _ => None,
    };
    value.ok_or(impossible)
}

impl ToSql for Value<'_> {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match *self {
            Self::Null => Ok(IsNull::Yes),
            Self::Integer(number) if *kind == Type::INT8 => number.to_sql(kind, out),
            Self::Integer(number) if *kind == Type::INT4 => i32::try_from(number)?.to_sql(kind, out),
            Self::Bytes(bytes) if *kind == Type::BYTEA => bytes.to_sql(kind, out),
            Self::Text(text) if *kind == Type::TEXT => text.to_sql(kind, out),
            Self::Integer(_) | Self::Bytes(_) | Self::Text(_) => {
                Err(format!("a statement wants a value of type {kind} here").into())
            }
        }
    }

    fn accepts(kind: &Type) -> bool {
        matches!(*kind, Type::INT8 | Type::INT4 | Type::BYTEA | Type::TEXT)
    }

    to_sql_checked!();
}
