//! The few ways in which the store speaks to a database, the same for SQLite and Postgres.
//!
//! Every statement of this crate is in the dialect that both understand and names its values `?1`, `?2` and so on; it is
//! prepared once a connection. What differs (how a transaction begins, how it is lost) is told by the connections
//! themselves, so that the code which moves money is written once.

pub(crate) mod postgres;
pub(crate) mod sqlite;

use crate::error::StoreError;
use crate::sql::postgres::Postgres;

/// A connection; used by one thread.
pub(crate) enum Connection {
    Sqlite(rusqlite::Connection),
    Postgres(Box<Postgres>),
}

/// A value that goes into a statement or comes out of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Null,
    Integer(i64),
    Bytes(&'a [u8]),
    Text(&'a str),
}

/// A row that a statement answers.
pub(crate) enum Row<'a> {
    Sqlite(&'a rusqlite::Row<'a>),
    Postgres(&'a tokio_postgres::Row),
}

/// The values of a statement, in order.
macro_rules! values {
    ($($value:expr),* $(,)?) => { &[$($crate::sql::Value::from($value)),*][..] };
}
pub(crate) use values;

impl Connection {
    /// Carries a statement out and says how many rows it changed.
    pub(crate) fn execute(&self, sql: &str, values: &[Value<'_>]) -> Result<u64, StoreError> {
        refuse_zero(values)?;
        match self {
            Self::Sqlite(connection) => sqlite::execute(connection, sql, values),
            Self::Postgres(connection) => connection.execute(sql, values),
        }
    }

    /// Carries statements out one after the other and says how many rows each changed. A server is told all of them before
    /// it has answered the first.
    pub(crate) fn execute_all(&self, statements: &[(&str, &[Value<'_>])]) -> Result<Vec<u64>, StoreError> {
        statements.iter().try_for_each(|(_, values)| refuse_zero(values))?;
        match self {
            Self::Sqlite(connection) => {
                statements.iter().map(|(sql, values)| sqlite::execute(connection, sql, values)).collect()
            }
            Self::Postgres(connection) => connection.execute_all(statements),
        }
    }

    /// Reads the only row, or the first of several.
    pub(crate) fn row<T>(
        &self,
        sql: &str,
        values: &[Value<'_>],
        read: impl FnOnce(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        refuse_zero(values)?;
        match self {
            Self::Sqlite(connection) => sqlite::row(connection, sql, values, read),
            Self::Postgres(connection) => connection.row(sql, values, read),
        }
    }

    /// Reads a row that a statement without conditions always has.
    pub(crate) fn only<T: FromValue>(&self, sql: &str, values: &[Value<'_>]) -> Result<T, StoreError> {
        self.row(sql, values, |row| row.get(0))?.ok_or(StoreError::ImpossibleRow { what: "answer without a row" })
    }

    /// Whether there is a row.
    pub(crate) fn exists(&self, sql: &str, values: &[Value<'_>]) -> Result<bool, StoreError> {
        Ok(self.row(sql, values, |_| Ok(()))?.is_some())
    }

    /// Reads every row.
    pub(crate) fn rows<T>(
        &self,
        sql: &str,
        values: &[Value<'_>],
        mut read: impl FnMut(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let mut rows = Vec::new();
        self.each(sql, values, |row| {
            rows.push(read(row)?);
            Ok(())
        })?;
        Ok(rows)
    }

    /// Sees every row, without keeping more than a few of them.
    pub(crate) fn each(
        &self,
        sql: &str,
        values: &[Value<'_>],
        see: impl FnMut(&Row<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        refuse_zero(values)?;
        match self {
            Self::Sqlite(connection) => sqlite::each(connection, sql, values, see),
            Self::Postgres(connection) => connection.each(sql, values, see),
        }
    }

    /// Begins a transaction that will write.
    pub(crate) fn begin(&self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(connection) => sqlite::control(connection, "BEGIN IMMEDIATE"),
            Self::Postgres(connection) => connection.control("BEGIN"),
        }
    }

    /// Begins a transaction that only reads, all of it as it is at one moment.
    pub(crate) fn begin_reading(&self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(connection) => sqlite::control(connection, "BEGIN"),
            Self::Postgres(connection) => connection.control("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"),
        }
    }

    /// Makes what was written since the beginning durable.
    pub(crate) fn commit(&self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(connection) => sqlite::control(connection, "COMMIT"),
            Self::Postgres(connection) => connection.commit(),
        }
    }

    /// Undoes what was written since the beginning.
    pub(crate) fn roll_back(&self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(connection) => sqlite::control(connection, "ROLLBACK"),
            Self::Postgres(connection) => connection.roll_back(),
        }
    }

    /// Marks where [`Connection::undo_job`] goes back to.
    pub(crate) fn begin_job(&self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(connection) => sqlite::control(connection, "SAVEPOINT job"),
            Self::Postgres(connection) => {
                connection.begin_job();
                Ok(())
            }
        }
    }

    /// Keeps what was written since [`Connection::begin_job`].
    pub(crate) fn keep_job(&self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(connection) => sqlite::control(connection, "RELEASE job"),
            Self::Postgres(connection) => {
                connection.keep_job();
                Ok(())
            }
        }
    }

    /// Undoes what was written since [`Connection::begin_job`].
    pub(crate) fn undo_job(&self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(connection) => {
                sqlite::control(connection, "ROLLBACK TO job")?;
                sqlite::control(connection, "RELEASE job")
            }
            Self::Postgres(connection) => connection.undo_job(),
        }
    }

    /// Whether nothing is left of the transaction that was begun, not even what could be undone.
    pub(crate) fn transaction_is_gone(&self) -> bool {
        match self {
            Self::Sqlite(connection) => connection.is_autocommit(),
            Self::Postgres(connection) => connection.is_lost(),
        }
    }

    /// Whether the transaction that was begun can still be committed.
    pub(crate) fn in_transaction(&self) -> bool {
        match self {
            Self::Sqlite(connection) => !connection.is_autocommit(),
            Self::Postgres(connection) => connection.in_transaction(),
        }
    }

    /// Whether it must be made anew before anything else can be done.
    pub(crate) fn is_lost(&self) -> bool {
        match self {
            Self::Sqlite(_) => false,
            Self::Postgres(connection) => connection.is_lost(),
        }
    }

    /// Makes a lost connection anew, unless that failed a moment ago.
    pub(crate) fn renew(&mut self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(connection) => connection.renew(),
        }
    }
}

/// What one of the databases cannot hold goes into none.
fn refuse_zero(values: &[Value<'_>]) -> Result<(), StoreError> {
    let zero = |value: &Value<'_>| matches!(value, Value::Text(text) if text.contains('\0'));
    if values.iter().any(zero) { Err(StoreError::ZeroCharacter) } else { Ok(()) }
}

impl Row<'_> {
    /// The value of a column, counted from 0.
    pub(crate) fn get<T: FromValue>(&self, column: usize) -> Result<T, StoreError> {
        match self {
            Self::Sqlite(row) => T::from_value(sqlite::value(row, column)?),
            Self::Postgres(row) => T::from_value(postgres::value(row, column)?),
        }
    }
}

/// What can be read out of a column.
pub(crate) trait FromValue: Sized {
    fn from_value(value: Value<'_>) -> Result<Self, StoreError>;
}

/// A column holds what this program never writes there.
fn impossible() -> StoreError {
    StoreError::ImpossibleRow { what: "value of a column" }
}

impl FromValue for i64 {
    fn from_value(value: Value<'_>) -> Result<Self, StoreError> {
        match value {
            Value::Integer(number) => Ok(number),
            Value::Null | Value::Bytes(_) | Value::Text(_) => Err(impossible()),
        }
    }
}

impl FromValue for u32 {
    fn from_value(value: Value<'_>) -> Result<Self, StoreError> {
        Self::try_from(i64::from_value(value)?).map_err(|_| impossible())
    }
}

impl FromValue for bool {
    fn from_value(value: Value<'_>) -> Result<Self, StoreError> {
        Ok(i64::from_value(value)? != 0)
    }
}

impl FromValue for String {
    fn from_value(value: Value<'_>) -> Result<Self, StoreError> {
        match value {
            Value::Text(text) => Ok(text.to_owned()),
            Value::Null | Value::Bytes(_) | Value::Integer(_) => Err(impossible()),
        }
    }
}

impl FromValue for Vec<u8> {
    fn from_value(value: Value<'_>) -> Result<Self, StoreError> {
        match value {
            Value::Bytes(bytes) => Ok(bytes.to_vec()),
            Value::Null | Value::Text(_) | Value::Integer(_) => Err(impossible()),
        }
    }
}

impl<const N: usize> FromValue for [u8; N] {
    fn from_value(value: Value<'_>) -> Result<Self, StoreError> {
        match value {
            Value::Bytes(bytes) => bytes.try_into().map_err(|_| impossible()),
            Value::Null | Value::Text(_) | Value::Integer(_) => Err(impossible()),
        }
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: Value<'_>) -> Result<Self, StoreError> {
        match value {
            Value::Null => Ok(None),
            Value::Integer(_) | Value::Bytes(_) | Value::Text(_) => T::from_value(value).map(Some),
        }
    }
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<u32> for Value<'_> {
    fn from(number: u32) -> Self {
        Self::Integer(i64::from(number))
    }
}

impl From<bool> for Value<'_> {
    fn from(yes: bool) -> Self {
        Self::Integer(i64::from(yes))
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a String> for Value<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes)
    }
}

impl<'a> From<&'a Vec<u8>> for Value<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Value<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        Self::Bytes(bytes)
    }
}

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}
