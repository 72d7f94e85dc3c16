-- What an account earns, may spend and may have paid out; who may do what; and what administrators did.

-- More kinds of books: 5 withdrawable, 6 referral, 7 disputed, 8 withdrawing (owner: account), 9 withdrawals.
CREATE TABLE book_0004 (
    kind    INTEGER NOT NULL CHECK (kind BETWEEN 0 AND 9),
    owner   BLOB NOT NULL,
    balance INTEGER NOT NULL,
    PRIMARY KEY (kind, owner),
    CHECK (CASE kind WHEN 4 THEN balance <= 0 ELSE balance >= 0 END)
) STRICT, WITHOUT ROWID;
INSERT INTO book_0004 SELECT kind, owner, balance FROM book;
DROP TABLE book;
ALTER TABLE book_0004 RENAME TO book;

-- More kinds of transfers: 5 maturing, 6 dispute, 7 decision about one, 8 payout, 9 its end, 10 earnings spent.
CREATE TABLE transfer_0004 (
    id      INTEGER PRIMARY KEY,
    kind    INTEGER NOT NULL CHECK (kind BETWEEN 0 AND 10),
    request BLOB,
    at      INTEGER NOT NULL
) STRICT;
INSERT INTO transfer_0004 SELECT id, kind, request, at FROM transfer;
DROP TABLE transfer;
ALTER TABLE transfer_0004 RENAME TO transfer;

-- `fee` in basis points, where it is not everybody's. `referral` is the digest of the code by which others name the account.
ALTER TABLE account ADD COLUMN fee INTEGER CHECK (fee BETWEEN 0 AND 10000);
ALTER TABLE account ADD COLUMN referral BLOB;
ALTER TABLE account ADD COLUMN referred_by INTEGER;
CREATE UNIQUE INDEX account_referral ON account (referral) WHERE referral IS NOT NULL;

ALTER TABLE provider ADD COLUMN owner INTEGER;
UPDATE provider SET owner = (SELECT account FROM key WHERE key.id = provider.joined_with);
CREATE INDEX provider_owner ON provider (owner) WHERE owner IS NOT NULL;

-- What a settlement was charged by and divided into, and what of it cannot be paid out yet.
ALTER TABLE hold ADD COLUMN charged_version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hold ADD COLUMN charged_input INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hold ADD COLUMN charged_output INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hold ADD COLUMN referral INTEGER NOT NULL DEFAULT 0 CHECK (referral >= 0);
ALTER TABLE hold ADD COLUMN referrer INTEGER;
ALTER TABLE hold ADD COLUMN fee_share INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hold ADD COLUMN referral_share INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hold ADD COLUMN kept_payout INTEGER NOT NULL DEFAULT 0 CHECK (kept_payout >= 0);
ALTER TABLE hold ADD COLUMN kept_referral INTEGER NOT NULL DEFAULT 0 CHECK (kept_referral >= 0);
UPDATE hold SET charged_version = price_version, charged_input = price_input, charged_output = price_output,
    kept_payout = payout, fee_share = CASE WHEN charge > 0 THEN fee * 10000 / charge ELSE 0 END
WHERE state = 1;
CREATE INDEX hold_kept ON hold (provider, closed_at) WHERE kept_payout > 0;
CREATE INDEX hold_kept_referral ON hold (referrer, closed_at) WHERE kept_referral > 0;
CREATE INDEX hold_earned ON hold (provider, id) WHERE state = 1;
CREATE INDEX hold_key ON hold (key, closed_at) WHERE state = 1;

-- Whose price it is: 0 everybody's, 1 an account's (8 bytes, big end first), 2 a provider's own. All of a model share the
-- numbers of its editions. One that is not `active` counts no more.
ALTER TABLE price ADD COLUMN scope INTEGER NOT NULL DEFAULT 0 CHECK (scope BETWEEN 0 AND 2);
ALTER TABLE price ADD COLUMN owner BLOB NOT NULL DEFAULT x'';
ALTER TABLE price ADD COLUMN active INTEGER NOT NULL DEFAULT 1 CHECK (active IN (0, 1));
UPDATE price SET active = 0 WHERE version < (SELECT max(version) FROM price AS newer WHERE newer.model = price.model);
CREATE UNIQUE INDEX price_active ON price (model, scope, owner) WHERE active = 1;

-- Budgets. kind: 0 a key's, 1 an account's. period: 0 total, 1 day, 2 month. `spent` is of `spent_in`, the number of the
-- period since 1970.
CREATE TABLE budget (
    kind     INTEGER NOT NULL CHECK (kind BETWEEN 0 AND 1),
    spender  INTEGER NOT NULL,
    period   INTEGER NOT NULL CHECK (period BETWEEN 0 AND 2),
    most     INTEGER NOT NULL CHECK (most >= 0),
    spent_in INTEGER NOT NULL,
    spent    INTEGER NOT NULL CHECK (spent >= 0),
    held     INTEGER NOT NULL CHECK (held >= 0),
    PRIMARY KEY (kind, spender)
) STRICT, WITHOUT ROWID;

