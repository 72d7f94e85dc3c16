//! Attacks on what a coordinator holds against providers.

use std::convert::Infallible;

use darkbloom_attacks::attacks;
use darkbloom_registry::{Registration, Registry, Stated, times};
use darkbloom_store::Store;
use darkbloom_types::{
    CatalogueDigest, ConnectionId, Distrust, EpochId, Gate, KeyId, MonoMillis, ProviderId, Standing, Tier, TokenCount,
};
use darkbloom_wire::{ModelLoad, Residence};

use crate::forge::{NOW, minutes};

const MODEL: CatalogueDigest = CatalogueDigest([3; 32]);
const PROVIDER: ProviderId = ProviderId([1; 32]);
const START: MonoMillis = MonoMillis(1_000_000);

/// Numbers that nobody has to guess here.
struct Numbers(u8);
impl rand_core::TryRng for Numbers {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(7)
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(7)
    }
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        self.0 = self.0.wrapping_add(1);
        out.fill(self.0);
        Ok(())
    }
}
impl rand_core::TryCryptoRng for Numbers {}

fn connect(registry: &mut Registry, connection: u8, epoch: u8, now: MonoMillis) {
    connect_behind(registry, connection, epoch, now, Vec::new());
}

/// Connects, with these gates of the policy shut.
fn connect_behind(registry: &mut Registry, connection: u8, epoch: u8, now: MonoMillis, shut: Vec<Gate>) {
    let stated = Stated {
        statement: Vec::new().into(),
        epoch: EpochId([epoch; 16]),
        tier: Tier::Hardware,
        shut,
        shadow: Vec::new(),
        use_until: minutes(60),
        open_until: minutes(70),
        models: vec![MODEL],
        known_at: NOW,
    };
    let load = ModelLoad {
        model: MODEL,
        rows_max: 8,
        rows_used: 0,
        waiting: 0,
        row_tokens: TokenCount(100),
        residence: Residence::Loaded,
        pace: None,
    };
    let registration = Registration {
        provider: PROVIDER,
        connection: ConnectionId([connection; 16]),
        number: u64::from(connection),
        stated,
        models: vec![load],
        standing: Standing::Clean,
        hardware: None,
    };
    registry.register(registration, now, NOW, &mut Numbers(0)).unwrap();
}

fn gets_work(registry: &Registry, now: MonoMillis) -> bool {
    registry.verdict(&PROVIDER, Tier::None, now, NOW) == Some(Ok(()))
}

/// Whether an identity takes over from a revoked one.
fn taken_over() -> bool {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        store.provider_seen(PROVIDER, KeyId(1), NOW).await.unwrap();
        store.revoke(PROVIDER, NOW, None).await.unwrap();
        store.succeed(PROVIDER, ProviderId([2; 32]), Vec::new(), NOW).await.is_ok()
    })
}

attacks! {
    attack_an_untrusted_provider_revives_itself_by_connecting_again against "standing_follows": || {
        let mut registry = Registry::default();
        connect(&mut registry, 1, 1, START);
        assert!(gets_work(&registry, START));
        registry.failed_check(&ConnectionId([1; 16]), Distrust::ChallengeFailed, START, NOW);
        registry.disconnected(&ConnectionId([1; 16]), START, NOW);
        connect(&mut registry, 2, 2, START);
        gets_work(&registry, START)
    };
    attack_two_machines_work_with_one_copied_key against "key_shared": || {
        let mut registry = Registry::default();
        for (connection, epoch) in [(1, 1), (2, 2), (3, 1)] {
            connect(&mut registry, connection, epoch, START);
        }
        gets_work(&registry, START)
    };
    /// It sends heartbeats, and cannot answer: its key is elsewhere.
    attack_a_provider_without_its_key_lives_on_heartbeats against "challenge_missed": || {
        let mut registry = Registry::default();
        connect(&mut registry, 1, 1, START);
        let asked = START.after(times::CHALLENGE_AFTER.1);
        assert_eq!(registry.challenges_due(asked, &mut Numbers(0)).len(), 1);
        let later = asked.after(times::CHALLENGE_ANSWER);
        registry.heard(&ConnectionId([1; 16]), later);
        gets_work(&registry, later)
    };
    attack_a_provider_works_though_the_policy_bars_it against "policy_gates": || {
        let mut registry = Registry::default();
        connect_behind(&mut registry, 1, 1, START, vec![Gate::Measurements]);
        gets_work(&registry, START)
    };
    attack_a_revoked_identity_comes_back_under_a_new_key against "succession_revoked": taken_over;
}
