//! The roles, each until it is told to stop.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use darkbloom_client::{
    CANDIDATES_DEFAULT, Client, Config as ClientConfig, HardwareTrust, Role, Surface, SurfaceConfig, printable,
};
use darkbloom_coordinator::{
    ActivatorConfig, BasisPoints, Config as CoordinatorConfig, Coordinator, StandaloneActivator, Terms,
};
use darkbloom_harden::{Measure, Report};
use darkbloom_provider::keys::Enclave;
use darkbloom_provider::{
    Accelerator, AdapterFile, Config as ProviderConfig, EvidenceConfig, Exactness, Home, KeyConfig, LocalConfig,
    ModelConfig, Provider,
};
use darkbloom_types::{NetworkId, ProviderId, SecretString, Tier};
use reqwest::Url;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::arguments::{self, Demands, EvidenceOptions, KeyOptions, Supervised, TrustOptions};
use crate::error::{Failure, say};
use crate::settings::{
    AcceleratorPolicy, ActivatorSettings, Adapter, ClientSettings, CoordinatorSettings, ProviderSettings,
};
use crate::trust::{self, ActivatorKey};
use crate::{local, store, supervisor};

/// Where roles listen by default.
const COORDINATOR_LISTEN: &str = "127.0.0.1:7701";
const ACTIVATOR_LISTEN: &str = "127.0.0.1:7704";
const GATEWAY_LISTEN: &str = "127.0.0.1:7700";
const PROXY_LISTEN: &str = "127.0.0.1:7702";
const LOCAL_PORT: u16 = 7703;
/// How long a model may be without a request before a provider unloads it, in minutes.
const IDLE_UNLOAD: u64 = 60;

/// Who may tell a role to stop. It listens from before the role starts: a signal that comes right after the lines that say
/// that the role is ready must not end the process the hard way.
pub struct Stop {
    terminate: Signal,
    interrupt: Signal,
    until_stdin_closes: bool,
}

impl Stop {
    pub fn listen(run: &Supervised) -> Result<Self, Failure> {
        let listen =
            |kind| signal(kind).map_err(|error| Failure::new(format!("cannot listen for signals: {error}"), ""));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            until_stdin_closes: run.until_stdin_closes,
        })
    }

    /// Starts a role; nothing when a signal comes before it has started.
    pub async fn unless_signalled<T>(&mut self, start: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            started = start => Some(started),
            _ = self.terminate.recv() => None,
            _ = self.interrupt.recv() => None,
        }
    }

    /// Waits for a signal, or for the end of standard input where that counts.
    pub async fn told(mut self) {
        let until_stdin_closes = self.until_stdin_closes;
        let stdin_closes = async {
            if !until_stdin_closes {
                std::future::pending::<()>().await;
            }
            let (closed, told) = tokio::sync::oneshot::channel();
            // A thread of its own: a read of standard input cannot be cancelled, and must not hold up the end of the process.
            std::thread::spawn(move || {
                let mut block = [0; 64];
                while !matches!(std::io::stdin().read(&mut block), Ok(0) | Err(_)) {}
                let _ = closed.send(());
            });
            let _ = told.await;
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            () = stdin_closes => {}
        }
    }
}

/// What a text of the configuration file says.
pub fn parsed<T: FromStr>(text: Option<String>, what: &str) -> Result<Option<T>, Failure>
where
    T::Err: std::fmt::Display,
{
    text.map(|text| {
        text.parse().map_err(|error| Failure::new(format!("{what}: {error}"), "correct the configuration file"))
    })
    .transpose()
}

/// Where keys may live, by flags and file.
pub fn key_config(options: KeyOptions, settings: &ProviderSettings) -> Result<KeyConfig, Failure> {
    let mut named = Vec::new();
    for home in settings.key_homes.iter().flatten() {
        named.extend(parsed::<Home>(Some(home.clone()), "key_homes")?);
    }
    let mut config = KeyConfig::default();
    let homes = either(options.key_homes, named);
    if !homes.is_empty() {
        config.homes = homes;
    }
    config.pcrs = either(options.key_pcrs, settings.key_pcrs.clone().unwrap_or_default());
    if let Some(pcr) = config.pcrs.iter().find(|pcr| **pcr >= 24) {
        return Err(Failure::new(format!("key_pcrs: there is no register {pcr}"), "name registers from 0 to 23"));
    }
    if let Some(tpm) = options.tpm.or_else(|| settings.tpm.clone()) {
        config.tpm = tpm;
    }
    config.secret = options.key_secret.or_else(|| settings.key_secret.clone());
    if let Some(group) = options.enclave_access_group {
        config.enclave = Enclave::of_this_machine(group);
    }
    Ok(config)
}

