//! Connections: in order or not at all. A broken one loses what was on its way; a dead one tells nobody.

use darkbloom_types::StreamId;
use darkbloom_wire::Relayed;

use super::agenda::{Event, Now};
use super::world::{Down, Link, StreamFrame, Up, World};

/// What a client's connection takes, at most.
const RESPONSE_MS: u64 = 30;

impl World {
    /// A provider dials.
    pub fn open_link(&mut self, provider: u32) -> u32 {
        let latency_ms = self.chance.pick(&[1, 1, 5, 20, 80]);
        self.links.push(Link {
            provider,
            up: Default::default(),
            down: Default::default(),
            up_at: self.now,
            down_at: self.now,
            latency_ms,
            cut: false,
            mute: false,
            stalled_until: Now(0),
            known: false,
            next_stream: 0,
            streams: Default::default(),
            heard: self.now,
        });
        self.links.len() as u32 - 1
    }

    pub fn send_up(&mut self, link: u32, frame: Up) {
        let latency = self.latency(link);
        let connection = &mut self.links[link as usize];
        if connection.cut || connection.mute {
            return;
        }
        connection.up.push_back(frame);
        connection.up_at = connection.up_at.max(self.now.after(latency));
        let at = connection.up_at;
        self.at_moment(at, Event::ToCoordinator(link));
    }

    pub fn send_down(&mut self, link: u32, frame: Down) {
        let latency = self.latency(link);
        let connection = &mut self.links[link as usize];
        if connection.cut || connection.mute {
            return;
        }
        connection.down.push_back(frame);
        connection.down_at = connection.down_at.max(self.now.after(latency));
        let at = connection.down_at;
        self.at_moment(at, Event::ToProvider(link));
    }

    fn latency(&mut self, link: u32) -> u64 {
        let base = self.links[link as usize].latency_ms;
        base + self.chance.below(base + 1)
    }

    /// What a provider says about a stream.
    pub fn say(&mut self, link: u32, stream: StreamId, frame: StreamFrame) {
        self.send_up(link, Up::Stream(stream, frame));
    }

    /// Breaks a connection; both ends see it soon.
    pub fn cut_link(&mut self, link: u32) {
        self.watch.note(self.now, || format!("connection {link} breaks"));
        let connection = &mut self.links[link as usize];
        connection.cut = true;
        connection.up.clear();
        connection.down.clear();
        let wait = self.chance.below(50);
        self.at(wait, Event::CoordinatorSees(link));
        let wait = self.chance.below(50);
        self.at(wait, Event::ProviderSees(link));
    }

    /// A connection goes dead: the provider sees it after a while, the coordinator hears nothing.
    pub fn mute_link(&mut self, link: u32) {
        let connection = &mut self.links[link as usize];
        connection.mute = true;
        connection.up.clear();
        connection.down.clear();
        let wait = self.chance.between(3_000, 600_000);
        self.at(wait, Event::ProviderSees(link));
    }

    /// Sends a frame of a response to its client; `None` is its end.
    pub fn respond(&mut self, s: u32, frame: Option<Relayed>) {
        let wait = self.chance.below(RESPONSE_MS);
        let submission = &mut self.submissions[s as usize];
        if submission.broken || submission.mute || submission.client_left {
            return;
        }
        submission.response.push_back(frame);
        submission.response_at = submission.response_at.max(self.now.after(wait));
        let at = submission.response_at;
        self.at_moment(at, Event::ToClient(s));
    }

    /// The connection of a response breaks; both ends see it.
    pub fn cut_response(&mut self, s: u32) {
        let submission = &mut self.submissions[s as usize];
        if submission.broken || submission.client_left {
            return;
        }
        submission.broken = true;
        submission.response.clear();
        submission.response.push_back(None);
        let wait = self.chance.below(50);
        self.at(wait, Event::ToClient(s));
        let wait = self.chance.below(50);
        self.at(wait, Event::ClientClosed(s));
    }

    /// The connection of a response goes dead. The coordinator's machine gives it up when nothing is acknowledged.
    pub fn mute_response(&mut self, s: u32) {
        let submission = &mut self.submissions[s as usize];
        if submission.broken || submission.client_left {
            return;
        }
        submission.mute = true;
        submission.response.clear();
        let wait = self.chance.between(20_000, 60_000);
        self.at(wait, Event::ClientClosed(s));
    }
}
