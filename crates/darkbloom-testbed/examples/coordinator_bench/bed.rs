//! A coordinator with accounts, a model and providers, and a floor with one.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use darkbloom_host::clock::{now, rng};
use darkbloom_testbed::{Admin, floor};
use darkbloom_types::{
    CatalogueDigest, Digest, NanoDollars, NetworkId, OperationId, Price, RequestId, SecretString, Tier, TokenCount,
};
use darkbloom_wire::{ClientFrame, LengthPrefixed, RequestKind, SealedHeader, Suite};
use rand_core::Rng as _;
use serde_json::{Value, json};

use crate::Outcome;
use crate::load::{Consumer, Ready, Seen, http};
use crate::process::Process;
use crate::provider::{self, Identity, Pace, Place, Scripts};

/// Providers that serve: several, so that routing has a choice.
pub const PROVIDERS: usize = 8;
/// Accounts, of which each may have 64 requests at once.
const ACCOUNTS: usize = 32;
/// Frames of one stream on their way in bursts; a coordinator lets 256 wait.
pub const WINDOW: usize = 192;
const PRICE: Price = Price { version: 1, input_nano_per_token: 1, output_nano_per_token: 1 };
const WEIGHTS: Digest = Digest([0x11; 32]);
/// What a client's encoded chat request of some kilobyte is, as far as anybody here sees.
const PLAINTEXT: [u8; 1_000] = [7; 1_000];

/// How an answer comes.
#[derive(Clone, Copy)]
pub enum Rhythm {
    Whole,
    Every(Duration),
    Burst,
}

impl Rhythm {
    fn pace(self) -> Pace {
        match self {
            Self::Whole => Pace::Whole,
            Self::Every(gap) => Pace::Every(gap),
            Self::Burst => Pace::Credit(Arc::new(tokio::sync::Semaphore::new(WINDOW))),
        }
    }
}

/// One side of a comparison.
pub trait Side {
    fn process(&self) -> &Process;
    /// Requests that are ready to be sent, each with its answer.
    fn ready(&self, count: usize, frames: u32, rhythm: Rhythm) -> Outcome<Vec<Ready>>;
}

/// The real coordinator.
pub struct Real {
    // Before the process, whose end would end them.
    _tasks: Tasks,
    pub process: Process,
    pub place: Place,
    providers: Vec<Arc<Identity>>,
    keys: Vec<SecretString>,
    wraps: usize,
    turn: AtomicU64,
    _folder: tempfile::TempDir,
}

impl Real {
    pub async fn start(folder: &Path, wraps: usize) -> Outcome<Self> {
        let folder = tempfile::tempdir_in(folder)?;
        let process = Process::coordinator(folder.path())?;
        let mut network = [0; 32];
        hex::decode_to_slice(process.said("network")?, &mut network)?;
        let admin = Admin::new(format!("http://{}", process.address), process.said("key")?.into());
        let pack = admin.send_bytes("PUT", "/admin/v1/blobs", "application/octet-stream", b"any".to_vec()).await?;
        let entry = json!({
            "name": "model", "weights": WEIGHTS, "text_pack": pack["digest"], "context": 131_072, "quantisation": "Q8_0",
            "price_version": 1, "input_nano_per_token": 1, "output_nano_per_token": 1,
        });
        admin.send("PUT", "/admin/v1/catalogue", &entry).await?;
        let mut keys = Vec::new();
        for number in 0..ACCOUNTS {
            let name = format!("bench-{number}");
            admin.send("POST", "/admin/v1/accounts", &json!({"name": name})).await?;
            let deposit = json!({"account": name, "amount_nano_usd": 1_000_000_000_000_i64, "reference": name});
            admin.send("POST", "/admin/v1/deposits", &deposit).await?;
            keys.push(admin.key("consumer", Some(&name)).await?);
        }
        let listed: Value = serde_json::from_str(
            &reqwest::get(format!("http://{}/v1/catalogue", process.address)).await?.text().await?,
        )?;
        let digest = listed["models"][0]["digest"].as_str().ok_or("no model")?.to_owned();
        let place = Place {
            address: process.address,
            network: NetworkId(network),
            model: CatalogueDigest(digest.parse::<Digest>().map_err(|_| "no digest")?.0),
            weights: WEIGHTS,
            join: admin.key("join", None).await?,
            scripts: Scripts::default(),
        };
        let (mut providers, mut tasks) = (Vec::new(), Tasks::default());
        for _ in 0..PROVIDERS {
            let identity = Arc::new(Identity::new(&place)?);
            tasks.begin(provider::join(place.clone(), Arc::clone(&identity)));
            providers.push(identity);
        }
        let turn = AtomicU64::new(0);
        let real = Self { process, place, providers, _tasks: tasks, keys, wraps, turn, _folder: folder };
        real.wait(PROVIDERS).await?;
        Ok(real)
    }

    /// Waits until so many providers are there.
    pub async fn wait(&self, wanted: usize) -> Outcome<()> {
        for _ in 0..1_200 {
            let ready: Value = serde_json::from_str(
                &reqwest::get(format!("http://{}/readyz", self.process.address)).await?.text().await?,
            )?;
            if ready["providers_eligible"].as_u64() >= Some(wanted as u64) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(format!("not all of {wanted} providers became eligible").into())
    }
}

impl Side for Real {
    fn process(&self) -> &Process {
        &self.process
    }

