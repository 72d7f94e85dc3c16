//! OpenAI's interfaces of chat completions (platform.openai.com/docs/api-reference/chat) and of embeddings
//! (platform.openai.com/docs/api-reference/embeddings).

mod answer;
mod embeddings;
mod fields;
mod request;

pub use answer::{Call, ChunkWriter, ModelEntry, Said, Usage, completion, keep_alive, model, models_list};
pub use embeddings::{EmbeddingsCall, VectorEncoding, embeddings, embeddings_error, parse_embeddings};
pub use fields::{EMBEDDINGS_FIELDS, FIELDS, Field, FieldState, support_matrix};
pub use request::{ChatCall, MODEL_NAME_BYTES_MAX, parse_chat};
