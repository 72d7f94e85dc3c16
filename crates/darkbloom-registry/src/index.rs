//! Who could answer with a model, kept in classes of expected cost, so that a few of the best are found without looking at
//! the others. Every change of a provider moves it from one class to another; nothing here asks the clock.

use std::collections::HashMap;

use darkbloom_types::{CatalogueDigest, ProviderId, Tier};
use rand_core::Rng;

use crate::cost;

/// One without a free row.
pub const FULL: usize = cost::CLASSES;
/// One that has to load the model.
pub const STORED: usize = FULL + 1;
/// One that others are preferred to.
pub const DOUBTED: usize = STORED + 1;
const CLASSES: usize = DOUBTED + 1;

/// Where a provider stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    pub class: usize,
    pub tier: Tier,
    /// Whether it has answered little yet.
    pub newcomer: bool,
}

/// A set from which any member can be drawn.
#[derive(Debug, Default)]
struct Drawn {
    members: Vec<ProviderId>,
}

impl Drawn {
    fn push(&mut self, id: ProviderId) -> usize {
        self.members.push(id);
        self.members.len() - 1
    }

    /// Removes one; returns who has its place now.
    fn remove(&mut self, at: usize) -> Option<ProviderId> {
        self.members.swap_remove(at);
        self.members.get(at).copied()
    }

    /// Up to `most` different members, each as likely as any other (Floyd's algorithm).
    fn draw(&self, most: usize, rng: &mut impl Rng) -> Vec<ProviderId> {
        let all = self.members.len();
        if all <= most {
            return self.members.clone();
        }
        let mut places: Vec<usize> = Vec::with_capacity(most);
        for last in all - most..all {
            let at = (rng.next_u64() % (last as u64 + 1)) as usize;
            places.push(if places.contains(&at) { last } else { at });
        }
        places.into_iter().map(|at| self.members[at]).collect()
    }
}

#[derive(Debug, Clone, Copy)]
struct Place {
    standing: Standing,
    at: usize,
    /// Among the newcomers.
    new_at: Option<usize>,
}

/// One model's providers.
#[derive(Debug, Default)]
pub(crate) struct Servers {
    classes: [Drawn; CLASSES],
    newcomers: Drawn,
    places: HashMap<ProviderId, Place>,
    tiers: [usize; 5],
}

impl Servers {
    fn put(&mut self, id: ProviderId, standing: Standing) {
        if self.places.get(&id).is_some_and(|place| place.standing == standing) {
            return;
        }
        self.remove(&id);
        let at = self.classes[standing.class].push(id);
        let new_at = standing.newcomer.then(|| self.newcomers.push(id));
        self.tiers[usize::from(standing.tier.code())] += 1;
        self.places.insert(id, Place { standing, at, new_at });
    }

    fn remove(&mut self, id: &ProviderId) {
        let Some(place) = self.places.remove(id) else { return };
        self.tiers[usize::from(place.standing.tier.code())] -= 1;
        if let Some(moved) = self.classes[place.standing.class].remove(place.at)
            && let Some(its) = self.places.get_mut(&moved)
        {
            its.at = place.at;
        }
        if let Some(new_at) = place.new_at
            && let Some(moved) = self.newcomers.remove(new_at)
            && let Some(its) = self.places.get_mut(&moved)
        {
            its.new_at = Some(new_at);
        }
    }

    pub fn standing(&self, id: &ProviderId) -> Option<Standing> {
        self.places.get(id).map(|place| place.standing)
    }

    /// How many could answer at this tier.
    pub fn at_least(&self, tier_min: Tier) -> usize {
        self.tiers[usize::from(tier_min.code())..].iter().sum()
    }

    /// Up to `most` providers that `may` be named, the best classes first, each class's members as likely as one another; and
    /// among them up to `newcomers` of those that have answered little.
    pub fn draw(
        &self,
        most: usize,
        newcomers: usize,
        rng: &mut impl Rng,
        may: impl Fn(&ProviderId) -> bool,
    ) -> Vec<(usize, ProviderId)> {
        let mut drawn: Vec<(usize, ProviderId)> = Vec::with_capacity(most);
        let mut take = |from: &Drawn, room: usize, rng: &mut _| {
            for id in from.draw(room, rng) {
                // What time alone has changed since the last look is in no class yet.
                if !drawn.iter().any(|(_, known)| *known == id) && may(&id) {
                    drawn.push((self.places.get(&id).map_or(0, |place| place.standing.class), id));
                }
            }
            drawn.len()
        };
        let mut have = take(&self.newcomers, newcomers, rng);
        for class in &self.classes {
            if have >= most {
                break;
            }
            // Some of them may have been drawn already, as newcomers.
            have = take(class, most - have + newcomers, rng);
        }
        drawn.truncate(most);
        drawn
    }

    /// Up to `most` of those that would have to load the model, beginning anywhere.
    pub fn stored(&self, most: usize, from: usize) -> impl Iterator<Item = &ProviderId> {
        let stored = &self.classes[STORED].members;
        let from = if stored.is_empty() { 0 } else { from % stored.len() };
        stored[from..].iter().chain(&stored[..from]).take(most)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Index {
    models: HashMap<CatalogueDigest, Servers>,
}

impl Index {
    pub fn of(&self, model: &CatalogueDigest) -> Option<&Servers> {
        self.models.get(model)
    }

    /// Where a provider stands with a model from now on; nowhere, if it could not answer.
    pub fn put(&mut self, model: &CatalogueDigest, id: ProviderId, standing: Option<Standing>) {
        let Some(standing) = standing else { return self.remove(model, &id) };
        self.models.entry(*model).or_default().put(id, standing);
    }

    pub fn remove(&mut self, model: &CatalogueDigest, id: &ProviderId) {
        let Some(servers) = self.models.get_mut(model) else { return };
        servers.remove(id);
        if servers.places.is_empty() {
            self.models.remove(model);
        }
    }
}
