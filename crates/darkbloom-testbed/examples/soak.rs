//! A network under load for a while, in one process, and whether it keeps its promises: clients that ask for short and
//! long answers, hang up, bring wrong keys; providers that come and go; a coordinator that restarts in between.
//!
//! `cargo run --release -p darkbloom-testbed --example soak -- [SECONDS] [CLIENTS] [MODEL.gguf]`
//!
//! It exits with failure when an answer is wrong, a refusal has a reason that nothing here explains, a wrong key is
//! served, a row or a hold stays taken, the books do not add up, a file descriptor leaks, or memory keeps growing.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use darkbloom_client::{CANDIDATES_DEFAULT, Client, Config as ClientConfig, HardwareTrust, Operation, Part, Roots};
use darkbloom_coordinator::{Config as CoordinatorConfig, Coordinator};
use darkbloom_provider::{Config as ProviderConfig, EvidenceConfig, KeyConfig, ModelConfig, Provider, weights_of_file};
use darkbloom_testbed::sampled_request;
use darkbloom_text::TextPack;
use darkbloom_types::{NetworkId, ProviderId, RefusalCode, SecretString, Tier};
use serde_json::{Value, json};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// The name of the model in this network.
const MODEL: &str = "model";
/// Rows of each provider: half as many as there are clients by default, so that the queue is used too.
const ROWS: usize = 2;
/// Providers.
const PROVIDERS: usize = 2;
/// What the model that ships answers without chance, and the answer.
const QUESTION: (&str, &str) = ("What is 17 + 25?", "42");
/// How long after the load rows and holds may take to be free: a coordinator notices a lost provider after 35 s, and
/// sweeps every few seconds.
const IDLE_WAIT: Duration = Duration::from_secs(60);
/// What a client waits after a refusal before it asks again.
const PAUSE: Duration = Duration::from_millis(50);
/// How much the resident memory may grow in the second half: it is a median of samples, of a process that loads a model
/// of 2.6 MB again and again, whose allocator keeps what it once had, and whose database fills its cache.
const GROWTH_MAX_BYTES: i64 = 24 << 20;
/// Reasons that nothing in this load explains: each is a defect.
const NEVER: [RefusalCode; 7] = [
    RefusalCode::Internal,
    RefusalCode::VerificationFailed,
    RefusalCode::CannotOpen,
    RefusalCode::WrongNetwork,
    RefusalCode::Replayed,
    RefusalCode::ClockSkew,
    RefusalCode::InsufficientQuota,
];

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let seconds: u64 = arguments.next().map_or(Ok(120), |text| text.parse())?;
    let clients: usize = arguments.next().map_or(Ok(8), |text| text.parse())?;
    let model = arguments.next().map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models/darkbloom-tiny-q8_0.gguf"),
        PathBuf::from,
    );
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let broken = runtime.block_on(soak(&model, Duration::from_secs(seconds), clients.max(1)))?;
    if broken.is_empty() { Ok(()) } else { Err(format!("broken promises: {}", broken.join("; ")).into()) }
}

/// What is reported and judged, a line each.
#[derive(Default)]
struct Report {
    broken: Vec<String>,
}

impl Report {
    fn line(&self, name: &str, value: impl std::fmt::Display) -> std::io::Result<()> {
        writeln!(std::io::stdout().lock(), "{name:<34} {value}")
    }

    fn promise(&mut self, holds: bool, broken: impl Into<String>) {
        if !holds {
            self.broken.push(broken.into());
        }
    }
}

async fn soak(model: &Path, length: Duration, clients: usize) -> Outcome<Vec<String>> {
    let bed = Bed::make(model).await?;
    // The bed was up once: what a process opens once and keeps is open now.
    let files_before = settled_files(usize::MAX).await;
    let mut report = Report::default();
    report.line("seconds", length.as_secs())?;
    report.line("clients, providers, rows each", format_args!("{clients}, {PROVIDERS}, {ROWS}"))?;

    let coordinator = bed.coordinator().await?;
    let mut providers = Vec::new();
    for index in 0..PROVIDERS {
        providers.push(Provider::start(bed.provider(index, None)).await?);
    }
    bed.wait_eligible(PROVIDERS).await?;

    let tally = Arc::new(Tally::default());
    let end = Instant::now() + length;
    let samples = tokio::spawn(sample(end));
    let asking: Vec<_> =
        (0..clients).map(|number| tokio::spawn(ask_until(end, number, bed.clone(), Arc::clone(&tally)))).collect();
    let coming: Vec<_> = (0..)
        .zip(providers)
        .map(|(index, provider)| tokio::spawn(come_and_go(end, index, provider, bed.clone(), Arc::clone(&tally))))
        .collect();
    let coordinator = restart_between(end, length, coordinator, &bed, &tally).await?;
    for task in asking {
        task.await??;
    }
    let mut providers = Vec::new();
    for task in coming {
        providers.push(task.await??);
    }
    let samples = samples.await?;

    judge_answers(&tally, length, &mut report)?;
    judge_idle(&bed, &mut report).await?;
    judge_memory(&samples, &mut report)?;
    for provider in providers {
        provider.stop().await;
    }
    coordinator.stop().await;
    judge_files(&samples, files_before, &mut report).await?;
    Ok(report.broken)
}

