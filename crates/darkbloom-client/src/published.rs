//! Checking providers without sealing anything to them: what a coordinator publishes, and what of it holds.
//!
//! A coordinator signs which of its providers are connected and which activator is its own. Everything else in the list proves
//! itself, or does not: it is verified here, by the code that decides whom requests are sealed to. The list and the
//! coordinator's key make a bundle, which says the same to whoever reads it later, without any network.

use std::sync::Arc;

use darkbloom_attest::{StatementError, TrustPolicy, Verdict, verify_statement};
use darkbloom_host::clock;
use darkbloom_types::{NetworkId, ProviderId, Refusal, RefusalCode, UnixMillis};
use darkbloom_wire::{Bundle, ProviderList, PublicKey, limits};

use crate::network::{Coordinator, Network};

/// Which providers are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// One.
    Only(ProviderId),
    /// The first 32, or those after one.
    After(Option<ProviderId>),
}

/// One provider, and what of it holds.
#[derive(Debug)]
pub struct Checked {
    /// What its statement proves, or why it proves nothing.
    pub verdict: Result<Verdict, StatementError>,
    /// Whether this client would seal to it.
    pub admitted: bool,
    /// Why its coordinator gives it no work, by name, as the coordinator says.
    pub reason: Option<String>,
}

/// What a coordinator published.
#[derive(Debug)]
pub struct Published {
    /// Its network.
    pub network: NetworkId,
    /// When, by its clock; statements from a bundle are verified as of then.
    pub time: UnixMillis,
    /// Its own activator.
    pub activator: Option<[u8; 65]>,
    /// Its providers.
    pub providers: Vec<Checked>,
    /// Whether there are more.
    pub more: bool,
    /// The same, to be checked again without a network.
    pub bundle: Vec<u8>,
}

impl Published {
    /// Verifies a list as of a moment.
    fn read(
        signed: &[u8],
        coordinator: &Coordinator,
        policy: &TrustPolicy,
        at: impl FnOnce(UnixMillis) -> Result<UnixMillis, Refusal>,
    ) -> Result<Self, Refusal> {
        let lie = |detail: String| Refusal::new(RefusalCode::VerificationFailed, detail);
        let list =
            ProviderList::open(signed, &coordinator.key).map_err(|error| lie(format!("provider list: {error}")))?;
        if list.network != coordinator.network {
            return Err(RefusalCode::WrongNetwork.into());
        }
        let now = at(list.time)?;
        let policy = policy.with_network_activator(list.activator);
        let checked = |listed: darkbloom_wire::ListedProvider| {
            let verdict = verify_statement(&listed.statement, &policy, now);
            let admitted = verdict.as_ref().is_ok_and(|verdict| policy.admits(verdict));
            Checked { verdict, admitted, reason: listed.reason }
        };
        let PublicKey::P256(coordinator) = coordinator.key else {
            return Err(lie("a coordinator's key is on P-256".to_owned()));
        };
        Ok(Self {
            network: list.network,
            time: list.time,
            activator: list.activator,
            providers: list.providers.0.into_iter().map(checked).collect(),
            more: list.more,
            bundle: Bundle { coordinator, list: signed.to_vec() }.encode(),
        })
    }

    /// Verifies a bundle, as of the moment when its coordinator signed it. `policy` says which network it must be of.
    ///
    /// # Errors
    /// [`Refusal`] when it is no bundle, of another network, or not signed by its coordinator.
    pub fn read_bundle(bytes: &[u8], policy: impl FnOnce(NetworkId) -> TrustPolicy) -> Result<Self, Refusal> {
        let bundle = Bundle::decode(bytes)
            .map_err(|error| Refusal::new(RefusalCode::VerificationFailed, format!("no bundle: {error}")))?;
        let network = NetworkId::of_coordinator_key(&bundle.coordinator);
        let policy = policy(network);
        if policy.network != network {
            let detail = format!("the bundle is of {network}, pinned is {}", policy.network);
            return Err(Refusal::new(RefusalCode::WrongNetwork, detail));
        }
        let coordinator = Coordinator { network, key: PublicKey::P256(bundle.coordinator) };
        Self::read(&bundle.list, &coordinator, &policy, Ok)
    }
}

