//! Which models are in memory: who makes room for whom, and when one that nobody uses goes. No clock, no threads.

use darkbloom_types::{Millis, MonoMillis};

/// What an owner allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Bytes for all models together.
    pub budget: u64,
    /// How long a model may be without a request before it is unloaded; never where there is none.
    pub idle: Option<Millis>,
    /// How long a model that answered is kept from making room for another: with requests for two models in turn, and
    /// memory for one, the machine would only load.
    pub kept: Millis,
    /// How long a model waits for others to be done before they get no more requests for its sake.
    pub leave_after: Millis,
    /// How long it waits in all: the requests that wait for it have as long, and a minute for the loading.
    pub room_wait: Millis,
}

/// A model that is in memory or on its way there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resident {
    /// Its place among the models that are served.
    pub model: usize,
    /// What it takes.
    pub bytes: u64,
    /// Requests that it is answering; one that is being loaded has none and counts as in use.
    pub in_use: bool,
    /// When its last request ended, or it was loaded.
    pub used_at: MonoMillis,
}

/// Why there is no room for a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoom {
    /// It would not fit if it were alone.
    TooLarge,
    /// What it would take the place of answers requests, or did so a moment ago.
    Busy,
}

impl Allowance {
    /// So many bytes, and an idle time.
    pub fn new(budget: u64, idle: Option<Millis>) -> Self {
        let [kept, leave_after, room_wait] = [10, 10, 90].map(Millis::from_secs);
        Self { budget, idle, kept, leave_after, room_wait }
    }

    /// Which models have to go so that another of so many bytes fits: those that were not used for longest, and no more
    /// than have to.
    pub fn make_room(&self, residents: &[Resident], bytes: u64, now: MonoMillis) -> Result<Vec<usize>, NoRoom> {
        self.least_used(residents, bytes, |one| !one.in_use && now.since(one.used_at) >= self.kept)
    }

    /// Which models should take no more requests, so that there will be room for another: whatever they do now.
    pub fn should_leave(&self, residents: &[Resident], bytes: u64) -> Vec<usize> {
        self.least_used(residents, bytes, |_| true).unwrap_or_default()
    }

    fn least_used(
        &self,
        residents: &[Resident],
        bytes: u64,
        may_go: impl Fn(&Resident) -> bool,
    ) -> Result<Vec<usize>, NoRoom> {
        if bytes > self.budget {
            return Err(NoRoom::TooLarge);
        }
        let mut taken: u64 = residents.iter().map(|resident| resident.bytes).sum();
        let mut order: Vec<_> = residents.iter().filter(|one| may_go(one)).collect();
        order.sort_unstable_by_key(|resident| (resident.in_use, resident.used_at, resident.model));
        let mut gone = Vec::new();
        for resident in order {
            if taken.saturating_add(bytes) <= self.budget {
                break;
            }
            taken -= resident.bytes;
            gone.push(*resident);
        }
        if taken.saturating_add(bytes) > self.budget {
            return Err(NoRoom::Busy);
        }
        // A large one may have made those before it needless.
        let mut kept = taken;
        gone.retain(|resident| {
            let stays = kept.saturating_add(resident.bytes).saturating_add(bytes) <= self.budget;
            kept += if stays { resident.bytes } else { 0 };
            !stays
        });
        Ok(gone.into_iter().map(|resident| resident.model).collect())
    }

    /// Models that nobody has used for too long.
    pub fn idle(&self, residents: &[Resident], now: MonoMillis) -> Vec<usize> {
        let Some(idle) = self.idle else { return Vec::new() };
        let over = residents.iter().filter(|one| !one.in_use && now.since(one.used_at) >= idle);
        over.map(|resident| resident.model).collect()
    }

