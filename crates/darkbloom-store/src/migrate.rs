//! Numbered migrations: each is applied once, in its own transaction, and never edited afterwards.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use crate::database::opening_failed;
use crate::error::OpenStoreError;

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
    ],
};

/// A provider's receipt outbox. The id is the ASCII text `DBro`.
pub(crate) const OUTBOX: Schema =
    Schema { application_id: 0x4442_726f, migrations: &[include_str!("migrations/outbox_0001.sql")] };

/// Checks whose database it is, sets the connection up, and applies the migrations that the file does not have yet.
pub(crate) fn migrate(
    connection: &mut Connection,
    path: &Path,
    schema: &Schema,
    set_up: impl FnOnce(&Connection) -> rusqlite::Result<()>,
) -> Result<(), OpenStoreError> {
    let failed = |error: rusqlite::Error| opening_failed(path, &error);
    let pragma = |connection: &Connection, name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let known = i64::try_from(schema.migrations.len()).unwrap_or(i64::MAX);
    let application_id = pragma(connection, "application_id").map_err(failed)?;
    let found = pragma(connection, "user_version").map_err(failed)?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    let empty = (application_id, found, tables) == (0, 0, 0);
    if !empty && application_id != i64::from(schema.application_id) {
        let detail = "it belongs to another program".to_owned();
        return Err(OpenStoreError::Corrupt { path: path.to_owned(), detail });
    }
    if found > known {
        return Err(OpenStoreError::NewerSchema { found, known });
    }
    set_up(connection).map_err(failed)?;
    for (version, sql) in (1i64..).zip(schema.migrations).filter(|(version, _)| *version > found) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        transaction.execute_batch(sql).map_err(failed)?;
        transaction.pragma_update(None, "application_id", schema.application_id).map_err(failed)?;
        transaction.pragma_update(None, "user_version", version).map_err(failed)?;
        transaction.commit().map_err(failed)?;
    }
    Ok(())
}
