//! How many questions a model answers exactly right through the whole sealed path, eight at a time: the engine's own
//! arithmetic, tokenizer, template and batches, against the answers in a file.
//!
//! `models/train.py questions MODEL.gguf --out FILE` writes such a file: all held-out questions of the score, none left out.
//!
//! `cargo run --release -p darkbloom-testbed --example score -- MODEL.gguf FILE`

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;

use darkbloom_engine::LlamaSettings;
use darkbloom_testbed::{Network, read_questions};
use futures_util::StreamExt as _;

/// Requests at once, and rows.
const AT_ONCE: usize = 8;
/// No right answer is as long.
const OUTPUT_TOKENS: u32 = 64;
/// The context of the model that ships.
const ROW_TOKENS: usize = 1_024;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(model), Some(file)) = (arguments.next(), arguments.next()) else {
        return Err("usage: score MODEL.gguf QUESTIONS.jsonl".into());
    };
    let questions = read_questions(&file)?;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let scores = runtime.block_on(async {
        let network = Network::start(&model, AT_ONCE, ROW_TOKENS, LlamaSettings::threads_of_this_machine()).await?;
        let asked = &network;
        let mut answers = futures_util::stream::iter(&questions)
            .map(|question| async move {
                let answer = asked.ask(question.request.clone(), OUTPUT_TOKENS).await;
                (question, answer)
            })
            .buffer_unordered(AT_ONCE);
        let mut scores: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
        while let Some((question, answer)) = answers.next().await {
            let (right, all) = scores.entry(&question.task).or_default();
            *right += u32::from(answer?.text.expose() == question.answer);
            *all += 1;
        }
        drop(answers);
        network.stop().await;
        Ok::<_, Box<dyn std::error::Error>>(scores)
    })?;
    let mut out = std::io::stdout().lock();
    let (mut right, mut all) = (0, 0);
    for (task, (of_task, asked)) in scores {
        writeln!(
            out,
            "{task:<12} {of_task:>5} of {asked:>5}  {:>5.1} %",
            f64::from(of_task) / f64::from(asked) * 100.0
        )?;
        (right, all) = (right + of_task, all + asked);
    }
    writeln!(out, "{:<12} {right:>5} of {all:>5}  {:>5.1} %", "all", f64::from(right) / f64::from(all) * 100.0)?;
    Ok(())
}
