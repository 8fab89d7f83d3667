//! The circuit breaker: after repeated failures a driver stops waiting for a peer, and later lets one
//! call through to see whether it is back. While calls are refused, the driver may ask the peer for a sign of life, which is
//! less than a call, and lets the next call through once it comes. A peer that is there and asks for a pause gets one. Times
//! are durations since an origin of the driver's choice.

use std::time::Duration;

/// When a circuit opens and when it probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CircuitConfig {
    /// Failures in a row that open it; at least 1.
    pub failures_to_open: u32,
    /// How long it stays open before the first probe.
    pub open_for: Duration,
    /// Ceiling of the open time, which doubles with every failed probe.
    pub open_for_at_most: Duration,
    /// Time between two questions for a sign of life while calls are refused; none are asked where it is zero.
    pub ask_every: Duration,
}

impl Default for CircuitConfig {
    /// Three failures tell an outage from a lost call; 2 s to 60 s keeps the cost of probing a peer
    /// that stays away below one deadline a minute. A question a second has calls go through within two of the moment
    /// that the peer is back, and is small.
    fn default() -> Self {
        Self {
            failures_to_open: 3,
            open_for: Duration::from_secs(2),
            open_for_at_most: Duration::from_secs(60),
            ask_every: Duration::from_secs(1),
        }
    }
}

/// The state of a circuit, for people and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CircuitState {
    /// Calls go through.
    Closed,
    /// Calls are refused.
    Open,
    /// One call is out to see whether the peer is back.
    HalfOpen,
}

impl CircuitState {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// Leave to make one call; its outcome must be reported with it.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the outcome of the call must be reported"]
pub struct Permit {
    /// Outcomes of calls from before the last change of state say nothing about the peer now.
    generation: u64,
}

/// Why a call may not be made now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The circuit is open: the peer was away.
    Open,
    /// The peer asked for a pause.
    Paused,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Closed { failures: u32 },
    Open { until: Duration, is_seen: bool },
    HalfOpen { since: Duration, is_seen: bool },
}

/// A circuit breaker for one peer.
#[derive(Debug)]
pub struct Circuit {
    config: CircuitConfig,
    state: State,
    open_for: Duration,
    /// When the peer was asked last for a sign of life.
    asked: Option<Duration>,
    /// Time until the next question: longer where a peer that gave signs of life did not answer the calls that they let through.
    ask_after: Duration,
    /// The peer wants no call before.
    paused_until: Duration,
    generation: u64,
}

impl Circuit {
    /// A closed circuit.
    pub fn new(config: CircuitConfig) -> Self {
        Self {
            config,
            state: State::Closed { failures: 0 },
            open_for: config.open_for,
            asked: None,
            ask_after: config.ask_every,
            paused_until: Duration::ZERO,
            generation: 0,
        }
    }

    /// Goes by another configuration from now on, in the state that it is in.
    pub fn configure(&mut self, config: CircuitConfig) {
        let is_first = self.open_for <= self.config.open_for;
        self.open_for = match is_first {
            true => config.open_for,
            false => self.open_for.min(config.open_for_at_most),
        };
        self.ask_after = config.ask_every;
        self.config = config;
    }

    /// The state as of the last event.
    pub fn state(&self) -> CircuitState {
        match self.state {
            State::Closed { .. } => CircuitState::Closed,
            State::Open { .. } => CircuitState::Open,
            State::HalfOpen { .. } => CircuitState::HalfOpen,
        }
    }

    /// Asks for leave to make a call.
    ///
    /// # Errors
    /// [`Refusal`] while the circuit is open or the peer wants a pause.
    pub fn permit(&mut self, now: Duration) -> Result<Permit, Refusal> {
        if now < self.paused_until {
            return Err(Refusal::Paused);
        }
        let probe = match self.state {
            State::Closed { .. } => None,
            State::Open { until, is_seen } => {
                if now < until {
                    return Err(Refusal::Open);
                }
                Some(is_seen)
            }
            // A probe whose outcome never comes must not keep the circuit half open for ever.
            State::HalfOpen { since, is_seen } => {
                if now < since + self.open_for {
                    return Err(Refusal::Open);
                }
                Some(is_seen)
            }
        };
        if let Some(is_seen) = probe {
            self.enter(State::HalfOpen {
                since: now,
                is_seen,
            });
        }
        Ok(Permit {
            generation: self.generation,
        })
    }

