//! Who gets a slot, who gives one up, and what a row starts from.

use darkbloom_types::MonoMillis;

use super::prefix::{PREFIX_TOKENS_MIN, Prefix, usable};
use super::state::{Place, Row};
use super::{Scheduler, slot_of};
use crate::plan::{MemoryOp, SavedId, StepPlan};
use crate::row::{EndReason, RowEvent, RowFailure};

/// What a row's memory is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// Nothing: it feeds everything.
    Empty,
    /// What an ended row left in this slot.
    Here { slot: usize, keep: usize },
    /// A saved state.
    Saved { saved: SavedId, keep: usize },
    /// What a running row has in its slot.
    Beside { slot: usize, keep: usize },
}

impl Start {
    pub(super) fn keep(self) -> usize {
        match self {
            Self::Empty => 0,
            Self::Here { keep, .. } | Self::Saved { keep, .. } | Self::Beside { keep, .. } => keep,
        }
    }
}

impl Scheduler {
    /// When [`Self::plan`] has something to do although nothing happened: a row is late, or a prefix has been kept long
    /// enough.
    #[must_use]
    pub fn next_wake(&self) -> Option<MonoMillis> {
        let kept = self.places.iter().filter_map(|place| place.kept.as_ref()).map(|prefix| prefix.used_at);
        let oldest = kept.chain(self.prefixes.oldest()).min();
        let expires = oldest.map(|used_at| used_at.after(self.limits.prefix_keep));
        // A millisecond after the last at which it is all right.
        let next = |moment: MonoMillis| MonoMillis(moment.0.saturating_add(1));
        self.waiting.late_at().into_iter().chain(expires).min().map(next)
    }

    /// Before the model's memory is overwritten as a whole, with no row in it: a step that saves what is kept there. Nothing
    /// when there is nothing to save. [`Self::erased`] follows, whatever becomes of the step.
    pub fn plan_before_erasing(&mut self, now: MonoMillis) -> Option<StepPlan> {
        if self.step_is_out.is_some() || self.running().next().is_some() {
            return None;
        }
        self.now = self.now.max(now);
        self.expire();
        for slot in 0..self.places.len() {
            self.save_kept(slot, None);
        }
        let memory = std::mem::take(&mut self.memory);
        (!memory.is_empty()).then(|| {
            self.step_is_out = Some(super::Out { decoded: 0, prefilled: 0, pieces: 0, moves_memory: true });
            StepPlan { memory, rows: Vec::new() }
        })
    }

    /// The model's memory was overwritten: no slot holds anything.
    pub fn erased(&mut self) {
        for place in &mut self.places {
            (place.dirty, place.kept) = (false, None);
        }
    }

    /// The last plan changed the memory as it should, and its forward found no room: the row that is to give way does, or ends
    /// when it was alone. Nobody is admitted until a row has ended. Returns what happened since events were last taken.
    pub fn no_room(&mut self) -> Vec<RowEvent> {
        self.step_is_out = None;
        self.restoring.clear();
        for place in &mut self.places {
            // What is kept makes room first.
            (place.out, place.kept) = (None, None);
        }
        if self.admitted.len() > 1 {
            self.full = true;
            if let Some(slot) = self.last_in_line(|_| true) {
                self.give_way(slot, false);
            }
        } else if let Some(&slot) = self.admitted.first() {
            self.end(slot, EndReason::Failed, Some(RowFailure::NoRoom));
        }
        self.take_events()
    }

    /// Ends what has waited or was kept for too long.
    pub(super) fn expire(&mut self) {
        for row in self.waiting.take_late(self.now) {
            self.end_waiting(row, EndReason::Failed, Some(RowFailure::Late));
        }
        let since = MonoMillis(self.now.0.saturating_sub(self.limits.prefix_keep.0));
        for saved in self.prefixes.take_used_before(since) {
            self.memory.push(MemoryOp::Drop { saved });
        }
        for place in &mut self.places {
            place.kept.take_if(|prefix| prefix.used_at < since);
        }
    }

    pub(super) fn admit(&mut self) {
        while !self.full {
            let is_free = |place: &Place| place.row.is_none();
            let row =
                if self.places.iter().any(is_free) { self.waiting.pop(self.now) } else { self.pop_over_another() };
            let Some(row) = row else { return };
            self.place(row);
        }
    }

    /// Takes out the most important row that waits, if a running one gives way to it.
    fn pop_over_another(&mut self) -> Option<Row> {
        let priority = self.waiting.iter().map(|row| row.priority).max()?;
        let slot = self.last_in_line(|row| row.priority < priority && !row.gave_way)?;
        let row = self.waiting.pop_of(priority, self.now);
        self.give_way(slot, true);
        row
    }