    /// When the next model will have been idle for too long, if nothing happens.
    pub fn next_idle(&self, residents: &[Resident]) -> Option<MonoMillis> {
        let idle = self.idle?;
        residents.iter().filter(|one| !one.in_use).map(|one| one.used_at.after(idle)).min()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: MonoMillis = MonoMillis(10_000_000);

    fn resident(model: usize, bytes: u64, in_use: bool, idle_secs: u64) -> Resident {
        Resident { model, bytes, in_use, used_at: MonoMillis(NOW.0 - idle_secs * 1_000) }
    }

    fn allowance(budget: u64) -> Allowance {
        Allowance::new(budget, Some(Millis::from_minutes(60)))
    }

    #[test]
    fn the_least_recently_used_go_and_no_more_than_have_to() {
        let residents = [resident(0, 4, false, 60), resident(1, 4, false, 120), resident(2, 2, false, 30)];
        assert_eq!(allowance(14).make_room(&residents, 4, NOW), Ok(vec![]));
        assert_eq!(allowance(12).make_room(&residents, 4, NOW), Ok(vec![1]));
        assert_eq!(allowance(10).make_room(&residents, 5, NOW), Ok(vec![1, 0]));
        assert_eq!(allowance(9).make_room(&residents, 9, NOW), Ok(vec![1, 0, 2]));
        assert_eq!(allowance(9).make_room(&residents, 10, NOW), Err(NoRoom::TooLarge));
    }

    #[test]
    fn a_small_one_stays_where_a_large_one_suffices() {
        let residents = [resident(0, 1, false, 500), resident(1, 8, false, 60)];
        assert_eq!(allowance(10).make_room(&residents, 8, NOW), Ok(vec![1]));
    }

    #[test]
    fn nothing_that_is_in_use_or_was_a_moment_ago_makes_room() {
        for busy in [resident(0, 8, true, 1_000), resident(0, 8, false, 9)] {
            assert_eq!(allowance(10).make_room(&[busy], 4, NOW), Err(NoRoom::Busy));
        }
        assert_eq!(allowance(10).make_room(&[resident(0, 8, false, 10)], 4, NOW), Ok(vec![0]));
    }

    #[test]
    fn what_is_busy_is_to_leave_where_nothing_else_would_suffice() {
        let residents = [resident(0, 8, true, 1_000), resident(1, 4, false, 1)];
        assert_eq!(allowance(12).should_leave(&residents, 4), [1]);
        assert_eq!(allowance(12).should_leave(&residents, 8), [0]);
        assert!(allowance(12).should_leave(&residents, 13).is_empty());
    }

    #[test]
    fn what_nobody_uses_goes_after_its_time_and_never_while_it_answers() {
        let residents = [resident(0, 1, false, 3_600), resident(1, 1, false, 3_599), resident(2, 1, true, 9_000)];
        assert_eq!(allowance(9).idle(&residents, NOW), [0]);
        assert_eq!(allowance(9).next_idle(&residents[1..]), Some(NOW.after(Millis::from_secs(1))));
        assert_eq!(allowance(9).next_idle(&residents[2..]), None);
        let never = Allowance::new(9, None);
        assert_eq!((never.idle(&residents, NOW), never.next_idle(&residents)), (vec![], None));
    }

    proptest! {
        #[test]
        fn room_is_made_from_idle_models_only_and_suffices_and_none_could_have_stayed(
            sizes in prop::collection::vec((1u64..40, any::<bool>(), 0u64..40), 0..8),
            budget in 1u64..200,
            bytes in 1u64..80,
        ) {
            let residents: Vec<_> =
                sizes.iter().enumerate().map(|(at, &(bytes, in_use, idle))| resident(at, bytes, in_use, idle)).collect();
            let taken: u64 = residents.iter().map(|one| one.bytes).sum();
            let free = |one: &Resident| !one.in_use && NOW.since(one.used_at) >= allowance(1).kept;
            let movable: u64 = residents.iter().filter(|one| free(one)).map(|one| one.bytes).sum();
            match allowance(budget).make_room(&residents, bytes, NOW) {
                Ok(gone) => {
                    let freed: u64 = gone.iter().map(|&at| residents[at].bytes).sum();
                    prop_assert!(gone.iter().all(|&at| free(&residents[at])));
                    prop_assert!(taken - freed + bytes <= budget);
                    for &at in &gone {
                        prop_assert!(taken - freed + residents[at].bytes + bytes > budget, "{at} could have stayed");
                    }
                }
                Err(NoRoom::TooLarge) => prop_assert!(bytes > budget),
                Err(NoRoom::Busy) => prop_assert!(bytes <= budget && taken - movable + bytes > budget),
            }
        }
    }
}
