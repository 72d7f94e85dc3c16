//! What a list and its updates may do to what a client seals to.

use darkbloom_types::{CatalogueDigest, NetworkId, ProviderId, Tier};
use darkbloom_wire::CandidateNow;
use proptest::prelude::*;

use super::*;
use crate::parties::{BEGIN, MODEL, Operator, PRICE, Provider, minutes};

/// A row that holds the model's whole context.
const ROW: TokenCount = TokenCount(1_024);
/// What any row has room for.
const NEED: Need<'_> = Need { prompt: TokenCount(1), input_ceiling: TokenCount(16), answer: None, passed_over: &[] };

fn now(provider: &Provider, statement: Option<Vec<u8>>) -> CandidateNow {
    CandidateNow { provider: provider.id, epoch: provider.epoch, rows_free: 1, waiting: 0, row_tokens: ROW, statement }
}

fn named(provider: &Provider) -> CandidateNow {
    now(provider, None)
}

fn shown(provider: &Provider) -> CandidateNow {
    now(provider, Some(provider.signed()))
}

fn update(time: UnixMillis, candidates: Vec<CandidateNow>) -> CandidateUpdate {
    CandidateUpdate { time, price: PRICE, candidates: candidates.into() }
}

fn usable(list: &Candidates) -> Vec<ProviderId> {
    list.usable.iter().map(|usable| usable.verdict.provider).collect()
}

fn ids(providers: &[&Provider]) -> Vec<ProviderId> {
    providers.iter().map(|provider| provider.id).collect()
}

/// Three providers, and the list that names the first two.
struct Scene {
    operator: Operator,
    policy: TrustPolicy,
    a: Provider,
    b: Provider,
    c: Provider,
    list: Candidates,
}

fn scene() -> Scene {
    let operator = Operator::new();
    let policy = operator.anybody();
    let [a, b, c] = ["a", "b", "c"].map(|label| Provider::new(&operator, label, BEGIN));
    let list = operator.read(BEGIN, &[&a.signed(), &b.signed()], &policy).unwrap();
    assert_eq!(usable(&list), ids(&[&a, &b]));
    Scene { operator, policy, a, b, c, list }
}

impl Scene {
    /// The list after an update a minute later.
    fn after(&self, candidates: Vec<CandidateNow>) -> Candidates {
        self.updated(&update(minutes(1), candidates)).unwrap()
    }

    fn updated(&self, update: &CandidateUpdate) -> Result<Candidates, UpdateError> {
        self.list.updated(update, &self.policy, minutes(1), self.list.read_at + Duration::from_secs(60))
    }

    /// A provider's next epoch.
    fn next_epoch(&self, label: &str) -> Provider {
        Provider::new(&self.operator, label, minutes(1))
    }
}

#[test]
fn an_update_sets_the_order_and_who_is_missing_goes() {
    let scene = scene();
    let Scene { a, b, .. } = &scene;
    let after = scene.after(vec![named(b), named(a)]);
    assert_eq!(usable(&after), ids(&[b, a]));
    assert_eq!((after.time, after.read_at), (minutes(1), scene.list.read_at + Duration::from_secs(60)));
    assert_eq!(usable(&scene.after(vec![named(b)])), ids(&[b]));
    let nobody = scene.after(vec![]);
    assert_eq!(nobody.anybody(minutes(1)).unwrap_err().code, RefusalCode::NoEligibleProvider);
}

#[test]
fn a_newcomer_and_a_new_epoch_need_a_statement() {
    let scene = scene();
    let (Scene { a, b, c, .. }, later) = (&scene, scene.next_epoch("a"));
    assert_eq!(usable(&scene.after(vec![named(c), named(b)])), ids(&[b]));
    assert_eq!(usable(&scene.after(vec![shown(c), named(b)])), ids(&[c, b]));
    assert_eq!(usable(&scene.after(vec![named(&later), named(b)])), ids(&[b]));
    let after = scene.after(vec![shown(&later), named(b)]);
    assert_eq!(usable(&after), ids(&[a, b]));
    assert_eq!(after.usable[0].verdict.epoch, later.epoch);
}

#[test]
fn a_statement_counts_for_the_provider_and_epoch_that_it_is_of() {
    let scene = scene();
    let (Scene { a, b, c, .. }, later) = (&scene, scene.next_epoch("c"));
    for foreign in [now(c, Some(a.signed())), now(c, Some(later.signed())), now(a, Some(c.signed()))] {
        assert_eq!(usable(&scene.after(vec![foreign, named(b)])), ids(&[b]));
    }
}

