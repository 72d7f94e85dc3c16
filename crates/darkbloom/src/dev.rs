//! `darkbloom dev`: a whole network on this machine, each role its own process.

mod ask;
mod child;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use darkbloom_types::{NanoDollars, SecretString};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::admin::{Admin, ModelFile, Offer};
use crate::arguments::Dev;
use crate::error::{Failure, say};
use child::{Child, Spawning};

/// The model that ships, inside the program.
const MODEL: &[u8] = include_bytes!("../../../models/darkbloom-tiny-q8_0.gguf");
/// Its name in requests.
const MODEL_NAME: &str = "darkbloom-tiny";
/// Where the gateway listens unless told otherwise.
const LISTEN: &str = "127.0.0.1:7700";
/// Credit of the account that `dev` makes.
const CREDIT: NanoDollars = NanoDollars(10 * NanoDollars::PER_DOLLAR);
/// The price on which it runs: $0.05 and $0.20 a million tokens.
const PRICE: (u32, u32) = (50, 200);
/// A role is up within this time; loading the model is the longest part.
const READY_WAIT: Duration = Duration::from_secs(60);
/// How often it looks whether the provider is eligible.
const LOOK: Duration = Duration::from_millis(20);

/// A running network.
struct Network {
    coordinator: Child,
    provider: Child,
    gateway: Child,
    coordinator_url: String,
    base_url: String,
    network: String,
    provider_id: String,
    key: SecretString,
    model: String,
    ready_after: Duration,
}

/// Where the network's data is.
struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            // Nothing depends on it any more; what cannot be removed is in the system's folder for such things.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

impl Folder {
    fn open(data: Option<PathBuf>) -> Result<Self, Failure> {
        let keep = data.is_some();
        let path = data.unwrap_or_else(|| std::env::temp_dir().join(format!("darkbloom-dev-{}", std::process::id())));
        let cannot = |error: std::io::Error| {
            Failure::new(
                format!("cannot use the data folder {}: {error}", path.display()),
                "choose another with `--data`",
            )
        };
        if keep {
            std::fs::create_dir_all(&path).map_err(cannot)?;
        } else {
            // Created here and by nobody else: the system's folder is open to all.
            use std::os::unix::fs::DirBuilderExt as _;
            std::fs::DirBuilder::new().mode(0o700).create(&path).map_err(cannot)?;
        }
        Ok(Self { path, keep })
    }
}

/// `darkbloom dev`.
pub async fn run(options: Dev) -> Result<(), Failure> {
    let quiet = options.prompt.is_some();
    let default = if quiet { "127.0.0.1:0" } else { LISTEN };
    let listen = options.listen.unwrap_or_else(|| default.parse().expect("the default address is valid"));
    let failed = |error: std::io::Error| Failure::new(format!("cannot listen for signals: {error}"), "");
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate()).map_err(failed)?, signal(SignalKind::interrupt()).map_err(failed)?);
    let told = async {
        tokio::select! {
            _ = terminate.recv() => SignalKind::terminate(),
            _ = interrupt.recv() => SignalKind::interrupt(),
        }
    };
    can_listen(listen)?;
    let folder = Folder::open(options.data.clone())?;
    let (running, mut ended) = mpsc::channel(1);
    let outcome = work(&options, listen, &folder, running, told).await;
    // A role that was killed may write to the very end: its folder goes when it is gone.
    let _ = tokio::time::timeout(child::STOP_WAIT, ended.recv()).await;
    outcome
}

/// Starts the network, and answers the question or waits. The roles hold `running` as long as they run.
async fn work(
    options: &Dev,
    listen: SocketAddr,
    folder: &Folder,
    running: mpsc::Sender<()>,
    told: impl Future<Output = SignalKind>,
) -> Result<(), Failure> {
    tokio::pin!(told);
    let network = tokio::select! {
        network = Network::start(options, listen, &folder.path, running) => network?,
        signal = &mut told => return stopped(options, signal),
    };
    let outcome = match &options.prompt {
        Some(prompt) => tokio::select! {
            // Who was told all at the same moment was answered.
            biased;
            asked = ask::ask(&network, prompt, options.json) => asked,
            ended = network.watch(&mut told) => ended.and_then(|signal| stopped(options, signal)),
        },
        None => {
            network.introduce(folder)?;
            network.watch(told).await.map(drop)
        }
    };
    network.stop().await;
    outcome
}

/// Told to stop. That is how a network ends which was started to be used, and no answer to a question.
fn stopped(options: &Dev, signal: SignalKind) -> Result<(), Failure> {
    if options.prompt.is_none() {
        return Ok(());
    }
    Err(Failure::interrupted(
        signal.as_raw_value(),
        "told to stop before the answer was whole; nothing of it is verified",
    ))
}

