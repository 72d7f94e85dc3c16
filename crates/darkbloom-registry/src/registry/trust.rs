//! Challenges, and what is held against identities.

use darkbloom_types::{ConnectionId, Distrust, Gate, Millis, MonoMillis, ProviderId, Standing, Tier, UnixMillis};
use rand_core::CryptoRng;
use std::sync::Arc;

use super::Registry;
use crate::provider::{Challenged, Provider, Record, times};

impl Registry {
    /// Providers whose challenge is due, each with the fresh nonce that it is to be sent.
    pub fn challenges_due(&mut self, now: MonoMillis, rng: &mut impl CryptoRng) -> Vec<(ConnectionId, [u8; 32])> {
        let mut due = Vec::new();
        let mut asked = Vec::new();
        while let Some((at, id)) = self.challenges_at.first().copied().filter(|(at, _)| *at <= now) {
            self.challenges_at.remove(&(at, id));
            let Some(provider) = self.providers.get_mut(&id) else { continue };
            provider.challenge_at = next_challenge(now, rng);
            self.challenges_at.insert((provider.challenge_at, id));
            asked.push((id, now.after(times::CHALLENGE_ANSWER)));
            // An unanswered challenge stays open, so that asking again does not excuse the silence; and each that was sent may
            // still be answered, so none gives way to another: where too many are open the last one is sent again.
            if let Some(last) = provider.challenges.get_mut(times::CHALLENGES_OPEN_MAX - 1) {
                last.times += 1;
                due.push((provider.registration.connection, last.nonce));
                continue;
            }
            let mut nonce = [0; 32];
            rng.fill_bytes(&mut nonce);
            provider.challenges.push(Challenged { nonce, sent: now, times: 1 });
            due.push((provider.registration.connection, nonce));
        }
        for (id, late) in asked {
            self.look_at(&id, late);
        }
        due
    }

    /// Has the provider on a connection challenged as soon as anybody looks, unless it has one to answer anyway.
    pub fn challenge_soon(&mut self, connection: &ConnectionId, now: MonoMillis) {
        if let Some(provider) = self.on(connection).filter(|provider| provider.challenges.is_empty()) {
            let (before, id) = (provider.challenge_at, provider.registration.provider);
            provider.challenge_at = before.min(now);
            self.challenges_at.remove(&(before, id));
            self.challenges_at.insert((before.min(now), id));
        }
    }

    /// The nonces that a provider has still to answer, the latest last.
    #[must_use]
    pub fn open_challenges(&self, connection: &ConnectionId) -> Vec<[u8; 32]> {
        let id = self.by_connection.get(connection);
        let provider = id.and_then(|id| self.providers.get(id));
        provider.map(|provider| provider.challenges.iter().map(|open| open.nonce).collect()).unwrap_or_default()
    }

    /// The same and those that were sent more often than they were answered: an answer that comes twice to a question that was
    /// asked twice is no answer to nothing.
    #[must_use]
    pub fn known_challenges(&self, connection: &ConnectionId) -> Vec<[u8; 32]> {
        let mut known = self.open_challenges(connection);
        let id = self.by_connection.get(connection);
        known.extend(
            id.and_then(|id| self.providers.get(id))
                .into_iter()
                .flat_map(|provider| &provider.answered)
                .map(|again| again.nonce),
        );
        known
    }

    /// What is held against an identity; nothing where it is not known here any more.
    #[must_use]
    pub fn standing(&self, id: &ProviderId) -> Option<Standing> {
        let connected = self.providers.get(id).map(|provider| provider.record.standing);
        connected.or_else(|| self.gone.get(id).map(|gone| gone.record.standing))
    }

    /// An open challenge was answered and the answer verified; those before it will not be any more. Returns the provider
    /// where that changed what is held against it.
    pub fn challenge_answered(
        &mut self,
        connection: &ConnectionId,
        nonce: &[u8; 32],
        now: MonoMillis,
        wall: UnixMillis,
    ) -> Option<ProviderId> {
        let provider = self.on(connection)?;
        if let Some(again) = provider.answered.iter_mut().find(|again| again.nonce == *nonce) {
            again.times -= 1;
            provider.answered.retain(|again| again.times > 0);
            return None;
        }
        let answered = provider.challenges.iter().position(|open| open.nonce == *nonce)?;
        let mut over = provider.challenges.drain(..=answered).next_back()?;
        over.times -= 1;
        provider.answered = if over.times > 0 { vec![over] } else { Vec::new() };
        provider.heard = now;
        let standing = provider.record.standing.answered(wall);
        provider.record.standing = standing.unwrap_or(provider.record.standing);
        let id = provider.registration.provider;
        self.refresh(&id, now, wall);
        self.wake_all_at(&id, now, wall);
        standing.map(|_| id)
    }

