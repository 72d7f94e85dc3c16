//! A coordinator that does what a test says.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use darkbloom_content::{ChatRequest, Message as ChatMessage, Role};
use darkbloom_engine::{Executor, LlamaExecutor};
use darkbloom_keys::{IdentityKey as _, SoftwareKey};
use darkbloom_provider::{
    Config, KeyConfig, LoadWatch, LoadedModel, ModelConfig, ModelOptions, Provider, weights_of_file,
};
use darkbloom_seal::{Recipient, RequestSeal, seal_request};
use darkbloom_text::TextPack;
use darkbloom_types::{
    AttemptNumber, CatalogueDigest, ConnectionId, Digest, NanoDollars, NetworkId, OperationId, ProviderId, RequestId,
    SecretString, StreamId, Tier, TokenCount,
};
use darkbloom_wire::{
    CatalogueEntry, CoordinatorFrame, CoordinatorProof, Decoded, Hello, Offer, ProviderFrame, PublicKey, RequestKind,
    SealedHeader, Statement, Suite, VerdictNotice, Welcome, catalogue_digest, coordinator_proof_digest,
};
use futures_util::{SinkExt as _, StreamExt as _};
use rand_core::Rng as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// No wait is longer, except for silence itself.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Fails the test when it takes too long.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
}

fn shipped_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/darkbloom-tiny-q8_0.gguf")
}

/// A copy of the model that ships whose answers go on until a limit stops them: what ends an answer has another name.
fn endless_model(folder: &Path) -> PathBuf {
    let mut bytes = std::fs::read(shipped_model()).unwrap();
    let mut rename = |from: &[u8], to: &[u8]| {
        let places: Vec<_> = (0..bytes.len() - from.len()).filter(|at| bytes[*at..].starts_with(from)).collect();
        assert!(!places.is_empty(), "the model names its end");
        places.iter().for_each(|at| bytes[*at..at + to.len()].copy_from_slice(to));
    };
    rename(b"<|im_end|>", b"<|im_fin|>");
    rename(b"<|endoftext|>", b"<|endOFtext|>");
    let key = b"tokenizer.ggml.eos_token_id";
    let at = bytes.windows(key.len()).position(|window| window == key).unwrap() + key.len() + 4;
    bytes[at..at + 4].copy_from_slice(&0u32.to_le_bytes());
    let path = folder.join("endless.gguf");
    std::fs::write(&path, bytes).unwrap();
    path
}

/// The coordinator, its catalogue of one model, and the provider's folder.
pub struct Coordinator {
    listener: TcpListener,
    pub key: SoftwareKey,
    pub network: NetworkId,
    model: PathBuf,
    pub entry: Vec<u8>,
    pub folder: tempfile::TempDir,
}