    /// Makes no call for a while, as the peer asks; for the ceiling of the open time at most.
    pub fn pause(&mut self, now: Duration, pause: Duration) {
        let until = now + pause.min(self.config.open_for_at_most);
        self.paused_until = self.paused_until.max(until);
    }

    /// Whether to ask the peer for a sign of life, as a call was refused because the circuit is open, or the one call that is
    /// out gets no answer. It is then taken for asked.
    pub fn ask(&mut self, now: Duration) -> bool {
        let is_waiting = match self.state {
            State::Closed { .. } => false,
            State::Open { until, .. } => now < until,
            State::HalfOpen { since, .. } => now >= since + self.ask_after,
        };
        let is_asked = |asked: Duration| now < asked + self.ask_after;
        if self.config.ask_every.is_zero() || !is_waiting || self.asked.is_some_and(is_asked) {
            return false;
        }
        self.asked = Some(now);
        true
    }

    /// Reports that the peer is there, by another sign than a call: the next one may try it at once.
    pub fn seen(&mut self, now: Duration) {
        match self.state {
            State::Closed { .. } => return,
            State::Open { .. } => {}
            // The call may still be answered.
            State::HalfOpen { since, .. } if now < since + self.ask_after => return,
            State::HalfOpen { is_seen, .. } => {
                if is_seen {
                    self.ask_less();
                }
            }
        }
        self.enter(State::Open {
            until: now,
            is_seen: true,
        });
    }

    /// Reports that the peer answered, be it with a refusal of the request.
    pub fn succeeded(&mut self, permit: Permit) {
        if permit.generation != self.generation {
            return;
        }
        self.open_for = self.config.open_for;
        self.ask_after = self.config.ask_every;
        match &mut self.state {
            State::Closed { failures } => *failures = 0,
            _ => self.enter(State::Closed { failures: 0 }),
        }
    }

    /// Reports that the peer did not answer, or answered nonsense.
    pub fn failed(&mut self, permit: Permit, now: Duration) {
        if permit.generation != self.generation {
            return;
        }
        match &mut self.state {
            State::Closed { failures } => {
                *failures += 1;
                if *failures >= self.config.failures_to_open {
                    self.open(now);
                }
            }
            State::HalfOpen { is_seen, .. } => {
                if *is_seen {
                    self.ask_less();
                }
                if self.ask_after > self.config.ask_every {
                    self.asked = Some(now);
                }
                self.open_for = (self.open_for * 2).min(self.config.open_for_at_most);
                self.open(now);
            }
            State::Open { .. } => {}
        }
    }

    /// Reports that the call was not made after all: nothing was learned about the peer.
    pub fn abandoned(&mut self, permit: Permit, now: Duration) {
        if permit.generation == self.generation
            && let State::HalfOpen { is_seen, .. } = self.state
        {
            // The next caller is the probe.
            self.enter(State::Open {
                until: now,
                is_seen,
            });
        }
    }

    /// The peer says that it is there, and does not answer: asking as often would cost a call each time.
    fn ask_less(&mut self) {
        let most = self.config.open_for_at_most.max(self.config.ask_every);
        self.ask_after = (self.ask_after * 2).min(most);
    }

