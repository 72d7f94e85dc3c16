//! Whole requests, event by event: what is offered, relayed, settled and refused.

use super::*;

const P: ProviderId = ProviderId([1; 32]);
const Q: ProviderId = ProviderId([2; 32]);
const T0: MonoMillis = MonoMillis(1_000_000);

fn begin() -> RelaySession {
    RelaySession::begin(RelayTerms { output_ceiling: TokenCount(8) }, T0).0
}

/// A machine that has been accepted by `P`.
fn accepted() -> RelaySession {
    let mut session = begin();
    assert_eq!(session.handle(RelayEvent::HoldPlaced, T0), [RelayAction::Route]);
    assert_eq!(session.handle(RelayEvent::Routed(P), T0), [RelayAction::Offer(P, AttemptNumber(1))]);
    assert_eq!(session.handle(RelayEvent::Accepted, T0), [RelayAction::RelayAccepted]);
    session
}

fn data(sequence: u32, tokens: u32, end: bool) -> RelayEvent {
    RelayEvent::Data { sequence, tokens: TokenCount(tokens), end }
}

fn receipt(output: u32) -> RelayEvent {
    RelayEvent::Receipt { output: TokenCount(output) }
}

fn release(provider: ProviderId, released: Released) -> RelayAction {
    RelayAction::Release(provider, released)
}

fn settle(tokens: u32, receipt: bool) -> RelayAction {
    RelayAction::Settle(Delivered { content_relayed: true, tokens_relayed: TokenCount(tokens), receipt })
}

#[test]
fn an_answer_is_relayed_and_settled_by_its_receipt() {
    let mut session = accepted();
    assert_eq!(session.handle(data(0, 1, false), T0), [RelayAction::RelayData]);
    assert_eq!(session.handle(data(1, 2, true), T0), [RelayAction::RelayData]);
    assert!(!session.is_over());
    assert_eq!(session.handle(receipt(2), T0), [release(P, Released::Served), settle(2, true)]);
    assert_eq!(session.handle(RelayEvent::Settled, T0), [RelayAction::RelayFinal, RelayAction::Finish]);
    assert!(session.is_over());
}

#[test]
fn a_refusal_before_content_goes_to_another_provider_unseen() {
    let mut session = begin();
    session.handle(RelayEvent::HoldPlaced, T0);
    session.handle(RelayEvent::Routed(P), T0);
    let refused = RelayEvent::Refused(RefusalCode::Overloaded.into());
    assert_eq!(session.handle(refused, T0), [release(P, Released::Unused), RelayAction::Route]);
    assert_eq!(session.handle(RelayEvent::Routed(Q), T0), [RelayAction::Offer(Q, AttemptNumber(2))]);
    session.handle(RelayEvent::Accepted, T0);
    let outcomes: Vec<_> = session.attempts().iter().map(|attempt| (attempt.provider, attempt.outcome)).collect();
    assert_eq!(outcomes, [(P, RefusalCode::Overloaded.number()), (Q, 0)]);
}

#[test]
fn a_provider_lost_after_accepting_but_before_content_is_replaced() {
    let mut session = accepted();
    let actions = session.handle(RelayEvent::ProviderGone, T0);
    assert_eq!(actions, [RelayAction::Cancel, release(P, Released::Failed), RelayAction::Route]);
    assert_eq!(session.attempts().len(), 1);
    assert_eq!(session.attempts()[0].outcome, RefusalCode::ProviderLost.number());
}

#[test]
fn a_provider_lost_after_content_cuts_the_answer_and_charges_what_was_relayed() {
    let mut session = accepted();
    session.handle(data(0, 3, false), T0);
    let actions = session.handle(RelayEvent::ProviderGone, T0);
    assert_eq!(actions, [RelayAction::Cancel, release(P, Released::Failed), settle(3, false)]);
    let actions = session.handle(RelayEvent::Settled, T0);
    assert_eq!(actions, [RelayAction::Refuse(RefusalCode::AnswerCut.into()), RelayAction::Finish]);
}

