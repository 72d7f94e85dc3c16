//! Reference pages that are made from the code.

use std::fmt::Write as _;
use std::process::Command;

use darkbloom_dialect::openai;
use darkbloom_types::{RefusalClass, RefusalCode};

use crate::check_page;

const MADE: &str = "<!-- Made from the code by `./x pages`; do not edit. -->\n\n";

#[test]
fn the_page_of_error_codes_is_current() {
    let mut page = format!("# Error codes\n\n{MADE}");
    page.push_str(
        "Every \"no\" of the network is one of these. The number travels in frames, the name is `error.code` of an HTTP \
         answer and the reason in logs. *Retry elsewhere* means that another provider may still say yes; the coordinator \
         then tries one by itself, as long as no content was relayed.\n\n",
    );
    page.push_str("| Number | Code | HTTP status | Class | What happened | What to do |\n|---|---|---|---|---|---|\n");
    for code in RefusalCode::ALL {
        let class = match code.class() {
            RefusalClass::RetryElsewhere => "retry elsewhere",
            RefusalClass::Final => "final",
        };
        let (number, status) = (code.number(), code.http_status());
        let (sentence, next) = (code.sentence(), code.next_step());
        writeln!(page, "| {number} | `{code}` | {status} | {class} | {sentence} | {next} |").unwrap();
    }
    check_page("docs/errors.md", &page);
}

#[test]
fn the_support_matrix_is_current() {
    let mut page = format!("# Fields of a chat-completions request\n\n{MADE}");
    page.push_str(
        "What becomes of each field of `POST /v1/chat/completions` at the gateway and the proxy. No field is dropped \
         silently: what is not listed here is refused with 400, `unknown_parameter` and its name in `param`. Hints that \
         were sent are listed in the answer's header `x-darkbloom-hints`.\n\n",
    );
    page.push_str(&openai::support_matrix(openai::FIELDS));
    page.push_str("\n## Fields of an embeddings request\n\n");
    page.push_str("The same of `POST /v1/embeddings` of `darkbloom start --local`; a network answers chats alone.\n\n");
    page.push_str(&openai::support_matrix(openai::EMBEDDINGS_FIELDS));
    check_page("docs/support-matrix.md", &page);
}

/// What the program prints for `--help` of a command, in an environment that adds nothing to it.
fn help(command: &[&str]) -> String {
    let output =
        Command::new(env!("CARGO_BIN_EXE_darkbloom")).args(command).arg("--help").env_clear().output().unwrap();
    assert!(output.status.success(), "darkbloom {command:?} --help failed");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// The commands that a help text lists.
fn commands(help: &str) -> Vec<String> {
    let Some((_, list)) = help.split_once("\nCommands:\n") else { return Vec::new() };
    let names = list.lines().take_while(|line| line.starts_with("  "));
    let names = names.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

fn describe(page: &mut String, path: &[&str]) {
    let text = help(path);
    let title = ["darkbloom"].iter().chain(path).copied().collect::<Vec<_>>().join(" ");
    writeln!(page, "{} `{title}`\n\n```text\n{text}\n```\n", "#".repeat(path.len() + 2)).unwrap();
    for name in commands(&text) {
        let path: Vec<&str> = path.iter().copied().chain([name.as_str()]).collect();
        describe(page, &path);
    }
}

#[test]
fn the_page_of_the_command_line_is_current() {
    let mut page = format!("# The command line\n\n{MADE}What `darkbloom` prints with `--help`, for every command.\n\n");
    describe(&mut page, &[]);
    check_page("docs/command-line.md", &format!("{}\n", page.trim_end()));
}
