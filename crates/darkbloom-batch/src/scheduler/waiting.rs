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
        let least = self.served.values().map(|served| served.tokens).min().unwrap_or(0);
        self.served.entry(row.owner).or_insert(Served { tokens: least, rows: 0 }).rows += 1;
        self.rows.push(row);
    }

    /// Takes in a row that had a slot and lost it.
    pub(crate) fn push_back(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// The row that is next: of the highest priority, then of the owner that was served least, then the one that came first.
    pub(crate) fn next(&self, now: MonoMillis) -> Option<&Row> {
        self.rows.iter().min_by_key(|row| self.rank(row, now))
    }

    /// Takes out the row that is next.
    pub(crate) fn pop(&mut self, now: MonoMillis) -> Option<Row> {
        let at = (0..self.rows.len()).min_by_key(|&at| self.rank(&self.rows[at], now))?;
        Some(self.rows.remove(at))
    }

    fn rank(&self, row: &Row, now: MonoMillis) -> impl Ord + use<> {
        let served = self.served.get(&row.owner).map_or(0, |served| served.tokens);
        (std::cmp::Reverse(effective_priority(row, now)), served, row.arrival)
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
            if served.rows == 0 {
                self.served.remove(&owner);
            }
        }
    }
}

/// A row's priority as it counts now.
pub(crate) fn effective_priority(row: &Row, now: MonoMillis) -> Priority {
    if now.since(row.waits_since) >= AGED_AFTER { Priority::High } else { row.priority }
}
