//! Golden vectors of everything that the wire encodes; `docs/vectors/README.md` explains the fields.

use darkbloom_types::UnixMillis;
use darkbloom_wire::{
    Domain, PublicKey, SealedHeader, Signer, Statement, catalogue_digest, challenge_digest, coordinator_proof_digest,
    epoch_nonce, open_signed, presence_nonce, receipt_id, recipient_list_digest,
};
use serde_json::{Value, json};

use crate::described;
use crate::golden;
use crate::keys;
use crate::make::{FRAME_KINDS, Read, SIGNED_KINDS, Source};

/// The byte that private keys of vectors are made of.
const KEY_BYTE: u8 = 7;

fn signed(domain: Domain, fields: &[(i64, &'static str)], bytes: &[u8], public: &PublicKey) -> Value {
    let payload = open_signed(domain, public, bytes, 1 << 20).unwrap();
    let (algorithm, public) = match public {
        PublicKey::P256(point) => ("ES256", hex::encode(point)),
        PublicKey::Ed25519(point) => ("EdDSA", hex::encode(point)),
    };
    json!({
        "algorithm": algorithm,
        "domain": domain.string(),
        "fields": described::fields(payload, fields),
        "payload": hex::encode(payload),
        "private_key": hex::encode([KEY_BYTE; 32]),
        "public_key": public,
        "signed": hex::encode(bytes),
    })
}

/// What a coordinator signs for a provider and for a client who send the same nonce.
fn coordinator_digests(source: &mut Source) -> Value {
    let (network, nonce) = (source.make(), source.make());
    let (connection, welcome_nonce) = (source.make(), source.make());
    json!({
        "network": network,
        "nonce": hex::encode(nonce),
        "connection": connection,
        "welcome_nonce": hex::encode(welcome_nonce),
        "to_provider": coordinator_proof_digest(&network, &nonce, Some((&connection, &welcome_nonce))),
        "to_client": coordinator_proof_digest(&network, &nonce, None),
    })
}

#[test]
fn signed_objects_are_as_published() {
    let (p256, p256_public) = keys::p256(KEY_BYTE);
    let (ed25519, ed25519_public) = keys::ed25519(KEY_BYTE);
    for kind in SIGNED_KINDS {
        let file = match kind.domain {
            Domain::Statement => continue,
            Domain::Challenge => "challenge-proof.json",
            Domain::Coordinator => "coordinator-proof.json",
            Domain::Receipt => "receipt.json",
            Domain::Bill => "bill.json",
            Domain::CatalogueEntry => "catalogue-entry.json",
            Domain::CandidateList => "candidate-list.json",
            Domain::ProviderList => "provider-list.json",
            Domain::Activation => "activation.json",
            Domain::Succession => "succession.json",
        };
        let (signer, public): (&dyn Signer, _) =
            if kind.domain == Domain::Receipt { (&ed25519, &ed25519_public) } else { (&p256, &p256_public) };
        let bytes = (kind.sign)(&mut Source::labelled(kind.name), signer);
        let mut value = signed(kind.domain, kind.fields, &bytes, public);
        match kind.domain {
            Domain::Receipt => value["id"] = json!(receipt_id(&bytes)),
            Domain::CatalogueEntry => value["digest"] = json!(catalogue_digest(&bytes)),
            Domain::Coordinator => value["digests"] = coordinator_digests(&mut Source::labelled("Dial")),
            Domain::Challenge
            | Domain::Statement
            | Domain::Bill
            | Domain::CandidateList
            | Domain::ProviderList
            | Domain::Activation
            | Domain::Succession => {}
        }
        golden::check(file, &value);
    }
}

#[test]
fn the_statement_is_as_published() {
    let (signer, public) = keys::p256(KEY_BYTE);
    let PublicKey::P256(identity) = public else { unreachable!() };
    let mut source = Source::labelled("Statement");
    let statement = Statement {
        identity,
        sealing_key: vec![10; 1_216],
        not_before: UnixMillis(1_800_000_000_000),
        use_until: UnixMillis(1_800_003_600_000),
        open_until: UnixMillis(1_800_004_200_000),
        ..source.make()
    };
    let bytes = statement.sign(&signer).unwrap();
    assert_eq!(Statement::open_self_signed(&bytes).as_ref(), Ok(&statement));
    let mut value = signed(Domain::Statement, Statement::FIELDS, &bytes, &public);
    value["provider"] = json!(statement.provider());
    value["epoch"] = json!(statement.epoch());
    value["evidence_nonce"] =
        json!(epoch_nonce(&statement.sealing_key, &statement.receipt_key, &identity, statement.not_before));
    let (nonce, connection) = (source.make(), source.make());
    let digest = challenge_digest(&statement.network, &nonce, &connection, &statement.epoch());
    value["challenge"] = json!({
        "nonce": hex::encode(nonce),
        "connection": connection,
        "digest": digest,
        "presence_nonce": presence_nonce(&digest),
    });
    golden::check("statement.json", &value);
}

#[test]
fn the_sealed_header_is_as_published() {
    let mut source = Source::labelled("SealedHeader");
    let recipients = [(source.make(), source.make()), (source.make(), source.make())];
    let digest = recipient_list_digest(recipients.iter().map(|(provider, epoch)| (provider, epoch)));
    let header = SealedHeader { recipients: digest, ..source.make() };
    let bytes = header.encode();
    assert_eq!(SealedHeader::decode(&bytes), Ok(header));
    let recipients: Vec<_> =
        recipients.iter().map(|(provider, epoch)| json!({ "provider": provider, "epoch": epoch })).collect();
    golden::check(
        "sealed-header.json",
        &json!({
            "bytes": hex::encode(&bytes),
            "digest": darkbloom_types::Digest::of(&[&bytes]),
            "fields": described::fields(&bytes, SealedHeader::FIELDS),
            "recipients": recipients,
        }),
    );
}

#[test]
fn every_frame_is_as_published() {
    let frames: Vec<_> = FRAME_KINDS
        .iter()
        .map(|kind| {
            let bytes = (kind.make)(&mut Source::labelled(kind.name));
            assert_eq!((kind.read)(&bytes), Read::Known(bytes.clone(), 0));
            let fields = described::fields(&bytes, kind.fields);
            assert_eq!(fields["kind"]["value"]["int"], kind.kind.to_string());
            json!({
                "bytes": hex::encode(&bytes),
                "direction": kind.direction,
                "fields": fields,
                "kind": kind.kind,
                "name": kind.name,
            })
        })
        .collect();
    golden::check("frames.json", &Value::Array(frames));
}
