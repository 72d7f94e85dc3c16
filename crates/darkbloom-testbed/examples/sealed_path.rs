//! Tokens a second of the bare executor loop, of the engine with its scheduler, and of the whole sealed path (client,
//! coordinator with a durable ledger, provider, receipts), in interleaved rounds: the same model file, settings, prompts and
//! numbers of tokens.
//!
//! `cargo run --release -p darkbloom-testbed --example sealed_path -- MODEL.gguf [output=32] [rounds=5] [words=40]
//! [streams=1,2,4,8,16] [threads=N] [exactness=exact|fast]`
//!
//! Rates are of output tokens from the question to the last answer's end, prefill included. No two prompts are alike, so that
//! no prefix is shared but the template's, which the sealed path alone may keep; tokens are drawn at temperature 1, so that
//! there is little to guess for the engine and the sealed path. Whose turn is first changes from round to round. The last line is
//! about the time to the first text of one question: the first that a new network ever gets, one by itself, and one beside
//! eight rows that decode.

use std::error::Error;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::Instant;

use darkbloom_batch::{RowEvent, RowId, RowRequest, Sampling};
use darkbloom_content::ChatRequest;
use darkbloom_engine::{Engine, EngineHandle, Exactness, Executor as _, LlamaExecutor, LlamaSettings};
use darkbloom_testbed::{BareLoop, Comparison, Network, median, sampled_request};
use darkbloom_text::{TextModel, TextPack};
use darkbloom_types::{SecretTokens, TokenCount};
use tokio::runtime::Runtime;

/// Rows beside which one more question is asked.
const BESIDE: usize = 8;

/// A logit that no draw reaches: of tokens that would end an answer early.
const NEVER: f32 = -100.0;

struct Options {
    model: PathBuf,
    output: u32,
    rounds: usize,
    words: usize,
    streams: Vec<usize>,
    threads: usize,
    exactness: Exactness,
}

impl Options {
    fn parse() -> Result<Self, Box<dyn Error>> {
        let mut arguments = std::env::args().skip(1);
        let mut options = Self {
            model: arguments.next().ok_or("usage: sealed_path MODEL.gguf [key=value ...]")?.into(),
            output: 32,
            rounds: 5,
            words: 40,
            streams: vec![1, 2, 4, 8, 16],
            threads: LlamaSettings::threads_of_this_machine(),
            exactness: Exactness::Exact,
        };
        for argument in arguments {
            match argument.split_once('=').ok_or("arguments after the model are key=value")? {
                ("output", value) => options.output = value.parse()?,
                ("rounds", value) => options.rounds = value.parse()?,
                ("words", value) => options.words = value.parse()?,
                ("streams", value) => options.streams = value.split(',').map(str::parse).collect::<Result<_, _>>()?,
                ("threads", value) => options.threads = value.parse()?,
                ("exactness", "exact") => options.exactness = Exactness::Exact,
                ("exactness", "fast") => options.exactness = Exactness::Fast,
                (key, _) => return Err(format!("unknown argument {key}").into()),
            }
        }
        Ok(options)
    }
}

/// The three ways to the model.
struct Sides {
    text: TextModel,
    bare: BareLoop,
    engine: EngineHandle,
    network: Network,
    runtime: Runtime,
    sampling: Arc<Sampling>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse()?;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let pack = TextPack::from_gguf(std::io::BufReader::new(std::fs::File::open(&options.model)?))?;
    let text = TextModel::new(pack)?;
    let longest = text.prompt_tokens(&request(&text, options.words, 0))?.len() + options.output as usize;
    // Prompts of as many words differ by some tokens.
    let row_tokens = (longest + 64).next_multiple_of(256).min(text.context_length().0 as usize);
    let most = options.streams.iter().copied().max().unwrap_or(1).max(BESIDE + 1);
    let settings = LlamaSettings {
        threads: options.threads,
        exactness: options.exactness,
        ..LlamaSettings::new(most, row_tokens)
    };
    let executor = LlamaExecutor::load(&options.model, &settings)?;
    let limits = executor.capacity().limits(most);
    let engine = Engine::start(executor, limits)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let logit_bias = text.end_tokens().iter().map(|token| (*token, NEVER)).collect();
    let mut sides = Sides {
        bare: BareLoop::load(&options.model, &settings)?,
        engine: engine.handle(),
        network: runtime.block_on(Network::start_with(&options.model, &settings))?,
        sampling: Arc::new(Sampling { temperature: 1.0, seed: 7, logit_bias, ..Sampling::greedy() }),
        text,
        runtime,
    };
    let (_, cold_ms) = sides.sealed(&options, 0, 1)?;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{}, {:?}, {} thread(s), prompts of some {} tokens, {} tokens out, {} rounds",
        options.model.display(),
        options.exactness,
        options.threads,
        longest - options.output as usize,
        options.output,
        options.rounds
    )?;
    writeln!(
        out,
        "streams   bare tok/s   engine tok/s (÷ bare)          sealed tok/s (÷ bare)          first text ms"
    )?;
    for &streams in &options.streams {
        let (mut engines, mut sealed, mut firsts) = (Comparison::default(), Comparison::default(), Vec::new());
        // The first round warms up.
        for round in 0..=options.rounds {
            let first = (streams * 100 + round) * 300;
            let ((of_sealed, first_ms), (of_bare, of_engine)) = if round % 2 == 0 {
                let sealed = sides.sealed(&options, first, streams)?;
                (sealed, sides.within(&options, first, streams)?)
            } else {
                let within = sides.within(&options, first, streams)?;
                (sides.sealed(&options, first, streams)?, within)
            };
            if round > 0 {
                engines.push(of_engine, of_bare);
                sealed.push(of_sealed, of_bare);
                firsts.push(first_ms);
            }
        }
        let show = |of: &Comparison| {
            let (ratio, least, most) = of.ratio();
            format!("{:.1} {ratio:.3} ({least:.3} to {most:.3})", of.a())
        };
        writeln!(
            out,
            "{streams:>7}   {:>10.1}   {:<29}  {:<29}  {:.1}",
            sealed.b(),
            show(&engines),
            show(&sealed),
            median(&firsts)
        )?;
    }
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        let first = (BESIDE * 1_000 + round * 20) * 300;
        alone.push(sides.sealed(&options, first, 1)?.1);
        beside.push(sides.first_text_beside(&options, first + 300)?);
    }
    writeln!(
        out,
        "first text of one question: {cold_ms:.1} ms in a new network, {:.1} ms alone, {:.1} ms beside {BESIDE} rows that decode",
        median(&alone),
        median(&beside)
    )?;
    sides.runtime.block_on(sides.network.stop());
    Ok(())
}

