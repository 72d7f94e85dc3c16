//! What answers a surface's requests: a network, or an engine in this process.

use std::pin::Pin;
use std::sync::Arc;

use darkbloom_content::{EmbeddingRequest, Embeddings};
use darkbloom_dialect::openai;
use darkbloom_types::{NanoDollars, Refusal, RefusalCode};
use tokio::sync::mpsc;

use crate::{Answer, AnswerMeta, Client, Failed, Operation, Part, Timing};

/// The future of one answer.
pub type Answering<'a> = Pin<Box<dyn Future<Output = Result<mpsc::Receiver<Part>, Box<Failed>>> + Send + 'a>>;

/// The future of the vectors of some texts.
pub type Embedding<'a> = Pin<Box<dyn Future<Output = Result<Embeddings, Refusal>> + Send + 'a>>;

/// An engine in this process, for a surface without a network. Nothing is sealed, verified or charged.
pub trait Engine: Send + Sync + 'static {
    /// The names of its models.
    fn models(&self) -> Vec<String>;

    /// Starts an answer and returns when it has begun. Dropping the parts ends it.
    fn answer(&self, operation: Operation) -> Answering<'_>;

    /// Makes vectors of texts with the model of this name. Dropping the future ends it.
    fn embed(&self, model: String, request: EmbeddingRequest) -> Embedding<'_>;
}

/// Who answers.
pub enum Backend {
    /// Providers of a network.
    Network(Client),
    /// An engine in this process.
    Engine(Arc<dyn Engine>),
}

/// An answer that has begun, whoever gives it.
pub struct Begun {
    /// What was verified; nothing where there is nobody to verify.
    pub meta: Option<AnswerMeta>,
    /// Where the time went so far.
    pub timing: Timing,
    /// What follows. Dropping it ends the answer.
    pub parts: mpsc::Receiver<Part>,
    answer: Option<Charged>,
}

/// What is kept of a network's answer beside its parts.
type Charged = Box<dyn Fn() -> Option<NanoDollars> + Send + Sync>;

impl Begun {
    /// What an answer that failed was charged.
    pub fn charged(&self) -> Option<NanoDollars> {
        self.answer.as_ref().map_or(Some(NanoDollars::ZERO), |charged| charged())
    }
}

impl From<Answer> for Begun {
    fn from(answer: Answer) -> Self {
        let Answer { meta, parts, charged } = answer;
        let timing = meta.timing;
        Self { meta: Some(meta), timing, parts, answer: Some(Box::new(move || charged.get().copied())) }
    }
}

impl Backend {
    /// Starts an answer.
    pub async fn answer(&self, operation: Operation) -> Result<Begun, Box<Failed>> {
        match self {
            Self::Network(client) => client.chat(operation).await.map(Begun::from),
            Self::Engine(engine) => {
                let mut timing = Timing::default();
                timing.parse(operation.parse);
                let parts = engine.answer(operation).await?;
                Ok(Begun { meta: None, timing, parts, answer: None })
            }
        }
    }

    /// What makes vectors of texts: an engine alone, since requests, prices and receipts of a network know answers only.
    pub fn embedder(&self) -> Result<&dyn Engine, Refusal> {
        match self {
            Self::Network(_) => {
                let detail = "a network answers chats and makes no vectors, which `darkbloom start --local` does";
                Err(Refusal::new(RefusalCode::NotFound, detail))
            }
            Self::Engine(engine) => Ok(&**engine),
        }
    }

    /// The models on offer.
    pub async fn models(&self) -> Result<Vec<openai::ModelEntry>, Refusal> {
        let names = match self {
            Self::Network(client) => client.models().await?.into_iter().map(|offer| offer.entry.name).collect(),
            Self::Engine(engine) => engine.models(),
        };
        // Nothing says when a model was made; OpenAI's field is filled with the epoch's start.
        let entry = |id| openai::ModelEntry { id, created_unix_s: 0, owned_by: "darkbloom".to_owned() };
        Ok(names.into_iter().map(entry).collect())
    }
}
