//! Each goal's measurement, and whether it was met.

use std::sync::Arc;
use std::time::{Duration, Instant};

use darkbloom_host::clock::{now, rng};
use darkbloom_testbed::{floor, median};
use darkbloom_types::TokenCount;
use darkbloom_wire::{ClientFrame, CoordinatorTiming, Decoded, LengthPrefixed, SealedHeader, recipient_list_digest};

use crate::bed::{Bare, Consumers, Real, Rhythm, Side, Tasks};
use crate::load::{Ready, Seen, http};
use crate::provider::{self, Identity, ROWS};
use crate::{Options, Outcome, bed};

/// Requests a side in a round of the hop, one after the other: enough for the second worst to be the 99th of a hundred.
const HOP: usize = 200;
/// Requests a side in a round of rates.
const RATE: usize = 1_500;
/// Streams at once, with frames every 20 ms.
const PACED: usize = 32;
const GAP: Duration = Duration::from_millis(20);
const PACED_FRAMES: u32 = 100;
const BURST_FRAMES: u32 = 3_000;

fn report(goal: &str, aim: &str, seen: &str, met: Option<bool>) {
    let verdict = met.map_or("", |met| if met { "met" } else { "missed" });
    println!("| {goal} | {aim} | {seen} | {verdict} |");
}

fn head(part: &str) {
    println!("\n{part}\n\n| | goal | seen | |\n|---|---|---|---|");
}

/// A list of figures, one a round.
#[derive(Default, Clone)]
struct Rounds(Vec<f64>);

impl Rounds {
    fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    fn median(&self) -> f64 {
        median(&self.0)
    }

    /// Median, least, most.
    fn show(&self) -> String {
        let least = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        format!("{:.0} ({least:.0} to {most:.0})", self.median())
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// The smallest that so many of a hundred are not above.
fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() * percent / 100).min(values.len() - 1)]
}

/// Everything is looked at: a lost frame is a failure of whoever lost it.
fn all_right(who: &str, seen: &[Seen]) -> u32 {
    let wrong = seen.iter().map(|seen| seen.wrong).sum();
    if wrong > 0 {
        println!("{who}: {wrong} frames were lost, doubled or out of order");
    }
    wrong
}

/// Requests one after the other: their first content and their end.
struct Hop {
    first: Vec<f64>,
    whole: Vec<f64>,
    timings: Vec<CoordinatorTiming>,
    cpu: f64,
}

async fn hop_of(side: &impl Side, consumers: &mut Consumers) -> Outcome<Hop> {
    let ready = side.ready(HOP, 1, Rhythm::Whole)?;
    let cpu = side.process().cpu();
    let seen = consumers.ask(ready).await?;
    // What follows an answer belongs to it.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let cpu = (side.process().cpu() - cpu) * 1e6 / HOP as f64;
    all_right("hop", &seen);
    Ok(Hop {
        first: seen.iter().map(|seen| micros(seen.first)).collect(),
        whole: seen.iter().map(|seen| micros(seen.whole)).collect(),
        timings: seen.iter().filter_map(|seen| seen.timing.clone()).collect(),
        cpu,
    })
}

/// Durable commits of one row, by a thread that waits to be asked, as a ledger's does.
struct Commits {
    ask: std::sync::mpsc::Sender<()>,
    took: tokio::sync::mpsc::Receiver<rusqlite::Result<Duration>>,
    _folder: tempfile::TempDir,
}

impl Commits {
    fn begin(folder: &std::path::Path) -> Outcome<Self> {
        let folder = tempfile::tempdir_in(folder)?;
        let database = floor::durable(folder.path())?;
        let (ask, asked) = std::sync::mpsc::channel();
        let (tell, took) = tokio::sync::mpsc::channel(1);
        std::thread::spawn(move || {
            for (number, ()) in asked.into_iter().enumerate() {
                let began = Instant::now();
                let done = floor::insert(&database, number as u64, 1).map(|()| began.elapsed());
                if tell.blocking_send(done).is_err() {
                    return;
                }
            }
        });
        Ok(Self { ask, took, _folder: folder })
    }

    async fn one(&mut self) -> Outcome<f64> {
        self.ask.send(())?;
        Ok(micros(self.took.recv().await.ok_or("the thread is gone")??))
    }
}