#[test]
fn a_statement_that_does_not_verify_counts_for_nobody() {
    let scene = scene();
    let Scene { operator, b, .. } = &scene;
    let mut other_model = Provider::new(operator, "d", BEGIN);
    other_model.statement.models = vec![CatalogueDigest([9; 32])].into();
    let mut other_network = Provider::new(operator, "e", BEGIN);
    other_network.statement.network = NetworkId([9; 32]);
    let expired = Provider::new(operator, "f", minutes(-60));
    let future = Provider::new(operator, "g", minutes(12));
    for hostile in [&other_model, &other_network, &expired, &future] {
        assert_eq!(usable(&scene.after(vec![shown(hostile), named(b)])), ids(&[b]));
    }
    let mut forged = scene.c.signed();
    *forged.last_mut().unwrap() ^= 1;
    for bytes in [vec![], vec![0; 100], forged] {
        assert_eq!(usable(&scene.after(vec![now(&scene.c, Some(bytes)), named(b)])), ids(&[b]));
    }
}

#[test]
fn a_statement_below_the_demanded_tier_is_remembered_and_not_sealed_to() {
    let mut scene = scene();
    scene.policy.tier_min = Tier::Hardware;
    scene.policy.pinned.insert(scene.a.id);
    let Scene { operator, policy, a, b, c, .. } = &scene;
    let list = operator.read(BEGIN, &[&a.signed(), &b.signed()], policy).unwrap();
    assert_eq!((usable(&list), list.below), (ids(&[a]), 1));
    let at = list.read_at + Duration::from_secs(60);
    let after = list.updated(&update(minutes(1), vec![named(b), shown(c)]), policy, minutes(1), at).unwrap();
    assert_eq!((usable(&after), after.below, after.read_at), (vec![], 2, at));
    assert_eq!(after.anybody(minutes(1)).unwrap_err().code, RefusalCode::TierNotMet);
}

#[test]
fn thirty_two_unknown_candidates_leave_nobody_and_do_not_count_as_fresh() {
    let scene = scene();
    let unknown = (0..32).map(|number| CandidateNow { provider: ProviderId([number; 32]), ..named(&scene.a) });
    let after = scene.after(unknown.collect());
    assert_eq!((usable(&after), after.below, after.read_at), (vec![], 0, scene.list.read_at));
}

#[test]
fn an_entry_that_cannot_be_used_leaves_the_list_as_old_as_it_was() {
    let scene = scene();
    let after = scene.after(vec![named(&scene.a), named(&scene.c)]);
    assert_eq!((usable(&after), after.read_at), (ids(&[&scene.a]), scene.list.read_at));
}

#[test]
fn a_provider_named_twice_is_a_candidate_once() {
    let scene = scene();
    let Scene { operator, policy, a, b, .. } = &scene;
    let later = scene.next_epoch("a");
    let after = scene.after(vec![shown(&later), named(b), named(a), named(b)]);
    assert_eq!(usable(&after), ids(&[a, b]));
    assert_eq!(after.usable[0].verdict.epoch, later.epoch);
    let twice = operator.read(BEGIN, &[&a.signed(), &b.signed(), &a.signed()], policy).unwrap();
    assert_eq!(usable(&twice), ids(&[a, b]));
}

#[test]
fn who_was_no_candidate_for_a_while_is_known_when_it_returns() {
    let scene = scene();
    let Scene { policy, a, b, .. } = &scene;
    let without = scene.after(vec![named(b)]);
    let at = without.read_at + Duration::from_secs(1);
    let again = without.updated(&update(minutes(2), vec![named(a), named(b)]), policy, minutes(2), at).unwrap();
    assert_eq!(usable(&again), ids(&[a, b]));
    // Its epoch ends like any other's.
    let over = without.updated(&update(minutes(60), vec![named(a)]), policy, minutes(60), at).unwrap();
    assert_eq!(usable(&over), vec![]);
    assert!(over.known.is_empty());
}

#[test]
fn statements_that_are_remembered_are_limited() {
    let Scene { operator, policy, mut list, .. } = scene();
    let newcomers: Vec<_> = (0..5 * 32).map(|n| Provider::new(&operator, &format!("new {n}"), BEGIN)).collect();
    for (minute, block) in (1..).zip(newcomers.chunks(32)) {
        let at = list.read_at + Duration::from_secs(1);
        let update = update(minutes(minute), block.iter().map(shown).collect());
        list = list.updated(&update, &policy, minutes(minute), at).unwrap();
        assert_eq!(list.usable.len(), 32);
        assert!(list.known.len() <= KNOWN_MAX);
    }
}

