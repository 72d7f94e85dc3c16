//! `darkbloom status`: where this machine's provider stands.

use std::io;

use clap::Args;
use darkbloom_provider::status::{Status, read};
use serde_json::json;

use crate::error::{Failure, say};
use crate::roles::default_data;
use crate::settings::ProviderSettings;

/// Options of `status`.
#[derive(Debug, Args)]
pub struct StatusOptions {
    /// The folder of identity and receipts.
    #[arg(long)]
    data: Option<std::path::PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// `darkbloom status`.
pub fn run(options: StatusOptions, settings: ProviderSettings) -> Result<(), Failure> {
    let data = options.data.or(settings.data).unwrap_or_else(|| default_data("provider"));
    let (status, running) = read(&data).map_err(|error| {
        let hint = if error.kind() == io::ErrorKind::NotFound {
            "no provider has run there; `darkbloom start` makes one, and `--data` names its folder"
        } else {
            "check the folder's permissions; a running provider writes the file anew"
        };
        Failure::new(format!("cannot read the status in {}: {error}", data.display()), hint)
    })?;
    if options.json {
        let mut shown = json!(status);
        shown["running"] = json!(running);
        return say(shown.to_string());
    }
    for line in lines(&status, running) {
        say(printable(&line))?;
    }
    Ok(())
}

fn lines(status: &Status, running: bool) -> Vec<String> {
    let mut lines = vec![
        format!("provider     {}", status.provider),
        format!("key          {}", status.key_home),
        format!(
            "hardening    {}",
            if status.hardening.is_empty() { "none".to_owned() } else { status.hardening.join(", ") }
        ),
    ];
    if status.key_unsettled {
        lines.push("rotation     not accepted by the coordinator yet: the other key is kept until it is".to_owned());
    }
    lines.extend(status.passed_over.iter().map(|why| format!("passed over  {why}")));
    if !running {
        lines.push("process      not running; what follows is from when it last ran".to_owned());
    }
    let connection = match (&status.problem, status.connected && running) {
        (_, true) => format!("connected to {}", status.coordinator),
        (Some(problem), false) => format!("not connected to {}: {problem}", status.coordinator),
        (None, false) => format!("not connected to {}", status.coordinator),
    };
    lines.push(format!("coordinator  {connection}"));
    match &status.told {
        Some(told) if told.eligible && status.connected && running => {
            lines.push(format!("work         yes: {}", told.sentence));
        }
        Some(told) if told.eligible => lines.push("work         no: it is not connected".to_owned()),
        Some(told) => {
            lines.push(format!("work         no ({}): {}", told.reason, told.sentence));
            lines.push(format!("next step    {}", told.next_step));
        }
        None => lines.push("work         the coordinator has said nothing yet".to_owned()),
    }
    lines
}

/// A coordinator's words on a terminal: without what would steer it.
fn printable(line: &str) -> String {
    line.chars().map(|letter| if letter.is_control() { '�' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_from_elsewhere_do_not_steer_a_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\u{9b}c\nd"), "a�[2Jb�c�d");
    }
}