/// Goals 5 and 10, and the first token of 6.
pub async fn hop(options: &Options) -> Outcome<()> {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    let direct = listener.local_addr()?;
    tokio::spawn(floor::serve_direct(listener, provider::direct_answer()));
    let real = Real::start(&options.folder, options.wraps).await?;
    let bare = Bare::start(&options.folder, false).await?;
    let mut commits = Commits::begin(&options.folder)?;
    let mut to_direct = Consumers::connect(direct, 1).await?;
    let mut to_real = Consumers::connect(real.process.address, 1).await?;
    let mut to_bare = Consumers::connect(bare.process().address, 1).await?;
    let mut figures: std::collections::BTreeMap<&str, Rounds> = std::collections::BTreeMap::new();
    // The first round warms up.
    for round in 0..=options.rounds {
        let mut note = |name, value| {
            if round > 0 {
                figures.entry(name).or_default().push(value);
            }
        };
        let body = http("/v1/chat/completions", "any", &[b'x'; 1_000]);
        let asked = (0..HOP).map(|_| Ready { bytes: body.clone(), frames: 1, credit: None }).collect();
        let mut without: Vec<_> = to_direct.ask(asked).await?.iter().map(|seen| micros(seen.whole)).collect();
        let mut of_bare = hop_of(&bare, &mut to_bare).await?;
        let mut of_real = hop_of(&real, &mut to_real).await?;
        let mut commit = Vec::new();
        for _ in 0..HOP {
            commit.push(commits.one().await?);
        }
        for (percent, names) in [
            (50, ["direct 50", "bare 50", "first 50", "whole 50", "commit 50"]),
            (99, ["direct 99", "bare 99", "first 99", "whole 99", "commit 99"]),
        ] {
            let direct = percentile(&mut without, percent);
            note(names[0], direct);
            note(names[1], percentile(&mut of_bare.whole, percent) - direct);
            note(names[2], percentile(&mut of_real.first, percent) - direct);
            note(names[3], percentile(&mut of_real.whole, percent) - direct);
            note(names[4], percentile(&mut commit, percent));
        }
        note("cpu bare", of_bare.cpu);
        note("cpu real", of_real.cpu);
        for (name, of) in [
            ("reserve", (|timing| timing.reserve_us.0) as fn(&CoordinatorTiming) -> _),
            ("route", |timing| timing.route_us.0),
            ("dispatch", |timing| timing.dispatch_us.0),
        ] {
            let mut values: Vec<_> = of_real.timings.iter().map(|timing| of(timing) as f64).collect();
            note(name, percentile(&mut values, 50));
            if name == "reserve" {
                note("reserve 99", percentile(&mut values, 99));
            }
        }
    }
    let of = |name: &str| figures[name].median();
    let show = |name: &str| figures[name].show();
    head(&format!(
        "Hop, one request at a time, one frame, {} wraps, {HOP} requests a side a round, {} rounds; µs",
        options.wraps, options.rounds
    ));
    for (percent, more) in [("50", 100.0), ("99", 400.0)] {
        // A hold takes a commit and more: where the bare one took longer, something else was at work.
        let reserve = of(if percent == "50" { "reserve" } else { "reserve 99" });
        let commit = of(&format!("commit {percent}")).min(reserve);
        report(&format!("direct round trip, p{percent}"), "", &show(&format!("direct {percent}")), None);
        report(&format!("one durable commit, p{percent}"), "", &show(&format!("commit {percent}")), None);
        report(&format!("floor adds, p{percent}"), "", &show(&format!("bare {percent}")), None);
        let whole = of(&format!("whole {percent}"));
        let aim = format!("the commit + {more:.0}: {:.0}", commit + more);
        report(
            &format!("5: the whole answer, added, p{percent}"),
            &aim,
            &show(&format!("whole {percent}")),
            Some(whole <= commit + more),
        );
        let first = of(&format!("first {percent}"));
        report(
            &format!("6: the first token, added, p{percent}"),
            &aim,
            &show(&format!("first {percent}")),
            Some(first <= commit + more),
        );
    }
    report("floor, processor a request", "", &show("cpu bare"), None);
    report("5: processor a request, alone", "≤ 110", &show("cpu real"), Some(of("cpu real") <= 110.0));
    let commit = of("commit 50").min(of("reserve"));
    report(
        "10: reserve",
        &format!("≤ 1000 + the commit: {:.0}", 1_000.0 + commit),
        &show("reserve"),
        Some(of("reserve") <= 1_000.0 + commit),
    );
    report("route, of 8 providers", "", &show("route"), None);
    report("10: dispatch", "≤ 20", &show("dispatch"), Some(of("dispatch") <= 20.0));
    Ok(())
}