#[test]
fn whoever_says_something_else_than_an_acceptance_is_told_to_stop() {
    let mut session = begin();
    session.handle(RelayEvent::HoldPlaced, T0);
    session.handle(RelayEvent::Routed(P), T0);
    assert_eq!(session.phase(), RelayPhase::Offered);
    let actions = session.handle(RelayEvent::BadReceipt, T0);
    assert_eq!(actions, [RelayAction::Cancel, release(P, Released::Failed), RelayAction::Route]);
    assert_eq!(session.attempts()[0].outcome, RefusalCode::ProviderLost.number());
    session.handle(RelayEvent::Routed(Q), T0);
    let actions = session.handle(RelayEvent::ProviderGone, T0);
    assert_eq!(actions, [release(Q, Released::Failed), RelayAction::Route], "nobody is there to be told");
}

#[test]
fn three_attempts_are_the_most() {
    let mut session = begin();
    session.handle(RelayEvent::HoldPlaced, T0);
    for provider in [P, Q] {
        session.handle(RelayEvent::Routed(provider), T0);
        session.handle(RelayEvent::ProviderGone, T0);
    }
    session.handle(RelayEvent::Routed(P), T0);
    let actions = session.handle(RelayEvent::ProviderGone, T0);
    assert_eq!(
        actions,
        [
            release(P, Released::Failed),
            RelayAction::Void(RefusalCode::ProviderLost),
            RelayAction::Refuse(RefusalCode::ProviderLost.into()),
            RelayAction::Finish
        ]
    );
}

/// A machine whose request `P` called wrong for everybody.
fn called_wrong(refusal: &Refusal) -> RelaySession {
    let mut session = begin();
    session.handle(RelayEvent::HoldPlaced, T0);
    session.handle(RelayEvent::Routed(P), T0);
    let actions = session.handle(RelayEvent::Refused(refusal.clone()), T0);
    assert_eq!(actions, [release(P, Released::Unused), RelayAction::Route]);
    session
}

fn given_up(refusal: &Refusal) -> [RelayAction; 3] {
    [RelayAction::Void(refusal.code), RelayAction::Refuse(refusal.clone()), RelayAction::Finish]
}

const NOBODY: RouteFailure = RouteFailure::Nobody(RefusalCode::NoEligibleProvider);

#[test]
fn one_providers_word_does_not_keep_an_answer_from_a_consumer_and_is_doubted_once_another_answers() {
    let mut session = called_wrong(&RefusalCode::InvalidRequest.into());
    assert_eq!(session.handle(RelayEvent::Routed(Q), T0), [RelayAction::Offer(Q, AttemptNumber(2))]);
    assert_eq!(session.handle(RelayEvent::Accepted, T0), [RelayAction::RelayAccepted]);
    session.handle(data(0, 2, true), T0);
    let actions = session.handle(receipt(2), T0);
    assert_eq!(actions, [release(Q, Released::Served), RelayAction::Doubt(P), settle(2, true)]);
}

#[test]
fn the_first_opinion_is_not_told_in_place_of_what_happened_after_it() {
    let mut session = called_wrong(&RefusalCode::InvalidRequest.into());
    session.handle(RelayEvent::Routed(Q), T0);
    session.handle(RelayEvent::Accepted, T0);
    session.handle(RelayEvent::ProviderGone, T0);
    assert_eq!(session.handle(RelayEvent::NotRouted(NOBODY), T0), given_up(&RefusalCode::ProviderLost.into()));
}

#[test]
fn two_providers_that_agree_end_a_request_and_its_account_hears_of_it() {
    let mut session = called_wrong(&RefusalCode::InvalidRequest.into());
    session.handle(RelayEvent::Routed(Q), T0);
    let refusal = Refusal::new(RefusalCode::ContextLengthExceeded, "2000 of 1024");
    let actions = session.handle(RelayEvent::Refused(refusal.clone()), T0);
    assert_eq!(actions[..2], [RelayAction::CalledWrong, release(Q, Released::Unused)]);
    assert_eq!(actions[2..], given_up(&refusal));
}

