//! A coordinator that lies about an answer: the consumer sees an error, and never an end.

use std::sync::{Arc, Mutex};

use darkbloom_keys::{IdentityKey as _, SoftwareKey};
use darkbloom_types::{
    AttemptNumber, EpochId, NanoDollars, OperationId, ProviderId, RefusalCode, RequestId, TokenCount,
};
use darkbloom_wire::{Bill, KeepAlive, LengthPrefixed, Relayed, RelayedData, RelayedFinal, RelayedRefused};
use serde_json::{Value, json};

use super::hostile::middle::{Middle, read};
use super::hostile::{failed, surface};
use crate::support::network::{Network, Surface, ask_with};

/// A network whose gateway reaches the coordinator through a liar.
struct Lied {
    middle: Middle,
    gateway: Surface,
    network: Network,
}

impl Lied {
    fn start() -> Self {
        let network = Network::start();
        let middle = Middle::before(&network.coordinator.address);
        let gateway = surface("gateway", &middle.url, &network.coordinator.pin, &network.ids(), |_| {});
        let lied = Self { middle, gateway, network };
        lied.is_believed_when_honest();
        lied
    }

    fn ask(stream: bool) -> Value {
        ask_with("Count from 1 to 30.", json!({"stream": stream, "max_tokens": 40}))
    }

    /// Without a lie everything is as without anybody between.
    fn is_believed_when_honest(&self) {
        self.middle.honest();
        let whole = self.gateway.chat(&self.network.key, &Self::ask(false));
        assert_eq!(whole.status, 200, "{}", whole.text());
        let streamed = self.gateway.chat(&self.network.key, &Self::ask(true));
        assert_eq!(streamed.events().last().map(String::as_str), Some("[DONE]"), "{}", streamed.text());
        assert_eq!(streamed.streamed(), whole.answer());
    }

    /// Tells this, and expects one of these errors, whole and streamed.
    #[track_caller]
    fn is_caught(&self, lie: &str, codes: &[&str]) {
        for stream in [false, true] {
            let answer = self.gateway.chat(&self.network.key, &Self::ask(stream));
            let error = failed(lie, &answer);
            assert!(codes.contains(&&*error.code), "{lie}: {error:?}");
        }
    }
}

/// Where the pieces of an answer are. There must be enough of them to lie about.
fn pieces(frames: &[Relayed]) -> Vec<usize> {
    let is_piece = |(index, frame)| matches!(frame, &Relayed::RelayedData(_)).then_some(index);
    let found: Vec<usize> = frames.iter().enumerate().filter_map(is_piece).collect();
    assert!(found.len() >= 2, "a piece and an end: {found:?}");
    found
}

fn piece(frames: &mut [Relayed], number: usize) -> &mut RelayedData {
    let at = pieces(frames)[number];
    match &mut frames[at] {
        Relayed::RelayedData(data) => data,
        other => panic!("{other:?}"),
    }
}

fn last(frames: &mut [Relayed]) -> &mut RelayedFinal {
    match frames.last_mut() {
        Some(Relayed::RelayedFinal(last)) => last,
        other => panic!("no settlement: {other:?}"),
    }
}

fn accepted(frames: &mut [Relayed]) -> &mut darkbloom_wire::RelayedAccepted {
    match frames.first_mut() {
        Some(Relayed::RelayedAccepted(accepted)) => accepted,
        other => panic!("no acceptance: {other:?}"),
    }
}