#[test]
fn a_time_far_off_or_before_the_lists_is_refused() {
    let scene = scene();
    for (minute, refused) in [(-1, true), (0, false), (1, false), (11, false), (12, true), (i64::MAX / 60_001, true)] {
        let time = UnixMillis(BEGIN.0.saturating_add(minute.saturating_mul(60_000)));
        let outcome = scene.updated(&update(time, vec![named(&scene.a)]));
        assert_eq!(outcome.is_err(), refused, "{minute} minutes");
    }
    let extremes = [UnixMillis(i64::MIN), UnixMillis(i64::MAX)];
    assert!(extremes.iter().all(|time| scene.updated(&update(*time, vec![])).is_err()));
}

#[test]
fn a_price_is_taken_only_where_it_is_nowhere_higher() {
    let scene = scene();
    let price = |version, input_nano_per_token, output_nano_per_token| {
        let price = Price { version, input_nano_per_token, output_nano_per_token };
        scene.updated(&CandidateUpdate { price, ..update(minutes(1), vec![named(&scene.a)]) }).map(|list| list.price)
    };
    for lower in [(3, 50, 200), (4, 50, 200), (4, 49, 200), (2, 0, 0)] {
        let (version, input_nano_per_token, output_nano_per_token) = lower;
        let expected = Price { version, input_nano_per_token, output_nano_per_token };
        assert_eq!(price(version, input_nano_per_token, output_nano_per_token).unwrap(), expected);
    }
    for higher in [(4, 51, 200), (4, 0, 201), (3, 49, 200), (3, 51, 200), (4, u32::MAX, u32::MAX)] {
        let error = price(higher.0, higher.1, higher.2).unwrap_err();
        assert_eq!(error, UpdateError::Price { said: higher.0, known: 3 });
    }
}

#[test]
fn expired_candidates_are_not_chosen_and_others_still_are() {
    let Scene { operator, policy, a, .. } = scene();
    let young = Provider::new(&operator, "young", minutes(30));
    let list = operator.read(minutes(30), &[&a.signed(), &young.signed()], &policy).unwrap();
    let chosen = |minute| list.choose(8, NEED, minutes(minute)).map(|chosen| chosen.recipients.len());
    assert_eq!(chosen(59), Ok(2));
    assert_eq!(chosen(60), Ok(1));
    assert_eq!(chosen(90), Err(RefusalCode::NoEligibleProvider.into()));
}

/// A list of these providers, each with rows of so many tokens.
fn with_rows<const N: usize>(scene: &Scene, rows: [(&Provider, u32); N]) -> Candidates {
    let rows = rows.map(|(provider, tokens)| CandidateNow { row_tokens: TokenCount(tokens), ..shown(provider) });
    let update = update(minutes(1), rows.into());
    scene.list.updated(&update, &scene.policy, minutes(1), scene.list.read_at).unwrap()
}

/// Who is chosen, and the answer's ceiling; the prompt's is the next multiple of 16.
fn chosen(
    list: &Candidates,
    prompt: u32,
    answer: Option<u32>,
    passed_over: &[&Provider],
) -> Result<(Vec<ProviderId>, u32), Refusal> {
    let passed_over: Vec<_> = passed_over.iter().map(|provider| (provider.id, provider.epoch)).collect();
    let need = Need {
        prompt: TokenCount(prompt),
        input_ceiling: TokenCount(prompt.next_multiple_of(16)),
        answer: answer.map(TokenCount),
        passed_over: &passed_over,
    };
    let chosen = list.choose(8, need, minutes(1))?;
    Ok((chosen.recipients.iter().map(|verdict| verdict.provider).collect(), chosen.output_ceiling.0))
}

#[test]
fn a_request_is_sealed_to_those_who_have_room_for_it() {
    let scene = scene();
    let Scene { a, b, c, .. } = &scene;
    let list = with_rows(&scene, [(a, 100), (b, 300), (c, 2_000)]);
    assert_eq!(chosen(&list, 10, Some(90), &[]), Ok((ids(&[a, b, c]), 90)));
    assert_eq!(chosen(&list, 10, Some(91), &[]), Ok((ids(&[b, c]), 91)));
    assert_eq!(chosen(&list, 10, Some(1_014), &[]), Ok((ids(&[c]), 1_014)), "the model's context is 1,024");
    let list = with_rows(&scene, [(a, 400), (b, 301)]);
    for (prompt, answer) in [(400, None), (1, Some(400))] {
        let refused = chosen(&list, prompt, answer, &[]).unwrap_err();
        assert_eq!(refused.code, RefusalCode::RowTooSmall);
        assert_eq!(refused.detail, "prompt and answer need 401 tokens, the longest rows hold 400");
    }
}

