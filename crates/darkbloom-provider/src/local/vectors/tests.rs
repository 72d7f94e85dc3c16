//! Embedders on a shelf beside models that answer. Nothing here waits for a time: it is none, or never ends.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use darkbloom_content::{ChatRequest, Message, Role};
use darkbloom_types::{Millis, SecretVector, TokenId};
use darkbloom_wire::Residence;

use super::*;
use crate::local::Said;
use crate::model::{CheckedModel, LoadWatch, ModelOptions};
use crate::shelf::{Allowance, Book, Identity, Shelved};

#[allow(dead_code, clippy::unwrap_used, reason = "the engine's own tests use all of it")]
#[path = "../../../../darkbloom-engine/tests/hostile/file.rs"]
mod file;

/// Room for both, which take 10 each, and no time for anything.
const BOTH: Allowance =
    Allowance { budget: 20, idle: None, kept: Millis(0), leave_after: Millis(0), room_wait: Millis(u64::MAX) };

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/darkbloom-tiny-q8_0.gguf")
}

/// The model that ships, and the same as one that makes vectors.
fn local(folder: &Path, allowance: Allowance) -> Local {
    let mut parts = file::Parts::read(&std::fs::read(shipped()).unwrap());
    parts.set_number("qwen3.pooling_type", 3);
    let path = folder.join("vectors.gguf");
    std::fs::write(&path, parts.write()).unwrap();
    let checked = CheckedModel::read(&shipped(), &[]).unwrap();
    let answers = Identity { weights: checked.weights, text_pack: checked.text_pack.digest() };
    let vectors = LoadedEmbedder::identity_of(&path, &[], &LoadWatch::default()).unwrap();
    let options = |path| ModelOptions { threads: Some(1), ..ModelOptions::new(path, 2, 64) };
    let books = vec![
        Book::stored(options(shipped()), answers, 10),
        Book::stored(ModelOptions { embeds: true, ..options(path) }, vectors, 10),
    ];
    Local {
        shelf: Shelf::new(books, allowance, Shelved::load),
        names: vec!["answers".to_owned(), "vectors".to_owned()],
        next_row: AtomicU64::new(1),
        scope: [0; 32],
        tidying: tokio::spawn(async {}),
    }
}

impl Local {
    fn residences(&self) -> [Residence; 2] {
        [0, 1].map(|at| self.shelf.status(at).unwrap().residence)
    }

    async fn vectors(&self) -> Vec<SecretVector> {
        let tokens = EmbeddingInput::Tokens(SecretTokens::new((1..30).map(TokenId).collect()));
        let inputs = vec![EmbeddingInput::Text("What is 17 + 25?".into()), tokens, EmbeddingInput::Text("a".into())];
        let made = self.embed("vectors", EmbeddingRequest { inputs, dimensions: None }).await.unwrap();
        assert!(made.input_tokens > TokenCount(30));
        assert_eq!(made.vectors.len(), 3);
        made.vectors
    }

    async fn chat(&self, model: &str) -> Result<TokenCount, Refusal> {
        let request = ChatRequest::new(vec![Message::new(Role::User, "What is 17 + 25?")]);
        let mut said = self.answer(model, request, Some(5)).await?;
        loop {
            match said.recv().await {
                Some(Said::Parts(_)) => {}
                Some(Said::Ended { output_tokens, .. }) => return Ok(output_tokens),
                Some(Said::Failed(refusal)) => return Err(refusal),
                None => panic!("it has no end"),
            }
        }
    }
}

use Residence::{Loaded, Stored};

#[tokio::test]
async fn an_embedder_that_nobody_uses_is_unloaded_and_comes_back_with_the_same_vectors() {
    let folder = tempfile::tempdir().unwrap();
    let local = local(folder.path(), Allowance { idle: Some(Millis(0)), ..BOTH });
    assert_eq!(local.residences(), [Stored, Stored]);
    let first = local.vectors().await;
    assert_eq!(local.residences(), [Stored, Loaded]);
    let tidy = Arc::clone(&local.shelf);
    let mut changes = local.shelf.changes();
    let tidying = tokio::spawn(async move { tidy.keep_tidy().await });
    let unloaded = async {
        while local.residences() != [Stored, Stored] {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), unloaded).await.expect("it is still loaded");
    tidying.abort();
    assert!(tidying.await.unwrap_err().is_cancelled());
    assert!(!*local.shelf.broken().borrow(), "nothing is broken by that");
    assert!(local.vectors().await == first);
}

#[tokio::test]
async fn embedders_and_models_that_answer_make_room_for_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let local = local(folder.path(), Allowance { budget: 19, ..BOTH });
    let first = local.vectors().await;
    assert_eq!(local.residences(), [Stored, Loaded]);
    assert!(local.chat("answers").await.unwrap() > TokenCount(0));
    assert_eq!(local.residences(), [Loaded, Stored]);
    assert!(local.vectors().await == first);
    assert_eq!(local.residences(), [Stored, Loaded]);
}

#[tokio::test]
async fn nothing_is_made_any_more_when_all_has_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let local = local(folder.path(), BOTH);
    local.vectors().await;
    let model = local.shelf.lend_embedder_unless_leaving(1).unwrap();
    // Hours of work, for nobody or for somebody who waits.
    let hours = || (0..100_000).map(|_| SecretTokens::new(vec![TokenId(1); 60])).collect::<Vec<_>>();
    drop(model.desk.submit(hours(), model.clone()).unwrap());
    let waited_for = model.desk.submit(hours(), model.clone()).unwrap();
    drop(model);
    local.stop().await;
    assert!(waited_for.await.is_err());
    assert!(local.shelf.is_free(1));
}

#[tokio::test]
async fn what_a_model_does_not_do_is_refused_without_loading_it() {
    let folder = tempfile::tempdir().unwrap();
    let local = local(folder.path(), BOTH);
    let refused = local.chat("vectors").await.unwrap_err();
    assert_eq!(refused.code, RefusalCode::InvalidRequest);
    assert!(refused.detail.contains("`POST /v1/embeddings`"), "{refused}");
    let texts = || EmbeddingRequest { inputs: vec![EmbeddingInput::Text("a".into())], dimensions: None };
    let refused = local.embed("answers", texts()).await.unwrap_err();
    assert_eq!(refused.code, RefusalCode::InvalidRequest);
    assert!(refused.detail.contains("`POST /v1/chat/completions`"), "{refused}");
    assert_eq!(local.embed("nobody", texts()).await.unwrap_err().code, RefusalCode::ModelNotFound);
    assert_eq!(local.residences(), [Stored, Stored]);
}