// ---- the network --------------------------------------------------------------------------------------------------

/// Everything that outlives a restart: folders, keys, the address.
#[derive(Clone)]
struct Bed {
    folder: Arc<tempfile::TempDir>,
    model: PathBuf,
    address: SocketAddr,
    network: NetworkId,
    admin_key: SecretString,
    consumer_key: SecretString,
    providers: BTreeSet<ProviderId>,
    http: reqwest::Client,
}

impl Bed {
    /// Starts everything once, makes accounts and identities, has one answer, and stops everything.
    async fn make(model: &Path) -> Outcome<Self> {
        let folder = Arc::new(tempfile::tempdir()?);
        let config = coordinator_config(folder.path(), ([127, 0, 0, 1], 0).into());
        let coordinator = Coordinator::start(config).await?;
        let mut bed = Self {
            folder,
            model: model.to_owned(),
            address: coordinator.address,
            network: coordinator.network,
            admin_key: coordinator.admin_key.clone().ok_or("a first start shows the administrator's key")?,
            consumer_key: SecretString::default(),
            providers: BTreeSet::new(),
            // Nothing is kept open between requests, so that open files can be counted.
            http: reqwest::Client::builder().pool_max_idle_per_host(0).build()?,
        };
        let pack = TextPack::from_gguf(std::io::BufReader::new(std::fs::File::open(model)?))?;
        let blob = bed.send("PUT", "/admin/v1/blobs", "application/octet-stream", pack.to_bytes()).await?;
        let entry = json!({
            "name": MODEL, "weights": weights_of_file(model)?, "text_pack": blob["digest"],
            "context": pack.context_length(), "quantisation": "as in the file", "price_version": 1,
            "input_nano_per_token": 1, "output_nano_per_token": 1,
        });
        bed.json("PUT", "/admin/v1/catalogue", &entry).await?;
        bed.json("POST", "/admin/v1/accounts", &json!({"name": "soak"})).await?;
        let deposit = json!({"account": "soak", "amount_nano_usd": 1_000_000_000_000_i64, "reference": "soak"});
        bed.json("POST", "/admin/v1/deposits", &deposit).await?;
        bed.consumer_key = bed.key("consumer", Some("soak")).await?;
        let mut providers = Vec::new();
        for index in 0..PROVIDERS {
            let token = bed.key("join", None).await?;
            let provider = Provider::start(bed.provider(index, Some(token))).await?;
            bed.providers.insert(provider.id);
            providers.push(provider);
        }
        bed.wait_eligible(PROVIDERS).await?;
        let mut answer = bed.client()?.chat(bed.operation(QUESTION.0, 16, &bed.consumer_key)).await?;
        while answer.parts.recv().await.is_some() {}
        for provider in providers {
            provider.stop().await;
        }
        coordinator.stop().await;
        Ok(bed)
    }

    async fn coordinator(&self) -> Outcome<Coordinator> {
        Ok(Coordinator::start(coordinator_config(self.folder.path(), self.address)).await?)
    }

    fn provider(&self, index: usize, join_token: Option<SecretString>) -> ProviderConfig {
        ProviderConfig {
            coordinator: format!("http://{}", self.address),
            network: Some(self.network),
            join_token,
            data: self.folder.path().join(format!("provider-{index}")),
            keys: KeyConfig::software(),
            evidence: EvidenceConfig::default(),
            activators: Vec::new(),
            hardening: Vec::new(),
            models: vec![ModelConfig {
                rows: Some(ROWS),
                row_tokens: Some(512),
                threads: Some(1),
                ..ModelConfig::new(self.model.clone())
            }],
            memory: None,
            idle_unload: None,
        }
    }

