//! Models that lie on a provider's disk: asked for, loaded or not, and dropped again.

use darkbloom_types::ConnectionId;
use darkbloom_wire::{LoadOutcome, Residence};

use super::agenda::Event;
use super::faults::{Fault, Planted};
use super::world::{Down, MODELS, Up, World, connection_id, link_of, model};

impl World {
    /// The registry wants models in memory.
    pub fn pass_loads(&mut self) {
        for (connection, wanted) in self.coordinator.registry.take_loads() {
            if self.bug(Planted::LoadsLost) {
                continue;
            }
            let link = link_of(&ConnectionId(connection.0));
            let Some(number) = (0..MODELS).find(|number| model(*number) == wanted) else { continue };
            self.watch_load_asked(link, number);
            self.send_down(link, Down::Load(number));
        }
    }

    /// Where a provider's model is.
    pub fn residence(&self, p: u32, number: usize) -> Residence {
        let provider = &self.providers[p as usize];
        match (provider.stored[number], provider.loading[number]) {
            (false, _) => Residence::Loaded,
            (true, true) => Residence::Loading,
            (true, false) => Residence::Stored,
        }
    }

    /// A provider is asked for a model.
    pub fn asked_to_load(&mut self, p: u32, link: u32, number: usize) {
        let provider = &self.providers[p as usize];
        let outcome = if !provider.models[number] || provider.draining {
            LoadOutcome::Declined
        } else if !provider.stored[number] {
            LoadOutcome::Succeeded
        } else {
            LoadOutcome::Started
        };
        self.send_up(link, Up::LoadReport { number, outcome });
        if outcome != LoadOutcome::Started || provider_loads(self, p, number) {
            return;
        }
        self.providers[p as usize].loading[number] = true;
        let run = self.providers[p as usize].run;
        let rough = self.is_rough();
        if rough && self.chance.one_in(12) {
            self.fault(Fault::LoadNeverEnds);
            return;
        }
        let outcome = if rough && self.chance.one_in(5) {
            self.fault(Fault::LoadFails);
            self.chance.pick(&[LoadOutcome::TooLarge, LoadOutcome::Busy, LoadOutcome::Unusable])
        } else {
            LoadOutcome::Succeeded
        };
        let wait = self.chance.pick(&[100, 1_000, 10_000, 60_000]);
        self.at(wait, Event::Load { provider: p, run, number, outcome });
    }

    /// A load is over.
    pub fn load_ends(&mut self, p: u32, run: u32, number: usize, outcome: LoadOutcome) {
        let provider = &mut self.providers[p as usize];
        if provider.run != run {
            return;
        }
        if self.now < provider.hung_until {
            let until = provider.hung_until;
            return self.at_moment(until, Event::Load { provider: p, run, number, outcome });
        }
        provider.loading[number] = false;
        provider.stored[number] = outcome != LoadOutcome::Succeeded;
        if let Some(link) = provider.link {
            self.send_up(link, Up::LoadReport { number, outcome });
        }
    }

    /// The coordinator hears what became of a load.
    pub fn load_reported(&mut self, link: u32, number: usize, outcome: LoadOutcome) {
        let (id, now) = (connection_id(link), self.now);
        let _ = self.coordinator.registry.load_reported(&id, &model(number), outcome, now.into(), now.into());
        self.watch_load_reported(link, number, outcome);
        self.pass_news();
    }

    /// A provider drops a model that answers nothing, and says so at once or with its next heartbeat.
    pub fn unload(&mut self, p: u32) {
        let number = self.chance.below(MODELS as u64) as usize;
        let provider = &self.providers[p as usize];
        let busy = provider.jobs.values().any(|job| self.operation_of(job.submission).model == number);
        if !provider.up || !provider.models[number] || provider.stored[number] || busy {
            return;
        }
        self.fault(Fault::ModelDropped);
        self.providers[p as usize].stored[number] = true;
        let says = self.chance.one_in(2);
        if let Some(link) = self.providers[p as usize].link.filter(|_| says) {
            self.send_up(link, Up::Beat);
        }
    }
}

fn provider_loads(world: &World, p: u32, number: usize) -> bool {
    world.providers[p as usize].loading[number]
}
