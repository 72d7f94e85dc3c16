//! What trust costs: verifying statements and evidence, challenges, epochs, receipts; with one thread and with two.
//!
//! `cargo run --release -p darkbloom-testbed --example trust docs/vectors`

#![allow(clippy::print_stdout, reason = "a table for whoever measures")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use darkbloom_attest::{
    ActivatorKind, HardwareTrust, Roots, SnpError, TdxError, TrustPolicy, verify_challenge, verify_snp,
    verify_statement, verify_tdx, verify_tpm,
};
use darkbloom_coordinator::{Config as CoordinatorConfig, Coordinator};
use darkbloom_host::clock::{now, rng};
use darkbloom_keys::{IdentityKey as _, SoftwareKey};
use darkbloom_seal::{Epoch, ReceiptExpectation, check_receipt};
use darkbloom_types::{
    AttemptNumber, CatalogueDigest, ConnectionId, Digest, Micros, NetworkId, ProviderId, RequestId, SecretString, Tier,
    TokenCount, UnixMillis,
};
use darkbloom_wire::{
    ChallengeProof, CoordinatorFrame, Decoded, Dial, Hello, ProviderFrame, Receipt, SnpEvidence, TdxEvidence,
    challenge_digest,
};
use futures_util::{SinkExt as _, StreamExt};
use serde_json::Value;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

/// Each figure is from so long a run.
const RUN: Duration = Duration::from_secs(2);
const NETWORK: NetworkId = NetworkId([1; 32]);

/// How often something can be done a second by so many threads at once.
fn rate(threads: usize, work: &(impl Fn() + Sync)) -> f64 {
    let one = || {
        let (began, mut done) = (Instant::now(), 0_u32);
        while began.elapsed() < RUN {
            work();
            done += 1;
        }
        f64::from(done) / began.elapsed().as_secs_f64()
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        all.into_iter().map(|thread| thread.join().expect("the work does not panic")).sum()
    })
}

fn report(what: &str, work: impl Fn() + Sync) {
    let (one, two) = (rate(1, &work), rate(2, &work));
    println!("{what:<58}{one:>12.0}{two:>12.0}{:>12.1}", 1_000_000.0 / one);
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::path::PathBuf::from(std::env::args().nth(1).ok_or("give docs/vectors")?);
    let recorded = |name: &str| -> Result<Value, Box<dyn std::error::Error>> {
        Ok(serde_json::from_str(&std::fs::read_to_string(folder.join(name))?)?)
    };
    println!("{:<58}{:>12}{:>12}{:>12}", "", "1 thread /s", "2 threads /s", "µs each");
    statements()?;
    evidence(&recorded("tpm-evidence.json")?)?;
    reports(&recorded("snp-reports.json")?)?;
    quotes(&recorded("tdx-quotes.json")?)?;
    receipts()?;
    introductions()
}

