//! What comes with answers about the candidates: it saves requests for lists, and a lie in it wins nothing.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use darkbloom_types::{EpochId, Price, ProviderId, TokenCount};
use darkbloom_wire::{CandidateNow, CandidateUpdate, Relayed};

use super::hostile::middle::{Middle, read};
use super::hostile::{minutes_from_now, now, surface};
use crate::support::network::{Network, PRICE, Surface, ask};

/// A gateway behind a coordinator that may lie; it knows nothing yet.
fn behind(middle: &Middle, network: &Network) -> Surface {
    surface("gateway", &middle.url, &network.coordinator.pin, &network.ids(), |_| {})
}

#[track_caller]
fn answered(gateway: &Surface, network: &Network) {
    let answer = gateway.chat(&network.key, &ask("What is 17 + 25?"));
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn answers_bring_the_candidates_and_no_second_list_is_asked_for() {
    let network = Network::start();
    let middle = Middle::before(&network.coordinator.address);
    let gateway = behind(&middle, &network);
    let (lists, updates) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<Vec<bool>>>::default());
    let (counted, seen) = (Arc::clone(&lists), Arc::clone(&updates));
    middle.tell(move |path, body| {
        match path {
            "/v1/candidates" => drop(counted.fetch_add(1, Ordering::Relaxed)),
            "/v1/sealed" => {
                let brings = |frame: &Relayed| matches!(frame, Relayed::RelayedFinal(last) if last.update.is_some());
                seen.lock().unwrap().push(read(&body).iter().any(brings));
            }
            _ => {}
        }
        body
    });
    answered(&gateway, &network);
    // The coordinator tells a client nothing new sooner than five seconds after what it knows.
    std::thread::sleep(Duration::from_secs(6));
    answered(&gateway, &network);
    answered(&gateway, &network);
    assert_eq!(*updates.lock().unwrap(), [false, true, false], "the third request knows what the second brought");
    assert_eq!(lists.load(Ordering::Relaxed), 1);
}

#[test]
fn a_lie_about_the_candidates_beside_an_answer_harms_no_answer() {
    let network = Network::start();
    let stranger = CandidateNow {
        provider: ProviderId([7; 32]),
        epoch: EpochId([7; 16]),
        rows_free: 8,
        waiting: 0,
        row_tokens: TokenCount(1_024),
        statement: None,
    };
    let forged = CandidateNow { statement: Some(vec![0xd2; 200]), ..stranger };
    let price = |version, by: u32| {
        let nano = |price: i64| u32::try_from(price).unwrap() + by;
        Price { version, input_nano_per_token: nano(PRICE.0), output_nano_per_token: nano(PRICE.1) }
    };
    let lies = [
        ("strangers", now(), price(1, 0), vec![stranger; 32]),
        ("a forged statement", now(), price(1, 0), vec![forged]),
        ("nobody", now(), price(1, 0), vec![]),
        ("a higher price", now(), price(2, 1), vec![]),
        ("another price of the same version", now(), price(1, 1), vec![]),
        ("another day", minutes_from_now(60 * 24), price(1, 0), vec![]),
    ];
    for (lie, time, price, candidates) in lies {
        let middle = Middle::before(&network.coordinator.address);
        let gateway = behind(&middle, &network);
        let update = CandidateUpdate { time, price, candidates: candidates.into() };
        middle.tell_frames(move |frames| {
            for frame in frames {
                if let Relayed::RelayedFinal(last) = frame {
                    last.update = Some(update.clone());
                }
            }
        });
        for _ in 0..3 {
            let answer = gateway.chat(&network.key, &ask("What is 17 + 25?"));
            assert_eq!(answer.status, 200, "{lie}: {}", answer.text());
        }
    }
}
