//! The circuit breaker: after repeated failures a driver stops waiting for a peer, and later lets one
//! call through to see whether it is back. A peer that is there and asks for a pause gets one. Times are
//! durations since an origin of the driver's choice.

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
}

impl Default for CircuitConfig {
    /// Three failures tell an outage from a lost call; 2 s to 60 s keeps the cost of probing a peer
    /// that stays away below one deadline a minute.
    fn default() -> Self {
        Self {
            failures_to_open: 3,
            open_for: Duration::from_secs(2),
            open_for_at_most: Duration::from_secs(60),
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
    Open { until: Duration },
    HalfOpen { since: Duration },
}

/// A circuit breaker for one peer.
#[derive(Debug)]
pub struct Circuit {
    config: CircuitConfig,
    state: State,
    open_for: Duration,
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
            State::Closed { .. } => false,
            State::Open { until } => {
                if now < until {
                    return Err(Refusal::Open);
                }
                true
            }
            // A probe whose outcome never comes must not keep the circuit half open for ever.
            State::HalfOpen { since } => {
                if now < since + self.open_for {
                    return Err(Refusal::Open);
                }
                true
            }
        };
        if probe {
            self.enter(State::HalfOpen { since: now });
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

    /// Reports that the peer is there, by another sign than a call: the next one may try it at once.
    pub fn seen(&mut self, now: Duration) {
        if let State::Open { .. } = self.state {
            self.enter(State::Open { until: now });
        }
    }

    /// Reports that the peer answered, be it with a refusal of the request.
    pub fn succeeded(&mut self, permit: Permit) {
        if permit.generation != self.generation {
            return;
        }
        self.open_for = self.config.open_for;
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
            State::HalfOpen { .. } => {
                self.open_for = (self.open_for * 2).min(self.config.open_for_at_most);
                self.open(now);
            }
            State::Open { .. } => {}
        }
    }

    /// Reports that the call was not made after all: nothing was learned about the peer.
    pub fn abandoned(&mut self, permit: Permit, now: Duration) {
        if permit.generation == self.generation
            && let State::HalfOpen { .. } = self.state
        {
            // The next caller is the probe.
            self.enter(State::Open { until: now });
        }
    }

    fn open(&mut self, now: Duration) {
        self.enter(State::Open {
            until: now + self.open_for,
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
