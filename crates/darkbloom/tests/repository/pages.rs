//! Reference pages that are made from the code.

use std::fmt::Write as _;
use std::process::Command;

use darkbloom_coordinator::{METRICS, Metric, MetricKind};
use darkbloom_dialect::openai;
use darkbloom_types::{RefusalClass, RefusalCode};

use serde_json::json;

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

fn kind(metric: &Metric) -> &'static str {
    match metric.kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
        MetricKind::Histogram => "histogram",
    }
}

#[test]
fn the_page_of_metrics_is_current() {
    let mut page = format!("# What a coordinator counts\n\n{MADE}");
    page.push_str(
        "With `--metrics ADDRESS` a coordinator says at `/metrics` what it counts, for Prometheus (OpenMetrics text), to \
         programs of its own machine and without a key. Labels are from closed lists: models by their names in the \
         catalogue, routes by their patterns, never ids of accounts, keys, providers or requests. Counters begin at zero \
         with the process, and have `_total` behind their names; money is read from the ledger, so whatever way it moved it \
         is counted once. A board for Grafana that shows all of them is [beside this page](grafana.json).\n\n",
    );
    page.push_str("| Name | Kind | Labels | What it says |\n|---|---|---|---|\n");
    for metric in METRICS {
        let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let labels = if labels.is_empty() { "–".to_owned() } else { labels.join(", ") };
        writeln!(page, "| `{}` | {} | {labels} | {} |", metric.name, kind(&metric), metric.help).unwrap();
    }
    check_page("docs/metrics.md", &page);
}

/// How a panel asks for a metric (PromQL).
fn query(metric: &Metric) -> String {
    let (name, by) = (metric.name, metric.labels.join(", "));
    match metric.kind {
        MetricKind::Counter if by.is_empty() => format!("rate({name}_total[5m])"),
        MetricKind::Counter => format!("sum by ({by}) (rate({name}_total[5m]))"),
        MetricKind::Gauge => name.to_owned(),
        MetricKind::Histogram => format!("histogram_quantile(0.99, sum by (le) (rate({name}_bucket[5m])))"),
    }
}

#[test]
fn the_board_for_grafana_is_current() {
    let panels: Vec<_> = METRICS
        .iter()
        .enumerate()
        .map(|(number, metric)| {
            let legend = metric.labels.iter().map(|label| format!("{{{{{label}}}}}")).collect::<Vec<_>>().join(" ");
            let unit = if metric.kind == MetricKind::Histogram { "s" } else { "short" };
            json!({
                "id": number + 1,
                "type": "timeseries",
                "title": metric.name,
                "description": metric.help,
                "datasource": {"type": "prometheus", "uid": "${source}"},
                "gridPos": {"x": 12 * (number % 2), "y": 8 * (number / 2), "w": 12, "h": 8},
                "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
                "targets": [{"refId": "A", "expr": query(metric), "legendFormat": legend}],
            })
        })
        .collect();
    let board = json!({
        "title": "Darkbloom coordinator",
        "uid": "darkbloom-coordinator",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [{"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}]},
        "panels": panels,
    });
    check_page("docs/grafana.json", &format!("{board:#}\n"));
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