impl Network {
    async fn start(options: &Dev, listen: SocketAddr, data: &Path, running: mpsc::Sender<()>) -> Result<Self, Failure> {
        let began = Instant::now();
        let (model_path, model) = model(options, data)?;
        let hub = Hub::start(data, Spawning { quiet: options.prompt.is_some(), running }).await?;
        hub.offer(&model_path, &model).await?;
        let provider_data = data.join("provider");
        let provider = hub.provider(&provider_data, &model_path, options.rows, options.fast);
        let (provider, key) = tokio::join!(provider, consumer(&hub.admin));
        let ((provider, provider_id), key) = (provider?, key?);
        let (gateway, base_url) = hub.gateway(listen, &provider_id).await?;
        eligible(&hub.admin, &provider_id).await?;
        Ok(Self {
            coordinator: hub.coordinator,
            provider,
            gateway,
            coordinator_url: hub.url,
            base_url,
            network: hub.network,
            provider_id,
            key,
            model,
            ready_after: began.elapsed(),
        })
    }

    /// Says how to use it.
    fn introduce(&self, folder: &Folder) -> Result<(), Failure> {
        let (base, key, model) = (&self.base_url, self.key.expose(), &self.model);
        say(format!("ready after {:.1} s\n", self.ready_after.as_secs_f64()))?;
        say(format!("base URL     {base}"))?;
        say(format!("API key      {key}"))?;
        say(format!("model        {model}"))?;
        say(format!("coordinator  {}  (pin {})", self.coordinator_url, self.network))?;
        say(format!("provider     {}", self.provider_id))?;
        say(
            "trust        the provider's software key is pinned for this run: that is `self_signed`, not proof of hardware\n",
        )?;
        say(format!(
            "curl {base}/chat/completions -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\\n  -d '{{\"model\": \"{model}\", \"messages\": [{{\"role\": \"user\", \"content\": \"What is 17 + 25?\"}}]}}'\n"
        ))?;
        say("from openai import OpenAI")?;
        say(format!("client = OpenAI(base_url=\"{base}\", api_key=\"{key}\")"))?;
        say(format!(
            "print(client.chat.completions.create(model=\"{model}\", messages=[{{\"role\": \"user\", \"content\": \"What is 17 + 25?\"}}]).choices[0].message.content)\n"
        ))?;
        if folder.keep {
            say(format!("data in {}; Ctrl-C stops everything", folder.path.display()))
        } else {
            say("Ctrl-C stops everything and removes its data")
        }
    }

    /// Runs until told to stop, or until a role ends by itself.
    async fn watch(&self, told: impl Future<Output = SignalKind>) -> Result<SignalKind, Failure> {
        tokio::select! {
            signal = told => Ok(signal),
            failure = self.coordinator.ended_by_itself() => Err(failure),
            failure = self.provider.ended_by_itself() => Err(failure),
            failure = self.gateway.ended_by_itself() => Err(failure),
        }
    }

    /// Stops what consumers see first, then the provider, then the coordinator.
    async fn stop(self) {
        self.gateway.stop().await;
        self.provider.stop().await;
        self.coordinator.stop().await;
    }
}

/// A running coordinator, and what the other roles need of it.
struct Hub {
    coordinator: Child,
    url: String,
    network: String,
    admin: Admin,
    spawning: Spawning,
}

impl Hub {
    async fn start(data: &Path, spawning: Spawning) -> Result<Self, Failure> {
        let coordinator_data = data.join("coordinator");
        let arguments = ["coordinator", "--listen", "127.0.0.1:0", "--data", path(&coordinator_data)?];
        let (coordinator, ready) = Child::start("coordinator", &arguments, &[], &spawning, READY_WAIT).await?;
        let url = format!("http://{}", text(&ready, "address"));
        let admin = Admin::new(&url, admin_key(&ready, &data.join("admin.key"))?)?;
        Ok(Self { coordinator, url, network: text(&ready, "network"), admin, spawning })
    }

    /// Puts the model on offer.
    async fn offer(&self, model: &Path, name: &str) -> Result<(), Failure> {
        let read = model.to_owned();
        let file = tokio::task::spawn_blocking(move || ModelFile::read(&read, &[])).await;
        let file = file.map_err(|error| Failure::new(error.to_string(), ""))??;
        let quantisation = file.quantisation;
        let offer = Offer { name, quantisation, price_version: 1, input_price: PRICE.0, output_price: PRICE.1 };
        self.admin.offer_model(&file, &offer).await?;
        Ok(())
    }

