//! A network made of the roles' processes.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::http::{self, Reading, Response, bearer};
use super::process::{Ended, Process, command};
use super::until;

/// The model's name in these networks.
pub const MODEL: &str = "darkbloom-tiny";
/// Nano-dollars for one token in and out.
pub const PRICE: (i64, i64) = (50, 200);
/// What the account gets: ten dollars.
pub const CREDIT: i64 = 10_000_000_000;

/// The model that ships.
pub fn model_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/darkbloom-tiny-q8_0.gguf")
}

/// A copy of the model that ships which knows no end: its answers go on until a limit stops them. The tokens that end an
/// answer have other names in it, and the one that is named as the end is never made.
pub fn endless_model(folder: &Path) -> PathBuf {
    let mut bytes = std::fs::read(model_file()).unwrap();
    replace(&mut bytes, b"<|im_end|>", b"<|im_fin|>");
    replace(&mut bytes, b"<|endoftext|>", b"<|endOFtext|>");
    let key = b"tokenizer.ggml.eos_token_id";
    let at = bytes.windows(key.len()).position(|window| window == key).unwrap() + key.len();
    // The value's type is a 32-bit number.
    assert_eq!(bytes[at..at + 4], 4u32.to_le_bytes());
    bytes[at + 4..at + 8].copy_from_slice(&0u32.to_le_bytes());
    let path = folder.join("endless.gguf");
    std::fs::write(&path, bytes).unwrap();
    path
}

/// A template of a model that calls as Hermes does.
const CALLING_TEMPLATE: &str = r#"{% if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}Call as <tool_call>{"name": ..., "arguments": ...}</tool_call><|im_end|>
{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content or '' }}{% for call in m.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"#;

/// A copy of the model that ships whose template takes tools. It was never shown one: what it calls with is only as good as
/// what holds it to its schema.
pub fn calling_model(folder: &Path) -> PathBuf {
    /// What follows the header stands at a multiple of this.
    const ALIGNMENT: usize = 32;
    let mut bytes = std::fs::read(model_file()).unwrap();
    let key = b"tokenizer.chat_template";
    // Behind the key the value's type, its length in 64 bits, and itself.
    let at = bytes.windows(key.len()).position(|window| window == key).unwrap() + key.len() + 4;
    let length = usize::try_from(u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())).unwrap();
    // A comment fills it up.
    let fill = (length + ALIGNMENT * CALLING_TEMPLATE.len() - CALLING_TEMPLATE.len() - "{##}".len()) % ALIGNMENT;
    let template = format!("{CALLING_TEMPLATE}{{#{}#}}", " ".repeat(fill));
    let new_length = (template.len() as u64).to_le_bytes();
    bytes.splice(at..at + 8 + length, new_length.into_iter().chain(template.into_bytes()));
    let path = folder.join("calling.gguf");
    std::fs::write(&path, bytes).unwrap();
    path
}

fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    let places: Vec<_> =
        bytes.windows(from.len()).enumerate().filter(|(_, window)| *window == from).map(|(at, _)| at).collect();
    assert!(!places.is_empty(), "the model names its end");
    for at in places {
        bytes[at..at + to.len()].copy_from_slice(to);
    }
}

/// A coordinator and what an administrator can do with it.
pub struct Coordinator {
    pub process: Process,
    pub address: String,
    pub url: String,
    pub pin: String,
    pub admin_key: String,
    pub data: PathBuf,
}

impl Coordinator {
    /// A new one.
    pub fn start(data: &Path) -> Self {
        Self::start_with(data, &|_: &mut std::process::Command| {})
    }

    fn start_with(data: &Path, change: &impl Fn(&mut std::process::Command)) -> Self {
        Self::start_changed(data, change).0
    }

    /// A new one with something changed about its process, and what it says when it is ready.
    pub fn start_changed(data: &Path, change: &impl Fn(&mut std::process::Command)) -> (Self, Value) {
        let mut command = Self::command(data, "127.0.0.1:0");
        change(&mut command);
        let (process, ready) = Process::role(&mut command).unwrap();
        let admin_key = ready["admin_key"].as_str().expect("a first start makes an administrator key").to_owned();
        (Self::running(process, &ready, admin_key, data), ready)
    }

    fn running(process: Process, ready: &Value, admin_key: String, data: &Path) -> Self {
        let text = |name: &str| ready[name].as_str().unwrap().to_owned();
        let address = text("address");
        Self {
            process,
            url: format!("http://{address}"),
            address,
            pin: text("network"),
            admin_key,
            data: data.to_owned(),
        }
    }

    pub fn launch(data: &Path, listen: &str) -> Result<(Process, Value), Ended> {
        Process::role(&mut Self::command(data, listen))
    }

    fn command(data: &Path, listen: &str) -> std::process::Command {
        let mut command = command(&["coordinator", "--listen", listen]);
        command.arg("--data").arg(data);
        command
    }

    /// Starts it again at the same address with the same data.
    pub fn again(&mut self) {
        self.again_changed(&|_: &mut std::process::Command| {});
    }