#[test]
fn without_a_limit_the_answer_takes_what_all_recipients_have_and_hides_the_prompts_length() {
    let scene = scene();
    let Scene { a, b, c, .. } = &scene;
    let list = with_rows(&scene, [(a, 400), (b, 301)]);
    assert_eq!(chosen(&list, 201, None, &[]), Ok((ids(&[a, b]), 301 - 208)), "as much as both have");
    assert_eq!(chosen(&list, 193, None, &[]).unwrap().1, 301 - 208, "another prompt in the same bucket");
    assert_eq!(chosen(&list, 203, None, &[]), Ok((ids(&[a]), 400 - 208)), "one has less than half of the room");
    assert_eq!(chosen(&list, 399, None, &[]), Ok((ids(&[a]), 1)), "the bucket has no room, and the answer has");
    let short = with_rows(&scene, [(a, 390)]);
    let ceilings = [369, 378, 379].map(|prompt| chosen(&short, prompt, None, &[]).unwrap().1);
    assert_eq!(ceilings, [21, 12, 6], "the bucket would leave 6 of 21, 6 of 12, and leaves 6 of 11");
    let list = with_rows(&scene, [(a, 100), (c, 1_024)]);
    assert_eq!(chosen(&list, 16, None, &[]), Ok((ids(&[c]), 1_008)));
}

#[test]
fn a_boasted_row_does_not_draw_all_requests() {
    let mut scene = scene();
    scene.list.entry.context = TokenCount(131_072);
    let Scene { a, b, .. } = &scene;
    let list = with_rows(&scene, [(a, 131_072), (b, 8_192)]);
    assert_eq!(chosen(&list, 7_168, None, &[]), Ok((ids(&[a, b]), 1_024)));
    assert_eq!(chosen(&list, 7_169, None, &[]).unwrap().0, ids(&[a]));
}

#[test]
fn whoever_had_the_request_in_vain_is_passed_over_while_others_have_room() {
    let scene = scene();
    let Scene { a, b, .. } = &scene;
    let list = with_rows(&scene, [(a, 1_024), (b, 100)]);
    let passed_over = [(a.id, a.epoch)];
    let others = |list: &Candidates, answer| {
        let need = Need { passed_over: &passed_over, answer: Some(TokenCount(answer)), ..NEED };
        list.has_others(need, minutes(1))
    };
    assert_eq!(chosen(&list, 10, Some(50), &[a]), Ok((ids(&[b]), 50)));
    assert_eq!(chosen(&list, 10, Some(100), &[a]), Ok((ids(&[a]), 100)), "nobody else has room");
    assert_eq!(chosen(&list, 10, Some(50), &[a, b]), Ok((ids(&[a, b]), 50)));
    assert!(others(&list, 50) && !others(&list, 100), "nobody else has room for so much");
    assert!(!others(&with_rows(&scene, [(a, 9)]), 1));
    let again = scene.next_epoch("a");
    assert!(others(&with_rows(&scene, [(&again, 9)]), 1), "its next epoch has not had it");
}

#[test]
fn a_list_is_used_for_five_minutes_and_fetched_beside_a_request_after_one() {
    let Scene { list, .. } = scene();
    let (cache, read_at) = (CandidateCache::default(), list.read_at);
    cache.put(MODEL, Arc::new(list));
    let get = |seconds| cache.get(MODEL, minutes(1), read_at + Duration::from_secs(seconds)).map(|(_, due)| due);
    assert_eq!(get(59), Some(false));
    // One caller fetches; if that fails, another does after a while.
    assert_eq!(
        [get(60), get(60), get(89), get(90), get(91)],
        [Some(true), Some(false), Some(false), Some(true), Some(false)]
    );
    assert_eq!([get(299), get(300)], [Some(true), None]);
    assert!(cache.get(MODEL, minutes(60), read_at).is_none(), "every epoch is over");
    assert!(cache.get("other", minutes(1), read_at).is_none());
}

