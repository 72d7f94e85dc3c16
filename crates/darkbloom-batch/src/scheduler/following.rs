//! Rows that come together and begin alike: one of them feeds what they have in common, and the others start from there.

use super::Scheduler;
use super::admission::Start;
use super::prefix::{PREFIX_TOKENS_MIN, common, usable};
use super::state::{Follows, Row};

/// What a copy may take, in microseconds: so much, and so much for each token that is where it is made from. That is twice what was
/// measured of a 0.6 B model, since what is hardly worth it is not; models that have more of a token take longer to compute it as
/// well.
const COPY_US: f64 = 2_000.0;
const COPIED_TOKEN_US: f64 = 40.0;

/// Fewest tokens that are copied: some templates of ChatML write as many before a question.
const COPIED_MIN: usize = 3;

impl Scheduler {
    /// Of the rows that were placed before this one and are being fed what it lacks, the one whose prompt has the most in
    /// common with what this one feeds. Waiting for it has to be worth it: most of a prompt is fed sooner by itself than after
    /// a little that it has in common with another.
    pub(super) fn whom_to_follow(&self, row: &Row) -> Option<Follows> {
        let scope = row.scope.filter(|_| self.limits.trims)?;
        let before = self.admitted.iter().rev().filter_map(|&slot| Some((slot, self.places[slot].row.as_ref()?)));
        // Since nobody follows a row that was placed later, somebody is always fed.
        let feeding =
            before.filter(|(_, other)| other.scope == Some(scope) && other.stay < row.stay && !other.decodes());
        let common = feeding.map(|(slot, other)| {
            let tokens = usable(other.history.expose(), row.history.expose(), true);
            Follows { slot, stay: other.stay, tokens }
        });
        let least = PREFIX_TOKENS_MIN.max(row.pending() / 2);
        common.filter(|other| other.tokens >= row.fed + least).max_by_key(|other| other.tokens)
    }

    /// How many of the tokens that a row lacks another one waits for.
    pub(super) fn awaited_of(&self, slot: usize, row: &Row) -> Option<usize> {
        let followed = |follows: &Follows| follows.slot == slot && follows.stay == row.stay;
        let awaited = self.running().filter_map(|other| other.follows).filter(followed).map(|follows| follows.tokens);
        Some(awaited.min()?.saturating_sub(row.fed))
    }

    /// Rows that waited for what another feeds start from there once it is in memory. When the other one has gone they start
    /// from what is there instead, follow the next, or feed everything themselves.
    pub(super) fn catch_up(&mut self) {
        for at in 0..self.admitted.len() {
            let slot = self.admitted[at];
            let Some(row) = self.places[slot].row.as_ref() else { continue };
            let Some(Follows { slot: from, stay, tokens }) = row.follows else { continue };
            let followed = self.places[from].row.as_ref().filter(|other| other.stay == stay);
            let start = match followed {
                Some(other) if other.fed < tokens => continue,
                Some(_) => Start::Beside { slot: from, keep: tokens },
                None => self.start(row),
            };
            if start.keep() > row.fed {
                self.start_again(slot, start);
            }
            let next = self.places[slot].row.as_ref().and_then(|row| self.whom_to_follow(row));
            if let Some(row) = &mut self.places[slot].row {
                row.follows = next;
            }
        }
    }

    /// A row that is about to feed its first tokens copies them from who has the same ones, where that takes less than feeding
    /// them again: what a chat template writes before every question is too short to wait for or to keep, and takes as long as any
    /// other tokens.
    pub(super) fn copy_first_tokens(&mut self, slot: usize) {
        let row = self.places[slot].row.as_ref().filter(|row| row.fed == 0);
        if let Some(start) = row.and_then(|row| self.first_tokens_of(row)) {
            self.start_again(slot, start);
        }
    }

    /// From where copying a row's first tokens wins most, and how many of them.
    fn first_tokens_of(&self, row: &Row) -> Option<Start> {
        let scope = row.scope.filter(|_| self.limits.trims && !row.feeds_all)?;
        let token_us = self.cost.of_prompt_token()?;
        let held = self.places.iter().enumerate().filter_map(|(slot, place)| match (&place.row, &place.kept) {
            (Some(other), _) if other.scope == Some(scope) => Some((slot, &other.history.expose()[..other.fed])),
            (None, Some(prefix)) if prefix.scope == scope => Some((slot, prefix.tokens.expose())),
            _ => None,
        });
        let won_us = |keep: usize, held: usize| keep as f64 * token_us - held as f64 * COPIED_TOKEN_US - COPY_US;
        let feed = row.history.expose();
        // What could not win if all of it were the same is not compared.
        let may_win = held.filter(|(_, held)| won_us(held.len().min(feed.len()), held.len()) > 0.0);
        let copies = may_win.map(|(slot, held)| {
            let keep = common(held, feed);
            (slot, keep, won_us(keep, held.len()))
        });
        let worth_it = copies.filter(|(_, keep, us)| *keep >= COPIED_MIN && *us > 0.0);
        let (slot, keep, _) = worth_it.max_by(|one, other| one.2.total_cmp(&other.2))?;
        let runs = self.places[slot].row.is_some();
        Some(if runs { Start::Beside { slot, keep } } else { Start::Here { slot, keep } })
    }

    /// Gives a row that has a slot something better to start from than what it has there.
    fn start_again(&mut self, slot: usize, start: Start) {
        self.forget(slot);
        self.bring(slot, start);
        let place = &mut self.places[slot];
        place.dirty = true;
        if let Some(row) = &mut place.row {
            self.decisions.reused_tokens += (start.keep() - row.fed) as u64;
            row.fed = start.keep();
        }
    }
}
