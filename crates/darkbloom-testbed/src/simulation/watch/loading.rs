//! What the registry may believe of models that are loaded on request.

use darkbloom_registry::times;
use darkbloom_wire::{LoadOutcome, Residence};

use super::super::world::{MODELS, World};

impl World {
    /// A provider says where its models are.
    pub fn watch_residences(&mut self, link: u32) {
        let p = self.links[link as usize].provider;
        let loaded: [bool; MODELS] = std::array::from_fn(|number| {
            self.providers[p as usize].models[number] && self.residence(p, number) == Residence::Loaded
        });
        let has = self.providers[p as usize].models;
        if let Some(shadow) = self.shadow_on(link) {
            (shadow.loaded, shadow.has) = (loaded, has);
            for number in (0..MODELS).filter(|number| loaded[*number]) {
                (shadow.asked[number], shadow.begun[number]) = (None, false);
            }
        }
    }

    pub fn watch_load_asked(&mut self, link: u32, number: usize) {
        let now = self.now;
        let Some(shadow) = self.shadow_on(link) else { return };
        let twice = shadow.asked[number].replace(now).is_some_and(|at| now.since(at) < times::LOAD.0);
        let wrong = if shadow.loaded[number] {
            "has it"
        } else if twice {
            "was asked already"
        } else if shadow.unloadable[number].is_some_and(|until| now < until) {
            "could not a moment ago"
        } else {
            return;
        };
        self.watch.find(now, format!("connection {link} is asked for a model although it {wrong}"));
    }

    pub fn watch_load_reported(&mut self, link: u32, number: usize, outcome: LoadOutcome) {
        let now = self.now;
        let Some(shadow) = self.shadow_on(link) else { return };
        shadow.heard = now;
        if !outcome.is_end() {
            if shadow.asked[number].is_some() && !std::mem::replace(&mut shadow.begun[number], true) {
                shadow.asked[number] = Some(now);
            }
            return;
        }
        (shadow.asked[number], shadow.begun[number]) = (None, false);
        if !shadow.has[number] {
            return;
        }
        if outcome == LoadOutcome::Succeeded {
            (shadow.loaded[number], shadow.unloadable[number]) = (true, None);
        } else {
            shadow.unloadable[number] = Some(now.after(times::LOAD_PAUSE.0));
        }
    }

    /// Loads that never ended count as failures of their providers.
    pub fn watch_loads(&mut self) {
        let now = self.now;
        for shadow in &mut self.watch.shadows {
            for number in 0..MODELS {
                if shadow.asked[number].is_some_and(|at| now.since(at) >= times::LOAD.0) {
                    shadow.asked[number] = None;
                    shadow.unloadable[number] = Some(now.after(times::LOAD_PAUSE.0));
                    if std::mem::take(&mut shadow.begun[number]) {
                        shadow.fault(number, None, now);
                    }
                }
            }
        }
    }
}
