//! A consumer that seals by itself and submits what it likes.

use darkbloom_content::{ChatRequest, Message, Role};
use darkbloom_seal::{Recipient, RequestSeal, seal_request};
use darkbloom_types::{Digest, NanoDollars, OperationId, ProviderId, RefusalCode, RequestId, Tier, TokenCount};
use darkbloom_wire::{
    CandidateList, ClientFrame, Decoded, LengthPrefixed, PublicKey, Relayed, RequestKind, SealedHeader, Statement,
    Submit, Suite, catalogue_digest,
};

use super::{named, now, random, rng};
use crate::support::http::{self, Reading, bearer};
use crate::support::network::{Coordinator, MODEL};

/// One account's consumer and the candidates that it knows.
pub struct Consumer {
    pub address: String,
    pub key: String,
    pub list: CandidateList,
    pub statements: Vec<Statement>,
}

impl Consumer {
    pub fn new(coordinator: &Coordinator, key: &str) -> Self {
        let network = coordinator.call("GET", "/v1/network", key, b"").json();
        let mut point = [0; 65];
        let text = network["coordinator_key"].as_str().unwrap();
        for (byte, pair) in point.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        }
        let list = coordinator.call("GET", &format!("/v1/candidates?model={MODEL}"), key, b"");
        assert_eq!(list.status, 200, "{}", list.text());
        let list = CandidateList::open(&list.body, &PublicKey::P256(point)).unwrap();
        let open = |candidate: &darkbloom_wire::Candidate| Statement::open_self_signed(&candidate.statement).unwrap();
        let statements = list.candidates.0.iter().map(open).collect();
        Self { address: coordinator.address.clone(), key: key.to_owned(), list, statements }
    }

    /// The header of a request for at most 100 tokens.
    pub fn header(&self) -> SealedHeader {
        let (input_ceiling, output_ceiling) = (TokenCount(256), TokenCount(100));
        SealedHeader {
            network: self.list.network,
            suite: Suite::XWingAes256Gcm,
            request: RequestId(random()),
            operation: OperationId(random()),
            model: catalogue_digest(&self.list.entry),
            kind: RequestKind::Chat,
            stream: true,
            input_ceiling,
            output_ceiling,
            price_version: self.list.price.version,
            price_max: NanoDollars(self.list.price.cost(input_ceiling, output_ceiling).unwrap().0),
            tier_min: Tier::None,
            affinity: random(),
            sealed_at: now(),
            recipients: Digest([0; 32]),
            key_commitment: Digest([0; 32]),
        }
    }

    /// A question that the model which ships answers with 42.
    pub fn question() -> ChatRequest {
        let messages = vec![Message::new(Role::User, "What is 17 + 25?")];
        ChatRequest { temperature: 0.0, ..ChatRequest::new(messages) }
    }

    pub fn seal(&self, header: SealedHeader, to: &[ProviderId]) -> RequestSeal {
        self.seal_this(header, to, &Self::question())
    }

    fn seal_this(&self, header: SealedHeader, to: &[ProviderId], request: &ChatRequest) -> RequestSeal {
        let statement = |id: &ProviderId| {
            self.statements.iter().find(|statement| statement.provider() == *id).expect("a candidate")
        };
        let recipients: Vec<_> = to
            .iter()
            .map(statement)
            .map(|known| Recipient {
                provider: known.provider(),
                epoch: known.epoch(),
                sealing_key: &known.sealing_key,
            })
            .collect();
        seal_request(header, &request.to_cbor(), &recipients, &mut rng()).unwrap()
    }

    /// A request with a long prompt, to the only candidate.
    pub fn seal_long(&self, prompt: &str) -> RequestSeal {
        let mut header = self.header();
        header.input_ceiling = TokenCount(1_024 - header.output_ceiling.0);
        header.price_max = self.list.price.cost(header.input_ceiling, header.output_ceiling).unwrap();
        let message = Message::new(Role::User, prompt);
        let request = ChatRequest { messages: vec![message], ..Self::question() };
        self.seal_this(header, &[self.statements[0].provider()], &request)
    }

    /// Submits and reads to the end.
    pub fn submit(&self, submit: &Submit) -> Answered {
        self.submit_bytes(&LengthPrefixed::wrap(&ClientFrame::from(submit.clone()).encode()))
    }

    pub fn submit_bytes(&self, bytes: &[u8]) -> Answered {
        let response = self.post(bytes).finish().unwrap();
        let mut frames = Frames { reading: None, bytes: LengthPrefixed::default() };
        frames.bytes.push(&response.body);
        Answered { status: response.status, frames: std::iter::from_fn(|| frames.buffered()).collect() }
    }

    /// Submits and reads frame by frame; blocks until the first one is on its way.
    pub fn open(&self, submit: &Submit) -> Frames {
        let reading = self.post(&LengthPrefixed::wrap(&ClientFrame::from(submit.clone()).encode()));
        Frames { reading: Some(reading), bytes: LengthPrefixed::default() }
    }

    fn post(&self, bytes: &[u8]) -> Reading {
        let headers = [("authorization", &*bearer(&self.key)), ("content-type", "application/vnd.darkbloom.frames")];
        http::open(&self.address, "POST", "/v1/sealed", &headers, bytes).unwrap()
    }
}

/// An answer as it comes.
pub struct Frames {
    reading: Option<Reading>,
    bytes: LengthPrefixed,
}

impl Frames {
    fn buffered(&mut self) -> Option<Relayed> {
        let frame = self.bytes.next_frame().unwrap()?;
        match Relayed::decode(frame).unwrap() {
            Decoded::Known(frame, _) => Some(frame),
            Decoded::Unknown(kind) => panic!("a frame of kind {kind}"),
        }
    }

    pub fn next(&mut self) -> Option<Relayed> {
        loop {
            if let Some(frame) = self.buffered() {
                return Some(frame);
            }
            let piece = self.reading.as_mut()?.chunk().unwrap()?;
            self.bytes.push(&piece);
        }
    }

    pub fn rest(mut self) -> Vec<Relayed> {
        std::iter::from_fn(|| self.next()).collect()
    }
}

/// All that came back.
#[derive(Debug)]
pub struct Answered {
    pub status: u16,
    pub frames: Vec<Relayed>,
}

impl Answered {
    /// Whether a settlement ended it.
    pub fn is_whole(&self) -> bool {
        matches!(self.frames.last(), Some(Relayed::RelayedFinal(_)))
    }

    /// The reason at the end.
    #[track_caller]
    pub fn refused(&self) -> &'static str {
        match self.frames.last() {
            Some(Relayed::RelayedRefused(refused)) => named(refused.code),
            other => panic!("no refusal at the end: {other:?}"),
        }
    }

    #[track_caller]
    pub fn refused_as(&self, code: RefusalCode) {
        assert_eq!(self.refused(), code.name(), "{:?}", self.frames.last());
    }

    pub fn pieces(&self) -> Vec<&darkbloom_wire::RelayedData> {
        let mut pieces = Vec::new();
        for frame in &self.frames {
            if let Relayed::RelayedData(data) = frame {
                pieces.push(data);
            }
        }
        pieces
    }
}
