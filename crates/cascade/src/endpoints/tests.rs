use proptest::prelude::*;

use super::*;

const CONFIG: EndpointsConfig = EndpointsConfig {
    choose: Choose::First,
    health_every: Duration::from_secs(10),
    back_after: Duration::from_secs(10),
};
const SECOND: Duration = Duration::from_secs(1);

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Two, of which the first is in use and has answered calls that took so long.
fn two(choose: Choose, calls: Duration) -> Endpoints {
    two_after(20, choose, (calls, calls / 2), None)
}

/// Two, of which the first is in use and has answered so many calls, which took so long and of that on the link, and a
/// question in its round trip.
fn two_after(
    calls: u32,
    choose: Choose,
    (took, link): (Duration, Duration),
    round_trip: Option<Duration>,
) -> Endpoints {
    let mut endpoints = Endpoints::new(EndpointsConfig { choose, ..CONFIG }, 2);
    if round_trip.is_some() {
        endpoints.heard(0, round_trip, Duration::ZERO);
    }
    for call in 0..calls {
        endpoints.began(0, SECOND * call);
        endpoints.took(0, took, link);
        endpoints.heard(0, None, SECOND * call + took);
        endpoints.ended(0);
    }
    endpoints.heard(1, Some(ms(20)), 20 * SECOND);
    endpoints
}

/// How long after a call that is not answered the first of two is left.
fn left_after(endpoints: &mut Endpoints) -> Duration {
    let began = 30 * SECOND;
    endpoints.began(0, began);
    let falls = endpoints.falls(0);
    let ask_at = endpoints.ask_at(0).unwrap();
    assert!(ask_at >= began + QUIET.0);
    let left_at = ask_at + endpoints.sign_within(0);
    let change = endpoints.failed(0, left_at).unwrap();
    assert_eq!((change.from, change.to, change.is_failover), (0, 1, true));
    assert_eq!((endpoints.in_use(), endpoints.order()), (1, vec![1, 0]));
    assert_ne!(endpoints.falls(0), falls);
    left_at - began
}

#[test]
fn a_peer_that_falls_silent_is_left_in_time_for_another_to_answer_within_a_second() {
    // Whatever it usually takes; 450 ms of it are the link's at the most.
    for usual in [1, 20, 100, 300, 900] {
        let left = left_after(&mut two(Choose::First, ms(usual)));
        assert!(left <= ms(1000), "{usual}: {left:?}");
    }
    // From the first call on, over links of any usual round trip.
    for round_trip in [1, 20, 80, 150, 200] {
        for calls in [0, 1, 9, 100] {
            let times = (ms(round_trip + 40), ms(round_trip + 20));
            let known = Some(ms(round_trip));
            let left = left_after(&mut two_after(calls, Choose::First, times, known));
            assert!(left <= ms(800), "{round_trip}, {calls}: {left:?}");
        }
    }
}

#[test]
fn a_sign_of_life_may_take_a_round_trip_that_is_longer_than_usual() {
    let times = (ms(700), ms(650));
    let endpoints = two_after(20, Choose::First, times, Some(ms(600)));
    assert!(endpoints.sign_within(0) >= ms(900));
    assert!(endpoints.sign_within(0) <= ms(1000));
}

#[test]
fn the_one_in_use_is_asked_until_its_round_trip_is_known() {
    let mut endpoints = Endpoints::new(CONFIG, 2);
    assert_eq!(endpoints.due(SECOND), [0, 1]);
    endpoints.heard(0, None, 2 * SECOND);
    assert_eq!(endpoints.due(20 * SECOND), [0, 1]);
    endpoints.heard(0, Some(ms(9)), 21 * SECOND);
    assert_eq!(endpoints.due(40 * SECOND), [1]);
}

#[test]
fn a_peer_that_is_slow_and_gives_a_sign_of_life_stays() {
    let mut endpoints = two(Choose::First, ms(50));
    endpoints.began(0, 30 * SECOND);
    let mut asked = 0;
    while let Some(at) = endpoints.ask_at(0).filter(|&at| at < 35 * SECOND) {
        assert_eq!(endpoints.heard(0, Some(ms(5)), at + ms(5)), None);
        asked += 1;
    }
    // As often as it is silent for too long, and no more once it has answered.
    assert!((8..=25).contains(&asked), "{asked}");
    endpoints.heard(0, None, 35 * SECOND);
    endpoints.ended(0);
    assert_eq!(endpoints.ask_at(0), None);
    assert_eq!(endpoints.in_use(), 0);
}

#[test]
fn silence_counts_on_when_the_call_was_given_up() {
    let mut endpoints = two(Choose::First, ms(50));
    endpoints.began(0, 30 * SECOND);
    endpoints.ended(0);
    let first = endpoints.ask_at(0);
    assert!(first.is_some());
    endpoints.began(0, 30 * SECOND + ms(100));
    endpoints.ended(0);
    assert_eq!(endpoints.ask_at(0), first);
}

#[test]
fn on_a_slow_link_a_sign_of_life_may_take_as_long_as_what_it_waits_behind() {
    for round_trip in [None, Some(ms(100))] {
        let endpoints = two_after(20, Choose::First, (ms(8000), ms(4000)), round_trip);
        let beside = QUIET.1 + round_trip.unwrap_or_default();
        assert!(endpoints.sign_within(0) >= ms(4000) - beside);
        assert!(endpoints.sign_within(0) <= SIGN_WITHIN_AT_MOST);
    }
}

