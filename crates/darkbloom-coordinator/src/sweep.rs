//! What happens without anybody asking: challenges, requests that time alone has made room for, holds whose time is over, receipt keys that nobody needs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use darkbloom_ledger::VoidCause;
use darkbloom_store::SettleError;
use darkbloom_types::{NanoDollars, RequestId};
use darkbloom_wire::Challenge;

use crate::provider_socket::trust;
use crate::relay::{End, HOLD_LIFE};
use crate::state::{Shared, lock};
use darkbloom_host::clock;

/// How often it looks.
const EVERY: Duration = Duration::from_secs(1);
/// How often it looks for receipt keys to remove, and for earnings to let go of: both are kept for a day, and few come in ten
/// minutes.
const PRUNE_EVERY: Duration = Duration::from_secs(600);

/// Runs until it is aborted.
pub async fn run(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut pruned: Option<Instant> = None;
    loop {
        ticks.tick().await;
        challenge(&shared);
        // Each by itself: a request that comes between them need not wait for all.
        while shared.with_registry(|registry| registry.catch_up(shared.mono(), clock::now())) {}
        shared.with_registry(|registry| registry.tick(shared.mono(), clock::now()));
        shared.unfinished.retry(&shared.store, clock::now()).await;
        void_holds(&shared).await;
        let unkept: Vec<_> = lock(&shared.unkept).iter().copied().collect();
        for provider in unkept {
            trust::write_down(&shared, provider).await;
        }
        if pruned.is_none_or(|at| at.elapsed() >= PRUNE_EVERY) {
            pruned = Some(Instant::now());
            prune_receipt_keys(&shared).await;
            mature(&shared).await;
        }
    }
}

/// Ends the holds that an earlier run left open: nobody relays for them any more. A provider that has a receipt for one
/// presents it again, which settles it still.
pub async fn end_orphans(shared: &Shared) {
    loop {
        let open = match shared.store.holds_open().await {
            Ok(open) if open.is_empty() => return,
            Ok(open) => open,
            // Their time ends them.
            Err(error) => return tracing::error!(%error, "cannot look for holds of an earlier run"),
        };
        tracing::info!(count = open.len(), "giving back the holds that an earlier run left open");
        for hold in open {
            let voided =
                shared.store.hold_void(hold.request, VoidCause::Silence, "coordinator restarted", clock::now());
            if let Err(error) = voided.await {
                return tracing::error!(request = %hold.request, %error, "cannot void a hold");
            }
        }
    }
}

fn challenge(shared: &Shared) {
    let due = shared.with_registry(|registry| registry.challenges_due(shared.mono(), &mut clock::rng()));
    for (connection, nonce) in due {
        if let Some(connection) = shared.connection(&connection) {
            connection.send(Challenge { nonce });
        }
    }
}

async fn void_holds(shared: &Shared) {
    for request in shared.overdue_reseals(shared.mono()) {
        void(shared, request, VoidCause::NothingDelivered, "not sealed again").await;
    }
    match shared.store.holds_expired(clock::now()).await {
        Ok(expired) => {
            // After a jump of the clock a running request may look overdue; it ends by itself, as does one that waits.
            let nobodys = |request: &RequestId| {
                !shared.is_live(request) && !shared.is_resealing(request) && !shared.unfinished.contains(request)
            };
            for request in expired.into_iter().filter(nobodys) {
                void(shared, request, VoidCause::Silence, "silence").await;
            }
        }
        Err(error) => tracing::error!(%error, "cannot look for holds whose time is over"),
    }
}

async fn void(shared: &Shared, request: RequestId, cause: VoidCause, reason: &'static str) {
    match shared.store.hold_void(request, cause, reason, clock::now()).await {
        Ok(_) | Err(SettleError::UnknownRequest) => {}
        Err(error) => {
            tracing::error!(%request, %error, "cannot void a hold yet");
            shared.unfinished.add(request, End::Void(cause, reason));
        }
    }
}

/// What can be disputed no more may be paid out.
async fn mature(shared: &Shared) {
    match shared.store.earnings_mature(clock::now()).await {
        Ok(NanoDollars::ZERO) => {}
        Ok(amount) => tracing::info!(%amount, "earnings can be disputed no more and may be paid out"),
        Err(error) => tracing::error!(%error, "cannot let go of earnings yet"),
    }
}

async fn prune_receipt_keys(shared: &Shared) {
    match shared.store.receipt_keys_prune(clock::now(), HOLD_LIFE).await {
        Ok(0) => {}
        Ok(count) => tracing::debug!(count, "removed receipt keys that no receipt needs any more"),
        Err(error) => tracing::error!(%error, "cannot remove old receipt keys"),
    }
}