    fn ready(&self, count: usize, frames: u32, rhythm: Rhythm) -> Outcome<Vec<Ready>> {
        let one = |nth: usize| {
            let mut random = [0; 48];
            rng().fill_bytes(&mut random);
            let (input, output) = (TokenCount(512), TokenCount(frames));
            let header = SealedHeader {
                network: self.place.network,
                suite: Suite::XWingAes256Gcm,
                request: RequestId(id(&random[..16])),
                operation: OperationId(id(&random[16..32])),
                model: self.place.model,
                kind: RequestKind::Chat,
                stream: true,
                input_ceiling: input,
                output_ceiling: output,
                price_version: PRICE.version,
                price_max: NanoDollars(i64::from(input.0) + i64::from(output.0)),
                tier_min: Tier::None,
                affinity: id(&random[32..]),
                sealed_at: now(),
                recipients: Digest([0; 32]),
                key_commitment: Digest([0; 32]),
            };
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) as usize;
            let chosen: Vec<_> =
                (0..self.wraps).map(|at| Arc::clone(&self.providers[(turn + at) % self.providers.len()])).collect();
            let pace = rhythm.pace();
            let credit = if let Pace::Credit(credit) = &pace { Some(Arc::clone(credit)) } else { None };
            let seal = provider::seal(header, &PLAINTEXT, &chosen, &self.place, (frames, pace))?;
            if nth == 0 {
                // Any of them could really have opened it.
                chosen.iter().try_for_each(|provider| provider.opens(&seal, &PLAINTEXT))?;
            }
            let body = LengthPrefixed::wrap(&ClientFrame::from(seal.submit).encode());
            let key = &self.keys[turn % self.keys.len()];
            Ok(Ready { bytes: http("/v1/sealed", key.expose(), &body), frames, credit })
        };
        // On all cores: nothing is measured meanwhile.
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            let share = |thread: usize| move || (thread..count).step_by(threads).map(one).collect::<Outcome<Vec<_>>>();
            let made: Vec<_> = (0..threads).map(|thread| scope.spawn(share(thread))).collect();
            let made = made.into_iter().map(|thread| thread.join().map_err(|_| "a thread panicked")?);
            Ok(made.collect::<Outcome<Vec<_>>>()?.into_iter().flatten().collect())
        })
    }
}

fn id(bytes: &[u8]) -> [u8; 16] {
    bytes.try_into().expect("it was cut to 16")
}

/// Providers' tasks, which end with this.
#[derive(Default)]
pub struct Tasks(Vec<tokio::task::AbortHandle>);

impl Tasks {
    /// What ends one before that is said, for the measurement is worth nothing then.
    pub fn begin(&mut self, task: impl Future<Output = Outcome<()>> + Send + 'static) {
        let task = tokio::spawn(async move {
            if let Err(error) = task.await {
                println!("a provider ended: {error}");
            }
        });
        self.0.push(task.abort_handle());
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::AbortHandle::abort);
    }
}

/// The floor.
pub struct Bare {
    // Before the process, whose end would end them.
    _tasks: Tasks,
    process: Process,
    scripts: Scripts,
    turn: AtomicU64,
    _folder: tempfile::TempDir,
}

impl Bare {
    pub async fn start(folder: &Path, ledger: bool) -> Outcome<Self> {
        let folder = tempfile::tempdir_in(folder)?;
        let process = Process::floor(ledger.then_some(folder.path()))?;
        let scripts = Scripts::default();
        let mut tasks = Tasks::default();
        tasks.begin(provider::join_floor(process.address, scripts.clone()));
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok(Self { _tasks: tasks, process, scripts, turn: AtomicU64::new(0), _folder: folder })
    }
}

impl Side for Bare {
    fn process(&self) -> &Process {
        &self.process
    }

    fn ready(&self, count: usize, frames: u32, rhythm: Rhythm) -> Outcome<Vec<Ready>> {
        let one = |_| {
            let mut request = [0; 16];
            rng().fill_bytes(&mut request);
            let pace = rhythm.pace();
            let credit = if let Pace::Credit(credit) = &pace { Some(Arc::clone(credit)) } else { None };
            provider::floor_script(&self.scripts, RequestId(request), frames, pace);
            let key = floor::key(self.turn.fetch_add(1, Ordering::Relaxed) as usize * 31);
            let body = provider::floor_body(RequestId(request));
            Ready { bytes: http("/v1/chat/completions", &key, body.as_bytes()), frames, credit }
        };
        Ok((0..count).map(one).collect())
    }
}

/// Consumers that stay connected.
pub struct Consumers(Vec<Consumer>);

impl Consumers {
    pub async fn connect(address: SocketAddr, count: usize) -> Outcome<Self> {
        let mut consumers = Vec::with_capacity(count);
        for _ in 0..count {
            consumers.push(Consumer::connect(address).await?);
        }
        Ok(Self(consumers))
    }

    /// Sends all requests, each consumer one after the other.
    pub async fn ask(&mut self, ready: Vec<Ready>) -> Outcome<Vec<Seen>> {
        let mut shares: Vec<Vec<Ready>> = self.0.iter().map(|_| Vec::new()).collect();
        let count = shares.len();
        ready.into_iter().enumerate().for_each(|(nth, ready)| shares[nth % count].push(ready));
        let mut tasks = Vec::new();
        for (mut consumer, share) in self.0.drain(..).zip(shares) {
            tasks.push(tokio::spawn(async move {
                let mut seen = Vec::with_capacity(share.len());
                for ready in &share {
                    seen.push(consumer.ask(ready).await?);
                }
                Outcome::Ok((consumer, seen))
            }));
        }
        let mut all = Vec::new();
        for task in tasks {
            let (consumer, seen) = task.await??;
            self.0.push(consumer);
            all.extend(seen);
        }
        Ok(all)
    }
}
