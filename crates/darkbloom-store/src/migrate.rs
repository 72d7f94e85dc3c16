//! Numbered migrations: each is applied once, in its own transaction, and never edited afterwards.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use crate::database::opening_failed;
use crate::error::{OpenStoreError, StoreError};
use crate::location::StorePlace;
use crate::sql::postgres::Postgres;
use crate::sql::values;

/// A kind of database: how to tell that a file is one, and how it came to look as it does.
pub(crate) struct Schema {
    /// SQLite's application id, so that another program's database is not taken for ours.
    pub(crate) application_id: i32,
    /// Migration 1, 2, 3 and so on.
    pub(crate) migrations: &'static [&'static str],
}

/// A coordinator's store. The id is the ASCII text `DBst`.
pub(crate) const STORE: Schema = Schema {
    application_id: 0x4442_7374,
    migrations: &[
        include_str!("migrations/store_0001.sql"),
        include_str!("migrations/store_0002.sql"),
        include_str!("migrations/store_0003.sql"),
        include_str!("migrations/store_0004.sql"),
    ],
};

/// A provider's receipt outbox. The id is the ASCII text `DBro`.
pub(crate) const OUTBOX: Schema =
    Schema { application_id: 0x4442_726f, migrations: &[include_str!("migrations/outbox_0001.sql")] };

/// What is done with a database of an older program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Older {
    Refuse,
    Migrate,
}

/// What a database is.
enum Found {
    Empty,
    Version(i64),
}

/// Checks whose database it is, sets the connection up, and applies the migrations that the file does not have yet: all of
/// them to an empty one, and otherwise only where that was asked for. Says which schema there was, 0 for
/// none, and which there is.
pub(crate) fn migrate(
    connection: &mut Connection,
    path: &Path,
    schema: &Schema,
    older: Older,
    set_up: impl FnOnce(&Connection) -> rusqlite::Result<()>,
) -> Result<(i64, i64), OpenStoreError> {
    let failed = |error: rusqlite::Error| opening_failed(path, &error);
    let (found, known) = (look(connection, path, schema)?, count(schema.migrations));
    let version = judge(found, known, older)?;
    set_up(connection).map_err(failed)?;
    for (version, sql) in (1i64..).zip(schema.migrations).filter(|(number, _)| *number > version) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        transaction.execute_batch(sql).map_err(failed)?;
        transaction.pragma_update(None, "application_id", schema.application_id).map_err(failed)?;
        transaction.pragma_update(None, "user_version", version).map_err(failed)?;
        transaction.commit().map_err(failed)?;
    }
    Ok((version, known))
}

/// Refuses a database that is not ours, or not of the newest schema.
pub(crate) fn check(connection: &Connection, path: &Path, schema: &Schema) -> Result<(), OpenStoreError> {
    let known = count(schema.migrations);
    match look(connection, path, schema)? {
        Found::Empty => {
            Err(OpenStoreError::Corrupt { place: path.to_owned().into(), detail: "it is empty".to_owned() })
        }
        found @ Found::Version(_) => judge(found, known, Older::Refuse).map(|_| ()),
    }
}

fn look(connection: &Connection, path: &Path, schema: &Schema) -> Result<Found, OpenStoreError> {
    let failed = |error: rusqlite::Error| opening_failed(path, &error);
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (application_id, found) = (pragma("application_id").map_err(failed)?, pragma("user_version").map_err(failed)?);
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    if (application_id, found, tables) == (0, 0, 0) {
        return Ok(Found::Empty);
    }
    if application_id != i64::from(schema.application_id) {
        let detail = "it belongs to another program".to_owned();
        return Err(OpenStoreError::Corrupt { place: path.to_owned().into(), detail });
    }
    Ok(Found::Version(found))
}

/// The version to go on from.
fn judge(found: Found, known: i64, older: Older) -> Result<i64, OpenStoreError> {
    match found {
        Found::Empty => Ok(0),
        Found::Version(found) if found > known => Err(OpenStoreError::NewerSchema { found, known }),
        Found::Version(found) if found < known && older == Older::Refuse => {
            Err(OpenStoreError::OlderSchema { found, known })
        }
        Found::Version(found) => Ok(found),
    }
}

fn count(migrations: &[&str]) -> i64 {
    i64::try_from(migrations.len()).unwrap_or(i64::MAX)
}

/// How a coordinator's store came to look as it does on Postgres. The first is what SQLite's third led to.
const POSTGRES: [&str; 2] =
    [include_str!("migrations/postgres_0001.sql"), include_str!("migrations/postgres_0002.sql")];

/// Where the schema's number stands. Its name tells a database of ours from another program's.
const POSTGRES_SCHEMA: &str = "CREATE TABLE darkbloom_schema (
    one     BIGINT PRIMARY KEY CHECK (one = 1),
    version BIGINT NOT NULL
); INSERT INTO darkbloom_schema VALUES (1, 0);";

/// As [`migrate`], for a session that may write.
pub(crate) fn migrate_postgres(
    session: &Postgres,
    place: &StorePlace,
    older: Older,
) -> Result<(i64, i64), OpenStoreError> {
    let failed = |error: StoreError| OpenStoreError::Unreachable { place: place.clone(), detail: error.to_string() };
    let (found, known) = (look_postgres(session, place)?, count(&POSTGRES));
    let empty = matches!(found, Found::Empty);
    let version = judge(found, known, older)?;
    for (number, sql) in (1i64..).zip(POSTGRES).filter(|(number, _)| *number > version) {
        session.control("BEGIN").map_err(failed)?;
        if empty && number == 1 {
            session.control(POSTGRES_SCHEMA).map_err(failed)?;
        }
        session.control(sql).map_err(failed)?;
        session.execute("UPDATE darkbloom_schema SET version = ?1", values![number]).map_err(failed)?;
        session.commit().map_err(failed)?;
    }
    Ok((version, known))
}

/// As [`check`], for any session.
pub(crate) fn check_postgres(session: &Postgres, place: &StorePlace) -> Result<(), OpenStoreError> {
    match look_postgres(session, place)? {
        Found::Empty => Err(OpenStoreError::Corrupt { place: place.clone(), detail: "it is empty".to_owned() }),
        found @ Found::Version(_) => judge(found, count(&POSTGRES), Older::Refuse).map(|_| ()),
    }
}

fn look_postgres(session: &Postgres, place: &StorePlace) -> Result<Found, OpenStoreError> {
    let failed = |error: StoreError| OpenStoreError::Unreachable { place: place.clone(), detail: error.to_string() };
    let ours = "SELECT count(*), coalesce(sum(CASE c.relname WHEN 'darkbloom_schema' THEN 1 ELSE 0 END), 0)
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p', 'v', 'm', 'f')";
    let found = session.row(ours, &[], |row| Ok((row.get::<i64>(0)?, row.get::<i64>(1)?))).map_err(failed)?;
    match found {
        None | Some((0, _)) => Ok(Found::Empty),
        Some((_, 0)) => Err(OpenStoreError::Corrupt {
            place: place.clone(),
            detail: "it has tables of another program; give the store a database of its own".to_owned(),
        }),
        Some(_) => {
            let version = session.row("SELECT version FROM darkbloom_schema", &[], |row| row.get(0)).map_err(failed)?;
            Ok(Found::Version(version.unwrap_or(0)))
        }
    }
}
