//! What ended rows left in memory and later rows of the same scope may start from.

use darkbloom_types::{MonoMillis, SecretTokens, TokenId};

use crate::plan::SavedId;
use crate::row::Scope;

/// Fewest tokens that are worth keeping, waiting for, or having a slot of somebody else's for. Finding and trimming them takes
/// less than a step; what matters is that every chat template writes a few tokens that all its rows share.
pub(crate) const PREFIX_TOKENS_MIN: usize = 16;

/// Tokens that were fed to the model, and who may use what they left.
#[derive(Debug)]
pub(crate) struct Prefix {
    pub(crate) scope: Scope,
    pub(crate) tokens: SecretTokens,
    /// When a row last ended on it or started from it.
    pub(crate) used_at: MonoMillis,
}

impl Prefix {
    /// How much of it a row of this scope can start from: of what it is to feed, all but the last token, whose logits are
    /// needed. With memory that cannot be trimmed it is all of the prefix or nothing.
    pub(crate) fn usable(&self, scope: Scope, feed: &[TokenId], trims: bool) -> usize {
        if self.scope != scope { 0 } else { usable(self.tokens.expose(), feed, trims) }
    }
}

/// How many of the first tokens `held` are those that a row feeds, but for the last of these.
pub(crate) fn common(held: &[TokenId], feed: &[TokenId]) -> usize {
    let most = feed.len().saturating_sub(1);
    held.iter().zip(&feed[..most]).take_while(|(held, fed)| held == fed).count()
}

/// How many of the first tokens `held` a row that feeds `feed` can start from.
pub(crate) fn usable(held: &[TokenId], feed: &[TokenId], trims: bool) -> usize {
    let common = common(held, feed);
    let whole = trims || common == held.len();
    if common >= PREFIX_TOKENS_MIN && whole { common } else { 0 }
}

/// Prefixes outside the model's memory.
#[derive(Debug, Default)]
pub(crate) struct SavedPrefixes(Vec<(SavedId, Prefix)>);

impl SavedPrefixes {
    pub(crate) fn push(&mut self, saved: SavedId, prefix: Prefix) {
        self.0.push((saved, prefix));
    }

    /// Tokens of all of them.
    pub(crate) fn tokens(&self) -> usize {
        self.0.iter().map(|(_, prefix)| prefix.tokens.len()).sum()
    }

    /// The one from which most can be used.
    pub(crate) fn best(&self, scope: Scope, feed: &[TokenId], trims: bool) -> Option<(SavedId, usize)> {
        let usable = self.0.iter().map(|(saved, prefix)| (*saved, prefix.usable(scope, feed, trims)));
        usable.filter(|(_, tokens)| *tokens > 0).max_by_key(|(_, tokens)| *tokens)
    }

    pub(crate) fn touch(&mut self, saved: SavedId, now: MonoMillis) {
        self.0.iter_mut().filter(|(id, _)| *id == saved).for_each(|(_, prefix)| prefix.used_at = now);
    }

    /// Takes one out. Whether it was there.
    pub(crate) fn remove(&mut self, saved: SavedId) -> bool {
        let before = self.0.len();
        self.0.retain(|(id, _)| *id != saved);
        self.0.len() < before
    }

    /// Tokens of one.
    pub(crate) fn tokens_of(&self, saved: SavedId) -> usize {
        self.0.iter().find(|(id, _)| *id == saved).map_or(0, |(_, prefix)| prefix.tokens.len())
    }

    /// Takes out the one, other than `spared`, that was used the longest time ago.
    pub(crate) fn pop_oldest(&mut self, spared: Option<SavedId>) -> Option<SavedId> {
        let others = (0..self.0.len()).filter(|&at| Some(self.0[at].0) != spared);
        let oldest = others.min_by_key(|&at| self.0[at].1.used_at)?;
        Some(self.0.swap_remove(oldest).0)
    }

    /// Takes out those that were last used before a moment.
    pub(crate) fn take_used_before(&mut self, moment: MonoMillis) -> Vec<SavedId> {
        self.0.extract_if(.., |(_, prefix)| prefix.used_at < moment).map(|(saved, _)| saved).collect()
    }

    pub(crate) fn oldest(&self) -> Option<MonoMillis> {
        self.0.iter().map(|(_, prefix)| prefix.used_at).min()
    }
}