/// Numbers, of which the first tells a prompt from every other.
fn request(text: &TextModel, words: usize, nth: usize) -> ChatRequest {
    let words = (0..words).map(|at| if at == 0 { nth } else { (nth * 31 + at * 7_919) % 997 }.to_string());
    let mut request = sampled_request(&words.collect::<Vec<_>>().join(" "), 1.0);
    request.tweaks.logit_bias = text.end_tokens().iter().map(|token| (*token, NEVER)).collect();
    request
}

impl Sides {
    /// Tokens a second through the whole path, and the median time to a stream's first text in milliseconds.
    fn sealed(&self, options: &Options, first: usize, streams: usize) -> Result<(f64, f64), Box<dyn Error>> {
        let began = Instant::now();
        let answers = self.runtime.block_on(async {
            let asks = (first..first + streams)
                .map(|nth| self.network.ask(request(&self.text, options.words, nth), options.output));
            futures_util::future::try_join_all(asks).await
        })?;
        let seconds = began.elapsed().as_secs_f64();
        let tokens = answers.iter().map(|answer| answer.tokens).sum::<u32>();
        if tokens as usize != streams * options.output as usize {
            return Err("an answer ended early".into());
        }
        let first_ms: Vec<_> = answers.iter().map(|answer| answer.first.as_secs_f64() * 1_000.0).collect();
        Ok((f64::from(tokens) / seconds, median(&first_ms)))
    }

    /// Milliseconds to the first text of a question that is asked while others' answers are being made.
    fn first_text_beside(&self, options: &Options, first: usize) -> Result<f64, Box<dyn Error>> {
        let question = |nth| request(&self.text, options.words, nth);
        let (begun, mut begins) = tokio::sync::mpsc::channel(BESIDE);
        let others = (first..first + BESIDE).map(|nth| {
            let begun = begun.clone();
            // There is room for all of them.
            let tell = move || _ = begun.try_send(());
            async move { self.network.ask_telling(question(nth), options.output, tell).await.map(|_| Instant::now()) }
        });
        let one = async {
            for _ in 0..BESIDE {
                begins.recv().await;
            }
            let asked = Instant::now();
            Ok((asked, self.network.ask(question(first + BESIDE), options.output).await?.first))
        };
        let both = futures_util::future::try_join(futures_util::future::try_join_all(others), one);
        let (others, (asked, took)) = self.runtime.block_on(both)?;
        if others.into_iter().any(|end| end < asked + took) {
            return Err("another answer ended before that one began: ask for more with output=".into());
        }
        Ok(took.as_secs_f64() * 1_000.0)
    }

    /// Tokens a second of the bare loop and of the engine.
    fn within(&mut self, options: &Options, first: usize, streams: usize) -> Result<(f64, f64), Box<dyn Error>> {
        let prompts = (first..first + streams)
            .map(|nth| self.text.prompt_tokens(&request(&self.text, options.words, nth)))
            .collect::<Result<Vec<SecretTokens>, _>>()?;
        let bare = self.bare.run(&prompts, &self.sampling, options.output)?;
        let began = Instant::now();
        let (sender, ends) = mpsc::channel();
        for (nth, prompt) in prompts.into_iter().enumerate() {
            let sender = sender.clone();
            let row = RowRequest::new(RowId((first + nth) as u64), prompt, TokenCount(options.output));
            let row = RowRequest { sampling: Arc::clone(&self.sampling), ..row };
            let sink = Box::new(move |event| {
                if let RowEvent::Ended { output_tokens, .. } = event {
                    // The receiver waits for every end.
                    _ = sender.send(output_tokens.0);
                }
            });
            self.engine.submit(row, sink)?;
        }
        drop(sender);
        let tokens: u32 = ends.iter().sum();
        if tokens as usize != streams * options.output as usize {
            return Err("a row ended early".into());
        }
        Ok((bare, f64::from(tokens) / began.elapsed().as_secs_f64()))
    }
}