/// Where evidence about this machine is found, by flags and file.
pub fn evidence_config(options: EvidenceOptions, settings: &ProviderSettings) -> Result<EvidenceConfig, Failure> {
    let mut config = EvidenceConfig::default();
    if let Some(tpm_log) = options.tpm_log.or_else(|| settings.tpm_log.clone()) {
        config.tpm_log = tpm_log;
    }
    if let Some(tsm) = options.tsm.or_else(|| settings.tsm.clone()) {
        config.tsm = tsm;
    }
    config.snp_certificates = options.snp_certificates.or_else(|| settings.snp_certificates.clone());
    if let Some(service) = options.tdx_collateral.or_else(|| settings.tdx_collateral.clone()) {
        let url = Url::parse(&service).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        config.tdx_collateral = url.ok_or_else(|| {
            Failure::new(format!("tdx_collateral: `{service}` is no address"), "name a service as `https://HOST`")
        })?;
    }
    Ok(config)
}

/// What a flag says, or, where it says nothing, the file.
fn either<T>(flag: Vec<T>, file: Vec<T>) -> Vec<T> {
    if flag.is_empty() { file } else { flag }
}

fn default_address(text: &str) -> SocketAddr {
    text.parse().expect("the default addresses are valid")
}

/// Where a role keeps its data when nobody says where.
pub fn default_data(role: &str) -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    let base = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).or_else(home).unwrap_or_else(|| PathBuf::from("."));
    base.join("darkbloom").join(role)
}

/// A share that somebody gave, none where he did not.
fn share(points: Option<u16>, name: &str) -> Result<BasisPoints, Failure> {
    BasisPoints::new(points.unwrap_or(0))
        .map_err(|error| Failure::new(format!("{name}: {error}"), "give hundredths of a percent, 0 to 10000"))
}

/// `darkbloom coordinator`.
pub async fn coordinator(options: arguments::Coordinator, settings: CoordinatorSettings) -> Result<(), Failure> {
    let tier_min = match options.tier_min {
        Some(tier) => tier,
        None => parsed(settings.tier_min, "tier_min")?.unwrap_or(Tier::None),
    };
    let database = store::database(options.database_url_file, settings.database_url_file)?;
    let config = CoordinatorConfig {
        listen: options.listen.or(settings.listen).unwrap_or_else(|| default_address(COORDINATOR_LISTEN)),
        data: options.data.or(settings.data).unwrap_or_else(|| default_data("coordinator")),
        database,
        tier_min,
        tpm_roots: trust::roots(&either(options.tpm_roots, settings.tpm_roots))?,
        key_secret: options.key_secret.or(settings.key_secret),
        terms: Terms {
            platform_fee: share(options.platform_fee.or(settings.platform_fee), "platform_fee")?,
            referral_share: share(options.referral_share.or(settings.referral_share), "referral_share")?,
            requests_per_minute: options.requests_per_minute.or(settings.requests_per_minute),
            tokens_per_minute: options.tokens_per_minute.or(settings.tokens_per_minute),
        },
        metrics: options.metrics.or(settings.metrics),
    };
    let data = config.data.clone();
    let mut stop = Stop::listen(&options.run)?;
    let Some(running) = stop.unless_signalled(Coordinator::start(config)).await else { return Ok(()) };
    let running = running.map_err(|error| Failure::new(error.to_string(), error.hint()))?;
    if options.run.json {
        let admin_key = running.admin_key.as_ref().map(SecretString::expose);
        say(json!({"ready": "coordinator", "address": running.address, "network": running.network, "activator": running.activator.map(hex::encode), "admin_key": admin_key, "metrics": running.metrics}).to_string())?;
    } else {
        say(format!("coordinator   http://{}", running.address))?;
        say(format!("pin           --coordinator-key {}", running.network))?;
        if let Some(activator) = running.activator {
            say(format!("activator     --pin-activator {}", hex::encode(activator)))?;
        }
        if let Some(metrics) = running.metrics {
            say(format!("metrics       http://{metrics}/metrics"))?;
        }
        say(format!("data          {}", data.display()))?;
        if let Some(key) = &running.admin_key {
            say(format!("administrator {}   (shown this once)", key.expose()))?;
        }
    }
    stop.told().await;
    running.stop().await;
    Ok(())
}

