-- What is held against providers' identities; one that is not here is clean. state: 1 distrusted, 2 recovered, 3 revoked.
-- `reason`, `until` and `times` are those of the last failed check; `note` is what the operator said.
CREATE TABLE standing (
    provider BLOB PRIMARY KEY,
    state    INTEGER NOT NULL CHECK (state BETWEEN 1 AND 3),
    reason   TEXT,
    until    INTEGER,
    times    INTEGER,
    since    INTEGER NOT NULL,
    note     TEXT,
    CHECK ((state = 3) = (reason IS NULL))
) STRICT, WITHOUT ROWID;

-- Which identity took over from which, and what both signed about it. Each does so once.
CREATE TABLE succession (
    old    BLOB PRIMARY KEY,
    new    BLOB NOT NULL UNIQUE,
    signed BLOB NOT NULL,
    at     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