    /// The same with something changed about its process, and what it says when it is ready.
    pub fn again_changed(&mut self, change: &impl Fn(&mut std::process::Command)) -> Value {
        let mut command = Self::command(&self.data, &self.address);
        change(&mut command);
        let (process, ready) = Process::role(&mut command).unwrap();
        assert_eq!(ready["network"], self.pin.as_str(), "it is the same network");
        self.process = process;
        ready
    }

    pub fn call(&self, method: &str, path: &str, key: &str, body: &[u8]) -> Response {
        let headers = [("authorization", &*bearer(key)), ("content-type", "application/json")];
        http::request(&self.address, method, path, &headers, body)
    }

    /// Asks as the administrator, who gets what he asks for.
    #[track_caller]
    pub fn admin(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let response = self.call(method, path, &self.admin_key, &body);
        assert_eq!(response.status, 200, "{method} {path}: {}", response.text());
        response.json()
    }

    /// Puts the model on offer, through the command line: hashing is the program's own work.
    pub fn offer_model(&self, file: &Path) {
        let (input, output) = (PRICE.0.to_string(), PRICE.1.to_string());
        let ended = super::process::run(
            command(&["catalogue", "add"])
                .arg(file)
                .args(["--name", MODEL, "--quantisation", "Q8_0", "--input-price", &input, "--output-price", &output])
                .args(["--coordinator", &self.url])
                .env("DARKBLOOM_ADMIN_KEY", &self.admin_key),
        );
        assert!(ended.status.success(), "{ended:?}");
    }

    pub fn key(&self, kind: &str, account: Option<&str>) -> String {
        let made = self.admin("POST", "/admin/v1/keys", &json!({"kind": kind, "account": account, "name": "test"}));
        made["key"].as_str().unwrap().to_owned()
    }

    /// An account with a key.
    pub fn account(&self, name: &str, nano_usd: i64) -> String {
        self.admin("POST", "/admin/v1/accounts", &json!({"name": name}));
        if nano_usd > 0 {
            let deposit =
                json!({"account": name, "amount_nano_usd": nano_usd, "reference": format!("first of {name}")});
            self.admin("POST", "/admin/v1/deposits", &deposit);
        }
        self.key("consumer", Some(name))
    }

    pub fn providers(&self) -> Vec<Value> {
        self.admin("GET", "/admin/v1/providers", &Value::Null)["data"].as_array().unwrap().clone()
    }

    /// Waits until so many providers get work.
    pub fn eligible(&self, count: usize) {
        until(&format!("{count} eligible providers"), || {
            let eligible = self.providers().iter().filter(|provider| provider["eligible"] == true).count();
            (eligible == count).then_some(())
        });
    }

    /// Available and held nano-dollars.
    pub fn balance(&self, key: &str) -> (i64, i64) {
        let balance = self.call("GET", "/v1/balance", key, b"").json();
        (balance["available_nano_usd"].as_i64().unwrap(), balance["held_nano_usd"].as_i64().unwrap())
    }

    pub fn usage(&self, key: &str) -> Vec<Value> {
        self.call("GET", "/v1/usage", key, b"").json()["data"].as_array().unwrap().clone()
    }

    /// The books add up, and nothing is held.
    #[track_caller]
    pub fn books_are_clean(&self) {
        let audit = self.admin("GET", "/admin/v1/audit", &Value::Null);
        assert_eq!(audit["clean"], true, "{audit}");
        assert_eq!(audit["open_holds"], 0, "{audit}");
    }

    /// Every hold was settled or given back, the books add up, and the account lost exactly what it used.
    #[track_caller]
    pub fn books_close(&self, key: &str, credit: i64) {
        until("no money is held", || (self.balance(key).1 == 0).then_some(()));
        self.books_are_clean();
        let charged: i64 = self.usage(key).iter().map(|row| row["charge_nano_usd"].as_i64().unwrap()).sum();
        assert_eq!(self.balance(key).0, credit - charged, "the balance is the credit without the charges");
    }
}

/// A provider.
pub struct Provider {
    pub process: Process,
    pub id: String,
    pub data: PathBuf,
}

impl Provider {
    /// The command line of one with eight rows.
    pub fn command(coordinator: &str, pin: &str, data: &Path, model: &Path) -> std::process::Command {
        // Whatever the machine has that runs the tests: nothing is made in its TPM.
        let mut command = command(&["start", "--foreground", "--threads", "1", "--key-home", "software"]);
        command.args(["--coordinator", coordinator, "--coordinator-key", pin]);
        command.arg("--data").arg(data).arg("--model").arg(model);
        command
    }

    pub fn start(coordinator: &Coordinator, data: &Path, join_token: Option<&str>, model: &Path) -> Self {
        Self::start_with(coordinator, data, join_token, model, &|_: &mut std::process::Command| {})
    }