    fn open(&mut self, now: Duration) {
        self.enter(State::Open {
            until: now + self.open_for,
            is_seen: false,
        });
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.generation += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: CircuitConfig = CircuitConfig {
        failures_to_open: 2,
        open_for: Duration::from_secs(1),
        open_for_at_most: Duration::from_secs(3),
        ask_every: Duration::from_millis(200),
    };

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn opened_at_zero() -> Circuit {
        let mut circuit = Circuit::new(CONFIG);
        for _ in 0..2 {
            let permit = circuit.permit(seconds(0.0)).unwrap();
            circuit.failed(permit, seconds(0.0));
        }
        circuit
    }

    #[test]
    fn opens_after_failures_in_a_row_only() {
        let mut circuit = Circuit::new(CONFIG);
        for _ in 0..5 {
            let permit = circuit.permit(seconds(0.0)).unwrap();
            circuit.failed(permit, seconds(0.0));
            let permit = circuit.permit(seconds(0.0)).unwrap();
            circuit.succeeded(permit);
        }
        assert_eq!(circuit.state(), CircuitState::Closed);
        assert_eq!(opened_at_zero().state(), CircuitState::Open);
    }

    #[test]
    fn lets_one_probe_through_when_its_time_is_up() {
        let mut circuit = opened_at_zero();
        assert_eq!(circuit.permit(seconds(0.9)), Err(Refusal::Open));
        let probe = circuit.permit(seconds(1.0)).unwrap();
        assert_eq!(circuit.permit(seconds(1.1)), Err(Refusal::Open));
        circuit.succeeded(probe);
        assert_eq!(circuit.state(), CircuitState::Closed);
    }

    #[test]
    fn waits_twice_as_long_after_each_failed_probe_up_to_the_ceiling() {
        let mut circuit = opened_at_zero();
        let mut now = seconds(1.0);
        for wait in [2.0, 3.0, 3.0] {
            let probe = circuit.permit(now).unwrap();
            circuit.failed(probe, now);
            let early = circuit.permit(now + seconds(wait - 0.1));
            assert_eq!(early, Err(Refusal::Open));
            now += seconds(wait);
        }
    }

    #[test]
    fn a_probe_that_never_reports_makes_way_for_another() {
        let mut circuit = opened_at_zero();
        let lost = circuit.permit(seconds(1.0)).unwrap();
        let second = circuit.permit(seconds(2.0)).unwrap();
        circuit.failed(lost, seconds(2.1));
        assert_eq!(circuit.state(), CircuitState::HalfOpen);
        circuit.succeeded(second);
        assert_eq!(circuit.state(), CircuitState::Closed);
    }

    #[test]
    fn a_probe_that_was_not_made_leaves_its_place_to_the_next() {
        let mut circuit = opened_at_zero();
        let probe = circuit.permit(seconds(1.0)).unwrap();
        circuit.abandoned(probe, seconds(1.0));
        assert_eq!(circuit.state(), CircuitState::Open);
        assert!(circuit.permit(seconds(1.0)).is_ok());
    }

    #[test]
    fn a_peer_that_was_seen_is_tried_at_once() {
        let mut circuit = opened_at_zero();
        circuit.seen(seconds(0.1));
        let probe = circuit.permit(seconds(0.1)).unwrap();
        assert_eq!(circuit.permit(seconds(0.1)), Err(Refusal::Open));
        circuit.succeeded(probe);
        assert_eq!(circuit.state(), CircuitState::Closed);
    }

    #[test]
    fn while_calls_are_refused_a_question_is_due_at_its_pace_and_else_never() {
        let mut circuit = Circuit::new(CONFIG);
        assert!(!circuit.ask(seconds(0.0)), "it is closed");
        circuit = opened_at_zero();
        let asked: Vec<u32> = (0..9)
            .filter(|tenth| circuit.ask(seconds(f64::from(*tenth) / 10.0)))
            .collect();
        assert_eq!(asked, [0, 2, 4, 6, 8]);
        // The next call goes through anyway.
        assert!(!circuit.ask(seconds(1.0)));
        let _probe = circuit.permit(seconds(1.0)).unwrap();
        assert!(!circuit.ask(seconds(1.1)), "a call is out");
    }

    #[test]
    fn a_call_that_hangs_does_not_hold_up_the_next_once_the_peer_was_seen() {
        let mut circuit = opened_at_zero();
        let hangs = circuit.permit(seconds(1.0)).unwrap();
        circuit.seen(seconds(1.1));
        assert_eq!(circuit.permit(seconds(1.1)), Err(Refusal::Open));
        assert!(circuit.ask(seconds(1.2)));
        circuit.seen(seconds(1.3));
        let next = circuit.permit(seconds(1.3)).unwrap();
        circuit.failed(hangs, seconds(1.4));
        circuit.succeeded(next);
        assert_eq!(circuit.state(), CircuitState::Closed);
    }

    #[test]
    fn no_question_is_due_where_none_are_wanted() {
        let mut circuit = opened_at_zero();
        circuit.configure(CircuitConfig {
            ask_every: Duration::ZERO,
            ..CONFIG
        });
        assert!(!circuit.ask(seconds(0.5)));
    }

    #[test]
    fn after_an_outage_of_any_length_calls_go_through_within_a_question_and_its_answer() {
        for outage in [0.5, 3.0, 10.0, 100.0, 10_000.0] {
            let mut circuit = opened_at_zero();
            // A call every 50 ms; while it lasts none is answered, nor any question.
            let mut now = 0.0;
            let resumed = loop {
                now += 0.05;
                match circuit.permit(seconds(now)) {
                    Ok(permit) if now < outage => circuit.failed(permit, seconds(now)),
                    Ok(permit) => {
                        circuit.succeeded(permit);
                        break now;
                    }
                    Err(_) => {
                        if circuit.ask(seconds(now)) && now >= outage {
                            circuit.seen(seconds(now));
                        }
                    }
                }
            };
            assert!(resumed < outage + 0.2 + 2.0 * 0.05 + 1e-9, "{outage}");
            assert_eq!(circuit.state(), CircuitState::Closed);
        }
    }

    #[test]
    fn a_peer_that_gives_signs_of_life_and_no_answers_is_asked_ever_less_often() {
        let mut circuit = opened_at_zero();
        let (mut now, mut calls) = (0.0, 0);
        while now < 60.0 {
            now += 0.05;
            match circuit.permit(seconds(now)) {
                Ok(permit) => {
                    calls += 1;
                    circuit.failed(permit, seconds(now));
                }
                Err(_) if circuit.ask(seconds(now)) => circuit.seen(seconds(now)),
                Err(_) => {}
            }
        }
        // One each three seconds, the ceiling, after those until it is reached.
        assert!((18..=26).contains(&calls), "{calls}");
    }

    #[test]
    fn a_peer_that_asks_for_a_pause_gets_it_and_no_longer_than_the_ceiling() {
        let mut circuit = Circuit::new(CONFIG);
        let mut now = seconds(0.0);
        for (asked, paused) in [(0.5, 0.5), (1e9, 3.0)] {
            circuit.pause(now, seconds(asked));
            assert_eq!(circuit.state(), CircuitState::Closed);
            let early = circuit.permit(now + seconds(paused - 0.1));
            assert_eq!(early, Err(Refusal::Paused));
            now += seconds(paused);
            assert!(circuit.permit(now).is_ok());
        }
    }

    #[test]
    fn another_configuration_leaves_an_open_circuit_open() {
        let mut circuit = opened_at_zero();
        circuit.configure(CircuitConfig {
            failures_to_open: 1,
            open_for: seconds(0.5),
            ..CONFIG
        });
        assert_eq!(circuit.state(), CircuitState::Open);
        let probe = circuit.permit(seconds(1.0)).unwrap();
        circuit.succeeded(probe);
        let permit = circuit.permit(seconds(1.0)).unwrap();
        circuit.failed(permit, seconds(1.0));
        assert_eq!(circuit.permit(seconds(1.4)), Err(Refusal::Open));
        assert!(circuit.permit(seconds(1.5)).is_ok());
    }

    #[test]
    fn outcomes_from_before_the_circuit_opened_change_nothing() {
        let mut circuit = Circuit::new(CONFIG);
        let early = circuit.permit(seconds(0.0)).unwrap();
        for _ in 0..2 {
            let permit = circuit.permit(seconds(0.0)).unwrap();
            circuit.failed(permit, seconds(0.0));
        }
        circuit.succeeded(early);
        assert_eq!(circuit.state(), CircuitState::Open);
    }
}
