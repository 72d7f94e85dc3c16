//! Which provider answered a conversation last, so that the next turn finds its prefix there. A tag is whatever the client
//! chose; it counts within its account and model alone, and says nothing about what stands in a prompt.

use std::collections::HashMap;

use darkbloom_types::{AccountId, CatalogueDigest, ProviderId};

/// Conversations in each of the two halves: at 100 bytes each, both together are 3 MB.
const HALF: usize = 16_384;

/// A conversation, as far as anybody but its client knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Conversation {
    pub model: CatalogueDigest,
    pub account: AccountId,
    pub tag: [u8; 16],
}

/// What was used lately is in the young half; when that is full it becomes the old one, and what was there is forgotten.
#[derive(Debug, Default)]
pub(crate) struct Affinity {
    young: HashMap<Conversation, ProviderId>,
    old: HashMap<Conversation, ProviderId>,
}

impl Affinity {
    pub fn last(&self, of: &Conversation) -> Option<ProviderId> {
        self.young.get(of).or_else(|| self.old.get(of)).copied()
    }

    pub fn answered(&mut self, of: Conversation, by: ProviderId) {
        if self.young.len() >= HALF && !self.young.contains_key(&of) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(of, by);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation(account: i64, tag: u32) -> Conversation {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&tag.to_be_bytes());
        Conversation { model: CatalogueDigest([1; 32]), account: AccountId(account), tag: bytes }
    }

    #[test]
    fn a_conversation_is_its_accounts_alone_and_what_is_not_used_is_forgotten() {
        let mut affinity = Affinity::default();
        affinity.answered(conversation(1, 0), ProviderId([1; 32]));
        assert_eq!(affinity.last(&conversation(1, 0)), Some(ProviderId([1; 32])));
        assert_eq!(affinity.last(&conversation(2, 0)), None);
        for tag in 1..3 * HALF as u32 {
            affinity.answered(conversation(1, tag), ProviderId([2; 32]));
        }
        assert_eq!(affinity.last(&conversation(1, 0)), None);
        assert_eq!(affinity.last(&conversation(1, 3 * HALF as u32 - 1)), Some(ProviderId([2; 32])));
        assert!(affinity.young.len() <= HALF && affinity.old.len() <= HALF);
    }
}
