//! Questions whose right answers are known: what `models/train.py` writes, a JSON object a line.

use std::path::Path;

use darkbloom_content::{ChatRequest, Message, Role};
use serde_json::Value;

/// A question and its right answer.
#[derive(Debug)]
pub struct Question {
    /// What kind of question it is.
    pub task: String,
    /// The conversation up to the answer, greedy.
    pub request: ChatRequest,
    /// The answer.
    pub answer: String,
}

/// Why a file holds no questions.
#[derive(Debug, thiserror::Error)]
pub enum ReadQuestionsError {
    /// The file cannot be read.
    #[error("the questions cannot be read: {0}")]
    File(#[from] std::io::Error),
    /// A line is not a question.
    #[error("line {0} is no question")]
    Line(usize),
}

/// Reads a file of questions.
///
/// # Errors
/// [`ReadQuestionsError`].
pub fn read_questions(path: &Path) -> Result<Vec<Question>, ReadQuestionsError> {
    let text = std::fs::read_to_string(path)?;
    let lines = text.lines().zip(1..);
    lines.map(|(line, number)| question(line).ok_or(ReadQuestionsError::Line(number))).collect()
}

fn question(line: &str) -> Option<Question> {
    let line: Value = serde_json::from_str(line).ok()?;
    let message = |message: &Value| {
        let role = Role::ALL.into_iter().find(|role| message["role"] == role.name())?;
        Some(Message::new(role, message["content"].as_str()?))
    };
    let messages = line["messages"].as_array()?.iter().map(message).collect::<Option<_>>()?;
    let mut request = ChatRequest::new(messages);
    request.temperature = 0.0;
    Some(Question { task: line["task"].as_str()?.to_owned(), request, answer: line["answer"].as_str()?.to_owned() })
}