    pub fn start_with(
        coordinator: &Coordinator,
        data: &Path,
        join_token: Option<&str>,
        model: &Path,
        change: &impl Fn(&mut std::process::Command),
    ) -> Self {
        let mut command = Self::command(&coordinator.url, &coordinator.pin, data, model);
        change(&mut command);
        if let Some(token) = join_token {
            command.env("DARKBLOOM_JOIN_TOKEN", token);
        }
        let (process, ready) = Process::role(&mut command).unwrap();
        Self { process, id: ready["provider"].as_str().unwrap().to_owned(), data: data.to_owned() }
    }
}

/// A gateway or a proxy.
pub struct Surface {
    pub process: Process,
    pub address: String,
}

impl Surface {
    pub fn gateway(coordinator: &Coordinator, pinned: &[&str]) -> Self {
        Self::start(&mut command(&["gateway"]), coordinator, pinned)
    }

    pub fn proxy(coordinator: &Coordinator, pinned: &[&str], key: &str) -> Self {
        Self::start(command(&["proxy"]).env("DARKBLOOM_API_KEY", key), coordinator, pinned)
    }

    pub fn start(command: &mut std::process::Command, coordinator: &Coordinator, pinned: &[&str]) -> Self {
        command.args(["--listen", "127.0.0.1:0", "--coordinator", &coordinator.url]);
        command.args(["--coordinator-key", &coordinator.pin]);
        for provider in pinned {
            command.args(["--pin-provider", provider]);
        }
        let (process, ready) = Process::role(command).unwrap();
        Self { process, address: ready["address"].as_str().unwrap().to_owned() }
    }

    /// Sends a chat request and reads the head of the answer.
    pub fn open_chat(&self, key: &str, body: &Value) -> std::io::Result<Reading> {
        let headers = [("authorization", &*bearer(key)), ("content-type", "application/json")];
        http::open(&self.address, "POST", "/v1/chat/completions", &headers, body.to_string().as_bytes())
    }

    #[track_caller]
    pub fn chat(&self, key: &str, body: &Value) -> Response {
        let response = self.open_chat(key, body).unwrap().finish().unwrap();
        // Whatever the answer is, it says where its time went.
        let timing = response.header("x-timing").and_then(|timing| serde_json::from_str::<Value>(timing).ok());
        assert!(timing.is_some_and(|timing| timing.is_object()), "{:?}", response.headers);
        response
    }
}

/// A whole network with one account.
pub struct Network {
    pub gateway: Surface,
    pub providers: Vec<Provider>,
    pub coordinator: Coordinator,
    pub key: String,
    pub model: PathBuf,
    /// Last, so that the processes end before their data.
    pub folder: tempfile::TempDir,
}

impl Network {
    /// One provider with the model that ships.
    pub fn start() -> Self {
        Self::with(1)
    }

    /// Several providers with the model that ships.
    pub fn with(providers: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::of(folder, providers, model_file())
    }

    /// Providers whose answers never end by themselves.
    pub fn endless(providers: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = endless_model(folder.path());
        Self::of(folder, providers, model)
    }

    pub fn of(folder: tempfile::TempDir, providers: usize, model: PathBuf) -> Self {
        Self::changed(folder, providers, model, |_| {})
    }

    /// With something changed about every role's process.
    pub fn changed(
        folder: tempfile::TempDir,
        providers: usize,
        model: PathBuf,
        change: impl Fn(&mut std::process::Command),
    ) -> Self {
        let coordinator = Coordinator::start_with(&folder.path().join("coordinator"), &change);
        coordinator.offer_model(&model);
        let key = coordinator.account("first", CREDIT);
        let start = |number| {
            let token = coordinator.key("join", None);
            let data = folder.path().join(format!("provider-{number}"));
            Provider::start_with(&coordinator, &data, Some(&token), &model, &change)
        };
        let providers: Vec<_> = (0..providers).map(start).collect();
        let ids: Vec<_> = providers.iter().map(|provider| &*provider.id).collect();
        let mut gateway = command(&["gateway"]);
        change(&mut gateway);
        let gateway = Surface::start(&mut gateway, &coordinator, &ids);
        coordinator.eligible(ids.len());
        Self { gateway, providers, coordinator, key, model, folder }
    }

    pub fn ids(&self) -> Vec<&str> {
        self.providers.iter().map(|provider| &*provider.id).collect()
    }

    #[track_caller]
    pub fn chat(&self, body: &Value) -> Response {
        self.gateway.chat(&self.key, body)
    }

    #[track_caller]
    pub fn books_close(&self) {
        self.coordinator.books_close(&self.key, CREDIT);
    }
}

/// A request for one answer to this, always the same.
pub fn ask(prompt: &str) -> Value {
    json!({"model": MODEL, "messages": [{"role": "user", "content": prompt}], "temperature": 0})
}

/// The same with more fields.
pub fn ask_with(prompt: &str, more: Value) -> Value {
    let mut body = ask(prompt);
    let (Some(body_members), Value::Object(more)) = (body.as_object_mut(), more) else { panic!("an object") };
    body_members.extend(more);
    body
}
