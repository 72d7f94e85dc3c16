//! Accidents that strike the network as a whole, drawn now and then.

use super::agenda::Event;
use super::faults::Fault;
use super::world::World;

impl World {
    /// The next accident, and when the one after it comes.
    pub fn mischief(&mut self) {
        if !self.is_rough() {
            return;
        }
        let wait = self.chance.between(1, self.shape.mischief_ms * 2);
        self.at(wait, Event::Mischief);
        let p = self.chance.below(self.providers.len() as u64) as u32;
        let link = self.providers[p as usize].link.filter(|link| !self.links[*link as usize].cut);
        match self.chance.below(36) {
            0 if self.coordinator.up => self.crash_coordinator(),
            1..4 if self.providers[p as usize].up => {
                self.fault(Fault::ProviderCrash);
                self.stop_provider(p);
            }
            4..7 => {
                self.fault(Fault::ProviderHangs);
                let wait = self.chance.pick(&[300, 3_000, 20_000, 50_000]);
                self.providers[p as usize].hung_until = self.now.after(wait);
            }
            7..9 => self.drain(p),
            9..12 => {
                self.fault(Fault::EpochRotates);
                self.rotate(p);
            }
            12 => self.end_epoch(p),
            13..15 => {
                self.fault(Fault::EpochForgotten);
                self.providers[p as usize].earlier.clear();
            }
            15..18 => self.ignore_challenges(p),
            18..22 => {
                if let Some(link) = link {
                    self.fault(Fault::LinkCut);
                    self.cut_link(link);
                }
            }
            22..24 => {
                if let Some(link) = link.filter(|link| !self.links[*link as usize].mute) {
                    self.fault(Fault::LinkHalfOpen);
                    self.mute_link(link);
                }
            }
            24..27 => {
                if let Some(link) = link {
                    self.fault(Fault::Partition);
                    let wait = self.chance.between(200, 30_000);
                    self.links[link as usize].stalled_until = self.now.after(wait);
                }
            }
            30..36 => self.unload(p),
            27 => {
                let client = self.chance.below(self.clients.len() as u64) as usize;
                let client = &mut self.clients[client];
                client.stale = !client.stale;
            }
            _ => self.ignore_challenges(p),
        }
    }

    /// A provider says that it takes no new work; a while later it is gone, and started again.
    fn drain(&mut self, p: u32) {
        let provider = &mut self.providers[p as usize];
        if !provider.up || provider.draining {
            return;
        }
        provider.draining = true;
        self.fault(Fault::ProviderDrains);
        if let Some(link) = self.providers[p as usize].link {
            self.send_up(link, super::world::Up::Beat);
        }
        let wait = self.chance.between(500, 30_000);
        self.at(wait, Event::Restart(p));
    }

    /// A provider's epoch is about to end, and no next one comes until its owner looks after it.
    fn end_epoch(&mut self, p: u32) {
        self.fault(Fault::EpochEnds);
        self.rotate(p);
        let until = self.now.after(2_000);
        let provider = &mut self.providers[p as usize];
        provider.use_until = until;
        provider.epoch_stuck = true;
        let (link, epoch) = (provider.link, provider.epoch);
        if let Some(link) = link {
            self.send_up(link, super::world::Up::Epoch { epoch, use_until: until });
        }
        let wait = self.chance.between(10_000, 40_000);
        self.at(wait, Event::Restart(p));
    }

    /// A provider answers no challenge for a while, and one is due.
    fn ignore_challenges(&mut self, p: u32) {
        self.providers[p as usize].ignores_challenges = true;
        let wait = self.chance.between(400_000, 900_000);
        self.at(wait, Event::Restart(p));
    }

    /// A provider's process starts; where one still runs, it ends first.
    pub fn restart(&mut self, p: u32) {
        if self.providers[p as usize].up {
            let draining = self.providers[p as usize].draining;
            if !draining && !self.providers[p as usize].epoch_stuck && !self.providers[p as usize].ignores_challenges {
                return;
            }
            return self.stop_provider(p);
        }
        self.start_provider(p);
    }
}
