//! Model files as people and programs are shown them. Names in files and on hubs are somebody else's words.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use darkbloom_client::{ModelOffer, printable};
use darkbloom_provider::models::{Event, FoundModel, Match, Place, Progress, quantisation};
use serde_json::{Value, json};

/// A line on a terminal changes no more often than can be read.
const REDRAWN_EVERY: Duration = Duration::from_millis(200);
/// Where there is no terminal there is a line every so often.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// A program is told every second.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// A number of bytes in words, in powers of 1,024.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1_024 {
        return format!("{count} bytes");
    }
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let mut scaled = count as f64 / 1_024.0;
    let mut unit = 0;
    // What would be rounded to 1024.0 is 1.0 of the next.
    while scaled >= 1_023.95 && unit + 1 < UNITS.len() {
        scaled /= 1_024.0;
        unit += 1;
    }
    format!("{scaled:.1} {}", UNITS[unit])
}

/// A number of weights in words.
fn parameters(count: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let count = count as f64;
    match count {
        count if count >= 1e9 => format!("{:.1} B", count / 1e9),
        count if count >= 1e6 => format!("{:.1} M", count / 1e6),
        count => format!("{:.1} K", count / 1e3),
    }
}

/// A time in words.
fn time(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
    }
}

fn place(place: Place) -> &'static str {
    match place {
        Place::Own => "models folder",
        Place::HuggingFace => "Hugging Face cache",
        Place::Folder => "folder",
    }
}

/// A model for a person.
pub fn model_as_text(model: &FoundModel) -> String {
    let mut text = format!("{}\n", printable(&model.name));
    let size = bytes(model.bytes);
    match &model.header {
        Ok(header) => {
            let (stored, context) = (quantisation(header.file_type), header.context_length);
            let parameters = parameters(header.parameters);
            let architecture = printable(&header.architecture);
            write!(text, "    {architecture}, {stored}, {parameters} parameters, context {context}, {size}")
        }
        Err(error) => write!(text, "    cannot be loaded: {}; {size}", printable(&error.to_string())),
    }
    .expect("writing to a text never fails");
    if let Some(parts) = model.parts {
        write!(text, ", {} of {} files", parts.found, parts.of).expect("writing to a text never fails");
    }
    let path = model.path.to_string_lossy();
    write!(text, ", in the {}\n    {}", place(model.place), printable(&path)).expect("writing to a text never fails");
    text
}

/// A model for a program.
pub fn model_as_json(model: &FoundModel) -> Value {
    let place = match model.place {
        Place::Own => "own",
        Place::HuggingFace => "hugging_face",
        Place::Folder => "folder",
    };
    let header = model.header.as_ref().ok();
    json!({
        "name": model.name,
        "place": place,
        "path": model.path.to_string_lossy(),
        "bytes": model.bytes,
        "loadable": header.is_some(),
        "error": model.header.as_ref().err().map(ToString::to_string),
        "title": header.and_then(|header| header.name.clone()),
        "architecture": header.map(|header| header.architecture.clone()),
        "quantisation": header.map(|header| quantisation(header.file_type)),
        "context": header.map(|header| header.context_length),
        "parameters": header.map(|header| header.parameters),
        "files": model.parts.map_or_else(|| json!({"found": 1, "of": 1}), |parts| json!({"found": parts.found, "of": parts.of})),
        "claimed_sha256": model.claimed,
    })
}

/// An offer for a person, with the files that could serve it.
pub fn offer_as_text(offer: &ModelOffer, found: &[(PathBuf, Match)], hashed: bool) -> String {
    let (entry, price) = (&offer.entry, &offer.price);
    let mut text = format!(
        "{}\n    {}, context {}, {} and {} nano-dollars for a token of input and output\n    weights {}",
        printable(&entry.name),
        printable(&entry.quantisation),
        entry.context.0,
        price.input_nano_per_token,
        price.output_nano_per_token,
        entry.weights
    );
    for (path, found) in found {
        let path = path.to_string_lossy();
        let word = if *found == Match::Yes { "served by" } else { "maybe" };
        write!(text, "\n    {word} {}", printable(&path)).expect("writing to a text never fails");
    }
    if found.is_empty() {
        text.push_str("\n    no file of this machine");
    } else if !hashed {
        text.push_str("\n    `--hash` says for certain");
    }
    text
}

/// An offer for a program.
pub fn offer_as_json(offer: &ModelOffer, found: &[(PathBuf, Match)]) -> Value {
    let files = |wanted: Match| {
        let files = found.iter().filter(|(_, found)| *found == wanted);
        files.map(|(path, _)| path.to_string_lossy().into_owned()).collect::<Vec<_>>()
    };
    json!({
        "name": offer.entry.name,
        "digest": offer.digest,
        "weights": offer.entry.weights,
        "text_pack": offer.entry.text_pack,
        "quantisation": offer.entry.quantisation,
        "context": offer.entry.context.0,
        "price": offer.price,
        "served_by": files(Match::Yes),
        "maybe": files(Match::Maybe),
    })
}