/// `darkbloom activator`.
pub async fn activator(options: arguments::Activator, settings: ActivatorSettings) -> Result<(), Failure> {
    let config = ActivatorConfig {
        listen: options.listen.or(settings.listen).unwrap_or_else(|| default_address(ACTIVATOR_LISTEN)),
        data: options.data.or(settings.data).unwrap_or_else(|| default_data("activator")),
        tpm_roots: trust::roots(&either(options.tpm_roots, settings.tpm_roots))?,
        key_secret: options.key_secret.or(settings.key_secret),
    };
    let mut stop = Stop::listen(&options.run)?;
    let Some(running) = stop.unless_signalled(StandaloneActivator::start(config)).await else { return Ok(()) };
    let running = running.map_err(|error| Failure::new(error.to_string(), error.hint()))?;
    let key = hex::encode(running.key);
    if options.run.json {
        say(json!({"ready": "activator", "address": running.address, "activator": key}).to_string())?;
    } else {
        say(format!("activator  http://{}", running.address))?;
        say(format!("providers  --activator http://{}", running.address))?;
        say(format!("consumers  --pin-activator {key}"))?;
    }
    stop.told().await;
    running.stop().await;
    Ok(())
}

/// What a client demands, by flags and file.
pub struct Demanded {
    pub network: Option<NetworkId>,
    pub tier_min: Tier,
    pub pinned: BTreeSet<ProviderId>,
    pub hardware: HardwareTrust,
}

/// Reads what a client demands.
pub fn demanded(options: Demands, settings: &ClientSettings) -> Result<Demanded, Failure> {
    let network = match options.coordinator_key {
        Some(network) => Some(network),
        None => parsed(settings.coordinator_key.clone(), "coordinator_key")?,
    };
    let tier_min = match options.tier_min {
        Some(tier) => tier,
        None => parsed(settings.tier_min.clone(), "tier_min")?.unwrap_or(Tier::Hardware),
    };
    let mut pinned: BTreeSet<_> = options.pinned.into_iter().collect();
    for text in &settings.pin_providers {
        pinned.extend(parsed::<ProviderId>(Some(text.clone()), "pin_providers")?);
    }
    let mut activators = options.activators;
    for text in &settings.pin_activators {
        activators.extend(parsed::<ActivatorKey>(Some(text.clone()), "pin_activators")?);
    }
    let measurements = options.measurements.or_else(|| settings.measurements.clone());
    let roots = either(options.tpm_roots, settings.tpm_roots.clone());
    let hardware = trust::hardware(&roots, &activators, measurements.as_deref())?;
    Ok(Demanded { network, tier_min, pinned, hardware })
}

/// A client. `receipts` is where it keeps what proves answers.
pub fn client(
    options: TrustOptions,
    settings: &ClientSettings,
    role: &str,
    receipts: Option<PathBuf>,
) -> Result<Client, Failure> {
    let coordinator = options.coordinator.or_else(|| settings.coordinator.clone());
    let coordinator =
        coordinator.ok_or_else(|| Failure::new("no coordinator is given", "add `--coordinator https://HOST`"))?;
    let Demanded { network, tier_min, pinned, hardware } = demanded(options.demands, settings)?;
    let pin_file = if network.is_none() {
        let folder = default_data(role);
        std::fs::create_dir_all(&folder).map_err(|error| {
            Failure::new(
                format!("cannot create {}: {error}", folder.display()),
                "give the coordinator's pin with `--coordinator-key`",
            )
        })?;
        Some(folder.join("coordinator.pin"))
    } else {
        None
    };
    let candidates = CANDIDATES_DEFAULT;
    let config = ClientConfig { coordinator, network, pin_file, tier_min, pinned, hardware, candidates, receipts };
    Ok(Client::new(config)?)
}

async fn surface(client: Client, config: SurfaceConfig, run: Supervised, name: &str) -> Result<(), Failure> {
    let mut stop = Stop::listen(&run)?;
    let Some(running) = stop.unless_signalled(Surface::start(client, config)).await else { return Ok(()) };
    let running = running.map_err(|error| Failure::new(error.to_string(), error.hint()))?;
    if run.json {
        say(json!({"ready": name, "address": running.address}).to_string())?;
    } else {
        say(format!("{name}  base URL http://{}/v1", running.address))?;
    }
    stop.told().await;
    running.stop().await;
    Ok(())
}

/// `darkbloom gateway`.
pub async fn gateway(options: arguments::Gateway, settings: ClientSettings) -> Result<(), Failure> {
    let listen = options.listen.or(settings.listen).unwrap_or_else(|| default_address(GATEWAY_LISTEN));
    let receipts = options.receipts.or_else(|| settings.receipts.clone());
    let client = client(options.trust, &settings, "gateway", receipts)?;
    surface(client, SurfaceConfig { listen, role: Role::Gateway }, options.run, "gateway").await
}