/// Round trips between a coordinator and a provider over a socket of this machine, one after the other: from the provider's
/// first word to the coordinator's, and from the answer to its challenge to the verdict, which is when both are written down.
fn introductions() -> Result<(), Box<dyn std::error::Error>> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir()?;
    let runtime = tokio::runtime::Runtime::new()?;
    let config = CoordinatorConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        data: folder.path().to_owned(),
        tier_min: Tier::None,
        tpm_roots: Roots::default(),
        database: None,
        key_secret: None,
        terms: darkbloom_coordinator::Terms::default(),
        metrics: None,
    };
    runtime.block_on(async {
        let coordinator = Coordinator::start(config).await?;
        let made = reqwest::Client::new()
            .post(format!("http://{}/admin/v1/keys", coordinator.address))
            .bearer_auth(coordinator.admin_key.as_ref().ok_or("no key")?.expose())
            .body(r#"{"kind": "join", "account": null, "name": "bench"}"#)
            .send()
            .await?;
        let made: Value = serde_json::from_str(&made.text().await?)?;
        let token = SecretString::from(made["key"].as_str().ok_or("no token")?);
        let key = SoftwareKey::in_memory()?;
        let epoch = Epoch::begin(key.public_point(), now(), &mut rng());
        let statement = epoch.statement(coordinator.network, Vec::new(), Vec::new(), "darkbloom/1.0.0").sign(&key)?;
        let (mut questions, mut answers) = (Vec::new(), Vec::new());
        let until = Instant::now() + 2 * RUN;
        while Instant::now() < until {
            let (mut socket, _) = connect_async(format!("ws://{}/v1/provider", coordinator.address)).await?;
            let began = Instant::now();
            socket.send(Message::binary(ProviderFrame::from(Dial { nonce: [1; 32] }).encode())).await?;
            let CoordinatorFrame::Welcome(welcome) = next(&mut socket).await? else { return Err("no welcome".into()) };
            questions.push(began.elapsed());
            let began = Instant::now();
            let digest = challenge_digest(&coordinator.network, &welcome.nonce, &welcome.connection, &epoch.id());
            let hello = Hello {
                statement: statement.clone(),
                proof: ChallengeProof { digest }.sign(&key)?,
                join_token: Some(token.clone()),
                models: Vec::new().into(),
                capabilities: Vec::new().into(),
                epoch_proof: ChallengeProof { digest }.sign(&*epoch.receipt_key())?,
                presence: Vec::new().into(),
                hardware: None,
            };
            socket.send(Message::binary(ProviderFrame::from(hello).encode())).await?;
            while !matches!(next(&mut socket).await?, CoordinatorFrame::VerdictNotice(_)) {}
            answers.push(began.elapsed());
        }
        println!();
        for (what, mut took) in [("dial to welcome", questions), ("challenge's answer to verdict", answers)] {
            took.sort_unstable();
            let (median, late) = (took[took.len() / 2].as_micros(), took[took.len() * 99 / 100].as_micros());
            println!("{what:<58}{:>12} times, median {median} µs, 99th of 100 {late} µs", took.len());
        }
        coordinator.stop().await;
        Ok(())
    })
}

async fn next<S>(socket: &mut S) -> Result<CoordinatorFrame, Box<dyn std::error::Error>>
where
    S: StreamExt<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin,
{
    loop {
        let message = socket.next().await.ok_or("the coordinator hung up")??;
        if let Message::Binary(bytes) = message
            && let Ok(Decoded::Known(frame, _)) = CoordinatorFrame::decode(&bytes)
        {
            return Ok(frame);
        }
    }
}

fn statements() -> Result<(), Box<dyn std::error::Error>> {
    let key = SoftwareKey::in_memory()?;
    let identity = key.public_point();
    let epoch = Epoch::begin(identity, now(), &mut rng());
    let statement = epoch.statement(NETWORK, vec![CatalogueDigest([2; 32])], Vec::new(), "darkbloom/1.0.0");
    let signed = statement.sign(&key)?;
    let policy = TrustPolicy {
        network: NETWORK,
        tier_min: Tier::None,
        pinned: BTreeSet::new(),
        hardware: HardwareTrust::default(),
    };
    let at = now();
    report("verify a statement of a software key", || {
        verify_statement(&signed, &policy, at).expect("it is good");
    });
    let verdict = verify_statement(&signed, &policy, at)?;
    let (connection, nonce) = (ConnectionId([3; 16]), [4; 32]);
    let proof = ChallengeProof { digest: challenge_digest(&NETWORK, &nonce, &connection, &verdict.epoch) };
    let answer = proof.sign(&key)?;
    report("answer a challenge with a software key", || drop(proof.sign(&key).expect("it signs")));
    report("verify a challenge's answer", || {
        verify_challenge(&answer, &verdict.statement, &[nonce], &connection).expect("it is good");
    });
    report("begin an epoch: its keys and its signed statement", || {
        let epoch = Epoch::begin(identity, now(), &mut rng());
        let statement = epoch.statement(NETWORK, vec![CatalogueDigest([2; 32])], Vec::new(), "darkbloom/1.0.0");
        statement.sign(&key).expect("it signs");
    });
    Ok(())
}

fn evidence(recorded: &Value) -> Result<(), Box<dyn std::error::Error>> {
    let bytes = |value: &Value| hex::decode(value.as_str().unwrap_or_default());
    let roots = recorded["roots"].as_array().into_iter().flatten().map(bytes).collect::<Result<Vec<_>, _>>()?;
    let roots = Roots::read(roots.iter().map(Vec::as_slice))?;
    let array = |value: &Value| bytes(value).map_err(|error| error.to_string());
    let activator: [u8; 65] = array(&recorded["activator"])?.try_into().map_err(|_| "an activator has 65 bytes")?;
    let identity: [u8; 65] = array(&recorded["identity"])?.try_into().map_err(|_| "an identity has 65 bytes")?;
    let nonce = Digest(array(&recorded["nonce"])?.try_into().map_err(|_| "a nonce has 32 bytes")?);
    let evidence = array(&recorded["evidence"])?;
    let at = UnixMillis(recorded["time"].as_i64().ok_or("no time")?);
    let activators = vec![(activator, ActivatorKind::Independent)];
    let trust = HardwareTrust { tpm_roots: roots.into(), activators, ..HardwareTrust::default() };
    report("verify evidence of a TPM (chain, certify, quote)", || {
        verify_tpm(&evidence, &identity, &nonce, &trust, at).expect("it is good");
    });
    Ok(())
}

