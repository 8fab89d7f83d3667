//! The fleet in simulated time: events in the order of their time, and of their making where times are equal. No clock, no
//! files, no threads; all that is random comes from the seed.
//!
//! A device works on its images one after another and has one link, whose bytes go one after another too. What it sends
//! goes to its own server (`device mod servers`), as a connection does, waits there for a decoder and then in the
//! queue of [`super::batching`], and comes back. The circuit breaker of a device is that of the engine, [`outpost_cascade::Circuit`].

mod measured;
mod server;
#[cfg(test)]
mod tests;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    time::Duration,
};

use fastrand::Rng;
use outpost_cascade::{Circuit, CircuitConfig, Permit, Refusal};

use super::{
    arrivals::{Arrival, Arrivals},
    batching::Rules,
    links::{Bytes, DeviceLink, Transfer},
    plan::ArrivalPlan,
    service::Service,
    time::Time,
};
pub use measured::{How, Measured, Seen};
use server::{Batch, ServerState};

/// Streams of random numbers apart from that of the arrivals, so that fleets of other sizes see the same images.
const SERVICE_STREAM: u64 = 0x5e2f_1ce0;
const LOSS_STREAM: u64 = 0x1055_e500;

/// What becomes of an image on a device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Way {
    /// Seconds until it is answered on the device or sent.
    pub local_seconds: f64,
    /// Whether it is to be sent.
    pub is_sent: bool,
    /// Whether the device's own word about it is right; none where no network has spoken.
    pub here: Option<bool>,
}

/// What becomes of the images of a trace under a policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Ways {
    /// By image: under the policy's one operating point, and under its other.
    pub ways: Vec<[Way; 2]>,
    /// Share of the images that the other decides about.
    pub share: f64,
    /// Whether the cloud is right, by image.
    pub cloud: Vec<bool>,
    /// Bytes that are sent, by image.
    pub bytes: Vec<u32>,
}

impl Ways {
    /// What becomes of an image that comes.
    pub fn of(&self, arrival: &Arrival) -> Way {
        self.ways[arrival.image as usize][usize::from(arrival.lot < self.share)]
    }
}

/// A server.
#[derive(Clone)]
pub struct Server<'a> {
    /// How requests wait and run together.
    pub rules: &'a Rules,
    /// How long batches take.
    pub service: &'a dyn Service,
    /// Requests whose images are decoded at a time.
    pub decoders: u32,
    /// Seconds to decode an image.
    pub decode_seconds: f64,
    /// Seconds of a call beside all else.
    pub call_seconds: f64,
}

/// What is simulated.
pub struct Scenario<'a> {
    /// What becomes of images.
    pub ways: &'a Ways,
    /// The link of every device.
    pub links: &'a [DeviceLink],
    /// What a call weighs.
    pub bytes: &'a Bytes,
    /// Number of servers.
    pub servers: u32,
    /// What each of them is.
    pub server: Server<'a>,
    /// Seconds from taking up an image to its answer.
    pub deadline: f64,
    /// Seconds after that in which a call goes on.
    pub late: f64,
    /// The seed.
    pub seed: u64,
}

/// Which images count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Images before them, which fill the fleet.
    pub warm_up: u64,
    /// How many.
    pub images: u64,
}

/// Takes the images of a fleet to their end.
///
/// # Panics
/// Where the arrivals are of other devices or images than the scenario, or end before the window does.
pub fn simulate(
    scenario: &Scenario<'_>,
    arrivals: impl Iterator<Item = Arrival>,
    window: Window,
) -> Measured {
    let mut simulation = Simulation::new(scenario, window);
    let mut arrivals = arrivals.peekable();
    while simulation.measured.unsettled() > 0 {
        let next_event = simulation.events.peek().map(|Reverse(event)| event.at);
        let next_arrival = arrivals.peek().map(|arrival| arrival.at);
        let is_arrival = match (next_event, next_arrival) {
            (Some(event), Some(arrival)) => arrival <= event,
            (None, Some(_)) => true,
            (Some(_), None) => false,
            (None, None) => panic!("the arrivals end before the window does"),
        };
        if is_arrival {
            let arrival = arrivals.next().expect("there is one");
            simulation.now = arrival.at.0;
            simulation.arrives(&arrival);
        } else if let Some(Reverse(event)) = simulation.events.pop() {
            simulation.now = event.at.0;
            simulation.happens(event.what);
        }
    }
    simulation.measured
}

/// Something that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// A device sends.
    Sends(u32),
    /// A request is at its server.
    Arrives(u32),
    /// Its image is decoded.
    Decoded(u32),
    /// A request has waited long enough for company at a server.
    Due(u32),
    /// A batch has run.
    Ran(u32),
    /// A reply is at its device.
    Replied(u32),
    /// A refusal is at its device.
    Refused(u32),
    /// The deadline of an image.
    Deadline(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    at: Time,
    /// Equal times happen in the order in which they were made.
    sequence: u64,
    what: What,
}