/// A rate a second, and the processor's µs a request.
async fn rate_of(side: &impl Side, consumers: &mut Consumers) -> Outcome<(f64, f64)> {
    let ready = side.ready(RATE, 1, Rhythm::Whole)?;
    let (cpu, began) = (side.process().cpu(), Instant::now());
    let seen = consumers.ask(ready).await?;
    let rate = RATE as f64 / began.elapsed().as_secs_f64();
    tokio::time::sleep(Duration::from_millis(20)).await;
    all_right("rate", &seen);
    Ok((rate, (side.process().cpu() - cpu) * 1e6 / RATE as f64))
}

/// Goal 7, and the processor time of 5 under load.
pub async fn rate(options: &Options) -> Outcome<()> {
    let real = Real::start(&options.folder, options.wraps).await?;
    let memory = Real::start(&options.shm, options.wraps).await?;
    let bare = Bare::start(&options.folder, false).await?;
    let rows = Bare::start(&options.folder, true).await?;
    for (at_once, least) in [(32, 0.5), (128, 0.7)] {
        let mut to_real = Consumers::connect(real.process.address, at_once).await?;
        let mut to_memory = Consumers::connect(memory.process.address, at_once).await?;
        let mut to_bare = Consumers::connect(bare.process().address, at_once).await?;
        let mut to_rows = Consumers::connect(rows.process().address, at_once).await?;
        let (mut rates, mut cpus) = (vec![Rounds::default(); 4], vec![Rounds::default(); 4]);
        let (mut of_memory, mut of_bare) = (Rounds::default(), Rounds::default());
        for round in 0..=options.rounds {
            let all = [
                rate_of(&bare, &mut to_bare).await?,
                rate_of(&rows, &mut to_rows).await?,
                rate_of(&memory, &mut to_memory).await?,
                rate_of(&real, &mut to_real).await?,
            ];
            if round > 0 {
                for (at, (rate, cpu)) in all.iter().enumerate() {
                    rates[at].push(*rate);
                    cpus[at].push(*cpu);
                }
                of_memory.push(all[3].0 / all[2].0 * 100.0);
                of_bare.push(all[1].0 / all[0].0 * 100.0);
            }
        }
        head(&format!("{at_once} requests at once, {RATE} a side a round, {} rounds", options.rounds));
        for (at, name) in [
            "floor, no ledger",
            "floor, one durable row a request",
            "coordinator, ledger in memory",
            "coordinator, ledger on the disk",
        ]
        .iter()
        .enumerate()
        {
            report(&format!("{name}, requests a second"), "", &rates[at].show(), None);
            let (aim, met) = if at == 3 { ("5: ≤ 110", Some(cpus[at].median() <= 110.0)) } else { ("", None) };
            report(&format!("{name}, processor µs a request"), aim, &cpus[at].show(), met);
        }
        report("floor: durable row ÷ none, %", "", &of_bare.show(), None);
        let aim = format!("≥ {:.0}", least * 100.0);
        report("7: coordinator: disk ÷ memory, %", &aim, &of_memory.show(), Some(of_memory.median() >= least * 100.0));
        report(
            "coordinator on the disk ÷ floor without ledger, %",
            "",
            &format!("{:.0}", rates[3].median() / rates[0].median() * 100.0),
            None,
        );
    }
    Ok(())
}

/// Frames a second, processor µs a frame, frames that were wrong.
async fn stream_of(
    side: &impl Side,
    consumers: &mut Consumers,
    frames: u32,
    rhythm: Rhythm,
) -> Outcome<(f64, f64, u32)> {
    let ready = side.ready(PACED, frames, rhythm)?;
    let (cpu, began) = (side.process().cpu(), Instant::now());
    let seen = consumers.ask(ready).await?;
    let seconds = began.elapsed().as_secs_f64();
    let all = f64::from(frames) * PACED as f64;
    Ok((all / seconds, (side.process().cpu() - cpu) * 1e6 / all, all_right("stream", &seen)))
}

