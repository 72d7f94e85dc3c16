-- What SQLite's first three migrations led to. Money is integer nano-dollars, time integer milliseconds since 1970 UTC.
-- Texts compare by their bytes, as SQLite's do.

CREATE TABLE account (
    id   BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL UNIQUE
);

-- Books. kind: 0 available (owner: account), 1 held (owner: account), 2 earned (owner: provider), 3 platform, 4 deposits.
-- An account's number stands as 8 bytes, big end first.
CREATE TABLE book (
    kind    BIGINT NOT NULL CHECK (kind BETWEEN 0 AND 4),
    owner   BYTEA NOT NULL,
    balance BIGINT NOT NULL,
    PRIMARY KEY (kind, owner),
    CHECK (CASE kind WHEN 4 THEN balance <= 0 ELSE balance >= 0 END)
);

-- Transfers and their legs are only ever added. kind: 0 deposit, 1 hold, 2 settlement, 3 void, 4 late settlement.
CREATE TABLE transfer (
    id      BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind    BIGINT NOT NULL CHECK (kind BETWEEN 0 AND 4),
    request BYTEA,
    at      BIGINT NOT NULL
);

CREATE TABLE leg (
    transfer BIGINT NOT NULL,
    ordinal  BIGINT NOT NULL,
    kind     BIGINT NOT NULL,
    owner    BYTEA NOT NULL,
    amount   BIGINT NOT NULL CHECK (amount <> 0),
    PRIMARY KEY (transfer, ordinal)
);

-- The caller's own name for a deposit makes it happen once.
CREATE TABLE deposit (
    reference TEXT COLLATE "C" PRIMARY KEY,
    account   BIGINT NOT NULL,
    amount    BIGINT NOT NULL CHECK (amount > 0),
    transfer  BIGINT NOT NULL,
    at        BIGINT NOT NULL
);

-- state: 0 open, 1 settled, 2 voided. What stands after `superseded_by` is written when the hold ends.
CREATE TABLE hold (
    id             BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    request        BYTEA NOT NULL UNIQUE,
    operation      BYTEA NOT NULL,
    account        BIGINT NOT NULL,
    key            BIGINT NOT NULL,
    model          BYTEA NOT NULL,
    amount         BIGINT NOT NULL CHECK (amount >= 0),
    price_version  BIGINT NOT NULL,
    price_input    BIGINT NOT NULL,
    price_output   BIGINT NOT NULL,
    input_ceiling  BIGINT NOT NULL,
    output_ceiling BIGINT NOT NULL,
    placed_at      BIGINT NOT NULL,
    expires_at     BIGINT NOT NULL,
    supersedes     BYTEA,
    state          BIGINT NOT NULL DEFAULT 0 CHECK (state BETWEEN 0 AND 2),
    superseded_by  BYTEA,
    -- Whose answer was being relayed, as far as that was written down.
    accepted_by    BYTEA,
    -- Why it was voided: 0 nothing was delivered, 1 silence.
    void           BIGINT CHECK (void BETWEEN 0 AND 1),
    closed_at      BIGINT,
    provider       BYTEA,
    input_tokens   BIGINT NOT NULL DEFAULT 0,
    output_tokens  BIGINT NOT NULL DEFAULT 0,
    charge         BIGINT NOT NULL DEFAULT 0 CHECK (charge >= 0),
    unpaid         BIGINT NOT NULL DEFAULT 0 CHECK (unpaid >= 0),
    released       BIGINT NOT NULL DEFAULT 0 CHECK (released >= 0),
    payout         BIGINT NOT NULL DEFAULT 0 CHECK (payout >= 0),
    fee            BIGINT NOT NULL DEFAULT 0 CHECK (fee >= 0),
    reason         TEXT COLLATE "C",
    CHECK ((state = 0) = (closed_at IS NULL))
);

-- The database itself refuses a second open or settled hold of one operation.
CREATE UNIQUE INDEX hold_live ON hold (account, operation) WHERE state < 2;
CREATE INDEX hold_open ON hold (expires_at, id) WHERE state = 0;
CREATE INDEX hold_usage ON hold (account, closed_at, id) WHERE state = 1;
-- What a receipt can still settle: `void` 1 is silence.
CREATE INDEX hold_silent ON hold (accepted_by, closed_at) WHERE state = 2 AND void = 1;

CREATE TABLE receipt (
    request    BYTEA PRIMARY KEY,
    receipt_id BYTEA,
    bytes      BYTEA
);

-- Only digests of keys. kind: 0 consumer, 1 admin, 2 join.
CREATE TABLE key (
    id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    digest     BYTEA NOT NULL UNIQUE,
    account    BIGINT,
    kind       BIGINT NOT NULL CHECK (kind BETWEEN 0 AND 2),
    name       TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    revoked    BIGINT NOT NULL DEFAULT 0 CHECK (revoked IN (0, 1))
);

CREATE TABLE catalogue (
    digest    BYTEA PRIMARY KEY,
    name      TEXT COLLATE "C" NOT NULL,
    entry     BYTEA NOT NULL,
    text_pack BYTEA NOT NULL,
    active    BIGINT NOT NULL CHECK (active IN (0, 1))
);
CREATE UNIQUE INDEX catalogue_active ON catalogue (name) WHERE active = 1;

CREATE TABLE blob (
    digest BYTEA PRIMARY KEY,
    bytes  BYTEA NOT NULL
);

CREATE TABLE price (
    model   TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    input   BIGINT NOT NULL,
    output  BIGINT NOT NULL,
    PRIMARY KEY (model, version)
);

CREATE TABLE provider (
    id          BYTEA PRIMARY KEY,
    joined_with BIGINT NOT NULL,
    first_seen  BIGINT NOT NULL,
    last_seen   BIGINT NOT NULL
);

CREATE TABLE meta (
    name  TEXT COLLATE "C" PRIMARY KEY,
    value BYTEA NOT NULL
);

-- Receipt keys of verified epochs, kept for as long as a late receipt may still settle.
CREATE TABLE receipt_key (
    provider   BYTEA NOT NULL,
    epoch      BYTEA NOT NULL,
    key        BYTEA NOT NULL,
    open_until BIGINT NOT NULL,
    PRIMARY KEY (provider, epoch)
);
CREATE INDEX receipt_key_over ON receipt_key (open_until);

-- What is held against providers' identities; one that is not here is clean. state: 1 distrusted, 2 recovered, 3 revoked.
-- `reason`, `until` and `times` are those of the last failed check; `note` is what the operator said.
CREATE TABLE standing (
    provider BYTEA PRIMARY KEY,
    state    BIGINT NOT NULL CHECK (state BETWEEN 1 AND 3),
    reason   TEXT COLLATE "C",
    until    BIGINT,
    times    BIGINT,
    since    BIGINT NOT NULL,
    note     TEXT COLLATE "C",
    CHECK ((state = 3) = (reason IS NULL))
);

-- Which identity took over from which, and what both signed about it. Each does so once.
CREATE TABLE succession (
    old    BYTEA PRIMARY KEY,
    new    BYTEA NOT NULL UNIQUE,
    signed BYTEA NOT NULL,
    at     BIGINT NOT NULL
);
