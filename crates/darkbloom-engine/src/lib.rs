//! Models that run: executing planned steps, and the thread that keeps the steps coming.
//!
//! Owns the executor trait and its two executors ([`LlamaExecutor`] over llama.cpp, [`SimulatedExecutor`] with a scripted
//! cost), [`LlamaEmbedder`], which makes vectors of texts, and [`Engine`], the thread that plans, executes and tells each row what happened. It must never decide which
//! row runs (that is `darkbloom-batch`), never see text, never write anything of a row to a file or a log, and never
//! abort the process over a bad file. Apps may depend on it. `unsafe` is allowed in the module
//! `llama::raw` only.
//!
//! ```text
//!   EngineHandle ──submit, cancel──▶ scheduler (behind a lock that no step holds)
//!                                     │ plan   ▲ update          │ events
//!                                     ▼        │                 ▼
//!                          executing thread ──step──▶ executor   telling thread ──▶ each row's sink
//!                          (all rows of a step)                  (meanwhile; and watches that steps come back)
//! ```

mod devices;
mod engine;
mod executor;
mod gguf;
mod llama;
mod masks;
mod simulated;

pub use devices::{Accelerator, Device, devices, processor_features};
pub use engine::{ERASE_AFTER, Engine, EngineHandle, EventSink, StartEngineError, Stats, StepLimits, StopNotice};
pub use executor::{Capacity, ExecuteError, Executor, PlanFault};
pub use gguf::adapter::{AdapterError, AdapterHeader};
pub use gguf::{GgufError, ModelHeader, Pooling};
pub use llama::{
    Adapter, EmbedError, Exactness, LlamaEmbedder, LlamaExecutor, LlamaSettings, LoadModelError, MemoryNeed,
    check_model_file, check_open_adapters, check_open_model_file,
};
pub use simulated::{CostModel, SimulatedCounters, SimulatedExecutor};
