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
    let mut endpoints = Endpoints::new(EndpointsConfig { choose, ..CONFIG }, 2);
    for call in 0..20 {
        endpoints.began(0, SECOND * call);
        endpoints.took(0, calls, calls / 2);
        endpoints.heard(0, None, SECOND * call + calls);
        endpoints.ended(0);
    }
    endpoints.heard(1, Some(ms(20)), 20 * SECOND);
    endpoints
}

#[test]
fn a_peer_that_falls_silent_is_left_within_a_second_of_the_first_call_that_it_does_not_answer() {
    // Whatever it usually takes; 450 ms of it are the link's at the most.
    for usual in [1, 20, 100, 300, 900] {
        let mut endpoints = two(Choose::First, ms(usual));
        let began = 30 * SECOND;
        endpoints.began(0, began);
        let falls = endpoints.falls(0);
        let ask_at = endpoints.ask_at(0).unwrap();
        assert!(ask_at >= began + QUIET.0, "{usual}");
        let left_at = ask_at + endpoints.sign_within(0);
        assert!(left_at <= began + SECOND, "{usual}: {left_at:?}");
        let change = endpoints.failed(0, left_at).unwrap();
        assert_eq!((change.from, change.to, change.is_failover), (0, 1, true));
        assert_eq!((endpoints.in_use(), endpoints.order()), (1, vec![1, 0]));
        assert_ne!(endpoints.falls(0), falls);
    }
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
    let endpoints = two(Choose::First, ms(8000));
    assert!(endpoints.sign_within(0) >= ms(4000));
    assert!(endpoints.sign_within(0) <= SIGN_WITHIN_AT_MOST);
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
