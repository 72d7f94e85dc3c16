//! A coordinator, a provider and a client in one process, over loopback sockets, with a real ledger in a folder of its own.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use darkbloom_client::{Client, Config as ClientConfig, HardwareTrust, Operation, Part, Roots};
use darkbloom_content::{ChatRequest, Message, Role};
use darkbloom_coordinator::{Config as CoordinatorConfig, Coordinator};
use darkbloom_engine::LlamaSettings;
use darkbloom_provider::{Config as ProviderConfig, EvidenceConfig, KeyConfig, ModelConfig, Provider, weights_of_file};
use darkbloom_text::TextPack;
use darkbloom_types::{Refusal, SecretString, Tier};
use serde_json::{Value, json};

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The coordinator.
    #[error(transparent)]
    Coordinator(#[from] darkbloom_coordinator::StartError),
    /// The provider.
    #[error(transparent)]
    Provider(#[from] darkbloom_provider::StartError),
    /// A request.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Files.
    #[error(transparent)]
    Files(#[from] std::io::Error),
    /// The model's file.
    #[error(transparent)]
    Model(#[from] darkbloom_text::ReadGgufError),
    /// Administration.
    #[error("the coordinator's administration failed: {0}")]
    Admin(String),
    /// The provider never became eligible.
    #[error("the provider was not eligible in time")]
    NotEligible,
}

impl From<reqwest::Error> for NetworkError {
    fn from(error: reqwest::Error) -> Self {
        Self::Admin(error.to_string())
    }
}

/// A verified answer.
#[derive(Debug)]
pub struct Answered {
    /// What it says.
    pub text: SecretString,
    /// Output tokens.
    pub tokens: u32,
    /// Time to the first content.
    pub first: Duration,
}

/// A running network.
pub struct Network {
    coordinator: Coordinator,
    provider: Provider,
    /// What the provider is started with again.
    provider_config: ProviderConfig,
    client: Client,
    key: SecretString,
    admin: Admin,
    _folder: tempfile::TempDir,
}

/// The model's name in this network.
const MODEL: &str = "model";

/// A request that decodes greedily, or with a seed.
#[must_use]
pub fn sampled_request(prompt: &str, temperature: f32) -> ChatRequest {
    let mut request = ChatRequest::new(vec![Message::new(Role::User, prompt)]);
    request.temperature = temperature;
    request.seed = Some(7);
    request
}

impl Network {
    /// Starts a network around a model.
    ///
    /// # Errors
    /// [`NetworkError`] says which part failed.
    pub async fn start(model: &Path, rows: usize, row_tokens: usize, threads: usize) -> Result<Self, NetworkError> {
        let settings = LlamaSettings { threads, ..LlamaSettings::new(rows, row_tokens) };
        Self::start_with(model, &settings).await
    }

    /// Starts a network around a model that is loaded with these settings.
    ///
    /// # Errors
    /// [`NetworkError`] says which part failed.
    pub async fn start_with(model: &Path, settings: &LlamaSettings) -> Result<Self, NetworkError> {
        let folder = tempfile::tempdir()?;
        let coordinator = Coordinator::start(CoordinatorConfig {
            listen: ([127, 0, 0, 1], 0).into(),
            data: folder.path().join("coordinator"),
            tier_min: Tier::None,
            tpm_roots: Roots::default(),
            database: None,
            key_secret: None,
            terms: darkbloom_coordinator::Terms::default(),
            metrics: None,
        })
        .await?;
        let url = format!("http://{}", coordinator.address);
        let admin = coordinator.admin_key.clone().ok_or_else(|| NetworkError::Admin("no key".to_owned()))?;
        let admin = Admin::new(url.clone(), admin);
        admin.offer(model).await?;
        admin.send("POST", "/admin/v1/accounts", &json!({"name": "bench"})).await?;
        let deposit = json!({"account": "bench", "amount_nano_usd": 1_000_000_000_000_i64, "reference": "bench"});
        admin.send("POST", "/admin/v1/deposits", &deposit).await?;
        let key = admin.key("consumer", Some("bench")).await?;
        let provider_config = ProviderConfig {
            coordinator: url.clone(),
            network: Some(coordinator.network),
            join_token: Some(admin.key("join", None).await?),
            data: folder.path().join("provider"),
            keys: KeyConfig::software(),
            evidence: EvidenceConfig::default(),
            activators: Vec::new(),
            hardening: Vec::new(),
            models: vec![ModelConfig {
                rows: Some(settings.rows_max),
                row_tokens: Some(settings.row_tokens_max),
                threads: Some(settings.threads),
                exactness: settings.exactness,
                ..ModelConfig::new(model.to_owned())
            }],
            memory: None,
            idle_unload: None,
        };
        let provider = Provider::start(provider_config.clone()).await?;
        admin.eligible().await?;
        let client = Client::new(ClientConfig {
            coordinator: url,
            network: Some(coordinator.network),
            pin_file: None,
            tier_min: Tier::Hardware,
            pinned: BTreeSet::from([provider.id]),
            hardware: HardwareTrust::default(),
            candidates: darkbloom_client::CANDIDATES_DEFAULT,
            receipts: None,
        })?;
        Ok(Self { coordinator, provider, provider_config, client, key, admin, _folder: folder })
    }

    /// Sends one request through the whole sealed path and returns its verified answer.
    ///
    /// # Errors
    /// [`NetworkError::Refused`].
    pub async fn ask(&self, request: ChatRequest, output: u32) -> Result<Answered, NetworkError> {
        self.ask_telling(request, output, || ()).await
    }

    /// The same, and calls `begun` when the first content is there.
    ///
    /// # Errors
    /// [`NetworkError::Refused`].
    pub async fn ask_telling(
        &self,
        request: ChatRequest,
        output: u32,
        begun: impl FnOnce(),
    ) -> Result<Answered, NetworkError> {
        let began = Instant::now();
        let operation = Operation {
            key: self.key.clone(),
            model: MODEL.to_owned(),
            request,
            stream: true,
            max_output_tokens: Some(output),
            idempotency_key: None,
            parse: Duration::ZERO,
        };
        let mut answer = self.client.chat(operation).await.map_err(Refusal::from)?;
        let first = began.elapsed();
        begun();
        let mut text = SecretString::default();
        loop {
            match answer.parts.recv().await {
                Some(Part::Text(piece)) => text.push_str(piece.expose()),
                // The models here neither think nor call.
                Some(Part::Reasoning(_) | Part::Call(_) | Part::Arguments(_)) => {}
                Some(Part::Completed(completed)) => {
                    return Ok(Answered { text, tokens: completed.output_tokens.0, first });
                }
                Some(Part::Failed(failed)) => return Err(failed.refusal.into()),
                None => return Err(NetworkError::Admin("the answer broke off".to_owned())),
            }
        }
    }

    /// Stops the provider and starts it again: the same identity in a new epoch.
    ///
    /// # Errors
    /// [`NetworkError`] when it does not come back.
    pub async fn restart_provider(self) -> Result<Self, NetworkError> {
        self.provider.stop().await;
        let mut config = self.provider_config.clone();
        // A known identity needs no token.
        config.join_token = None;
        let provider = Provider::start(config).await?;
        self.admin.eligible().await?;
        Ok(Self { provider, ..self })
    }

    /// What the consumer's account has: available and held, in nano-dollars.
    ///
    /// # Errors
    /// [`NetworkError`] when the coordinator does not answer.
    pub async fn balance(&self) -> Result<(i64, i64), NetworkError> {
        let answer = self.admin.send("GET", "/admin/v1/accounts", &Value::Null).await?;
        let number = |key: &str| answer["data"][0][key].as_i64().unwrap_or(i64::MIN);
        Ok((number("available_nano_usd"), number("held_nano_usd")))
    }

    /// Whether the books add up, and how many holds are open.
    ///
    /// # Errors
    /// [`NetworkError`] when the coordinator does not answer.
    pub async fn audit(&self) -> Result<(bool, u64), NetworkError> {
        let answer = self.admin.send("GET", "/admin/v1/audit", &Value::Null).await?;
        Ok((answer["clean"] == true, answer["open_holds"].as_u64().unwrap_or(u64::MAX)))
    }

    /// Stops provider and coordinator.
    pub async fn stop(self) {
        self.provider.stop().await;
        self.coordinator.stop().await;
    }
}

/// A coordinator's administration, over HTTP.
#[derive(Debug)]
pub struct Admin {
    http: reqwest::Client,
    url: String,
    key: SecretString,
}

impl Admin {
    /// By the coordinator's address, `http://` and all, and an administrator's key.
    #[must_use]
    pub fn new(url: String, key: SecretString) -> Self {
        Self { http: reqwest::Client::new(), url, key }
    }

    /// Sends JSON.
    ///
    /// # Errors
    /// [`NetworkError::Admin`] with what was answered.
    pub async fn send(&self, method: &str, path: &str, body: &Value) -> Result<Value, NetworkError> {
        self.send_bytes(method, path, "application/json", body.to_string().into_bytes()).await
    }

    /// Sends bytes of this media type.
    ///
    /// # Errors
    /// [`NetworkError::Admin`] with what was answered.
    pub async fn send_bytes(&self, method: &str, path: &str, kind: &str, body: Vec<u8>) -> Result<Value, NetworkError> {
        let method = method.parse().map_err(|_| NetworkError::Admin("bad method".to_owned()))?;
        let request = self.http.request(method, format!("{}{path}", self.url)).bearer_auth(self.key.expose());
        let response = request.header("content-type", kind).body(body).send().await?;
        let ok = response.status().is_success();
        let value: Value = serde_json::from_slice(&response.bytes().await?).unwrap_or(Value::Null);
        if ok { Ok(value) } else { Err(NetworkError::Admin(value.to_string())) }
    }

    /// A new key of this kind.
    ///
    /// # Errors
    /// [`NetworkError::Admin`] with what was answered.
    pub async fn key(&self, kind: &str, account: Option<&str>) -> Result<SecretString, NetworkError> {
        let answer =
            self.send("POST", "/admin/v1/keys", &json!({"kind": kind, "account": account, "name": kind})).await?;
        answer["key"].as_str().map(SecretString::from).ok_or_else(|| NetworkError::Admin("no key".to_owned()))
    }

    async fn offer(&self, model: &Path) -> Result<(), NetworkError> {
        let pack = TextPack::from_gguf(std::io::BufReader::new(std::fs::File::open(model)?))?;
        let blob = self.send_bytes("PUT", "/admin/v1/blobs", "application/octet-stream", pack.to_bytes()).await?;
        let entry = json!({
            "name": MODEL, "weights": weights_of_file(model)?, "text_pack": blob["digest"], "context": pack.context_length(),
            "quantisation": "as in the file", "price_version": 1, "input_nano_per_token": 1, "output_nano_per_token": 1,
        });
        self.send("PUT", "/admin/v1/catalogue", &entry).await.map(drop)
    }

    async fn eligible(&self) -> Result<(), NetworkError> {
        for _ in 0..1_000 {
            let answer = self.send("GET", "/admin/v1/providers", &Value::Null).await?;
            if answer["data"][0]["eligible"] == true {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err(NetworkError::NotEligible)
    }
}
