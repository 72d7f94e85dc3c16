//! Tokens a second through the whole sealed path (client, coordinator with a durable ledger, provider, receipts) beside the
//! bare executor loop, in interleaved rounds: the same model file, settings, prompts and numbers of tokens.
//!
//! `cargo run --release -p darkbloom-testbed --example sealed_path -- MODEL.gguf [OUTPUT_TOKENS] [ROUNDS] [STREAMS,STREAMS…]`

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use darkbloom_engine::LlamaSettings;
use darkbloom_testbed::{BareLoop, Comparison, Network, median, sampled_request};
use darkbloom_text::{TextModel, TextPack};

/// The prompt: a model with random weights does not mind, the one that ships counts as long as it is let.
const PROMPT: &str = "Count from 1 to 12.";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let model = PathBuf::from(arguments.next().ok_or("which model file?")?);
    let output: u32 = arguments.next().map_or(Ok(32), |text| text.parse())?;
    let rounds: usize = arguments.next().map_or(Ok(5), |text| text.parse())?;
    let streams = arguments.next().unwrap_or_else(|| "1,8".to_owned());
    let streams: Vec<usize> = streams.split(',').map(str::parse).collect::<Result<_, _>>()?;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;

    let pack = TextPack::from_gguf(std::io::BufReader::new(std::fs::File::open(&model)?))?;
    let text = TextModel::new(pack)?;
    let prompt = text.prompt_tokens(&sampled_request(PROMPT, 0.0))?;
    let row_tokens = (prompt.len() + output as usize + 64).next_multiple_of(256).min(text.context_length().0 as usize);
    let most = streams.iter().copied().max().unwrap_or(1);
    let mut settings = LlamaSettings::new(most, row_tokens);
    settings.threads = LlamaSettings::threads_of_this_machine();
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "model {}, {} prompt tokens, {output} output tokens, {} engine thread(s), {rounds} rounds",
        model.display(),
        prompt.len(),
        settings.threads
    )?;
    writeln!(
        out,
        "{:>7}  {:>12}  {:>12}  {:>22}  {:>14}",
        "streams", "sealed tok/s", "bare tok/s", "ratio (least, largest)", "first text ms"
    )?;
    let mut bare = BareLoop::load(&model, &settings)?;
    let network = runtime.block_on(Network::start(&model, most, row_tokens, settings.threads))?;
    for streams in streams {
        let (mut comparison, mut firsts) = (Comparison::default(), Vec::new());
        for round in 0..=rounds {
            let began = Instant::now();
            let answers = runtime.block_on(async {
                let asks = (0..streams).map(|_| network.ask(sampled_request(PROMPT, 0.0), output));
                futures_util::future::join_all(asks).await
            });
            let took = began.elapsed().as_secs_f64();
            let (mut tokens, mut first_ms) = (0, Vec::new());
            for answer in answers {
                let answer = answer?;
                tokens += answer.tokens;
                first_ms.push(answer.first.as_secs_f64() * 1_000.0);
            }
            let sealed = f64::from(tokens) / took;
            // The bare loop makes as many tokens a row as the sealed path did.
            let each = tokens / u32::try_from(streams)?;
            let floor = bare.run(streams, &prompt, each.max(1))?;
            if round > 0 {
                comparison.push(sealed, floor);
                firsts.push(median(&first_ms));
            }
        }
        let (ratio, least, largest) = comparison.ratio();
        writeln!(
            out,
            "{streams:>7}  {:>12.1}  {:>12.1}  {ratio:>8.3} ({least:.3}, {largest:.3})  {:>14.2}",
            comparison.a(),
            comparison.b(),
            median(&firsts)
        )?;
    }
    runtime.block_on(network.stop());
    Ok(())
}