-- Disputes. decision: 0 for the consumer, 1 for the provider; none while it is open.
CREATE TABLE dispute (
    request       BLOB PRIMARY KEY,
    account       INTEGER NOT NULL,
    input_tokens  INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    payout        INTEGER NOT NULL CHECK (payout >= 0),
    fee           INTEGER NOT NULL CHECK (fee >= 0),
    referral      INTEGER NOT NULL CHECK (referral >= 0),
    at            INTEGER NOT NULL,
    decision      INTEGER CHECK (decision BETWEEN 0 AND 1),
    decided_at    INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX dispute_open ON dispute (at) WHERE decision IS NULL;
CREATE INDEX dispute_account ON dispute (account) WHERE decision IS NULL;

-- Payouts. state: 0 requested, 1 sending, 2 paid, 3 returned. `reference` is their owner's name for them, `outside` that of
-- whoever carries them out.
CREATE TABLE payout (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    account    INTEGER NOT NULL,
    reference  TEXT NOT NULL,
    amount     INTEGER NOT NULL CHECK (amount > 0),
    goes_to    TEXT NOT NULL,
    outside    TEXT,
    state      INTEGER NOT NULL CHECK (state BETWEEN 0 AND 3),
    asked_at   INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    UNIQUE (account, reference)
) STRICT;
CREATE INDEX payout_under_way ON payout (id) WHERE state < 2;

-- Deposits that somebody outside was told to expect. state: 0 expected, 1 credited, 2 abandoned. `source` is who takes them.
CREATE TABLE deposit_0004 (
    reference TEXT PRIMARY KEY,
    account   INTEGER NOT NULL,
    amount    INTEGER NOT NULL CHECK (amount > 0),
    source    TEXT NOT NULL,
    state     INTEGER NOT NULL CHECK (state BETWEEN 0 AND 2),
    transfer  INTEGER,
    at        INTEGER NOT NULL,
    CHECK ((state = 1) = (transfer IS NOT NULL))
) STRICT, WITHOUT ROWID;
INSERT INTO deposit_0004 SELECT reference, account, amount, 'administrator', 1, transfer, at FROM deposit;
DROP TABLE deposit;
ALTER TABLE deposit_0004 RENAME TO deposit;
CREATE INDEX deposit_expected ON deposit (at) WHERE state = 0;

-- Invite codes, by their digests alone.
CREATE TABLE invite (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    digest     BLOB NOT NULL UNIQUE,
    name       TEXT NOT NULL,
    amount     INTEGER NOT NULL CHECK (amount > 0),
    uses_left  INTEGER NOT NULL CHECK (uses_left >= 0),
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;
CREATE TABLE invite_use (
    invite   INTEGER NOT NULL,
    account  INTEGER NOT NULL,
    transfer INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    PRIMARY KEY (invite, account)
) STRICT, WITHOUT ROWID;

-- What a key may do beyond its kind; nothing is said where everything of its kind is allowed. `models` has a name a line.
-- kind 3: an account's own affairs.
CREATE TABLE key_0004 (
    id                  INTEGER PRIMARY KEY AUTOINCREMENT,
    digest              BLOB NOT NULL UNIQUE,
    account             INTEGER,
    kind                INTEGER NOT NULL CHECK (kind BETWEEN 0 AND 3),
    name                TEXT NOT NULL,
    created_at          INTEGER NOT NULL,
    revoked             INTEGER NOT NULL DEFAULT 0 CHECK (revoked IN (0, 1)),
    expires_at          INTEGER,
    models              TEXT,
    tier_min            INTEGER CHECK (tier_min BETWEEN 0 AND 4),
    requests_per_minute INTEGER,
    tokens_per_minute   INTEGER
) STRICT;
INSERT INTO key_0004 (id, digest, account, kind, name, created_at, revoked)
SELECT id, digest, account, kind, name, created_at, revoked FROM key;
DROP TABLE key;
ALTER TABLE key_0004 RENAME TO key;
CREATE INDEX key_account ON key (account, id) WHERE account IS NOT NULL;

-- What administrators did, each row bound to the one before it by `digest`.
CREATE TABLE audit (
    seq    INTEGER PRIMARY KEY,
    at     INTEGER NOT NULL,
    actor  INTEGER,
    action TEXT NOT NULL,
    detail TEXT NOT NULL,
    digest BLOB NOT NULL
) STRICT;