impl Network {
    /// What the coordinator publishes of its providers, verified as of now.
    pub async fn published(self: &Arc<Self>, which: Which) -> Result<Published, Refusal> {
        let coordinator = self.coordinator().await?;
        let signed = self.provider_list(which).await.map_err(|refusal| match which {
            Which::Only(_) if refusal.code == RefusalCode::NotFound => {
                Refusal::new(refusal.code, "this provider is not connected")
            }
            Which::Only(_) | Which::After(_) => refusal,
        })?;
        let now = clock::now();
        Published::read(&signed, &coordinator, &self.policy(&coordinator), |time| {
            if time.distance(now) > limits::CLOCK_SKEW_MAX {
                let detail = format!("the coordinator's clock says {}, this machine's {}", time.0, now.0);
                return Err(Refusal::new(RefusalCode::ClockSkew, detail));
            }
            Ok(now)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parties::{Operator, Provider, minutes};
    use darkbloom_types::Tier;
    use darkbloom_wire::ListedProvider;

    fn list(operator: &Operator, network: NetworkId, statements: &[Vec<u8>]) -> Vec<u8> {
        let listed = |statement: &Vec<u8>| ListedProvider { statement: statement.clone(), reason: None };
        let list = ProviderList {
            network,
            time: minutes(1),
            activator: None,
            providers: statements.iter().map(listed).collect::<Vec<_>>().into(),
            more: false,
        };
        list.sign(&operator.key).unwrap()
    }

    fn bundle(operator: &Operator, list: Vec<u8>) -> Vec<u8> {
        let PublicKey::P256(coordinator) = operator.public.key else { unreachable!() };
        Bundle { coordinator, list }.encode()
    }

    #[test]
    fn a_bundle_says_later_what_was_so_when_it_was_signed() {
        let operator = Operator::new();
        let provider = Provider::new(&operator, "provider", minutes(0));
        let mut forged = provider.signed();
        *forged.last_mut().unwrap() ^= 1;
        let bytes = bundle(&operator, list(&operator, operator.public.network, &[provider.signed(), forged]));
        // A day later the epoch is over, and the bundle still says what it said.
        let published = Published::read_bundle(&bytes, |_| operator.anybody()).unwrap();
        assert_eq!((published.time, published.providers.len()), (minutes(1), 2));
        assert!(published.providers[0].admitted);
        assert_eq!(published.providers[0].verdict.as_ref().unwrap().provider, provider.id);
        assert!(!published.providers[1].admitted && published.providers[1].verdict.is_err());
        assert_eq!(published.bundle, bytes, "it can be saved again");
        let strict = |_| TrustPolicy { tier_min: Tier::Hardware, ..operator.anybody() };
        assert!(!Published::read_bundle(&bytes, strict).unwrap().providers[0].admitted);
    }

    #[test]
    fn a_bundle_that_its_coordinator_did_not_sign_is_none() {
        let operator = Operator::new();
        let provider = Provider::new(&operator, "provider", minutes(0));
        let good = bundle(&operator, list(&operator, operator.public.network, &[provider.signed()]));
        let code = |bytes: &[u8], network: Option<NetworkId>| {
            let policy = |own| TrustPolicy { network: network.unwrap_or(own), ..operator.anybody() };
            Published::read_bundle(bytes, policy).err().map(|refusal| refusal.code)
        };
        assert_eq!(code(&good, None), None);
        assert_eq!(code(&good, Some(NetworkId([9; 32]))), Some(RefusalCode::WrongNetwork), "another one is pinned");
        let elsewhere = bundle(&operator, list(&operator, NetworkId([9; 32]), &[]));
        assert_eq!(code(&elsewhere, None), Some(RefusalCode::WrongNetwork));
        for at in 0..good.len() {
            let mut changed = good.clone();
            changed[at] ^= 1 << (at % 8);
            assert!(code(&changed, Some(operator.public.network)).is_some(), "byte {at}");
            assert!(code(&good[..at], None).is_some(), "cut at {at}");
        }
    }
}
