//! `darkbloom start --local`: OpenAI's interface for programs of this machine, without a network.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use darkbloom_client::{Answering, Completed, Embedding, Engine, Failed, Operation, Part, Surface, Timing};
use darkbloom_content::{AnswerParts, EmbeddingRequest, PartKind};
use darkbloom_provider::{Local, LocalConfig, Said, local_key};
use darkbloom_types::{Refusal, RefusalCode, SecretString};
use serde_json::json;
use tokio::sync::mpsc;

use crate::error::{Failure, say};
use crate::roles::Stop;

/// Parts that may wait for the consumer; behind them wait the engine's.
const PARTS_MAX: usize = 64;

/// The engine behind a surface.
struct LocalEngine(Arc<Local>);

impl Engine for LocalEngine {
    fn models(&self) -> Vec<String> {
        self.0.models().to_vec()
    }

    fn answer(&self, operation: Operation) -> Answering<'_> {
        Box::pin(async move {
            let mut timing = Timing::default();
            timing.parse(operation.parse);
            let Operation { model, request, max_output_tokens, .. } = operation;
            let said = self.0.answer(&model, request, max_output_tokens).await;
            let said = said.map_err(|refusal| Box::new(Failed::new(refusal, timing)))?;
            let (out, parts) = mpsc::channel(PARTS_MAX);
            tokio::spawn(hand_on(said, out, timing));
            Ok(parts)
        })
    }

    fn embed(&self, model: String, request: EmbeddingRequest) -> Embedding<'_> {
        Box::pin(async move { self.0.embed(&model, request).await })
    }
}

/// Hands an answer on as a surface takes it. When nobody takes it any more, dropping what is said ends it.
async fn hand_on(mut said: mpsc::Receiver<Said>, out: mpsc::Sender<Part>, timing: Timing) {
    let failed = |refusal: Refusal| Part::Failed(Box::new(Failed::new(refusal, timing)));
    let mut name = SecretString::default();
    loop {
        let next = tokio::select! {
            next = said.recv() => next,
            () = out.closed() => return,
        };
        let last = match next {
            Some(Said::Parts(parts)) => {
                if hand_on_parts(parts, &mut name, &out).await.is_none() {
                    return;
                }
                continue;
            }
            Some(Said::Ended { reason: finish, input_tokens, output_tokens }) => {
                Part::Completed(Box::new(Completed { finish, input_tokens, output_tokens, settled: None, timing }))
            }
            Some(Said::Failed(refusal)) => failed(refusal),
            None => failed(RefusalCode::Internal.into()),
        };
        // Nobody may be there to hear it.
        let _ = out.send(last).await;
        return;
    }
}

/// Nothing where nobody takes them. A call's name is handed on once it is whole, which the arguments behind it tell.
async fn hand_on_parts(parts: AnswerParts, name: &mut SecretString, out: &mpsc::Sender<Part>) -> Option<()> {
    for part in parts {
        let part = match part.kind {
            PartKind::Text => Part::Text(part.text),
            PartKind::Reasoning => Part::Reasoning(part.text),
            PartKind::CallName => {
                name.push_str(part.text.expose());
                continue;
            }
            PartKind::CallArguments => {
                if !name.is_empty() {
                    out.send(Part::Call(std::mem::take(name))).await.ok()?;
                }
                Part::Arguments(part.text)
            }
        };
        out.send(part).await.ok()?;
    }
    Some(())
}

/// Serves until told to stop.
pub async fn run(
    config: LocalConfig,
    port: u16,
    key: Option<SecretString>,
    json: bool,
    mut stop: Stop,
) -> Result<(), Failure> {
    let data = config.data.clone();
    let Some(local) = stop.unless_signalled(Local::start(config)).await else { return Ok(()) };
    let local = Arc::new(local.map_err(|error| Failure::new(error.to_string(), error.hint()))?);
    let given = key.is_some();
    let key = match key {
        Some(key) => key,
        None => kept_key(&data.join("local.key"))?,
    };
    // As it comes in a header: without white space around it, and none in it.
    if key.is_empty() || key.expose().contains(|sign: char| !sign.is_ascii_graphic()) {
        return Err(Failure::new("the key is empty, or has white space in it", "set DARKBLOOM_LOCAL_KEY to another"));
    }
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let surface = Surface::local(Arc::new(LocalEngine(Arc::clone(&local))), listen, key.clone()).await;
    let surface = surface.map_err(|error| Failure::new(error.to_string(), error.hint()))?;
    let models = local.models();
    // Whoever gave it knows it, and standard output may go into a journal.
    let shown = (!given).then(|| key.expose());
    if json {
        say(json!({"ready": "local", "address": surface.address, "key": shown, "models": models}).to_string())?;
    } else {
        say(format!("local   base URL http://{}/v1", surface.address))?;
        say(format!("key     {}", shown.unwrap_or("as given")))?;
        for model in models {
            say(format!("model   {model}"))?;
        }
    }
    let ended = tokio::select! {
        broken = local.broken() => Err(Failure::new(broken.to_string(), broken.hint()).temporary()),
        () = stop.told() => Ok(()),
    };
    surface.stop().await;
    local.stop().await;
    ended
}

/// The key of this machine's programs, which stays the same from start to start.
fn kept_key(path: &Path) -> Result<SecretString, Failure> {
    local_key(path).map_err(|error| {
        let path = path.display();
        Failure::new(
            format!("cannot use {path}: {error}"),
            "choose another folder with `--data`, or set DARKBLOOM_LOCAL_KEY",
        )
    })
}
