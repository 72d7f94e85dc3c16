//! What the attackers' tools stand on: a coordinator in this process, so that its checks can be switched off.

#[allow(dead_code, reason = "other tests need more of it")]
#[path = "../../../darkbloom/tests/whole/support/http.rs"]
pub mod http;

use std::time::Duration;

/// No wait in these tests is longer.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub mod network {
    use darkbloom_attest::Roots;
    use darkbloom_coordinator::Config;
    use darkbloom_types::{ProviderId, SecretString, Tier};
    use serde_json::{Value, json};
    use tokio::runtime::Runtime;

    use super::http;

    /// A coordinator behind a real socket, with a model on offer that nobody has.
    pub struct Coordinator {
        pub address: String,
        admin_key: SecretString,
        running: Option<darkbloom_coordinator::Coordinator>,
        runtime: Runtime,
        folder: tempfile::TempDir,
    }

    impl Coordinator {
        pub fn start() -> Self {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            let folder = tempfile::tempdir().unwrap();
            let running = begin(&runtime, folder.path());
            let (address, admin_key) = (running.address.to_string(), running.admin_key.clone().unwrap());
            let coordinator = Self { address, admin_key, running: Some(running), runtime, folder };
            let pack = coordinator.call("PUT", "/admin/v1/blobs", b"any");
            let model = json!({
                "name": "model", "weights": "11".repeat(32), "text_pack": pack["digest"], "context": 4096,
                "quantisation": "Q8_0", "price_version": 1, "input_nano_per_token": 1, "output_nano_per_token": 1,
            });
            coordinator.admin("PUT", "/admin/v1/catalogue", &model);
            coordinator
        }

        /// Ends it and starts it again: its database alone knows what was.
        pub fn again(&mut self) {
            let running = self.running.take().expect("it runs");
            self.runtime.block_on(running.stop());
            let running = begin(&self.runtime, self.folder.path());
            self.address = running.address.to_string();
            self.running = Some(running);
        }

        fn call(&self, method: &str, path: &str, body: &[u8]) -> Value {
            let key = http::bearer(self.admin_key.expose());
            let response = http::request(&self.address, method, path, &[("authorization", &key)], body);
            assert_eq!(response.status, 200, "{method} {path}: {}", response.text());
            response.json()
        }

        pub fn admin(&self, method: &str, path: &str, body: &Value) -> Value {
            let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
            self.call(method, path, &body)
        }

        pub fn key(&self, kind: &str, account: Option<&str>) -> String {
            let made = self.admin("POST", "/admin/v1/keys", &json!({"kind": kind, "account": account, "name": "test"}));
            made["key"].as_str().unwrap().to_owned()
        }

        /// Whether this identity is connected and gets work.
        pub fn gives_work(&self, provider: &ProviderId) -> bool {
            let listed = self.admin("GET", "/admin/v1/providers", &Value::Null);
            let mut rows = listed["data"].as_array().unwrap().iter();
            rows.any(|row| row["provider"] == provider.to_string().as_str() && row["eligible"] == true)
        }
    }

    impl Drop for Coordinator {
        fn drop(&mut self) {
            if let Some(running) = self.running.take() {
                self.runtime.block_on(running.stop());
            }
        }
    }

    fn begin(runtime: &Runtime, folder: &std::path::Path) -> darkbloom_coordinator::Coordinator {
        let config = Config {
            database: None,
            key_secret: None,
            terms: darkbloom_coordinator::Terms::default(),
            metrics: None,
            listen: ([127, 0, 0, 1], 0).into(),
            data: folder.to_owned(),
            tier_min: Tier::None,
            tpm_roots: Roots::default(),
        };
        runtime.block_on(darkbloom_coordinator::Coordinator::start(config)).unwrap()
    }
}