    /// The running row that gives way first: of the lowest priority, the one that came last.
    fn last_in_line(&self, may: impl Fn(&Row) -> bool) -> Option<usize> {
        let row = |slot: &usize| self.places[*slot].row.as_ref();
        let rank = |slot: &usize| row(slot).map(|row| (row.priority, std::cmp::Reverse(row.arrival)));
        self.admitted.iter().copied().filter(|slot| row(slot).is_some_and(&may)).min_by_key(rank)
    }

    /// A running row goes back to those that wait, for good reason or `to_priority`. Its state is saved where there is room
    /// for it: copying is always cheaper than feeding again, by two orders of magnitude (114,688 bytes a token of a 0.6 B
    /// model are copied in 20 µs and computed in 5 ms).
    fn give_way(&mut self, slot: usize, to_priority: bool) {
        let Some(mut row) = self.places[slot].row.take() else { return };
        self.admitted.retain(|&admitted| admitted != slot);
        self.places[slot].dirty = true;
        row.gave_way |= to_priority;
        row.waits_since = self.now;
        if row.fed > 0 && self.make_room(row.fed, None) {
            let saved = self.save(slot);
            self.saved_row_tokens += row.fed;
            self.decisions.saved_rows += 1;
            row.saved = Some(saved);
        } else {
            row.fed = 0;
            self.decisions.refed_rows += 1;
        }
        self.waiting.push_back(row);
    }

    /// Whether so many more tokens can be saved, at the cost of prefixes that nobody has used for long, but not of `spared`.
    fn make_room(&mut self, tokens: usize, spared: Option<SavedId>) -> bool {
        let fixed = self.saved_row_tokens + spared.map_or(0, |saved| self.prefixes.tokens_of(saved)) + tokens;
        if fixed > self.limits.saved_tokens_max {
            return false;
        }
        while self.saved_row_tokens + self.prefixes.tokens() + tokens > self.limits.saved_tokens_max {
            let Some(saved) = self.prefixes.pop_oldest(spared) else { break };
            self.memory.push(MemoryOp::Drop { saved });
        }
        true
    }

    fn save(&mut self, slot: usize) -> SavedId {
        let saved = SavedId(self.next_saved);
        self.next_saved += 1;
        self.memory.push(MemoryOp::Save { slot: slot_of(slot), saved });
        saved
    }

    pub(super) fn drop_saved(&mut self, row: &Row) {
        if let Some(saved) = row.saved {
            self.saved_row_tokens -= row.fed;
            self.memory.push(MemoryOp::Drop { saved });
        }
    }

    /// Gives a row a slot, of which at least one is free, and as much to start from as there is.
    fn place(&mut self, mut row: Row) {
        let start = self.start(&row);
        let Some(slot) = self.slot_for(start) else { return self.waiting.push_back(row) };
        if !matches!(start, Start::Here { .. }) {
            let needed = if let Start::Saved { saved, .. } = start { Some(saved) } else { None };
            // Copying takes time, by which a row could tell what others left: so only for those that may know.
            let may_know = self.places[slot].kept.as_ref().is_some_and(|prefix| row.scope == Some(prefix.scope));
            if may_know {
                self.save_kept(slot, needed);
            }
            self.forget(slot);
        }
        self.bring(slot, start);
        if row.saved.is_some() {
            self.drop_saved(&row);
            row.saved = None;
        } else {
            self.decisions.reused_tokens += start.keep() as u64;
        }
        row.fed = start.keep();
        row.stay = self.next_stay;
        self.next_stay += 1;
        row.follows = self.whom_to_follow(&row);
        // Who got its place by waiting keeps it.
        row.gave_way |= self.now.since(row.waits_since) >= super::AGED_AFTER;
        if !std::mem::replace(&mut row.started, true) {
            self.events.push(RowEvent::Started { id: row.id });
        }
        let place = &mut self.places[slot];
        (place.kept, place.dirty) = (None, place.dirty || start.keep() > 0);
        place.row = Some(row);
        self.admitted.push(slot);
    }

