//! Verdicts on everything that is recorded in `docs/vectors`, as it stands there and with bytes changed: for comparing builds.
//! A profile, a flag or a variable of the environment that changes one of them changes what is printed.
//!
//! `cargo run -p darkbloom-attest --example verdicts docs`

#![allow(clippy::print_stdout, reason = "what is compared")]

use std::path::PathBuf;

use darkbloom_attest::{
    ActivatorKind, HardwareTrust, Policy, Roots, TrustPolicy, verify_apple_app_attest, verify_apple_mda, verify_snp,
    verify_statement, verify_tdx, verify_tpm,
};
use darkbloom_types::{Digest, NetworkId, ProviderId, Tier, UnixMillis};
use darkbloom_wire::{SnpEvidence, Statement, TdxEvidence};
use serde_json::Value;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

struct Vectors(PathBuf);

impl Vectors {
    fn read(&self, name: &str) -> Outcome<Value> {
        Ok(serde_json::from_str(&std::fs::read_to_string(self.0.join("vectors").join(name))?)?)
    }
}

fn bytes(value: &Value) -> Outcome<Vec<u8>> {
    Ok(hex::decode(value.as_str().ok_or("no text")?)?)
}

fn array<const N: usize>(value: &Value) -> Outcome<[u8; N]> {
    bytes(value)?.try_into().map_err(|_| "another length".into())
}

fn time(value: &Value) -> Outcome<UnixMillis> {
    Ok(UnixMillis(value["time"].as_i64().ok_or("no time")?))
}

/// What is said of these bytes, and of the same with every so many of them changed.
fn each(what: &str, good: &[u8], verdict: impl Fn(&[u8]) -> String) {
    println!("{what}: {}", verdict(good));
    let step = (good.len() / 40).max(1);
    for at in (0..good.len()).step_by(step) {
        let mut changed = good.to_vec();
        changed[at] ^= 1 << (at % 8);
        println!("{what}, byte {at}: {}", verdict(&changed));
    }
}

fn statements(vectors: &Vectors) -> Outcome<()> {
    // The recorded one has values that were drawn at random, and holds nowhere: this one does, but for what is changed of it.
    let recorded = Statement::open_self_signed(&bytes(&vectors.read("statement.json")?["signed"])?)?;
    let key = p256::ecdsa::SigningKey::from_slice(&[7; 32])?;
    let statement = Statement { successions: Vec::new().into(), sealing_key: vec![0; 1_216], ..recorded };
    let signed = statement.sign(&key)?;
    let page = std::fs::read_to_string(vectors.0.join("policy.md"))?;
    let (_, example) = page.split_once("```toml\n").ok_or("no example")?;
    let operators = Policy::parse(example.split("```").next().unwrap_or_default())?;
    let minutes = |minutes: i64| UnixMillis(statement.not_before.0 + minutes * 60_000);
    for tier_min in Tier::ALL {
        for pinned in [vec![], vec![statement.provider()], vec![ProviderId([9; 32])]] {
            for network in [statement.network, NetworkId([9; 32])] {
                let hardware = HardwareTrust::default();
                let policy = TrustPolicy { network, tier_min, pinned: pinned.iter().copied().collect(), hardware };
                for now in [-11, -1, 0, 30, 59, 60, 71].map(minutes) {
                    let verdict = verify_statement(&signed, &policy, now);
                    let judged = verdict
                        .as_ref()
                        .map(|verdict| (policy.admits(verdict), verdict.undefended(), operators.assess(verdict)));
                    println!("{tier_min:?} {pinned:?} {network:?} {now:?}: {verdict:?} {judged:?}");
                }
            }
        }
    }
    let anybody = TrustPolicy {
        network: statement.network,
        tier_min: Tier::None,
        pinned: Default::default(),
        hardware: HardwareTrust::default(),
    };
    verify_statement(&signed, &anybody, minutes(1))?;
    each("statement", &signed, |signed| format!("{:?}", verify_statement(signed, &anybody, minutes(1))));
    Ok(())
}