/// Reports of real processors, which are about something else than keys of a provider: that is found out last.
fn reports(recorded: &Value) -> Result<(), Box<dyn std::error::Error>> {
    for real in recorded["real"].as_array().ok_or("a list")? {
        let bytes = |name: &str| hex::decode(real[name].as_str().unwrap_or_default());
        let intermediates = vec![bytes("intermediate")?].into();
        let evidence = SnpEvidence { report: bytes("report")?, chip: bytes("chip")?, intermediates }.encode();
        let at = UnixMillis(real["time"].as_i64().ok_or("no time")?);
        let roots = HardwareTrust::default().amd_roots;
        let what = format!("verify a report of SEV-SNP ({})", real["product"].as_str().unwrap_or_default());
        report(&what, || {
            let found = verify_snp(&evidence, &Digest([0; 32]), &roots, at);
            assert_eq!(found.err(), Some(SnpError::OtherSubject), "all but the last check holds");
        });
    }
    Ok(())
}

/// A real quote with what Intel said about it.
fn quotes(recorded: &Value) -> Result<(), Box<dyn std::error::Error>> {
    let real = &recorded["real"][0];
    let bytes = |name: &str| hex::decode(real[name].as_str().unwrap_or_default());
    let signature = |name: &str| bytes(name).map(|bytes| bytes.try_into().unwrap_or([0; 64]));
    let evidence = TdxEvidence {
        quote: bytes("quote")?,
        tcb_info: bytes("tcb_info")?,
        tcb_info_signature: signature("tcb_info_signature")?,
        qe_identity: bytes("qe_identity")?,
        qe_identity_signature: signature("qe_identity_signature")?,
        signer: bytes("signer")?,
        platform_crl: bytes("platform_crl")?,
        root_crl: bytes("root_crl")?,
    }
    .encode();
    let at = UnixMillis(real["time"].as_i64().ok_or("no time")?);
    let roots = HardwareTrust::default().intel_roots;
    report("verify a quote of TDX (chain, lists, levels, quote)", || {
        let found = verify_tdx(&evidence, &Digest([0; 32]), &roots, at);
        assert_eq!(found.err(), Some(TdxError::OtherSubject), "all but the last check holds");
    });
    Ok(())
}

fn receipts() -> Result<(), Box<dyn std::error::Error>> {
    let epoch = Epoch::begin([4; 65], now(), &mut rng());
    let key = epoch.receipt_key();
    let receipt = Receipt {
        request: Digest([1; 32]),
        request_id: RequestId([2; 16]),
        attempt: AttemptNumber(1),
        transcript: Digest([3; 32]),
        model: CatalogueDigest([4; 32]),
        weights: Digest([5; 32]),
        provider: ProviderId([6; 32]),
        epoch: epoch.id(),
        input_tokens: TokenCount(10),
        output_tokens: TokenCount(20),
        queue_us: Micros(1),
        prefill_us: Micros(2),
        decode_us: Micros(3),
        finished_at: now(),
    };
    report("sign a receipt", || drop(receipt.sign(&*key).expect("it signs")));
    let signed = receipt.sign(&*key)?;
    let public = key.verifying_key().to_bytes();
    let seen = ReceiptExpectation {
        request: receipt.request,
        request_id: receipt.request_id,
        attempt: receipt.attempt,
        transcript: Some(receipt.transcript),
        model: receipt.model,
        weights: Some(receipt.weights),
        provider: receipt.provider,
        epoch: receipt.epoch,
        input_ceiling: receipt.input_tokens,
        output_tokens: Some(receipt.output_tokens),
    };
    report("check a receipt", || {
        check_receipt(&signed, &public, &seen).expect("it is good");
    });
    Ok(())
}