#[test]
fn the_first_opinion_stands_where_nobody_else_can_be_asked_at_all() {
    let refusal = Refusal::new(RefusalCode::ContextLengthExceeded, "2000 of 1024");
    let mut session = called_wrong(&refusal);
    let actions = session.handle(RelayEvent::NotRouted(NOBODY), T0);
    assert_eq!(actions[0], RelayAction::CalledWrong);
    assert_eq!(actions[1..], given_up(&refusal));
    // Others are there and busy: the request waits for them as if it had not been called wrong.
    let mut session = called_wrong(&refusal);
    assert_eq!(session.handle(RelayEvent::NotRouted(RouteFailure::Busy), T0), [RelayAction::Queue]);
    let actions = session.handle(RelayEvent::Tick, T0.after(waits::QUEUE));
    assert_eq!(actions[..2], [RelayAction::CalledWrong, RelayAction::LeaveQueue]);
    assert_eq!(actions[2..], given_up(&RefusalCode::NoCapacity.into()));
    // Others could be sealed to.
    let mut session = called_wrong(&refusal);
    let others = RouteFailure::OthersCould(RefusalCode::NoEligibleProvider);
    let actions = session.handle(RelayEvent::NotRouted(others), T0);
    assert_eq!(
        actions,
        [RelayAction::CalledWrong, RelayAction::Reseal(RefusalCode::ContextLengthExceeded), RelayAction::Finish]
    );
}

#[test]
fn a_request_that_was_called_wrong_counts_however_it_ends_and_once() {
    let refusal = Refusal::from(RefusalCode::InvalidRequest);
    let counts = |actions: &[RelayAction]| actions.iter().filter(|action| **action == RelayAction::CalledWrong).count();
    let busy = RelayEvent::NotRouted(RouteFailure::Busy);
    let full = RelayEvent::NotRouted(RouteFailure::QueueFull);
    for events in [vec![full], vec![busy, RelayEvent::ConsumerGone], vec![RelayEvent::ConsumerGone]] {
        let mut session = called_wrong(&refusal);
        let last = events.into_iter().map(|event| session.handle(event, T0)).last().unwrap();
        assert!(session.is_over());
        assert_eq!(counts(&last), 1, "{last:?}");
        assert_eq!(counts(&session.handle(RelayEvent::Tick, T0)), 0);
    }
    // Whoever leaves while the first provider reads it has had it read.
    let mut session = begin();
    session.handle(RelayEvent::HoldPlaced, T0);
    session.handle(RelayEvent::Routed(P), T0);
    session.handle(RelayEvent::ConsumerGone, T0);
    assert_eq!(counts(&session.handle(RelayEvent::Refused(refusal.clone()), T0)), 1);
    // What another answers was not wrong.
    let mut session = called_wrong(&refusal);
    let events = [RelayEvent::Routed(Q), RelayEvent::Accepted, data(0, 2, true), receipt(2), RelayEvent::Settled];
    let all: usize = events.into_iter().map(|event| counts(&session.handle(event, T0))).sum();
    assert_eq!((session.is_over(), all), (true, 0));
    // An answer without a token shows nothing about the first opinion.
    let mut session = called_wrong(&refusal);
    for event in [RelayEvent::Routed(Q), RelayEvent::Accepted, data(0, 0, true)] {
        session.handle(event, T0);
    }
    assert!(!session.handle(receipt(0), T0).contains(&RelayAction::Doubt(P)));
}

#[test]
fn counts_that_lie_cut_the_answer() {
    for lie in [data(1, 2, false), data(1, 8, false), data(2, 2, false), data(3, 0, false), data(1, 9, false)] {
        let mut session = accepted();
        session.handle(data(0, 1, false), T0);
        // Sequence 1 with 2 tokens is honest, and with as many as the ceiling; the others skip, or count down, or beyond it.
        let honest = lie == data(1, 2, false) || lie == data(1, 8, false);
        let actions = session.handle(lie, T0);
        assert_eq!(actions == [RelayAction::RelayData], honest);
        if !honest {
            assert_eq!(actions, [RelayAction::Cancel, release(P, Released::Failed), settle(1, false)]);
        }
    }
}

#[test]
fn a_consumer_that_leaves_cancels_and_pays_what_was_relayed() {
    let mut session = accepted();
    session.handle(data(0, 4, false), T0);
    assert_eq!(session.handle(RelayEvent::ConsumerGone, T0), [RelayAction::Cancel]);
    assert_eq!(session.handle(data(1, 5, false), T0), [], "nothing is relayed after the cancel");
    let actions = session.handle(RelayEvent::CancelAcknowledged, T0);
    assert_eq!(actions, [release(P, Released::Unused), settle(4, false)]);
}

#[test]
fn a_consumer_that_leaves_before_content_pays_nothing() {
    let mut session = accepted();
    session.handle(RelayEvent::ConsumerGone, T0);
    let actions = session.handle(RelayEvent::CancelAcknowledged, T0);
    assert_eq!(actions, [release(P, Released::Unused), RelayAction::Void(RefusalCode::Cancelled), RelayAction::Finish]);
}

