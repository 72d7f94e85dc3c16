//! The thread that tells rows what happened, and watches that steps come back.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;
use std::time::Duration;

use darkbloom_batch::{RowEvent, RowFailure, RowId};

use super::{EventSink, Shared, State};
use crate::ExecuteError;

/// How long the thread leaves what there is to tell, after it has told something. Waking it costs the executing thread some ten
/// microseconds, which shows where steps take a fifth of a millisecond; nobody notices so short a wait.
const NAP: Duration = Duration::from_millis(1);

type Sinks = HashMap<RowId, EventSink>;

/// What a sink holds may panic when it is dropped; that is its owner's bug as well.
fn drop_sink(sink: Option<EventSink>) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(sink)));
}

/// What there is to tell.
struct News {
    arrivals: Vec<(RowId, EventSink)>,
    events: Vec<RowEvent>,
    /// Nothing will follow.
    last: bool,
}

/// At the thread's end, however it comes, nobody waits for an engine that does nothing any more.
struct End<'s>(&'s Shared);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        (state.stopping, state.stopped) = (true, true);
        let (arrivals, notices) = (std::mem::take(&mut state.arrivals), std::mem::take(&mut state.notices));
        drop(state);
        self.0.work.notify_all();
        drop(arrivals);
        for notice in notices {
            // Whose notice panics learns nothing; the others do.
            let _ = catch_unwind(AssertUnwindSafe(notice));
        }
    }
}

impl Shared {
    /// Tells rows what happened until nothing happens any more.
    pub(super) fn tell_rows(&self) {
        let _end = End(self);
        let mut sinks = Sinks::new();
        let mut told = false;
        loop {
            let News { arrivals, events, last } = self.news(told);
            told = !events.is_empty();
            sinks.extend(arrivals);
            for event in events {
                self.tell(&mut sinks, event);
            }
            if last {
                return;
            }
        }
    }

    /// Waits for news; after some were told, not before a nap.
    fn news(&self, told: bool) -> News {
        let mut state = self.lock();
        if told && !state.stopping {
            state.napping = true;
            state = self.news.wait_timeout(state, NAP).unwrap_or_else(PoisonError::into_inner).0;
            state.napping = false;
        }
        loop {
            let last = state.steps_ended || state.given_up;
            if last || !state.events.is_empty() || !state.arrivals.is_empty() {
                let (arrivals, events) = (std::mem::take(&mut state.arrivals), std::mem::take(&mut state.events));
                return News { arrivals, events, last };
            }
            state = match self.watch(&mut state) {
                Some(wait) => self.news.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0,
                None if state.given_up => state,
                None => self.news.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Interrupts a step that takes too long, and gives up one that does not come back even then. Returns when to look again
    /// while rows are there.
    fn watch(&self, state: &mut State) -> Option<Duration> {
        let limits = self.step_limits;
        let (patience, whole) = (limits.interrupt_after, limits.interrupt_after + limits.give_up_after);
        let Some(began) = state.step_began else { return (!state.known.is_empty()).then_some(patience) };
        let took = began.elapsed();
        if took < patience {
            return Some(patience - took);
        }
        self.set_interrupt(true);
        if took < whole {
            return Some(whole - took);
        }
        (state.given_up, state.stopping) = (true, true);
        state.stats.failed_steps += 1;
        state.stats.last_error = Some(ExecuteError::Stuck);
        let events = state.scheduler.end_all(RowFailure::Stuck);
        state.events.extend(events);
        None
    }

    fn tell(&self, sinks: &mut Sinks, event: RowEvent) {
        let (id, is_end) = (event.id(), matches!(event, RowEvent::Ended { .. }));
        // A sink that panics is its owner's bug, who must not take the other rows along.
        let heard = match sinks.get_mut(&id) {
            Some(sink) => catch_unwind(AssertUnwindSafe(|| sink(event))).is_ok(),
            None => true,
        };
        if is_end {
            // In this order, so that whoever sees the sink dropped may use the id again.
            self.lock().known.remove(&id);
            drop_sink(sinks.remove(&id));
        } else if !heard {
            drop_sink(sinks.remove(&id));
            let mut state = self.lock();
            state.scheduler.cancel(id);
            state.collect_events();
            self.work.notify_all();
        }
    }
}
