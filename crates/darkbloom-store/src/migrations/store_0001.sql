-- Money is integer nano-dollars, time integer milliseconds since 1970 UTC. Every table is STRICT.

CREATE TABLE account (
    id   INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE
) STRICT;

-- Books. kind: 0 available (owner: account), 1 held (owner: account), 2 earned (owner: provider), 3 platform, 4 deposits.
-- An account's number stands as 8 bytes, big end first.
CREATE TABLE book (
    kind    INTEGER NOT NULL CHECK (kind BETWEEN 0 AND 4),
    owner   BLOB NOT NULL,
    balance INTEGER NOT NULL,
    PRIMARY KEY (kind, owner),
    CHECK (CASE kind WHEN 4 THEN balance <= 0 ELSE balance >= 0 END)
) STRICT, WITHOUT ROWID;

-- Transfers and their legs are only ever added. kind: 0 deposit, 1 hold, 2 settlement, 3 void, 4 late settlement.
CREATE TABLE transfer (
    id      INTEGER PRIMARY KEY,
    kind    INTEGER NOT NULL CHECK (kind BETWEEN 0 AND 4),
    request BLOB,
    at      INTEGER NOT NULL
) STRICT;

CREATE TABLE leg (
    transfer INTEGER NOT NULL,
    ordinal  INTEGER NOT NULL,
    kind     INTEGER NOT NULL,
    owner    BLOB NOT NULL,
    amount   INTEGER NOT NULL CHECK (amount <> 0),
    PRIMARY KEY (transfer, ordinal)
) STRICT, WITHOUT ROWID;

-- The caller's own name for a deposit makes it happen once.
CREATE TABLE deposit (
    reference TEXT PRIMARY KEY,
    account   INTEGER NOT NULL,
    amount    INTEGER NOT NULL CHECK (amount > 0),
    transfer  INTEGER NOT NULL,
    at        INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- state: 0 open, 1 settled, 2 voided. What stands after `superseded_by` is written when the hold ends.
CREATE TABLE hold (
    id             INTEGER PRIMARY KEY,
    request        BLOB NOT NULL UNIQUE,
    operation      BLOB NOT NULL,
    account        INTEGER NOT NULL,
    key            INTEGER NOT NULL,
    model          BLOB NOT NULL,
    amount         INTEGER NOT NULL CHECK (amount >= 0),
    price_version  INTEGER NOT NULL,
    price_input    INTEGER NOT NULL,
    price_output   INTEGER NOT NULL,
    input_ceiling  INTEGER NOT NULL,
    output_ceiling INTEGER NOT NULL,
    placed_at      INTEGER NOT NULL,
    expires_at     INTEGER NOT NULL,
    supersedes     BLOB,
    state          INTEGER NOT NULL DEFAULT 0 CHECK (state BETWEEN 0 AND 2),
    superseded_by  BLOB,
    -- Whose answer was being relayed, as far as that was written down.
    accepted_by    BLOB,
    -- Why it was voided: 0 nothing was delivered, 1 silence.
    void           INTEGER CHECK (void BETWEEN 0 AND 1),
    closed_at      INTEGER,
    provider       BLOB,
    input_tokens   INTEGER NOT NULL DEFAULT 0,
    output_tokens  INTEGER NOT NULL DEFAULT 0,
    charge         INTEGER NOT NULL DEFAULT 0 CHECK (charge >= 0),
    unpaid         INTEGER NOT NULL DEFAULT 0 CHECK (unpaid >= 0),
    released       INTEGER NOT NULL DEFAULT 0 CHECK (released >= 0),
    payout         INTEGER NOT NULL DEFAULT 0 CHECK (payout >= 0),
    fee            INTEGER NOT NULL DEFAULT 0 CHECK (fee >= 0),
    reason         TEXT,
    CHECK ((state = 0) = (closed_at IS NULL))
) STRICT;

-- The database itself refuses a second open or settled hold of one operation.
CREATE UNIQUE INDEX hold_live ON hold (account, operation) WHERE state < 2;
CREATE INDEX hold_open ON hold (expires_at, id) WHERE state = 0;
CREATE INDEX hold_usage ON hold (account, closed_at, id) WHERE state = 1;

CREATE TABLE receipt (
    request    BLOB PRIMARY KEY,
    receipt_id BLOB,
    bytes      BLOB
) STRICT, WITHOUT ROWID;

-- Only digests of keys. kind: 0 consumer, 1 admin, 2 join.
CREATE TABLE key (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    digest     BLOB NOT NULL UNIQUE,
    account    INTEGER,
    kind       INTEGER NOT NULL CHECK (kind BETWEEN 0 AND 2),
    name       TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    revoked    INTEGER NOT NULL DEFAULT 0 CHECK (revoked IN (0, 1))
) STRICT;

CREATE TABLE catalogue (
    digest    BLOB PRIMARY KEY,
    name      TEXT NOT NULL,
    entry     BLOB NOT NULL,
    text_pack BLOB NOT NULL,
    active    INTEGER NOT NULL CHECK (active IN (0, 1))
) STRICT;
CREATE UNIQUE INDEX catalogue_active ON catalogue (name) WHERE active = 1;

CREATE TABLE blob (
    digest BLOB PRIMARY KEY,
    bytes  BLOB NOT NULL
) STRICT;

CREATE TABLE price (
    model   TEXT NOT NULL,
    version INTEGER NOT NULL,
    input   INTEGER NOT NULL,
    output  INTEGER NOT NULL,
    PRIMARY KEY (model, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE provider (
    id          BLOB PRIMARY KEY,
    joined_with INTEGER NOT NULL,
    first_seen  INTEGER NOT NULL,
    last_seen   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
