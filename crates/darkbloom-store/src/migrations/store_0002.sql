-- Receipt keys of verified epochs, kept for as long as a late receipt may still settle. They stood among the settings as
-- `receipt_key/<epoch in hex>`, with the provider's 32 bytes before the key's; those count from the day of this migration.
CREATE TABLE receipt_key (
    provider   BLOB NOT NULL,
    epoch      BLOB NOT NULL,
    key        BLOB NOT NULL,
    open_until INTEGER NOT NULL,
    PRIMARY KEY (provider, epoch)
) STRICT, WITHOUT ROWID;
CREATE INDEX receipt_key_over ON receipt_key (open_until);

INSERT INTO receipt_key (provider, epoch, key, open_until)
SELECT substr(value, 1, 32), unhex(substr(name, 13)), substr(value, 33, 32), unixepoch('now') * 1000
FROM meta
WHERE name GLOB 'receipt_key/*' AND length(value) = 64 AND length(unhex(substr(name, 13))) = 16;
DELETE FROM meta WHERE name GLOB 'receipt_key/*';

-- What a receipt can still settle: `void` 1 is silence.
CREATE INDEX hold_silent ON hold (accepted_by, closed_at) WHERE state = 2 AND void = 1;