/// Where progress is shown: on a terminal one line that changes, otherwise a line now and then, to a program as JSON.
pub struct Line {
    json: bool,
    terminal: bool,
    last: Option<Instant>,
    /// Whether the terminal's cursor stands at the end of a line that may change.
    open: bool,
}

impl Line {
    /// Nothing is shown yet.
    pub fn new(json: bool) -> Self {
        Self { json, terminal: std::io::stderr().is_terminal(), last: None, open: false }
    }

    /// Whether it is time to show something again.
    fn is_due(&mut self) -> bool {
        let every = match (self.json, self.terminal) {
            (true, _) => TOLD_EVERY,
            (false, true) => REDRAWN_EVERY,
            (false, false) => LINE_EVERY,
        };
        let due = self.last.is_none_or(|last| last.elapsed() >= every);
        if due {
            self.last = Some(Instant::now());
        }
        due
    }

    /// Shows how far something is, when it is time.
    pub fn note(&mut self, text: &str) {
        if !self.is_due() {
            return;
        }
        let mut out = std::io::stderr().lock();
        // Nobody is left to tell when standard error is closed.
        if self.terminal {
            let _ = write!(out, "\r\u{1b}[K{text}").and_then(|()| out.flush());
            self.open = true;
        } else {
            let _ = writeln!(out, "{text}");
        }
    }

    /// Shows something that stays.
    pub fn say(&mut self, text: &str) {
        self.end();
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }

    /// Ends the line that changes.
    pub fn end(&mut self) {
        if std::mem::take(&mut self.open) {
            let _ = writeln!(std::io::stderr().lock());
        }
    }

    /// Shows what happens to a download.
    pub fn event(&mut self, event: &Event) {
        if self.json {
            let last = matches!(event, Event::Progress(progress) if progress.done == progress.total);
            if !matches!(event, Event::Progress(_)) || last || self.is_due() {
                // A closed standard output is found out when the result is written.
                let _ = writeln!(std::io::stdout().lock(), "{}", event_as_json(event));
            }
            return;
        }
        match event {
            Event::Progress(progress) => self.note(&progress_as_text(progress)),
            Event::Resumed { bytes: there } => self.say(&format!("{} are there already", bytes(*there))),
            Event::Restarted => self.say("what was there is of another edition; beginning anew"),
            Event::Waiting { why, wait } => self.say(&format!("{}; trying again in {}", printable(why), time(*wait))),
        }
    }
}

fn progress_as_text(progress: &Progress) -> String {
    let mut text = format!("{} of {}", bytes(progress.done), bytes(progress.total));
    if let Some(rate) = progress.rate {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is not negative")]
        let rate = rate as u64;
        write!(text, ", {}/s", bytes(rate)).expect("writing to a text never fails");
    }
    if let Some(left) = progress.left {
        write!(text, ", {} left", time(left)).expect("writing to a text never fails");
    }
    text
}

fn event_as_json(event: &Event) -> Value {
    match event {
        Event::Resumed { bytes } => json!({"event": "resumed", "bytes": bytes}),
        Event::Progress(Progress { done, total, rate, left }) => {
            let left = left.map(|left| left.as_secs());
            json!({"event": "progress", "bytes": done, "of": total, "bytes_per_second": rate.map(f64::round), "seconds_left": left})
        }
        Event::Restarted => json!({"event": "restarted"}),
        Event::Waiting { why, wait } => json!({"event": "waiting", "why": why, "milliseconds": wait.as_millis()}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_like_figures() {
        let sizes = [0, 1_023, 1_024, 1_048_570, 1 << 20, 2_623_680, 5 << 30, u64::MAX].map(bytes);
        let words = ["0 bytes", "1023 bytes", "1.0 KiB", "1.0 MiB", "1.0 MiB", "2.5 MiB", "5.0 GiB", "16777216.0 TiB"];
        assert_eq!(sizes, words);
        assert_eq!(
            [1_500, 2_600_000, 596_000_000, 8_030_000_000].map(parameters),
            ["1.5 K", "2.6 M", "596.0 M", "8.0 B"]
        );
        assert_eq!(
            [0, 59, 61, 3_599, 7_260].map(|seconds| time(Duration::from_secs(seconds))),
            ["0 s", "59 s", "1 min 1 s", "59 min 59 s", "2 h 1 min"]
        );
    }

    #[test]
    fn progress_says_the_rate_and_the_time_left_once_they_are_known() {
        let early = Progress { done: 1 << 20, total: 4 << 20, rate: None, left: None };
        assert_eq!(progress_as_text(&early), "1.0 MiB of 4.0 MiB");
        let later = Progress { rate: Some(1_048_576.5), left: Some(Duration::from_secs(3)), ..early };
        assert_eq!(progress_as_text(&later), "1.0 MiB of 4.0 MiB, 1.0 MiB/s, 3 s left");
        assert_eq!(event_as_json(&Event::Progress(later))["seconds_left"], 3);
    }
}