    /// Has a slot hold what a row there starts from. Unless that lies there already, the slot is empty.
    pub(super) fn bring(&mut self, slot: usize, start: Start) {
        let to = slot_of(slot);
        let keep = u32::try_from(start.keep()).expect("Limits::check keeps positions within 31 bits");
        match start {
            Start::Empty => {}
            Start::Here { slot: from, .. } if from == slot => {
                self.memory.push(MemoryOp::Forget { slot: to, from: keep })
            }
            Start::Here { slot: from, .. } | Start::Beside { slot: from, .. } => {
                if let Some(prefix) = &mut self.places[from].kept {
                    prefix.used_at = self.now;
                }
                self.memory.push(MemoryOp::Copy { from: slot_of(from), to, keep });
            }
            Start::Saved { saved, .. } => {
                self.memory.push(MemoryOp::Restore { slot: to, saved, keep });
                self.prefixes.touch(saved, self.now);
                self.restoring.push((slot, saved));
            }
        }
    }

    /// The longest beginning of what the row feeds that is in memory somewhere and that it may use.
    pub(super) fn start(&self, row: &Row) -> Start {
        if let Some(saved) = row.saved {
            return Start::Saved { saved, keep: row.fed };
        }
        let Some(scope) = row.scope else { return Start::Empty };
        let (feed, trims) = (row.history.expose(), self.limits.trims);
        let mut best = Start::Empty;
        let mut offer = |start: Start| {
            // Those that cost less come first.
            if start.keep() > best.keep() {
                best = start;
            }
        };
        for (slot, place) in self.places.iter().enumerate() {
            if let Some(prefix) = &place.kept {
                offer(Start::Here { slot, keep: prefix.usable(scope, feed, trims) });
            }
        }
        if let Some((saved, keep)) = self.prefixes.best(scope, feed, trims) {
            offer(Start::Saved { saved, keep });
        }
        for &slot in &self.admitted {
            if let Some(other) = self.places[slot].row.as_ref().filter(|other| other.scope == Some(scope)) {
                let held = &other.history.expose()[..other.fed];
                offer(Start::Beside { slot, keep: usable(held, feed, trims) });
            }
        }
        best
    }

    /// The slot where the row's prefix lies; else the lowest that is free and kept for nobody, since executors run
    /// neighbouring slots together most cheaply; else the one whose prefix was used the longest time ago.
    fn slot_for(&self, start: Start) -> Option<usize> {
        if let Start::Here { slot, .. } = start {
            return Some(slot);
        }
        let free = || (0..self.places.len()).filter(|&slot| self.places[slot].row.is_none());
        let used_at = |slot: &usize| self.places[*slot].kept.as_ref().map(|prefix| prefix.used_at);
        free().find(|slot| used_at(slot).is_none()).or_else(|| free().min_by_key(used_at))
    }

    /// Saves what a slot keeps before the slot is used otherwise, if there is room beside what is `spared`.
    fn save_kept(&mut self, slot: usize, spared: Option<SavedId>) {
        let Some(prefix) = self.places[slot].kept.take() else { return };
        if self.make_room(prefix.tokens.len(), spared) {
            if self.limits.trims {
                // A step may have written more there after the row was cancelled.
                let from = u32::try_from(prefix.tokens.len()).expect("Limits::check keeps positions within 31 bits");
                self.memory.push(MemoryOp::Forget { slot: slot_of(slot), from });
            }
            let saved = self.save(slot);
            self.prefixes.push(saved, prefix);
        }
    }

    pub(super) fn forget(&mut self, slot: usize) {
        if std::mem::take(&mut self.places[slot].dirty) {
            self.memory.push(MemoryOp::Forget { slot: slot_of(slot), from: 0 });
        }
    }

    pub(super) fn forget_what_nobody_may_use(&mut self) {
        for slot in 0..self.places.len() {
            if self.places[slot].row.is_none() && self.places[slot].kept.is_none() {
                self.forget(slot);
            }
        }
    }

    /// Takes the row out of its slot, if there is one, and keeps what it leaves for its scope. A step that is out may still
    /// write there, after what is kept, which is trimmed before it is used.
    pub(super) fn end(&mut self, slot: usize, reason: EndReason, failure: Option<RowFailure>) {
        let Some(row) = self.places[slot].row.take() else { return };
        self.admitted.retain(|&admitted| admitted != slot);
        self.waiting.gone(row.owner);
        self.full = false;
        self.events.push(row.ended(reason, failure));
        let place = &mut self.places[slot];
        place.dirty |= row.fed > 0 || place.out.is_some();
        let whole = self.limits.trims || place.out.is_none();
        let keeps = self.limits.prefix_keep.0 > 0 && failure.is_none() && whole;
        if let Some(scope) = row.scope.filter(|_| keeps && row.fed >= PREFIX_TOKENS_MIN) {
            let mut tokens = row.history;
            tokens.truncate(row.fed);
            place.kept = Some(Prefix { scope, tokens, used_at: self.now });
        }
    }
}