/// Goal 6: paced frames and bursts.
pub async fn stream(options: &Options) -> Outcome<()> {
    let real = Real::start(&options.folder, options.wraps).await?;
    let bare = Bare::start(&options.folder, false).await?;
    let mut to_real = Consumers::connect(real.process.address, PACED).await?;
    let mut to_bare = Consumers::connect(bare.process().address, PACED).await?;
    head(&format!("{PACED} streams, {} rounds", options.rounds));
    for (name, frames, rhythm) in [("paced", PACED_FRAMES, Rhythm::Every(GAP)), ("burst", BURST_FRAMES, Rhythm::Burst)]
    {
        let (mut rates, mut cpus, mut wrong) = (vec![Rounds::default(); 2], vec![Rounds::default(); 2], 0);
        for round in 0..=options.rounds {
            let both = [
                stream_of(&bare, &mut to_bare, frames, rhythm).await?,
                stream_of(&real, &mut to_real, frames, rhythm).await?,
            ];
            wrong += both[1].2;
            if round > 0 {
                for (at, (rate, cpu, _)) in both.iter().enumerate() {
                    rates[at].push(*rate);
                    cpus[at].push(*cpu * 10.0);
                }
            }
        }
        let cpu = |at: usize| format!("{:.1}", cpus[at].median() / 10.0);
        report(&format!("{name}: floor, frames a second"), "", &rates[0].show(), None);
        report(&format!("{name}: floor, processor µs a frame"), "", &cpu(0), None);
        let (aim, met) =
            if name == "burst" { ("≥ 150000", Some(rates[1].median() >= 150_000.0)) } else { ("", None) };
        report(&format!("6: {name}: coordinator, frames a second"), aim, &rates[1].show(), met);
        let (aim, met) = if name == "paced" { ("≤ 30", Some(cpus[1].median() <= 300.0)) } else { ("", None) };
        report(&format!("6: {name}: coordinator, processor µs a frame"), aim, &cpu(1), met);
        report(&format!("6: {name}: frames lost or out of order"), "0", &wrong.to_string(), Some(wrong == 0));
    }
    Ok(())
}