#[test]
fn the_first_is_gone_back_to_once_it_has_been_there_for_long_enough() {
    let mut endpoints = two(Choose::First, ms(50));
    endpoints.failed(0, 30 * SECOND).unwrap();
    assert_eq!(endpoints.due(31 * SECOND), [0]);
    assert!(endpoints.due(40 * SECOND).is_empty());
    assert_eq!(endpoints.due(41 * SECOND), [0]);
    assert_eq!(endpoints.heard(0, Some(ms(9)), 41 * SECOND), None);
    // It goes and comes: the time begins again.
    assert_eq!(endpoints.failed(0, 45 * SECOND), None);
    assert_eq!(endpoints.heard(0, Some(ms(9)), 46 * SECOND), None);
    assert_eq!(endpoints.heard(0, Some(ms(9)), 55 * SECOND), None);
    let change = endpoints.heard(0, Some(ms(9)), 56 * SECOND).unwrap();
    assert_eq!((change.from, change.to, change.is_failover), (1, 0, false));
}

#[test]
fn one_that_fails_each_time_it_is_gone_back_to_has_to_wait_longer() {
    let mut endpoints = two(Choose::First, ms(50));
    let mut now = 30 * SECOND;
    let mut waits = Vec::new();
    for _ in 0..8 {
        assert!(endpoints.failed(0, now).unwrap().is_failover);
        let left = now;
        while endpoints.in_use() != 0 {
            now += SECOND;
            endpoints.heard(0, Some(ms(9)), now);
        }
        waits.push((now - left).as_secs());
        now += SECOND;
    }
    assert_eq!(waits, [11, 21, 41, 81, 161, 321, 321, 321]);
    // One that stays for long is trusted again.
    now += 60 * SECOND;
    endpoints.failed(0, now).unwrap();
    endpoints.heard(0, None, now);
    assert!(endpoints.heard(0, None, now + 10 * SECOND).is_some());
}

#[test]
fn the_faster_one_is_used_once_it_has_been_faster_by_enough_for_long() {
    let mut endpoints = two(Choose::Fastest, ms(50));
    let mut now = 20 * SECOND;
    let mut ask = |endpoints: &mut Endpoints, times: [u64; 2], seconds: u32| {
        let mut changes = Vec::new();
        for _ in 0..seconds {
            now += SECOND;
            for (endpoint, time) in times.into_iter().enumerate() {
                changes.extend(endpoints.heard(endpoint, Some(ms(time)), now));
            }
        }
        changes
    };
    // Noise, and a little faster, are no reason.
    assert!(ask(&mut endpoints, [20, 18], 60).is_empty());
    assert!(ask(&mut endpoints, [3, 2], 60).is_empty());
    let changes = ask(&mut endpoints, [60, 20], 60);
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!((changes[0].to, changes[0].is_failover), (1, false));
    // Both are asked, since calls of images say no round trip that compares.
    assert_eq!(endpoints.due(1000 * SECOND), [0, 1]);
    let back = ask(&mut endpoints, [20, 60], 60);
    assert_eq!(back.len(), 1, "{back:?}");
}

#[test]
fn where_all_are_away_the_next_that_answers_is_used() {
    let mut endpoints = Endpoints::new(CONFIG, 3);
    assert_eq!(endpoints.order(), [0, 1, 2]);
    assert_eq!(endpoints.failed(0, SECOND).unwrap().to, 1);
    assert_eq!(endpoints.failed(1, SECOND).unwrap().to, 2);
    assert_eq!(endpoints.failed(2, SECOND), None);
    assert_eq!(endpoints.order(), [2, 0, 1]);
    // The one in use is asked, too, since no call tells of it.
    assert_eq!(endpoints.due(2 * SECOND), [0, 1, 2]);
    assert_eq!(endpoints.heard(1, None, 3 * SECOND).unwrap().to, 1);
    assert_eq!(endpoints.order(), [1, 0, 2]);
}

proptest! {
    #[test]
    fn the_one_in_use_is_away_only_where_all_are(
        events in prop::collection::vec((0usize..3, 0usize..5, 0u64..5000), 1..300),
        fastest in any::<bool>(),
    ) {
        let choose = if fastest { Choose::Fastest } else { Choose::First };
        let mut endpoints = Endpoints::new(EndpointsConfig { choose, ..CONFIG }, 3);
        let mut now = Duration::ZERO;
        for (endpoint, event, step) in events {
            now += ms(step);
            let before = endpoints.in_use();
            let change = match event {
                0 => { endpoints.began(endpoint, now); None }
                1 => { endpoints.ended(endpoint); None }
                2 => endpoints.failed(endpoint, now),
                3 => endpoints.heard(endpoint, Some(ms(step % 50)), now),
                _ => { endpoints.due(now); None }
            };
            prop_assert_eq!(change.map_or(before, |change| change.to), endpoints.in_use());
            if endpoints.presence(endpoints.in_use()) == Presence::Down {
                prop_assert!((0..3).all(|one| endpoints.presence(one) == Presence::Down));
            }
            let mut order = endpoints.order();
            prop_assert_eq!(order[0], endpoints.in_use());
            order.sort_unstable();
            prop_assert_eq!(order, [0, 1, 2]);
        }
    }
}