#[test]
fn a_consumer_that_leaves_while_the_hold_is_made_gets_it_back() {
    let mut session = begin();
    assert_eq!(session.handle(RelayEvent::ConsumerGone, T0), []);
    let actions = session.handle(RelayEvent::HoldPlaced, T0);
    assert_eq!(actions, [RelayAction::Void(RefusalCode::Cancelled), RelayAction::Finish]);
}

#[test]
fn a_reservation_that_comes_too_late_is_released() {
    let mut session = begin();
    session.handle(RelayEvent::HoldPlaced, T0);
    session.handle(RelayEvent::ConsumerGone, T0);
    assert_eq!(session.handle(RelayEvent::Routed(P), T0), [release(P, Released::Unused)]);
}

#[test]
fn busy_providers_are_waited_for_a_stated_time() {
    let mut session = begin();
    session.handle(RelayEvent::HoldPlaced, T0);
    assert_eq!(session.handle(RelayEvent::NotRouted(RouteFailure::Busy), T0), [RelayAction::Queue]);
    assert_eq!(session.wake_at(), Some(T0.after(waits::QUEUE)));
    assert_eq!(session.handle(RelayEvent::Wake, T0), [RelayAction::Route]);
    session.handle(RelayEvent::NotRouted(RouteFailure::Busy), T0);
    let actions = session.handle(RelayEvent::Tick, T0.after(waits::QUEUE));
    assert_eq!(
        actions,
        [
            RelayAction::LeaveQueue,
            RelayAction::Void(RefusalCode::NoCapacity),
            RelayAction::Refuse(RefusalCode::NoCapacity.into()),
            RelayAction::Finish
        ]
    );
}

#[test]
fn every_wait_has_an_end() {
    // Whatever the state, repeated ticks at each deadline bring the machine to its end.
    let events = [
        vec![RelayEvent::HoldPlaced],
        vec![RelayEvent::HoldPlaced, RelayEvent::Routed(P)],
        vec![RelayEvent::HoldPlaced, RelayEvent::Routed(P), RelayEvent::Accepted],
        vec![RelayEvent::HoldPlaced, RelayEvent::Routed(P), RelayEvent::Accepted, data(0, 1, false)],
        vec![RelayEvent::HoldPlaced, RelayEvent::Routed(P), RelayEvent::Accepted, data(0, 1, true)],
        vec![RelayEvent::HoldPlaced, RelayEvent::Routed(P), RelayEvent::Accepted, RelayEvent::ConsumerGone],
        vec![RelayEvent::HoldPlaced, RelayEvent::NotRouted(RouteFailure::Busy)],
    ];
    for path in events {
        let mut session = begin();
        for event in path.clone() {
            session.handle(event, T0);
        }
        for _ in 0..10 {
            let Some(at) = session.wake_at() else { break };
            let actions = session.handle(RelayEvent::Tick, at);
            if actions.iter().any(|action| matches!(action, RelayAction::Settle(_))) {
                session.handle(RelayEvent::Settled, at);
            }
            if actions.contains(&RelayAction::Route) {
                session.handle(RelayEvent::NotRouted(RouteFailure::Nobody(RefusalCode::NoEligibleProvider)), at);
            }
        }
        assert!(session.is_over(), "stuck after {path:?}");
    }
}

#[test]
fn stale_recipients_ask_for_another_sealing_and_keep_the_hold() {
    let mut session = begin();
    session.handle(RelayEvent::HoldPlaced, T0);
    session.handle(RelayEvent::Routed(P), T0);
    session.handle(RelayEvent::Refused(RefusalCode::UnknownEpoch.into()), T0);
    let actions = session.handle(RelayEvent::NotRouted(RouteFailure::OthersCould(RefusalCode::NoEligibleProvider)), T0);
    assert_eq!(actions, [RelayAction::Reseal(RefusalCode::UnknownEpoch), RelayAction::Finish]);
}

#[test]
fn being_woken_without_finding_room_does_not_start_the_wait_anew() {
    let mut session = begin();
    session.handle(RelayEvent::HoldPlaced, T0);
    session.handle(RelayEvent::NotRouted(RouteFailure::Busy), T0);
    let later = T0.after(Millis(waits::QUEUE.0 - 1));
    session.handle(RelayEvent::Wake, later);
    session.handle(RelayEvent::NotRouted(RouteFailure::Busy), later);
    assert_eq!(session.wake_at(), Some(T0.after(waits::QUEUE)));
}