impl Coordinator {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = SoftwareKey::in_memory().unwrap();
        let network = NetworkId::of_coordinator_key(&key.public_point());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let model = endless_model(folder.path());
        let mut coordinator = Self { listener, key, network, model, entry: Vec::new(), folder };
        coordinator.entry = coordinator.signed_entry(1_024);
        coordinator
    }

    /// The model's entry, signed; another context makes another entry.
    pub fn signed_entry(&self, context: u32) -> Vec<u8> {
        let entry = CatalogueEntry {
            network: self.network,
            name: "tiny".to_owned(),
            weights: weights_of_file(&self.model).unwrap(),
            text_pack: TextPack::from_gguf(File::open(&self.model).unwrap()).unwrap().digest(),
            context: TokenCount(context),
            quantisation: "Q8_0".to_owned(),
        };
        entry.sign(&self.key).unwrap()
    }

    pub fn model(&self) -> CatalogueDigest {
        catalogue_digest(&self.entry)
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("provider")
    }

    /// A provider of this network.
    pub async fn provider(&self) -> Provider {
        self.provider_of(Some(self.network)).await
    }

    /// A provider with this pin.
    pub async fn provider_of(&self, network: Option<NetworkId>) -> Provider {
        Provider::start(self.config(network)).await.unwrap()
    }

    /// A provider of this network, with something around what executes its steps.
    pub async fn provider_around<E: Executor + 'static>(
        &self,
        around: impl FnOnce(LlamaExecutor) -> E + Send + 'static,
    ) -> Provider {
        // Loaded once.
        let around = Mutex::new(Some(around));
        let load = move |options: &ModelOptions, watch: &LoadWatch| {
            let around = around.lock().unwrap().take().unwrap();
            LoadedModel::load_into(options, watch, around)
        };
        Provider::start_with(self.config(Some(self.network)), load).await.unwrap()
    }

    fn config(&self, network: Option<NetworkId>) -> Config {
        Config {
            coordinator: format!("http://{}", self.listener.local_addr().unwrap()),
            network,
            join_token: Some(SecretString::from("a join token")),
            data: self.data(),
            keys: KeyConfig::software(),
            evidence: darkbloom_provider::EvidenceConfig::default(),
            activators: Vec::new(),
            hardening: Vec::new(),
            models: vec![ModelConfig {
                rows: Some(8),
                row_tokens: Some(1_024),
                threads: Some(1),
                ..ModelConfig::new(self.model.clone())
            }],
            memory: None,
            idle_unload: None,
        }
    }

    /// The next connection, on which only the provider's nonce was said.
    pub async fn line(&self) -> Line {
        let (stream, _) = within("the provider dials", self.listener.accept()).await.unwrap();
        let socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        let mut connection = [0; 16];
        darkbloom_host::clock::rng().fill_bytes(&mut connection);
        let mut line = Line { socket, connection: ConnectionId(connection), dialled: [0; 32] };
        line.dialled = match within("the provider asks who this is", line.next()).await {
            Some(ProviderFrame::Dial(dial)) => dial.nonce,
            other => panic!("the first frame was {other:?}"),
        };
        line
    }

    /// A proof by this key, as it stands in a welcome.
    pub fn proof(&self, key: &SoftwareKey, nonce: &[u8; 32], welcome: Option<(&ConnectionId, &[u8; 32])>) -> Vec<u8> {
        CoordinatorProof { digest: coordinator_proof_digest(&self.network, nonce, welcome) }.sign(key).unwrap()
    }

    pub fn welcome(&self, line: &Line) -> Welcome {
        let PublicKey::P256(coordinator) = self.key.public_key() else { unreachable!("keys are on P-256") };
        Welcome {
            coordinator,
            connection: line.connection,
            time: darkbloom_host::clock::now(),
            nonce: [7; 32],
            catalogue: vec![self.entry.clone()].into(),
            capabilities: Vec::new().into(),
            proof: self.proof(&self.key, &line.dialled, Some((&line.connection, &[7; 32]))),
        }
    }

    /// The next connection, with a provider that has introduced itself.
    pub async fn introduced(&self) -> (Line, Introduced) {
        let mut line = self.line().await;
        line.send(self.welcome(&line)).await;
        let hello = line.until("an introduction", |frame| match frame {
            ProviderFrame::Hello(hello) => Some(hello),
            other => panic!("before the introduction came {other:?}"),
        });
        let hello = hello.await;
        let statement = Statement::open_self_signed(&hello.statement).unwrap();
        (line, Introduced { hello, statement, model: self.model() })
    }

    /// An introduced provider that was told that it gets work.
    pub async fn serving(&self) -> (Provider, Line, Introduced) {
        let provider = self.provider().await;
        let (mut line, introduced) = self.introduced().await;
        line.send(eligible()).await;
        (provider, line, introduced)
    }
}

pub fn eligible() -> VerdictNotice {
    VerdictNotice { eligible: true, reason: "eligible".into(), sentence: "work".into(), next_step: "none".into() }
}

/// What a provider said about itself.
pub struct Introduced {
    pub hello: Hello,
    pub statement: Statement,
    model: CatalogueDigest,
}

impl Introduced {
    /// Who it is.
    pub fn provider(&self) -> ProviderId {
        ProviderId::of_public_key(&self.statement.identity)
    }

    /// The name of its epoch.
    pub fn epoch(&self) -> darkbloom_types::EpochId {
        let Statement { sealing_key, receipt_key, identity, not_before, .. } = &self.statement;
        let nonce = darkbloom_wire::epoch_nonce(sealing_key, receipt_key, identity, *not_before);
        darkbloom_types::EpochId(nonce.0[..16].try_into().unwrap())
    }