    /// Starts the provider and returns its id.
    async fn provider(&self, data: &Path, model: &Path, rows: usize, fast: bool) -> Result<(Child, String), Failure> {
        let join_token = self.admin.create_key("join", None, "dev provider").await?;
        let rows = rows.to_string();
        let mut arguments =
            vec!["start", "--foreground", "--key-home", "software", "--data", path(data)?, "--model", path(model)?];
        arguments.extend(["--rows", &rows, "--coordinator", &self.url, "--coordinator-key", &self.network]);
        arguments.extend(fast.then_some("--fast"));
        let environment = [("DARKBLOOM_JOIN_TOKEN", join_token.expose())];
        let (provider, ready) = Child::start("provider", &arguments, &environment, &self.spawning, READY_WAIT).await?;
        Ok((provider, text(&ready, "provider")))
    }

    /// Starts the gateway and returns its base URL.
    async fn gateway(&self, listen: SocketAddr, provider: &str) -> Result<(Child, String), Failure> {
        let listen = listen.to_string();
        let mut arguments = vec!["gateway", "--listen", &listen, "--pin-provider", provider];
        arguments.extend(["--coordinator", &self.url, "--coordinator-key", &self.network]);
        let (gateway, ready) = Child::start("gateway", &arguments, &[], &self.spawning, READY_WAIT).await?;
        Ok((gateway, format!("http://{}/v1", text(&ready, "address"))))
    }
}

/// Whether the gateway will be able to listen here.
fn can_listen(address: SocketAddr) -> Result<(), Failure> {
    if !address.ip().is_loopback() {
        return Err(Failure::new(
            format!("{address} is reachable from other machines, and this program speaks plain HTTP"),
            "listen on 127.0.0.1 and put a TLS proxy in front",
        ));
    }
    std::net::TcpListener::bind(address).map(drop).map_err(|error| {
        Failure::new(
            format!("cannot listen on {address}: {error}"),
            "choose another address with `--listen`, or stop the program that uses this one",
        )
    })
}

/// The model's file and name: the one that ships, or another.
fn model(options: &Dev, data: &Path) -> Result<(PathBuf, String), Failure> {
    if let Some(path) = &options.model {
        let name =
            path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_else(|| "model".to_owned());
        return Ok((path.clone(), name));
    }
    let path = data.join("darkbloom-tiny-q8_0.gguf");
    std::fs::write(&path, MODEL).map_err(|error| {
        Failure::new(format!("cannot write {}: {error}", path.display()), "choose another folder with `--data`")
    })?;
    Ok((path, MODEL_NAME.to_owned()))
}

fn path(path: &Path) -> Result<&str, Failure> {
    path.to_str().ok_or_else(|| Failure::new(format!("{} is not valid UTF-8", path.display()), "choose another path"))
}

fn text(ready: &Value, key: &str) -> String {
    ready[key].as_str().unwrap_or_default().to_owned()
}

/// The administrator's key: shown by the first start, kept beside the data for the next.
fn admin_key(ready: &Value, file: &Path) -> Result<SecretString, Failure> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let cannot = |error: std::io::Error| {
        Failure::new(format!("cannot use {}: {error}", file.display()), "choose another folder with `--data`")
    };
    match ready["admin_key"].as_str() {
        Some(key) => {
            let mut out = std::fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(file)
                .map_err(cannot)?;
            out.write_all(key.as_bytes()).map_err(cannot)?;
            Ok(SecretString::from(key))
        }
        None => std::fs::read_to_string(file).map(SecretString::new).map_err(cannot),
    }
}

/// An account with credit, and a key of it.
async fn consumer(admin: &Admin) -> Result<SecretString, Failure> {
    if !admin.has_account("dev").await? {
        admin.post("/admin/v1/accounts", json!({"name": "dev"})).await?;
    }
    let deposit = json!({"account": "dev", "amount_nano_usd": CREDIT, "reference": "darkbloom dev"});
    admin.post("/admin/v1/deposits", deposit).await?;
    admin.create_key("consumer", Some("dev"), "dev").await
}

/// Waits until the provider gets work.
async fn eligible(admin: &Admin, provider: &str) -> Result<(), Failure> {
    let until = Instant::now() + READY_WAIT;
    loop {
        let answer = admin.get("/admin/v1/providers").await?;
        let found = answer["data"].as_array().into_iter().flatten().find(|row| row["provider"] == provider);
        match found {
            Some(row) if row["eligible"] == true => return Ok(()),
            other if Instant::now() >= until => {
                let reason = other.map_or("it did not connect", |row| row["reason"].as_str().unwrap_or("unknown"));
                return Err(Failure::new(format!("the provider is not eligible: {reason}"), "see its log above"));
            }
            _ => tokio::time::sleep(LOOK).await,
        }
    }
}
