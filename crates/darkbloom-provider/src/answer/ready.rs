//! What is ready to be sealed and waits for room.

use std::collections::VecDeque;

use darkbloom_content::{AnswerPart, AnswerParts, EVENT_PARTS_MAX};
use darkbloom_types::SecretString;

/// Parts of an answer, the next first. No two neighbours are of one kind.
#[derive(Default)]
pub struct Ready {
    parts: VecDeque<AnswerPart>,
    /// Bytes of all of them.
    bytes: usize,
}

impl Ready {
    /// Bytes of all parts, without what their encoding takes beside them.
    pub fn len(&self) -> usize {
        self.bytes
    }

    pub fn push(&mut self, more: &AnswerParts) {
        for part in more.iter() {
            self.bytes += part.text.len();
            match self.parts.back_mut() {
                Some(last) if last.kind == part.kind => last.text.push_str(part.text.expose()),
                Some(_) | None => self.parts.push_back(part.clone()),
            }
        }
    }

    /// Takes as much as has room where each part takes so many bytes more, and `most` bytes of text at most.
    pub fn take(&mut self, mut room: usize, head: usize, mut most: usize) -> AnswerParts {
        let mut taken = AnswerParts::default();
        for _ in 0..EVENT_PARTS_MAX {
            let Some(next) = self.parts.front_mut() else { break };
            let fits = room.saturating_sub(head).min(most);
            if fits == 0 {
                break;
            }
            let (now, later) = next.text.expose().split_at(next.text.expose().floor_char_boundary(fits));
            let (count, over) = (now.len(), later.is_empty());
            taken.push(next.kind, now);
            self.bytes -= count;
            if !over {
                next.text = SecretString::from(later);
                break;
            }
            self.parts.pop_front();
            room = room.saturating_sub(head + count);
            most -= count;
        }
        taken
    }
}