/// An image that is sent.
struct Call {
    /// Its number among all images.
    number: u64,
    device: u32,
    image: u32,
    taken: f64,
    here: Option<bool>,
    permit: Option<Permit>,
    /// Seconds that the server wants no call.
    pause: f64,
    has_retried: bool,
    is_answered: bool,
    /// When it came to its server.
    arrived: f64,
    /// What still refers to it: its deadline, and what goes on.
    holders: u8,
}

struct Device {
    /// When its networks are free.
    free_at: f64,
    /// When its uplink is free.
    uplink_free_at: f64,
}

struct Simulation<'a> {
    scenario: &'a Scenario<'a>,
    now: f64,
    /// Images so far.
    arrived: u64,
    sequence: u64,
    events: BinaryHeap<Reverse<Event>>,
    devices: Vec<Device>,
    /// Of devices that have been refused or left waiting; those of the others are closed.
    circuits: HashMap<u32, Circuit>,
    calls: Vec<Call>,
    free_calls: Vec<u32>,
    servers: Vec<ServerState>,
    batches: Vec<Batch>,
    free_batches: Vec<u32>,
    service_rng: Rng,
    loss_rng: Rng,
    dropped: Vec<u32>,
    measured: Measured,
}

impl<'a> Simulation<'a> {
    fn new(scenario: &'a Scenario<'a>, window: Window) -> Self {
        let devices = scenario.links.iter().map(|_| Device {
            free_at: 0.0,
            uplink_free_at: 0.0,
        });
        Self {
            scenario,
            now: 0.0,
            arrived: 0,
            sequence: 0,
            events: BinaryHeap::new(),
            devices: devices.collect(),
            circuits: HashMap::new(),
            calls: Vec::new(),
            free_calls: Vec::new(),
            servers: vec![ServerState::new(&scenario.server); scenario.servers as usize],
            batches: Vec::new(),
            free_batches: Vec::new(),
            service_rng: Rng::with_seed(scenario.seed ^ SERVICE_STREAM),
            loss_rng: Rng::with_seed(scenario.seed ^ LOSS_STREAM),
            dropped: Vec::new(),
            measured: Measured::new(window),
        }
    }

    fn at(&mut self, at: f64, what: What) {
        let event = Event {
            at: Time(at),
            sequence: self.sequence,
            what,
        };
        self.sequence += 1;
        self.events.push(Reverse(event));
    }

    fn server_of(&self, device: u32) -> u32 {
        device % self.scenario.servers
    }

    /// An image comes to a device, which works on it when it has done those before.
    fn arrives(&mut self, arrival: &Arrival) {
        let number = self.arrived;
        self.arrived += 1;
        self.measured.arrives(number, self.now);
        let way = self.scenario.ways.of(arrival);
        let device = &mut self.devices[arrival.device as usize];
        let done = device.free_at.max(self.now) + way.local_seconds;
        device.free_at = done;
        if !way.is_sent {
            let is_right = way.here.unwrap_or(false);
            self.measured.settle(
                number,
                Seen::new(done - self.now, How::Device, false, is_right),
            );
            return;
        }
        let call = Call {
            number,
            device: arrival.device,
            image: arrival.image,
            taken: self.now,
            here: way.here,
            permit: None,
            pause: 0.0,
            has_retried: false,
            is_answered: false,
            arrived: 0.0,
            holders: 2,
        };
        let call = match self.free_calls.pop() {
            Some(free) => {
                self.calls[free as usize] = call;
                free
            }
            None => {
                self.calls.push(call);
                (self.calls.len() - 1) as u32
            }
        };
        let deadline = self.now + self.scenario.deadline;
        self.at(done, What::Sends(call));
        // A device that is busy beyond the deadline still answers only when its network has spoken.
        self.at(deadline.max(done), What::Deadline(call));
    }

    fn happens(&mut self, what: What) {
        match what {
            What::Sends(call) => self.sends(call),
            What::Arrives(call) => self.is_at_server(call),
            What::Decoded(call) => self.is_decoded(call),
            What::Due(server) => self.is_due(server),
            What::Ran(batch) => self.ran(batch),
            What::Replied(call) => self.is_replied(call),
            What::Refused(call) => self.is_refused(call),
            What::Deadline(call) => {
                if !self.calls[call as usize].is_answered {
                    self.fall_back(call, How::Deadline);
                    self.with_circuit(call, |circuit, permit, now| circuit.failed(permit, now));
                }
                self.release(call);
            }
        }
    }