/// `darkbloom proxy`.
pub async fn proxy(options: arguments::Proxy, settings: ClientSettings) -> Result<(), Failure> {
    let key = options.key.ok_or_else(|| {
        Failure::new("no API key is given", "set DARKBLOOM_API_KEY to a key from `darkbloom keys create`")
    })?;
    let listen = options.listen.or(settings.listen).unwrap_or_else(|| default_address(PROXY_LISTEN));
    let receipts = options.receipts.or_else(|| settings.receipts.clone());
    let client = client(options.trust, &settings, "proxy", receipts)?;
    let role = Role::Proxy { key: SecretString::new(key) };
    surface(client, SurfaceConfig { listen, role }, options.run, "proxy").await
}

impl From<Adapter> for AdapterFile {
    fn from(Adapter { path, scale }: Adapter) -> Self {
        Self { path, scale }
    }
}

/// `darkbloom start`.
pub async fn provider(
    options: arguments::Start,
    settings: ProviderSettings,
    hardening: &Report,
) -> Result<(), Failure> {
    let keys = key_config(options.keys.clone(), &settings)?;
    let evidence = evidence_config(options.evidence.clone(), &settings)?;
    let missing = |what: &str, hint: &str| Failure::new(format!("no {what} is given"), hint);
    let coordinator = options.coordinator.or(settings.coordinator);
    let no_coordinator = || missing("coordinator", "add `--coordinator https://HOST`, or `--local` to do without");
    if coordinator.is_none() && !options.local {
        return Err(no_coordinator());
    }
    let files = if options.model.is_empty() { settings.model } else { options.model };
    let (rows, row_tokens) = (options.rows.or(settings.rows), options.context.or(settings.context));
    let threads = options.threads.or(settings.threads);
    let exactness = if options.fast || settings.fast.unwrap_or(false) { Exactness::Fast } else { Exactness::Exact };
    let accelerator = match options.accelerator.or(settings.accelerator) {
        Some(AcceleratorPolicy::Required) => Accelerator::Required,
        Some(AcceleratorPolicy::Preferred) => Accelerator::Preferred,
        Some(AcceleratorPolicy::Cpu) => Accelerator::Cpu,
        // What promises no bits may as well be fast.
        None if exactness == Exactness::Fast => Accelerator::Preferred,
        None => Accelerator::Cpu,
    };
    let idle = options.idle_unload.or(settings.idle_unload).unwrap_or(IDLE_UNLOAD);
    let network = match options.coordinator_key {
        Some(network) => Some(network),
        None => parsed(settings.coordinator_key, "coordinator_key")?,
    };
    let adapters = if options.adapters.is_empty() { settings.adapters } else { options.adapters };
    if files.is_empty() {
        return Err(missing("model", "add `--model FILE.gguf`"));
    }
    if files.len() > 1 && !adapters.is_empty() {
        return Err(Failure::new(
            format!("`--adapter` changes one model, and {} are given", files.len()),
            "give one `--model`; another provider can serve the others",
        ));
    }
    let adapters: Vec<_> = adapters.into_iter().map(AdapterFile::from).collect();
    let config = |path| {
        let adapters = adapters.clone();
        ModelConfig { path, adapters, rows, row_tokens, threads, exactness, accelerator }
    };
    let models: Vec<_> = files.into_iter().map(config).collect();
    let memory = options.memory.or(settings.memory).map(|memory| memory.0);
    let idle_unload = (idle > 0).then(|| Duration::from_secs(idle.saturating_mul(60)));
    let mut stop = Stop::listen(&options.run)?;
    if !options.foreground {
        return supervisor::run(stop).await;
    }
    if options.local {
        let data = options.data.or(settings.data).unwrap_or_else(|| default_data("local"));
        let config = LocalConfig { models, memory, idle_unload, data };
        let (port, key) = (options.port.unwrap_or(LOCAL_PORT), options.key.map(SecretString::new));
        return local::run(config, port, key, options.run.json, stop).await;
    }
    let config = ProviderConfig {
        coordinator: coordinator.ok_or_else(no_coordinator)?,
        network,
        join_token: options.join_token.map(SecretString::new),
        data: options.data.or(settings.data).unwrap_or_else(|| default_data("provider")),
        keys,
        evidence,
        activators: either(options.activators, settings.activators),
        hardening: hardening.active().map(Measure::name).collect(),
        models,
        memory,
        idle_unload,
    };
    // Why there is no provider may be in a coordinator's words.
    let Some(running) = stop.unless_signalled(Provider::start(config)).await else { return Ok(()) };
    let running = running.map_err(|error| Failure::new(printable(&error.to_string()), error.hint()))?;
    if options.run.json {
        say(json!({"ready": "provider", "provider": running.id}).to_string())?;
    } else {
        say(format!("provider  {}", running.id))?;
    }
    running.serve_until(stop.told()).await.map_err(|error| Failure::new(error.to_string(), error.hint()).temporary())
}