#[test]
fn answers_keep_a_list_fresh() {
    let Scene { policy, a, b, list, .. } = scene();
    let (cache, mut at) = (CandidateCache::default(), list.read_at);
    cache.put(MODEL, Arc::new(list));
    for minute in 1..50 {
        at += Duration::from_secs(59);
        let (base, due) = cache.get(MODEL, minutes(minute), at).unwrap();
        assert!(!due, "no request for candidates is made in use");
        cache.update(MODEL, &base, &update(minutes(minute), vec![named(&a), named(&b)]), &policy, minutes(minute), at);
    }
}

#[test]
fn an_answer_that_ends_late_does_not_bring_an_older_list_back() {
    let Scene { policy, a, b, list, .. } = scene();
    let (cache, at) = (CandidateCache::default(), list.read_at);
    let base = Arc::new(list);
    cache.put(MODEL, Arc::clone(&base));
    let end = |minute, named| cache.update(MODEL, &base, &update(minutes(minute), named), &policy, minutes(3), at);
    end(3, vec![named(&b)]);
    end(2, vec![named(&a)]);
    assert_eq!(usable(&cache.get(MODEL, minutes(3), at).unwrap().0), ids(&[&b]));
}

#[test]
fn a_list_that_was_forgotten_stays_forgotten_and_a_higher_price_forgets_it() {
    let Scene { policy, a, list, .. } = scene();
    let (cache, at) = (CandidateCache::default(), list.read_at);
    let base = Arc::new(list);
    cache.update(MODEL, &base, &update(minutes(1), vec![named(&a)]), &policy, minutes(1), at);
    assert!(cache.get(MODEL, minutes(1), at).is_none());
    cache.put(MODEL, Arc::clone(&base));
    cache.update(MODEL, &base, &update(minutes(30), vec![named(&a)]), &policy, minutes(1), at);
    assert!(cache.get(MODEL, minutes(1), at).is_some(), "an invalid update changes nothing");
    let higher = CandidateUpdate {
        price: Price { version: 4, output_nano_per_token: 201, ..PRICE },
        ..update(minutes(1), vec![named(&a)])
    };
    cache.update(MODEL, &base, &higher, &policy, minutes(1), at);
    assert!(cache.get(MODEL, minutes(1), at).is_none(), "the next request asks for a signed price");
}

#[test]
fn only_what_the_coordinator_says_about_the_list_makes_it_forgotten() {
    let kept = [
        RefusalCode::InvalidApiKey,
        RefusalCode::Forbidden,
        RefusalCode::CoordinatorUnreachable,
        RefusalCode::Timeout,
        RefusalCode::Internal,
        RefusalCode::RateLimitExceeded,
    ];
    assert!(!kept.into_iter().any(disproves));
    assert!(disproves(RefusalCode::ModelNotFound) && disproves(RefusalCode::VerificationFailed));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_an_update_says_only_proven_candidates_are_sealed_to(
        entries in prop::collection::vec((0_usize..6, 0_usize..6, prop::option::of(0_usize..8)), 0..32),
        minute in 0_i64..11,
    ) {
        let scene = scene();
        let mut all = vec![];
        for label in ["a", "b", "c"] {
            all.extend([Provider::new(&scene.operator, label, BEGIN), scene.next_epoch(label)]);
        }
        // The two that the list knows, in the epochs that it knows.
        all[0] = scene.a;
        all[2] = scene.b;
        let statements: Vec<_> = all.iter().map(Provider::signed).chain([vec![], vec![0xff; 64]]).collect();
        let candidates: Vec<_> = entries.iter().map(|&(provider, epoch, statement)| CandidateNow {
            provider: all[provider].id,
            epoch: all[epoch].epoch,
            rows_free: 0,
            row_tokens: ROW,
            waiting: 0,
            statement: statement.map(|index| statements[index].clone()),
        }).collect();
        let at = scene.list.read_at;
        let after = scene.list.updated(&update(minutes(minute), candidates), &scene.policy, minutes(1), at).unwrap();
        for usable in &after.usable {
            let verdict = &usable.verdict;
            let (index, provider) =
                all.iter().enumerate().find(|(_, p)| p.id == verdict.provider && p.epoch == verdict.epoch).unwrap();
            prop_assert_eq!(&verdict.statement, &provider.statement);
            let by_statement = entries.iter().any(|&(p, e, s)| all[p].id == provider.id && e == index && s == Some(index));
            let by_name = entries.iter().any(|&(p, e, s)| all[p].id == provider.id && e == index && s.is_none());
            prop_assert!(by_statement || (by_name && (index == 0 || index == 2)));
        }
        let distinct: BTreeSet<_> = usable(&after).into_iter().collect();
        prop_assert_eq!(distinct.len(), after.usable.len());
    }
}