    /// Tells the circuit of a call's device what came of it; that of a device without one is closed, and learns only of
    /// failures.
    fn with_circuit(&mut self, call: u32, tell: impl FnOnce(&mut Circuit, Permit, Duration)) {
        let Call { permit, device, .. } = &mut self.calls[call as usize];
        if let Some(permit) = permit.take() {
            let circuit = self.circuits.entry(*device);
            let circuit = circuit.or_insert_with(|| Circuit::new(CircuitConfig::default()));
            tell(circuit, permit, Duration::from_secs_f64(self.now));
        }
    }

    /// The device sends a request, for the first time or again.
    fn sends(&mut self, call: u32) {
        let Call {
            device,
            image,
            taken,
            has_retried,
            ..
        } = self.calls[call as usize];
        if !has_retried {
            if self.now >= taken + self.scenario.deadline {
                // Its deadline, which is now, answers.
                return self.release(call);
            }
            let now = Duration::from_secs_f64(self.now);
            let permit = match self.circuits.get_mut(&device) {
                Some(circuit) => circuit.permit(now),
                None => Circuit::new(CircuitConfig::default()).permit(now),
            };
            match permit {
                Ok(permit) => self.calls[call as usize].permit = Some(permit),
                Err(refusal) => {
                    let how = match refusal {
                        Refusal::Open => How::CircuitOpen,
                        Refusal::Paused => How::Overloaded,
                    };
                    self.fall_back(call, how);
                    return self.release(call);
                }
            }
        }
        let link = &self.scenario.links[device as usize];
        let transfer = self
            .scenario
            .bytes
            .request(self.scenario.ways.bytes[image as usize]);
        let sending = &mut self.devices[device as usize];
        let begins = sending.uplink_free_at.max(self.now);
        sending.uplink_free_at = begins + link.uplink_seconds(transfer);
        let travels = link.one_way_seconds(transfer, &mut self.loss_rng);
        let arrives = sending.uplink_free_at + travels + self.scenario.server.call_seconds;
        self.at(arrives, What::Arrives(call));
    }

    /// When what a server sends now is at a device.
    fn back_at(&mut self, device: u32, transfer: Transfer) -> f64 {
        let link = &self.scenario.links[device as usize];
        self.now
            + link.downlink_seconds(transfer)
            + link.one_way_seconds(transfer, &mut self.loss_rng)
    }

    fn is_replied(&mut self, call: u32) {
        let Call {
            number,
            image,
            taken,
            is_answered,
            device,
            ..
        } = self.calls[call as usize];
        if is_answered {
            let patience = self.scenario.deadline + self.scenario.late;
            if self.now - taken < patience {
                self.measured.corrects(number);
            }
        } else {
            self.calls[call as usize].is_answered = true;
            let is_right = self.scenario.ways.cloud[image as usize];
            let seen = Seen::new(self.now - taken, How::Cloud, true, is_right);
            self.measured.settle(number, seen);
            // A circuit that nobody keeps is closed.
            if self.circuits.contains_key(&device) {
                self.with_circuit(call, |circuit, permit, _| circuit.succeeded(permit));
            }
        }
        self.release(call);
    }

    /// A refusal is at its device: it asks once more after the pause where the time allows, as the engine does.
    fn is_refused(&mut self, call: u32) {
        let scenario = self.scenario;
        let Call {
            device,
            taken,
            pause,
            has_retried,
            is_answered,
            ..
        } = self.calls[call as usize];
        let now = Duration::from_secs_f64(self.now);
        let circuit = self.circuits.entry(device);
        let circuit = circuit.or_insert_with(|| Circuit::new(CircuitConfig::default()));
        circuit.pause(now, Duration::from_secs_f64(pause));
        let left = taken + scenario.deadline + scenario.late - self.now;
        if !has_retried && pause < left {
            self.calls[call as usize].has_retried = true;
            return self.at(self.now + pause, What::Sends(call));
        }
        if !is_answered {
            // Who wants a pause is there.
            self.with_circuit(call, |circuit, permit, _| circuit.succeeded(permit));
            self.fall_back(call, How::Overloaded);
        }
        self.release(call);
    }

    /// The device's own word is the answer; without one there is none.
    fn fall_back(&mut self, call: u32, how: How) {
        let Call {
            number,
            taken,
            here,
            ref mut is_answered,
            ..
        } = self.calls[call as usize];
        *is_answered = true;
        let how = if here.is_some() { how } else { How::Unanswered };
        let seen = Seen::new(self.now - taken, how, true, here.unwrap_or(false));
        self.measured.settle(number, seen);
    }

    fn release(&mut self, call: u32) {
        let holders = &mut self.calls[call as usize].holders;
        *holders -= 1;
        if *holders == 0 {
            self.free_calls.push(call);
        }
    }
}

/// The arrivals of a plan, for the devices of a scenario.
pub(super) fn arrivals_of(plan: &ArrivalPlan, scenario: &Scenario<'_>) -> Arrivals {
    let devices = scenario.links.len() as u32;
    let images = scenario.ways.ways.len() as u32;
    Arrivals::new(plan, devices, images, scenario.seed)
}