#[test]
fn a_model_that_is_loaded_may_take_longer_and_that_is_not_taken_back() {
    let mut session = begin();
    session.handle(RelayEvent::HoldPlaced, T0);
    session.handle(RelayEvent::NotRouted(RouteFailure::Busy), T0);
    let later = T0.after(Millis(waits::QUEUE.0 - 1));
    for failure in [RouteFailure::Loading, RouteFailure::Busy] {
        session.handle(RelayEvent::Wake, later);
        session.handle(RelayEvent::NotRouted(failure), later);
        assert_eq!(session.wake_at(), Some(T0.after(waits::LOADING)));
    }
    let refused = session.handle(RelayEvent::Tick, T0.after(waits::LOADING));
    assert!(refused.contains(&RelayAction::Refuse(RefusalCode::NoCapacity.into())), "{refused:?}");
}

#[test]
fn frames_without_new_tokens_are_few_or_the_answer_is_cut() {
    let mut session = accepted();
    session.handle(data(0, 1, false), T0);
    for sequence in 1..=EMPTY_FRAMES_MAX {
        assert_eq!(session.handle(data(sequence, 1, false), T0), [RelayAction::RelayData]);
    }
    let actions = session.handle(data(EMPTY_FRAMES_MAX + 1, 1, false), T0);
    assert_eq!(actions, [RelayAction::Cancel, release(P, Released::Failed), settle(1, false)]);
}

#[test]
fn an_answer_without_a_token_costs_nothing() {
    let mut session = accepted();
    session.handle(data(0, 0, true), T0);
    let actions = session.handle(receipt(0), T0);
    let nothing = Delivered { content_relayed: false, tokens_relayed: TokenCount(0), receipt: true };
    assert_eq!(actions, [release(P, Released::Served), RelayAction::Settle(nothing)]);
}

#[test]
fn a_receipt_for_other_tokens_than_were_relayed_is_a_lie() {
    for signed in [0, 1, 3, 8] {
        let mut session = accepted();
        session.handle(data(0, 2, true), T0);
        let actions = session.handle(receipt(signed), T0);
        assert_eq!(actions, [RelayAction::Cancel, release(P, Released::Failed), settle(2, false)], "{signed} of 2");
        let [RelayAction::Refuse(refusal), RelayAction::Finish] = &*session.handle(RelayEvent::Settled, T0) else {
            panic!("a lie is told")
        };
        assert_eq!(refusal.code, RefusalCode::VerificationFailed);
    }
}

#[test]
fn a_receipt_before_the_end_is_a_lie() {
    let mut session = accepted();
    session.handle(data(0, 2, false), T0);
    let actions = session.handle(receipt(2), T0);
    assert_eq!(actions, [RelayAction::Cancel, release(P, Released::Failed), settle(2, false)]);
    let mut session = accepted();
    let actions = session.handle(receipt(0), T0);
    assert_eq!(actions, [RelayAction::Cancel, release(P, Released::Failed), RelayAction::Route]);
}

#[test]
fn what_was_on_its_way_at_a_cancel_may_be_signed_and_is_not_charged() {
    // The ceiling is 8.
    for (signed, honest) in [(3, false), (4, true), (7, true), (8, true), (9, false)] {
        let mut session = accepted();
        session.handle(data(0, 4, false), T0);
        assert_eq!(session.handle(RelayEvent::ConsumerGone, T0), [RelayAction::Cancel]);
        let released = if honest { Released::Served } else { Released::Failed };
        let actions = session.handle(receipt(signed), T0);
        assert_eq!(actions, [release(P, released), settle(4, honest)], "{signed} after 4");
    }
}

#[test]
fn whoever_is_cut_off_pays_what_was_relayed_without_a_receipt_and_is_told() {
    let cut = Refusal::new(RefusalCode::AnswerCut, "it came faster than it was read");
    for ends in [receipt(7), RelayEvent::CancelAcknowledged, RelayEvent::ConsumerGone] {
        let mut session = accepted();
        session.handle(data(0, 4, false), T0);
        assert_eq!(session.consumer_behind(T0), [RelayAction::Cancel]);
        assert_eq!(session.consumer_behind(T0), [], "it is cut off once");
        let mut actions = session.handle(ends.clone(), T0);
        if ends == RelayEvent::ConsumerGone {
            assert_eq!(actions, [], "the cancel is on its way already");
            actions = session.handle(receipt(4), T0);
        }
        let served = if ends == RelayEvent::CancelAcknowledged { Released::Unused } else { Released::Served };
        assert_eq!(actions, [release(P, served), settle(4, false)]);
        let actions = session.handle(RelayEvent::Settled, T0);
        assert_eq!(actions, [RelayAction::Refuse(cut.clone()), RelayAction::Finish]);
    }
}

