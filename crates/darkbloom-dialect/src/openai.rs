//! OpenAI's chat-completions interface (platform.openai.com/docs/api-reference/chat).

mod answer;
mod fields;
mod request;

pub use answer::{Call, ChunkWriter, ModelEntry, Said, Usage, completion, keep_alive, model, models_list};
pub use fields::{FIELDS, Field, FieldState, support_matrix};
pub use request::{ChatCall, MODEL_NAME_BYTES_MAX, parse_chat};