/// Goal 9, and the many streams of goal 6.
pub async fn memory(options: &Options) -> Outcome<()> {
    let real = Real::start(&options.folder, options.wraps).await?;
    let mut warm = Consumers::connect(real.process.address, 8).await?;
    all_right("memory", &warm.ask(real.ready(400, 1, Rhythm::Whole)?).await?);
    let before = settled(&real).await;
    let identities =
        (0..options.idle).map(|_| Ok(Arc::new(Identity::new(&real.place)?))).collect::<Outcome<Vec<_>>>()?;
    let (mut tasks, mut joined) = (Tasks::default(), 0);
    for some in identities.chunks(64) {
        for identity in some {
            tasks.begin(provider::join(real.place.clone(), Arc::clone(identity)));
        }
        joined += some.len();
        // No more strangers at once than a coordinator takes.
        real.wait(joined + bed::PROVIDERS).await?;
    }
    let idle = settled(&real).await;
    drop((tasks, real));

    let real = Real::start(&options.folder, options.wraps).await?;
    let mut warm = Consumers::connect(real.process.address, 8).await?;
    all_right("memory", &warm.ask(real.ready(400, 1, Rhythm::Whole)?).await?);
    let ready = real.ready(options.streams, 16, Rhythm::Every(Duration::from_millis(500)))?;
    let without = settled(&real).await;
    let mut consumers = Consumers::connect(real.process.address, options.streams).await?;
    let asking = tokio::spawn(async move { consumers.ask(ready).await });
    let mut samples = Rounds::default();
    tokio::time::sleep(Duration::from_secs(4)).await;
    while !asking.is_finished() && samples.0.len() < 6 {
        samples.push(real.process.resident());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let seen = asking.await??;
    let wrong = all_right("many streams", &seen);
    head(&format!("Memory: {} idle providers ({ROWS} rows each), {} live streams", options.idle, options.streams));
    report("a fresh coordinator, MiB", "", &format!("{:.1}", before / f64::from(1 << 20)), None);
    let each = (idle - before) / options.idle as f64;
    report("9: an idle provider's connection, bytes", "≤ 12288", &format!("{each:.0}"), Some(each <= 12_288.0));
    let each = (samples.median() - without) / options.streams as f64;
    report("9: a live stream, bytes", "≤ 49152", &format!("{each:.0}"), Some(each <= 49_152.0));
    let frames: u32 = seen.iter().map(|seen| seen.frames).sum();
    report(
        &format!("6: of {frames} frames of {} streams, lost or out of order", options.streams),
        "0",
        &wrong.to_string(),
        Some(wrong == 0),
    );
    Ok(())
}

/// Resident memory once nothing happens any more.
async fn settled(real: &Real) -> f64 {
    let mut samples = Rounds::default();
    tokio::time::sleep(Duration::from_secs(2)).await;
    for _ in 0..5 {
        samples.push(real.process.resident());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    samples.median()
}

/// What of goal 10 happens in functions alone: reading a submission, and sealing to one more candidate.
pub fn segments(options: &Options) -> Outcome<()> {
    let identity = || -> Outcome<_> {
        use darkbloom_keys::IdentityKey as _;
        let key = darkbloom_keys::SoftwareKey::in_memory()?;
        Ok(darkbloom_seal::Epoch::begin(key.public_point(), now(), &mut rng()))
    };
    let epochs = (0..8).map(|_| identity()).collect::<Outcome<Vec<_>>>()?;
    let statements: Vec<_> = epochs
        .iter()
        .map(|epoch| epoch.statement(darkbloom_types::NetworkId([1; 32]), Vec::new(), Vec::new(), "bench"))
        .collect();
    let recipients: Vec<_> = epochs
        .iter()
        .zip(&statements)
        .map(|(epoch, statement)| darkbloom_seal::Recipient {
            provider: darkbloom_types::ProviderId::of_public_key(&epoch.id().0),
            epoch: epoch.id(),
            sealing_key: &statement.sealing_key,
        })
        .collect();
    let header = || SealedHeader {
        network: darkbloom_types::NetworkId([1; 32]),
        suite: darkbloom_wire::Suite::XWingAes256Gcm,
        request: darkbloom_types::RequestId([1; 16]),
        operation: darkbloom_types::OperationId([1; 16]),
        model: darkbloom_types::CatalogueDigest([1; 32]),
        kind: darkbloom_wire::RequestKind::Chat,
        stream: true,
        input_ceiling: TokenCount(512),
        output_ceiling: TokenCount(512),
        price_version: 1,
        price_max: darkbloom_types::NanoDollars(1_024),
        tier_min: darkbloom_types::Tier::None,
        affinity: [1; 16],
        sealed_at: now(),
        recipients: darkbloom_types::Digest([0; 32]),
        key_commitment: darkbloom_types::Digest([0; 32]),
    };
    head(&format!("Segments, as functions, {} rounds of 200; µs", options.rounds));
    let time = |work: &mut dyn FnMut() -> Outcome<()>| -> Outcome<f64> {
        let mut took = Vec::with_capacity(200);
        for _ in 0..200 {
            let began = Instant::now();
            work()?;
            took.push(micros(began.elapsed()));
        }
        Ok(percentile(&mut took, 50))
    };
    let plaintext: darkbloom_types::SecretBytes = vec![7; 10_000].into();
    let (mut wrap, mut parse) = (Rounds::default(), Rounds::default());
    let seal = |wraps: usize| darkbloom_seal::seal_request(header(), &plaintext, &recipients[..wraps], &mut rng());
    let body = LengthPrefixed::wrap(&ClientFrame::from(seal(options.wraps)?.submit).encode());
    for _ in 0..options.rounds {
        let one = time(&mut || Ok(seal(1).map(drop)?))?;
        let eight = time(&mut || Ok(seal(8).map(drop)?))?;
        wrap.push((eight - one) / 7.0);
        parse.push(time(&mut || {
            // What the coordinator does with a body before it looks anything up.
            let mut frames = LengthPrefixed::default();
            frames.push(&body);
            let frame = frames.next_frame()?.ok_or("no frame")?;
            let Decoded::Known(ClientFrame::Submit(submit), _) = ClientFrame::decode(frame)? else {
                return Err("no submission".into());
            };
            let header = SealedHeader::decode(&submit.header)?;
            let digest = recipient_list_digest(submit.wraps.0.iter().map(|wrap| (&wrap.provider, &wrap.epoch)));
            if header.recipients == digest { Ok(()) } else { Err("other recipients".into()) }
        })?);
    }
    report(
        &format!("10: parse a submission of {} bytes", body.len()),
        "≤ 10",
        &wrap_show(&parse),
        Some(parse.median() <= 10.0),
    );
    report(
        "10: seal to one more candidate, 10 KB, post-quantum",
        "≤ 300",
        &wrap_show(&wrap),
        Some(wrap.median() <= 300.0),
    );
    Ok(())
}

fn wrap_show(rounds: &Rounds) -> String {
    format!("{:.1}", rounds.median())
}
