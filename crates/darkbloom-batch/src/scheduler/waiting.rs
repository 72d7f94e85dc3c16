//! Rows that wait for a slot, and which of them is next.

use std::collections::BTreeMap;

use darkbloom_types::{Millis, MonoMillis};

use super::state::Row;
use crate::row::{Owner, Priority, RowId};

/// A row that has waited so long counts as of the highest priority: nobody waits for ever behind more important rows. Ten
/// seconds are a third of what a client waits for its first frame.
pub const AGED_AFTER: Millis = Millis::from_secs(10);

/// What a sampled token counts beside one of a prompt, which shares its forward with its neighbours (Sheng et al.: "Fairness
/// in serving large language models", OSDI 2024, whose counters these are).
const OUTPUT_WEIGHT: u64 = 2;

/// Most owners that are remembered, but for those that have rows here.
const OWNERS_MAX: usize = 1_024;

/// Rows that wait, and how much each owner of a row, waiting or running, was served.
#[derive(Debug, Default)]
pub(crate) struct WaitingList {
    /// In the order of their arrival, but for those that came back after they had run.
    rows: Vec<Row>,
    served: BTreeMap<Owner, Served>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Served {
    tokens: u64,
    /// Rows of this owner, waiting and running.
    rows: usize,
}

impl WaitingList {
    /// Rows that wait.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter()
    }

    /// Takes in a row that is new. Its owner starts where the least served of the others stands: who was away saved nothing.
    pub(crate) fn push(&mut self, row: Row) {
        let least = self.least();
        let served = self.served.entry(row.owner).or_default();
        served.tokens = served.tokens.max(least);
        served.rows += 1;
        self.rows.push(row);
    }

    /// What the least served of those was served that have rows here.
    fn least(&self) -> u64 {
        self.served.values().filter(|served| served.rows > 0).map(|served| served.tokens).min().unwrap_or(0)
    }

    /// Takes in a row that had a slot and lost it.
    pub(crate) fn push_back(&mut self, row: Row) {
        self.rows.push(row);
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Row> {
        self.rows.iter_mut()
    }

    /// Takes out the row that is next: of the highest priority, then of the owner that was served least, then the one that
    /// came first.
    pub(crate) fn pop(&mut self, now: MonoMillis) -> Option<Row> {
        self.pop_where(now, |_| true)
    }

    /// Takes out the row that is next among those of a priority.
    pub(crate) fn pop_of(&mut self, priority: Priority, now: MonoMillis) -> Option<Row> {
        self.pop_where(now, |row| row.priority == priority)
    }

    fn pop_where(&mut self, now: MonoMillis, may: impl Fn(&Row) -> bool) -> Option<Row> {
        let these = (0..self.rows.len()).filter(|&at| may(&self.rows[at]));
        let at = these.min_by_key(|&at| self.rank(&self.rows[at], now))?;
        Some(self.rows.remove(at))
    }

    fn rank(&self, row: &Row, now: MonoMillis) -> impl Ord + use<> {
        let served = self.served.get(&row.owner).map_or(0, |served| served.tokens);
        // Rows that have waited long go in the order in which they came, or newcomers could pass them for ever.
        let aged = now.since(row.waits_since) >= AGED_AFTER;
        let priority = if aged { Priority::High } else { row.priority };
        (std::cmp::Reverse(priority), if aged { 0 } else { served }, row.arrival)
    }

    /// Takes out a row that will not run.
    pub(crate) fn remove(&mut self, id: RowId) -> Option<Row> {
        let at = self.rows.iter().position(|row| row.id == id)?;
        let row = self.rows.remove(at);
        self.gone(row.owner);
        Some(row)
    }

    /// Takes out the rows that should have had a slot by now.
    pub(crate) fn take_late(&mut self, now: MonoMillis) -> Vec<Row> {
        let late: Vec<_> = self.rows.extract_if(.., |row| row.must_start_by().is_some_and(|by| by < now)).collect();
        late.iter().for_each(|row| self.gone(row.owner));
        late
    }

    /// Takes out all rows.
    pub(crate) fn take_all(&mut self) -> Vec<Row> {
        let rows = std::mem::take(&mut self.rows);
        rows.iter().for_each(|row| self.gone(row.owner));
        rows
    }

    /// When the next row will be late.
    pub(crate) fn late_at(&self) -> Option<MonoMillis> {
        self.rows.iter().filter_map(Row::must_start_by).min()
    }

    /// An owner's row was served so many tokens.
    pub(crate) fn served(&mut self, owner: Owner, prompt_tokens: usize, output_tokens: usize) {
        if let Some(served) = self.served.get_mut(&owner) {
            let tokens = prompt_tokens as u64 + OUTPUT_WEIGHT * output_tokens as u64;
            served.tokens = served.tokens.saturating_add(tokens);
        }
    }

    /// A row of an owner's has ended.
    pub(crate) fn gone(&mut self, owner: Owner) {
        if let Some(served) = self.served.get_mut(&owner) {
            served.rows = served.rows.saturating_sub(1);
        }
        self.forget_owners();
    }

    /// An owner that is away is remembered until the others have been served as much: who sends one row after the other is no
    /// newcomer each time.
    fn forget_owners(&mut self) {
        if self.served.values().all(|served| served.rows == 0) {
            return self.served.clear();
        }
        let least = self.least();
        self.served.retain(|_, served| served.rows > 0 || served.tokens > least);
        while self.served.len() > OWNERS_MAX {
            let away = self.served.iter().filter(|(_, served)| served.rows == 0);
            let Some(owner) = away.min_by_key(|(_, served)| served.tokens).map(|(owner, _)| *owner) else { return };
            self.served.remove(&owner);
        }
    }
}