fn hardware(vectors: &Vectors) -> Outcome<()> {
    let tpm = vectors.read("tpm-evidence.json")?;
    let (identity, nonce, at) = (array(&tpm["identity"])?, Digest(array(&tpm["nonce"])?), time(&tpm)?);
    let roots = tpm["roots"].as_array().ok_or("no list")?.iter().map(bytes).collect::<Outcome<Vec<_>>>()?;
    for kind in [ActivatorKind::Independent, ActivatorKind::Coordinator] {
        let trust = HardwareTrust {
            tpm_roots: Roots::read(roots.iter().map(Vec::as_slice))?.into(),
            activators: vec![(array(&tpm["activator"])?, kind)],
            ..HardwareTrust::default()
        };
        each("TPM", &bytes(&tpm["evidence"])?, |evidence| {
            format!("{:?}", verify_tpm(evidence, &identity, &nonce, &trust, at))
        });
    }
    for real in vectors.read("snp-reports.json")?["real"].as_array().ok_or("no list")? {
        let (report, chip, at) = (bytes(&real["report"])?, bytes(&real["chip"])?, time(real)?);
        let intermediates = vec![bytes(&real["intermediate"])?];
        let roots = HardwareTrust::default().amd_roots;
        each("SEV-SNP", &report, |report| {
            let (report, chip, intermediates) = (report.to_vec(), chip.clone(), intermediates.clone().into());
            let evidence = SnpEvidence { report, chip, intermediates };
            format!("{:?}", verify_snp(&evidence.encode(), &Digest([0; 32]), &roots, at))
        });
    }
    for real in vectors.read("tdx-quotes.json")?["real"].as_array().ok_or("no list")? {
        let evidence = TdxEvidence {
            quote: bytes(&real["quote"])?,
            tcb_info: bytes(&real["tcb_info"])?,
            tcb_info_signature: array(&real["tcb_info_signature"])?,
            qe_identity: bytes(&real["qe_identity"])?,
            qe_identity_signature: array(&real["qe_identity_signature"])?,
            signer: bytes(&real["signer"])?,
            platform_crl: bytes(&real["platform_crl"])?,
            root_crl: bytes(&real["root_crl"])?,
        };
        let (roots, at) = (HardwareTrust::default().intel_roots, time(real)?);
        each("TDX", &evidence.quote, |quote| {
            let evidence = TdxEvidence { quote: quote.to_vec(), ..evidence.clone() };
            format!("{:?}", verify_tdx(&evidence.encode(), &Digest([0; 32]), &roots, at))
        });
    }
    let apple = vectors.read("apple-evidence.json")?;
    let roots = std::sync::Arc::new(Roots::read([&bytes(&apple["root"])?[..]])?);
    let (identity, nonce, at) = (array(&apple["identity"])?, Digest(array(&apple["nonce"])?), time(&apple)?);
    let trust = HardwareTrust {
        apple_enterprise_roots: std::sync::Arc::clone(&roots),
        apple_app_attest_roots: roots,
        apple_app_id: apple["app"].as_str().map(str::to_owned),
        ..HardwareTrust::default()
    };
    each("Apple MDA", &bytes(&apple["mda"])?, |evidence| {
        format!("{:?}", verify_apple_mda(evidence, &identity, &trust.apple_enterprise_roots, at))
    });
    each("Apple App Attest", &bytes(&apple["app_attest"])?, |evidence| {
        format!("{:?}", verify_apple_app_attest(evidence, &identity, &nonce, &trust, at))
    });
    Ok(())
}

fn main() -> Outcome<()> {
    let vectors = Vectors(std::env::args().nth(1).ok_or("give the folder `docs`")?.into());
    statements(&vectors)?;
    hardware(&vectors)
}
