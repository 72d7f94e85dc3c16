//! Who asks: bearer keys, known by their digests alone.

use axum::http::HeaderMap;
use darkbloom_store::{CreateKeyError, KeyKind, KeyRecord, KeyTerms, NewKey, Store, StoreError};
use darkbloom_types::{AccountId, Digest, KeyId, Refusal, RefusalCode, SecretString};
use rand_core::Rng as _;

use darkbloom_host::clock;

/// What a key begins with, by what it opens: so that people and secret scanners can tell.
pub const KEY_PREFIXES: [(KeyKind, &str); 4] = [
    (KeyKind::Consumer, "db-key-"),
    (KeyKind::Admin, "db-admin-"),
    (KeyKind::Join, "db-join-"),
    (KeyKind::Account, "db-account-"),
];

/// Longest key that is looked at: prefix and 48 digits are 59 bytes.
const KEY_BYTES_MAX: usize = 128;

fn prefix(kind: KeyKind) -> &'static str {
    match kind {
        KeyKind::Consumer => KEY_PREFIXES[0].1,
        KeyKind::Admin => KEY_PREFIXES[1].1,
        KeyKind::Join => KEY_PREFIXES[2].1,
        KeyKind::Account => KEY_PREFIXES[3].1,
    }
}

/// A key of 192 random bits, and the digest that is stored of it.
pub fn fresh_key(kind: KeyKind) -> (Digest, SecretString) {
    let mut random = [0; 24];
    clock::rng().fill_bytes(&mut random);
    let key = SecretString::new(format!("{}{}", prefix(kind), hex::encode(random)));
    (Digest::of(&[key.expose().as_bytes()]), key)
}

/// Makes a key and stores its digest. The key itself is returned once and kept nowhere.
pub async fn create_key(
    store: &Store,
    kind: KeyKind,
    account: Option<AccountId>,
    terms: KeyTerms,
) -> Result<(KeyId, SecretString), CreateKeyError> {
    let (digest, key) = fresh_key(kind);
    let id = store.key_create(NewKey { account, kind, terms, digest, created_at: clock::now() }).await?;
    Ok((id, key))
}

/// On the first start there is no administrator: makes one.
pub async fn first_admin_key(store: &Store) -> Result<Option<SecretString>, StoreError> {
    let any = store.keys_list().await?.iter().any(|key| key.kind == KeyKind::Admin);
    if any {
        return Ok(None);
    }
    match create_key(store, KeyKind::Admin, None, KeyTerms::named("first start")).await {
        Ok((_, key)) => Ok(Some(key)),
        Err(CreateKeyError::Store(error)) => Err(error),
        Err(error) => unreachable!("an administrator key of random bits needs no account and is new: {error}"),
    }
}

/// Whether a key's time is over.
fn is_over(key: &KeyRecord) -> bool {
    key.terms.expires_at.is_some_and(|until| clock::now() >= until)
}

/// The key behind a digest of what was presented.
pub fn lookup(store: &Store, presented: &str, kind: KeyKind) -> Result<KeyRecord, Refusal> {
    of_kinds(store, presented, &[kind])
}

fn of_kinds(store: &Store, presented: &str, kinds: &[KeyKind]) -> Result<KeyRecord, Refusal> {
    if presented.len() > KEY_BYTES_MAX {
        return Err(RefusalCode::InvalidApiKey.into());
    }
    // Looking up a digest leaks nothing about keys by its timing: nobody can choose a digest's bytes.
    let record = store.key_by_digest(Digest::of(&[presented.as_bytes()])).filter(|record| !record.revoked);
    let record = record.ok_or_else(|| Refusal::from(RefusalCode::InvalidApiKey))?;
    if is_over(&record) {
        return Err(Refusal::new(RefusalCode::InvalidApiKey, "the key's time is over"));
    }
    if kinds.contains(&record.kind) {
        Ok(record)
    } else {
        Err(Refusal::new(RefusalCode::Forbidden, format!("this is a {} key", record.kind.name())))
    }
}

/// The key in the `Authorization` header.
pub fn bearer(store: &Store, headers: &HeaderMap, kind: KeyKind) -> Result<KeyRecord, Refusal> {
    any(store, headers, &[kind])
}

/// The key in the `Authorization` header, of one of these kinds.
pub fn any(store: &Store, headers: &HeaderMap, kinds: &[KeyKind]) -> Result<KeyRecord, Refusal> {
    let presented = headers
        .get(axum::http::header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .ok_or_else(|| Refusal::from(RefusalCode::InvalidApiKey))?;
    of_kinds(store, presented.trim(), kinds)
}