    /// Whoever may now have more, or less, to wait for learns it.
    pub(super) fn standing_changed(&mut self, id: &ProviderId, now: MonoMillis, wall: UnixMillis) {
        self.refresh(id, now, wall);
        let Some(provider) = self.providers.get(id) else { return };
        if provider.record.standing.is_trusted() {
            self.wake_all_at(id, now, wall);
        } else {
            self.wake_hopeless_at(id, now, wall);
        }
    }

    /// Holds a failed check against an identity, whether it is connected or not.
    pub(super) fn hold_against(
        &mut self,
        id: &ProviderId,
        stored: Standing,
        reason: Distrust,
        now: MonoMillis,
        wall: UnixMillis,
    ) {
        let hold = |standing: &mut Standing| {
            *standing = standing.with(stored);
            *standing = standing.failed(reason, wall).unwrap_or(*standing);
        };
        if let Some(provider) = self.providers.get_mut(id) {
            hold(&mut provider.record.standing);
        } else {
            let mut gone = self.gone.take(id).unwrap_or_default();
            hold(&mut gone.record.standing);
            self.gone.put(*id, gone);
        }
        self.standing_changed(id, now, wall);
    }

    /// What is proven of a provider by this statement, and what the operator's policy comes to for it, was looked at again.
    pub fn reassess(
        &mut self,
        connection: &ConnectionId,
        statement: &[u8],
        tier: Tier,
        (shut, shadow): (Vec<Gate>, Vec<Gate>),
        now: MonoMillis,
        wall: UnixMillis,
    ) {
        let Some(provider) = self.on(connection) else { return };
        let stated = &mut provider.registration.stated;
        let unchanged = (stated.tier, &stated.shut, &stated.shadow) == (tier, &shut, &shadow);
        // It may have made another statement meanwhile, which was looked at by itself.
        if unchanged || *stated.statement != *statement {
            return;
        }
        (stated.tier, stated.shut, stated.shadow) = (tier, shut, shadow);
        let id = provider.registration.provider;
        self.refresh(&id, now, wall);
        self.wake_all_at(&id, now, wall);
        self.wake_hopeless_at(&id, now, wall);
    }

    /// The connections of all providers, each with its statement.
    #[must_use]
    pub fn all_statements(&self) -> Vec<(ConnectionId, ProviderId, Arc<[u8]>)> {
        let one = |(id, provider): (&ProviderId, &Provider)| {
            (provider.registration.connection, *id, Arc::clone(&provider.registration.stated.statement))
        };
        self.providers.after(None).map(one).collect()
    }

    /// A check failed of whoever is on this connection, which it has introduced itself on. Returns the provider where that
    /// changed what is held against it: what follows from one failure is not counted again.
    pub fn failed_check(
        &mut self,
        connection: &ConnectionId,
        reason: Distrust,
        now: MonoMillis,
        wall: UnixMillis,
    ) -> Option<ProviderId> {
        let provider = self.on(connection)?;
        let standing = provider.record.standing.failed(reason, wall)?;
        provider.record.standing = standing;
        let id = provider.registration.provider;
        self.standing_changed(&id, now, wall);
        Some(id)
    }

    /// One identity took over from another, with what is remembered of it and what is `stored` of both. The older one gets no
    /// more work; its connection is returned, if it has one.
    pub fn succeeded(
        &mut self,
        old: &ProviderId,
        new: &ProviderId,
        stored: Standing,
        now: MonoMillis,
        wall: UnixMillis,
    ) -> Option<ConnectionId> {
        let known = self.providers.get(old).map(|provider| provider.record.clone());
        let mut record = known.or_else(|| self.gone.take(old).map(|gone| gone.record)).unwrap_or_default();
        if record.standing == Standing::Revoked {
            // It was heard before, and there is nothing of its own left to pass on.
            record = Record::default();
        }
        record.standing = record.standing.with(stored);
        if let Some(heir) = self.providers.get_mut(new) {
            heir.record.standing = heir.record.standing.with(record.standing);
            heir.record.inherit(record);
            self.standing_changed(new, now, wall);
        } else {
            let mut heir = self.gone.take(new).unwrap_or_default();
            heir.record = Record { standing: heir.record.standing.with(record.standing), ..record };
            self.gone.put(*new, heir);
        }
        self.set_standing(old, Standing::Revoked, now, wall)
    }

    /// What the operator holds against an identity from now on. Returns its connection, if it has one.
    pub fn set_standing(
        &mut self,
        id: &ProviderId,
        standing: Standing,
        now: MonoMillis,
        wall: UnixMillis,
    ) -> Option<ConnectionId> {
        if let Some(gone) = self.gone.get_mut(id) {
            gone.record.standing = standing;
        }
        let provider = self.providers.get_mut(id)?;
        provider.record.standing = standing;
        let connection = provider.registration.connection;
        self.standing_changed(id, now, wall);
        Some(connection)
    }
}

pub(super) fn next_challenge(now: MonoMillis, rng: &mut impl CryptoRng) -> MonoMillis {
    let (least, most) = times::CHALLENGE_AFTER;
    now.after(Millis(least.0 + rng.next_u64() % (most.0 - least.0)))
}