type Lie = (&'static str, fn(&mut Vec<Relayed>));

const ABOUT_PIECES: [Lie; 16] = [
    ("the first piece is dropped", |frames| drop(frames.remove(pieces(frames)[0]))),
    ("the first piece is dropped and the others are numbered anew", |frames| {
        frames.remove(pieces(frames)[0]);
        for (number, at) in pieces(frames).into_iter().enumerate() {
            if let Relayed::RelayedData(data) = &mut frames[at] {
                data.sequence = u32::try_from(number).unwrap();
            }
        }
    }),
    ("two pieces change places", |frames| {
        let found = pieces(frames);
        frames.swap(found[0], found[1]);
    }),
    ("a piece comes twice", |frames| {
        let at = pieces(frames)[0];
        frames.insert(at, frames[at].clone());
    }),
    ("the last piece comes twice", |frames| {
        let at = *pieces(frames).last().unwrap();
        frames.insert(at, frames[at].clone());
    }),
    ("the end is cut off and the settlement left", |frames| {
        frames.remove(*pieces(frames).last().unwrap());
    }),
    ("all pieces are dropped and the settlement left", |frames| {
        frames.retain(|frame| !matches!(frame, Relayed::RelayedData(_)));
    }),
    ("another piece is called the end", |frames| {
        piece(frames, 0).end = true;
        let found = pieces(frames);
        frames.drain(found[1]..=*found.last().unwrap());
    }),
    ("the end is not called one", |frames| {
        let last = pieces(frames).len() - 1;
        piece(frames, last).end = false;
    }),
    ("one bit of a ciphertext is changed", |frames| piece(frames, 0).ciphertext[20] ^= 1),
    ("one bit of a tag is changed", |frames| *piece(frames, 0).ciphertext.last_mut().unwrap() ^= 0x80),
    ("a ciphertext is emptied", |frames| piece(frames, 0).ciphertext.clear()),
    ("the token count is raised", |frames| piece(frames, 0).tokens.0 += 1),
    ("the token count is lowered", |frames| {
        let last = pieces(frames).len() - 1;
        piece(frames, last).tokens.0 -= 1;
    }),
    ("a sequence number is changed", |frames| piece(frames, 1).sequence += 1),
    ("a piece of its own is put in", |frames| {
        let end = *pieces(frames).last().unwrap();
        let Relayed::RelayedData(data) = frames[end].clone() else { unreachable!("it is a piece") };
        frames.insert(end, RelayedData { end: false, ..data }.into());
    }),
];

#[test]
fn an_answer_whose_pieces_were_touched_is_an_error() {
    let lied = Lied::start();
    for (lie, tell) in ABOUT_PIECES {
        lied.middle.tell_frames(tell);
        lied.is_caught(lie, &["verification_failed"]);
    }
    lied.is_believed_when_honest();
    lied.network.books_close();
}

const ABOUT_ACCEPTANCES: [Lie; 11] = [
    ("another salt", |frames| accepted(frames).salt[0] ^= 1),
    ("another epoch", |frames| accepted(frames).epoch = EpochId([7; 16])),
    ("another provider", |frames| accepted(frames).provider = ProviderId([7; 32])),
    ("another attempt", |frames| accepted(frames).attempt = AttemptNumber(2)),
    ("no attempts", |frames| accepted(frames).attempts.0.clear()),
    ("an attempt of another", |frames| accepted(frames).attempts.0[0].provider = ProviderId([7; 32])),
    ("an attempt that was refused", |frames| accepted(frames).attempts.0[0].outcome = RefusalCode::Overloaded.number()),
    ("no acceptance", |frames| drop(frames.remove(0))),
    ("a second acceptance after content", |frames| {
        let at = pieces(frames)[1];
        frames.insert(at, frames[0].clone());
    }),
    ("an acceptance after the end", |frames| {
        let at = frames.len() - 1;
        frames.insert(at, frames[0].clone());
    }),
    ("a settlement before an acceptance", |frames| {
        let last = frames.pop().unwrap();
        frames.insert(0, last);
    }),
];

#[test]
fn an_acceptance_that_was_touched_opens_nothing() {
    let lied = Lied::start();
    for (lie, tell) in ABOUT_ACCEPTANCES {
        lied.middle.tell_frames(tell);
        lied.is_caught(lie, &["verification_failed"]);
    }
    lied.is_believed_when_honest();
    lied.network.books_close();
}

#[test]
fn an_answer_that_stops_early_is_an_error_wherever_it_stops() {
    let lied = Lied::start();
    let codes = ["answer_cut", "verification_failed", "coordinator_unreachable"];
    // After every frame but the last.
    for kept in [0, 1, 2, usize::MAX] {
        lied.middle.tell_frames(move |frames| frames.truncate(kept.min(frames.len() - 1)));
        lied.is_caught(&format!("{kept} frames"), &codes);
    }
    // In the middle of a frame, and of its length.
    for cut in [1, 3, 40] {
        lied.middle.tell(move |path, mut body| {
            if path == "/v1/sealed" {
                body.truncate(body.len() - cut);
            }
            body
        });
        lied.is_caught(&format!("{cut} bytes less"), &codes);
    }
    for junk in [&b"\xff\xff\xff\xff"[..], b"\0\0\0\0", b"\0\0\0\x01\xff", b"<html>busy</html>"] {
        lied.middle.tell(move |path, body| if path == "/v1/sealed" { junk.to_vec() } else { body });
        lied.is_caught("junk in place of frames", &codes);
        lied.middle.tell(move |path, body| {
            if path != "/v1/sealed" {
                return body;
            }
            let frames = read(&body);
            let mut bytes: Vec<u8> =
                frames[..2].iter().flat_map(|frame| LengthPrefixed::wrap(&frame.encode())).collect();
            bytes.extend_from_slice(junk);
            bytes
        });
        lied.is_caught("junk after content", &codes);
    }
    lied.is_believed_when_honest();
    lied.network.books_close();
}

#[test]
fn a_refusal_in_the_middle_or_at_the_end_is_an_error_and_no_end() {
    let lied = Lied::start();
    let refused = |sealed: Option<Vec<u8>>| {
        Relayed::from(RelayedRefused {
            code: RefusalCode::AnswerCut.number(),
            detail: String::new(),
            retry_after: None,
            sealed,
            attempts: Vec::new().into(),
            bill: None,
            timing: None,
        })
    };
    lied.middle.tell_frames(move |frames| {
        let at = pieces(frames)[1];
        frames.truncate(at);
        frames.push(refused(None));
    });
    lied.is_caught("a refusal in the middle", &["answer_cut"]);
    lied.middle.tell_frames(move |frames| *frames.last_mut().unwrap() = refused(None));
    lied.is_caught("a refusal in place of the settlement", &["answer_cut"]);
    lied.middle.tell_frames(move |frames| *frames.last_mut().unwrap() = refused(Some(vec![7; 1_100])));
    lied.is_caught("a refusal with words that nobody sealed", &["verification_failed"]);
    // A number that nobody knows, and the one that stands for success elsewhere.
    for code in [0, 999, u16::MAX] {
        lied.middle.tell_frames(move |frames| {
            *frames.last_mut().unwrap() = RelayedRefused {
                code,
                detail: String::new(),
                retry_after: None,
                sealed: None,
                attempts: Vec::new().into(),
                bill: None,
                timing: None,
            }
            .into();
        });
        lied.is_caught("a refusal of an unknown kind", &["internal"]);
    }
}

#[test]
fn frames_that_say_nothing_change_nothing() {
    let lied = Lied::start();
    lied.middle.tell(|path, body| {
        if path != "/v1/sealed" {
            return body;
        }
        let mut out = Vec::new();
        for frame in read(&body) {
            out.extend(LengthPrefixed::wrap(&Relayed::from(KeepAlive {}).encode()));
            // A map with the kind 999: a frame of a later release.
            out.extend(LengthPrefixed::wrap(&[0xa1, 0x00, 0x19, 0x03, 0xe7]));
            out.extend(LengthPrefixed::wrap(&frame.encode()));
        }
        out
    });
    let streamed = lied.gateway.chat(&lied.network.key, &Lied::ask(true));
    assert_eq!(streamed.events().last().map(String::as_str), Some("[DONE]"), "{}", streamed.text());
}

#[test]
fn receipt_and_bill_of_another_request_are_refused() {
    let lied = Lied::start();
    let kept = Arc::new(Mutex::new(None));
    let keep = Arc::clone(&kept);
    lied.middle.tell_frames(move |frames| *keep.lock().unwrap() = Some(last(frames).clone()));
    let whole = lied.gateway.chat(&lied.network.key, &Lied::ask(false));
    assert_eq!(whole.status, 200, "{}", whole.text());
    let other = kept.lock().unwrap().clone().unwrap();
    type Swap = fn(&mut RelayedFinal, &RelayedFinal);
    let swaps: [(&str, Swap); 9] = [
        ("another's receipt", |last, other| last.receipt.clone_from(&other.receipt)),
        ("another's bill", |last, other| last.bill.clone_from(&other.bill)),
        ("another's receipt and bill", |last, other| last.clone_from(other)),
        ("the bill in place of the receipt", |last, _| last.receipt.clone_from(&last.bill)),
        ("the receipt in place of the bill", |last, _| last.bill.clone_from(&last.receipt)),
        ("no receipt", |last, _| last.receipt.clear()),
        ("no bill", |last, _| last.bill.clear()),
        ("one bit of the receipt", |last, _| last.receipt[60] ^= 1),
        ("one bit of the bill's signature", |last, _| *last.bill.last_mut().unwrap() ^= 1),
    ];
    for (lie, swap) in swaps {
        let other = other.clone();
        lied.middle.tell_frames(move |frames| swap(last(frames), &other));
        lied.is_caught(lie, &["verification_failed"]);
    }
    lied.is_believed_when_honest();
    lied.network.books_close();
}

#[test]
fn a_bill_that_says_anything_but_what_was_agreed_is_refused_though_the_coordinator_signed_it() {
    let lied = Lied::start();
    // The liar is the operator itself: it has the coordinator's key.
    let path = lied.network.coordinator.data.join("coordinator.key");
    let key = Arc::new(SoftwareKey::load_or_create(&path).unwrap());
    type Change = fn(&mut Bill);
    let changes: [(&str, Change); 11] = [
        ("one nano-dollar more", |bill| bill.charge.0 += 1),
        ("one nano-dollar less", |bill| bill.charge.0 -= 1),
        ("all that was held", |bill| bill.charge = bill.hold),
        ("an output token more, charged", |bill| {
            bill.output_tokens.0 += 1;
            bill.charge = bill.price.cost(bill.input_tokens, bill.output_tokens).unwrap();
        }),
        ("an input token more, charged", |bill| {
            bill.input_tokens.0 += 1;
            bill.charge = bill.price.cost(bill.input_tokens, bill.output_tokens).unwrap();
        }),
        ("a higher price", |bill| {
            bill.price.output_nano_per_token += 1;
            bill.charge = bill.price.cost(bill.input_tokens, bill.output_tokens).unwrap();
        }),
        ("a higher hold", |bill| bill.hold = NanoDollars(bill.hold.0 + 1)),
        ("another operation", |bill| bill.operation = OperationId([7; 16])),
        ("another request", |bill| bill.request = RequestId([7; 16])),
        ("no receipt", |bill| bill.receipt = None),
        ("a negative charge", |bill| {
            bill.charge = NanoDollars(-1);
            bill.output_tokens = TokenCount(0);
        }),
    ];
    let public = key.public_key();
    let sign_again = Arc::clone(&key);
    // Signing it again without a change is no lie.
    lied.middle.tell_frames(move |frames| {
        let last = last(frames);
        last.bill = Bill::open(&last.bill, &public).unwrap().sign(&*sign_again).unwrap();
    });
    assert_eq!(
        lied.gateway.chat(&lied.network.key, &Lied::ask(false)).status,
        200,
        "the test signs as the coordinator"
    );
    for (lie, change) in changes {
        let key = Arc::clone(&key);
        lied.middle.tell_frames(move |frames| {
            let last = last(frames);
            let mut bill = Bill::open(&last.bill, &key.public_key()).unwrap();
            change(&mut bill);
            last.bill = bill.sign(&*key).unwrap();
        });
        lied.is_caught(lie, &["verification_failed"]);
    }
    let stranger = SoftwareKey::in_memory().unwrap();
    lied.middle.tell_frames(move |frames| {
        let last = last(frames);
        last.bill = Bill::open(&last.bill, &key.public_key()).unwrap().sign(&stranger).unwrap();
    });
    lied.is_caught("signed by a stranger", &["verification_failed"]);
    lied.is_believed_when_honest();
}