    fn client(&self) -> Outcome<Client> {
        Ok(Client::new(ClientConfig {
            coordinator: format!("http://{}", self.address),
            network: Some(self.network),
            pin_file: None,
            tier_min: Tier::Hardware,
            pinned: self.providers.clone(),
            hardware: HardwareTrust::default(),
            candidates: CANDIDATES_DEFAULT,
            receipts: None,
        })?)
    }

    fn operation(&self, prompt: &str, output: u32, key: &SecretString) -> Operation {
        Operation {
            key: key.clone(),
            model: MODEL.to_owned(),
            request: sampled_request(prompt, 0.0),
            stream: true,
            max_output_tokens: Some(output),
            idempotency_key: None,
            parse: Duration::ZERO,
        }
    }

    async fn send(&self, method: &str, path: &str, kind: &str, body: Vec<u8>) -> Outcome<Value> {
        let request = self.http.request(method.parse()?, format!("http://{}{path}", self.address));
        let request = request.bearer_auth(self.admin_key.expose()).header("content-type", kind).body(body);
        let response = request.send().await?;
        let ok = response.status().is_success();
        let value: Value = serde_json::from_slice(&response.bytes().await?).unwrap_or(Value::Null);
        if ok { Ok(value) } else { Err(format!("{method} {path} was refused: {value}").into()) }
    }

    async fn json(&self, method: &str, path: &str, body: &Value) -> Outcome<Value> {
        self.send(method, path, "application/json", body.to_string().into_bytes()).await
    }

    async fn key(&self, kind: &str, account: Option<&str>) -> Outcome<SecretString> {
        let asked = json!({"kind": kind, "account": account, "name": kind});
        let answer = self.json("POST", "/admin/v1/keys", &asked).await?;
        Ok(answer["key"].as_str().map(SecretString::from).ok_or("no key in the answer")?)
    }

    /// How many providers are eligible, and how many rows and places in their queues are taken.
    async fn providers_now(&self) -> Outcome<(usize, u64)> {
        let answer = self.json("GET", "/admin/v1/providers", &Value::Null).await?;
        let (mut eligible, mut taken) = (0, 0);
        for provider in answer["data"].as_array().into_iter().flatten() {
            eligible += usize::from(provider["eligible"] == true);
            for model in provider["models"].as_array().into_iter().flatten() {
                taken += model["rows_used"].as_u64().unwrap_or(0) + model["waiting"].as_u64().unwrap_or(0);
            }
        }
        Ok((eligible, taken))
    }

