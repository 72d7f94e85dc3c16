-- Receipts that no coordinator has acknowledged, oldest first by `seq`.
CREATE TABLE receipt (
    seq   INTEGER PRIMARY KEY AUTOINCREMENT,
    id    BLOB NOT NULL UNIQUE,
    bytes BLOB NOT NULL,
    at    INTEGER NOT NULL
) STRICT;

-- One row: how many receipts were dropped for want of room since the file was made.
CREATE TABLE dropped (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    count INTEGER NOT NULL
) STRICT;
INSERT INTO dropped VALUES (1, 0);