    /// A sealed request for so many tokens, which differs from an ordinary one.
    fn sealed(&self, tokens: u32, differs: impl FnOnce(&mut SealedHeader, &mut ChatRequest)) -> RequestSeal {
        let mut rng = darkbloom_host::clock::rng();
        let (mut request, mut operation) = ([0; 16], [0; 16]);
        rng.fill_bytes(&mut request);
        rng.fill_bytes(&mut operation);
        let messages = vec![ChatMessage::new(Role::User, "Count from 1 to 9.")];
        let mut chat = ChatRequest { temperature: 0.0, seed: Some(1), ..ChatRequest::new(messages) };
        let mut header = SealedHeader {
            network: self.statement.network,
            suite: Suite::XWingAes256Gcm,
            request: RequestId(request),
            operation: OperationId(operation),
            model: self.model,
            kind: RequestKind::Chat,
            stream: true,
            input_ceiling: TokenCount(256),
            output_ceiling: TokenCount(tokens),
            price_version: 1,
            price_max: NanoDollars(1),
            tier_min: Tier::None,
            affinity: [6; 16],
            sealed_at: darkbloom_host::clock::now(),
            recipients: Digest([0; 32]),
            key_commitment: Digest([0; 32]),
        };
        differs(&mut header, &mut chat);
        let to = Recipient { provider: self.provider(), epoch: self.epoch(), sealing_key: &self.statement.sealing_key };
        seal_request(header, &chat.to_cbor(), &[to], &mut rng).unwrap()
    }

    pub fn offer(&self, stream: u64, tokens: u32) -> Offer {
        self.offer_with(stream, tokens, |_, _| {})
    }

    /// An offer of a request that differs from an ordinary one.
    pub fn offer_with(
        &self,
        stream: u64,
        tokens: u32,
        differs: impl FnOnce(&mut SealedHeader, &mut ChatRequest),
    ) -> Offer {
        let submit = self.sealed(tokens, differs).submit;
        Offer {
            stream: StreamId(stream),
            attempt: AttemptNumber(1),
            header: submit.header,
            body: submit.body,
            wrap: submit.wraps.0[0].clone(),
            scope: [0; 16],
        }
    }
}

/// One connection.
pub struct Line {
    pub socket: WebSocketStream<TcpStream>,
    pub connection: ConnectionId,
    /// What the provider asked the coordinator to sign.
    pub dialled: [u8; 32],
}

impl Line {
    pub async fn send(&mut self, frame: impl Into<CoordinatorFrame>) {
        self.raw(Message::binary(frame.into().encode())).await;
    }

    pub async fn raw(&mut self, message: Message) {
        within("the provider reads", self.socket.send(message)).await.unwrap();
    }

    /// The next frame; none when the connection is over.
    pub async fn next(&mut self) -> Option<ProviderFrame> {
        loop {
            match self.socket.next().await? {
                Ok(Message::Binary(bytes)) => match ProviderFrame::decode(&bytes).unwrap() {
                    Decoded::Known(frame, 0) => return Some(frame),
                    other => panic!("a provider of this release sent {other:?}"),
                },
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(_) | Err(_) => return None,
            }
        }
    }

    /// Reads until something is there.
    pub async fn until<T>(&mut self, what: &str, mut look: impl FnMut(ProviderFrame) -> Option<T>) -> T {
        let search = async {
            loop {
                let frame = self.next().await.unwrap_or_else(|| panic!("the connection ended before {what}"));
                if let Some(found) = look(frame) {
                    return found;
                }
            }
        };
        within(what, search).await
    }

    /// Reads until the provider ends the connection; what it sent until then.
    pub async fn ended(&mut self, why: &str) -> Vec<ProviderFrame> {
        let rest = async {
            let mut frames = Vec::new();
            while let Some(frame) = self.next().await {
                frames.push(frame);
            }
            frames
        };
        within(why, rest).await
    }

    /// The whole answer on a stream: tokens and whether it has a receipt, or the refusal's number.
    pub async fn answer(&mut self, stream: u64) -> Result<u32, u16> {
        let (stream, mut tokens) = (StreamId(stream), None);
        self.until("an answer", |frame| match frame {
            ProviderFrame::Refused(refused) if refused.stream == stream => Some(Err(refused.code)),
            ProviderFrame::Data(data) if data.stream == stream => {
                tokens = Some(data.tokens.0);
                None
            }
            ProviderFrame::Final(end) if end.stream == stream => Some(Ok(tokens.unwrap())),
            _ => None,
        })
        .await
    }
}