#[test]
fn whoever_is_cut_off_before_content_is_told_too_and_pays_nothing() {
    let mut session = accepted();
    assert_eq!(session.consumer_behind(T0), [RelayAction::Cancel]);
    assert_eq!(session.handle(data(0, 1, false), T0), []);
    let actions = session.handle(RelayEvent::CancelAcknowledged, T0);
    assert_eq!(actions[..2], [release(P, Released::Unused), RelayAction::Void(RefusalCode::AnswerCut)]);
    assert!(
        matches!(&actions[2..], [RelayAction::Refuse(cut), RelayAction::Finish] if cut.code == RefusalCode::AnswerCut)
    );
    assert!(session.is_over());
}

#[test]
fn whoever_has_the_whole_answer_is_not_cut_off() {
    let mut session = accepted();
    session.handle(data(0, 2, true), T0);
    assert_eq!(session.consumer_behind(T0), []);
    assert_eq!(session.handle(receipt(2), T0), [release(P, Released::Served), settle(2, true)]);
    assert_eq!(session.handle(RelayEvent::Settled, T0), [RelayAction::RelayFinal, RelayAction::Finish]);
}

/// A machine whose consumer left after four tokens, this long after its beginning.
fn cancelled_after(began: Millis) -> (RelaySession, MonoMillis) {
    let (mut session, at) = (accepted(), T0.after(began));
    // An answer that goes on all the time: no gap ends it.
    let mut now = T0;
    let mut sequence = 0;
    while now < at {
        session.handle(data(sequence, 4, false), now);
        sequence += 1;
        now = now.after(waits::IDLE);
    }
    assert_eq!(session.handle(RelayEvent::ConsumerGone, at), [RelayAction::Cancel]);
    (session, at)
}

#[test]
fn a_cancel_that_waits_for_a_long_step_is_nobodys_fault_and_its_receipt_settles() {
    for began in [Millis(1), Millis(waits::TOTAL.0 - 1)] {
        for ends in [receipt(4), receipt(7), RelayEvent::CancelAcknowledged] {
            let (mut session, at) = cancelled_after(began);
            let freed = at.after(limits::ROW_FREE_WAIT);
            // Looked at once a second, as a loop that is woken for other reasons does.
            for second in 0..=limits::ROW_FREE_WAIT.0 / 1_000 {
                assert_eq!(session.handle(RelayEvent::Tick, at.after(Millis::from_secs(second))), [], "{second}");
            }
            let signed = ends != RelayEvent::CancelAcknowledged;
            let released = if signed { Released::Served } else { Released::Unused };
            assert_eq!(session.handle(ends, freed), [release(P, released), settle(4, signed)]);
        }
    }
}

#[test]
fn a_provider_that_never_answers_a_cancel_has_failed_and_what_was_relayed_is_settled() {
    for began in [Millis(1), Millis(waits::TOTAL.0 - 1)] {
        let (mut session, at) = cancelled_after(began);
        let due = session.wake_at().unwrap();
        assert_eq!(due, at.after(waits::CANCEL));
        assert_eq!(session.handle(RelayEvent::Tick, MonoMillis(due.0 - 1)), []);
        assert_eq!(session.handle(RelayEvent::Tick, due), [release(P, Released::Failed), settle(4, false)]);
        // What comes after that changes nothing.
        assert_eq!(session.handle(receipt(4), due), []);
        assert_eq!(session.handle(RelayEvent::Settled, due), [RelayAction::RelayFinal, RelayAction::Finish]);
    }
}

#[test]
fn the_coordinator_waits_longer_for_a_cancel_than_a_provider_and_a_hold_outlives_both() {
    assert!(waits::CANCEL > limits::ROW_FREE_WAIT);
    assert!(limits::HOLD_LIFE >= Millis(waits::TOTAL.0 + waits::CANCEL.0 + 60_000));
}