    async fn wait_eligible(&self, wanted: usize) -> Outcome<()> {
        let until = Instant::now() + IDLE_WAIT;
        while self.providers_now().await?.0 < wanted {
            if Instant::now() > until {
                return Err(format!("not all of {wanted} providers became eligible").into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Whether the books add up, and how many holds are open.
    async fn audit(&self) -> Outcome<(bool, u64)> {
        let answer = self.json("GET", "/admin/v1/audit", &Value::Null).await?;
        Ok((answer["clean"] == true, answer["open_holds"].as_u64().unwrap_or(u64::MAX)))
    }
}

fn coordinator_config(folder: &Path, listen: SocketAddr) -> CoordinatorConfig {
    CoordinatorConfig {
        listen,
        data: folder.join("coordinator"),
        tier_min: Tier::None,
        tpm_roots: Roots::default(),
        database: None,
        key_secret: None,
        terms: darkbloom_coordinator::Terms::default(),
        metrics: None,
    }
}

// ---- the load -----------------------------------------------------------------------------------------------------

/// What happened, by name.
#[derive(Default)]
struct Tally(Mutex<BTreeMap<String, u64>>);

impl Tally {
    fn count(&self, what: impl Into<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(what.into()).or_default() += 1;
    }

    fn all(&self) -> BTreeMap<String, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Marsaglia's xorshift (Journal of Statistical Software 8, 2003): enough to mix kinds of requests, the same each time.
struct Mix(u64);

impl Mix {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// One client asks until the end, one request after another.
async fn ask_until(end: Instant, number: usize, bed: Bed, tally: Arc<Tally>) -> Outcome<()> {
    let mut mix = Mix(number as u64 + 1);
    // A client a tenth of the way, so that caches are filled and thrown away.
    let mut client = bed.client()?;
    let wrong = SecretString::from("dbk-0000000000000000000000000000000000000000");
    while Instant::now() < end {
        match mix.below(100) {
            0..50 => whole(&client, bed.operation(QUESTION.0, 16, &bed.consumer_key), Some(QUESTION.1), &tally).await,
            50..70 => {
                let counting = bed.operation("Count from 1 to 12.", 200, &bed.consumer_key);
                whole(&client, counting, None, &tally).await;
            }
            70..80 => hang_up(&client, bed.operation("Count from 1 to 12.", 200, &bed.consumer_key), &tally).await,
            80..88 => {
                let wait = Duration::from_millis(mix.below(40));
                let asked = client.chat(bed.operation("Count from 1 to 12.", 200, &bed.consumer_key));
                let outcome =
                    if tokio::time::timeout(wait, asked).await.is_ok() { "gone at once" } else { "gone early" };
                tally.count(outcome);
            }
            88..93 => match client.chat(bed.operation(QUESTION.0, 16, &wrong)).await {
                Ok(_) => tally.count("BROKEN: a wrong key was served"),
                Err(failed) => tally.count(format!("wrong key: {}", failed.refusal.code.name())),
            },
            93..96 => {
                let mut unknown = bed.operation(QUESTION.0, 16, &bed.consumer_key);
                unknown.model = "nobody has this".to_owned();
                match client.chat(unknown).await {
                    Ok(_) => tally.count("BROKEN: a model that nobody has answered"),
                    Err(failed) => tally.count(format!("unknown model: {}", failed.refusal.code.name())),
                }
            }
            96..99 => {
                let long = bed.operation(&"many words ".repeat(2_000), 16, &bed.consumer_key);
                match client.chat(long).await {
                    Ok(_) => tally.count("BROKEN: a prompt over the context was answered"),
                    Err(failed) => tally.count(format!("prompt too long: {}", failed.refusal.code.name())),
                }
            }
            _ => client = bed.client()?,
        }
    }
    Ok(())
}

/// Reads an answer to its end.
async fn whole(client: &Client, operation: Operation, expected: Option<&str>, tally: &Tally) {
    let mut answer = match client.chat(operation).await {
        Ok(answer) => answer,
        Err(failed) => {
            refused("refused", failed.refusal.code, tally);
            // As a program would: not at once again.
            return tokio::time::sleep(PAUSE).await;
        }
    };
    let mut text = SecretString::default();
    loop {
        match answer.parts.recv().await {
            Some(Part::Text(piece)) => text.push_str(piece.expose()),
            // The models here neither think nor call.
            Some(Part::Reasoning(_) | Part::Call(_) | Part::Arguments(_)) => {}
            Some(Part::Completed(_)) if expected.is_some_and(|expected| expected != text.expose()) => {
                return tally.count("BROKEN: a wrong answer");
            }
            Some(Part::Completed(_)) => return tally.count("answered"),
            Some(Part::Failed(failed)) => return refused("failed", failed.refusal.code, tally),
            None => return tally.count("BROKEN: an answer without an end"),
        }
    }
}

/// Goes away after the first content.
async fn hang_up(client: &Client, operation: Operation, tally: &Tally) {
    match client.chat(operation).await {
        Ok(mut answer) => {
            let _ = answer.parts.recv().await;
            tally.count("hung up");
        }
        Err(failed) => refused("refused", failed.refusal.code, tally),
    }
}

fn refused(how: &str, code: RefusalCode, tally: &Tally) {
    let never = if NEVER.contains(&code) { "BROKEN: " } else { "" };
    tally.count(format!("{never}{how}: {}", code.name()));
}

/// A provider that stops and starts again, at another pace than the others.
async fn come_and_go(end: Instant, index: usize, provider: Provider, bed: Bed, tally: Arc<Tally>) -> Outcome<Provider> {
    let mut provider = provider;
    let stay = Duration::from_secs(9 + 5 * index as u64);
    while Instant::now() + stay < end {
        tokio::time::sleep(stay).await;
        provider.stop().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        provider = Provider::start(bed.provider(index, None)).await?;
        tally.count("provider restarts");
    }
    Ok(provider)
}

/// Restarts the coordinator after a third and after two thirds of the time: whatever is connected must come back.
async fn restart_between(
    end: Instant,
    length: Duration,
    mut coordinator: Coordinator,
    bed: &Bed,
    tally: &Tally,
) -> Outcome<Coordinator> {
    for before_end in [length * 2 / 3, length / 3] {
        tokio::time::sleep_until((end - before_end).into()).await;
        let began = Instant::now();
        coordinator.stop().await;
        // A stop that returned has let go of the folder.
        coordinator = bed.coordinator().await?;
        tally.count("coordinator restarts");
        tally.count(format!("coordinator was away for {} s", began.elapsed().as_secs()));
    }
    Ok(coordinator)
}

// ---- what is judged -----------------------------------------------------------------------------------------------

fn judge_answers(tally: &Tally, length: Duration, report: &mut Report) -> Outcome<()> {
    let all = tally.all();
    for (name, count) in &all {
        report.line(name, count)?;
        report.promise(!name.starts_with("BROKEN"), format!("{name} ({count})"));
        let served = name.starts_with("wrong key") && !name.ends_with("invalid_api_key");
        let explained = name.ends_with("coordinator_unreachable") || name.ends_with("draining");
        report.promise(!served || explained, format!("{name} ({count})"));
    }
    let answered = all.get("answered").copied().unwrap_or(0);
    report.promise(answered >= length.as_secs(), format!("only {answered} answers in {} s", length.as_secs()));
    Ok(())
}

/// Rows, places in queues and holds must be free when nobody asks any more.
async fn judge_idle(bed: &Bed, report: &mut Report) -> Outcome<()> {
    let began = Instant::now();
    loop {
        let ((eligible, taken), (clean, open)) = (bed.providers_now().await?, bed.audit().await?);
        let idle = eligible == PROVIDERS && taken == 0 && clean && open == 0;
        if idle || began.elapsed() > IDLE_WAIT {
            report.line("idle after the load, s", format_args!("{:.1}", began.elapsed().as_secs_f64()))?;
            report.line("providers eligible at the end", eligible)?;
            report.line("rows and places taken at the end", taken)?;
            report.line("books balance", clean)?;
            report.line("open holds at the end", open)?;
            report.promise(eligible == PROVIDERS, "a provider did not come back");
            report.promise(taken == 0, format!("{taken} rows or places stay taken"));
            report.promise(clean, "the books do not add up");
            report.promise(open == 0, format!("{open} holds stay open"));
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn judge_memory(samples: &[Sample], report: &mut Report) -> Outcome<()> {
    let tenth = (samples.len() / 10).max(1);
    let median = |from: usize| {
        let mut part: Vec<_> = samples.iter().skip(from).take(tenth).map(|sample| sample.resident).collect();
        part.sort_unstable();
        part.get(part.len() / 2).copied().unwrap_or(0)
    };
    // The first tenth fills caches and pools.
    let (start, middle) = (median(tenth), median(samples.len() / 2));
    let end = median(samples.len() - tenth.min(samples.len()));
    let mebibytes = |bytes: i64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
    report.line("resident MiB: start, middle, end", [start, middle, end].map(mebibytes).join(", "))?;
    report.line("growth in the second half, MiB", mebibytes(end - middle))?;
    report.promise(end - middle <= GROWTH_MAX_BYTES, "memory keeps growing in the second half");
    Ok(())
}

async fn judge_files(samples: &[Sample], before: usize, report: &mut Report) -> Outcome<()> {
    let most = samples.iter().map(|sample| sample.files).max().unwrap_or(0);
    let after = settled_files(before).await;
    report.line("open files: before, most, after", format_args!("{before}, {most}, {after}"))?;
    report.promise(after <= before, format!("{} files stay open", after.saturating_sub(before)));
    Ok(())
}

/// What the process holds at a moment.
struct Sample {
    resident: i64,
    files: usize,
}

async fn sample(end: Instant) -> Vec<Sample> {
    let mut samples = Vec::new();
    while Instant::now() < end {
        samples.push(Sample { resident: resident_bytes(), files: open_files() });
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    samples
}

/// Resident memory as Linux counts it; zero elsewhere.
fn resident_bytes() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<i64>().unwrap_or(0) << 10
}

/// Open file descriptors as Linux lists them; zero elsewhere.
fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// Open files once they are no more than so many, or when waiting for it has been in vain; connections take a moment to
/// close.
async fn settled_files(wanted: usize) -> usize {
    let until = Instant::now() + Duration::from_secs(10);
    let mut least = usize::MAX;
    while Instant::now() < until {
        let now = open_files();
        least = least.min(now);
        if now <= wanted && wanted != usize::MAX {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    if wanted == usize::MAX { least } else { open_files() }
}
