//! What happens at the servers of a simulated fleet: places, decoders, batches.

use std::collections::VecDeque;

use super::{Call, Server, Simulation, What};
use crate::fleet::batching::{Next, Pace, Queue, Waiting};

/// A server at a moment.
#[derive(Clone)]
pub(super) struct ServerState {
    queue: Queue,
    free_places: usize,
    free_decoders: u32,
    decoding: VecDeque<u32>,
    free_instances: u32,
    pace: Pace,
    /// When it looks next because of a delay.
    due: f64,
}

/// Requests that run together.
pub(super) struct Batch {
    server: u32,
    seconds: f64,
    calls: Vec<u32>,
}

impl ServerState {
    /// One with nothing to do.
    pub(super) fn new(server: &Server<'_>) -> Self {
        Self {
            queue: Queue::new(),
            free_places: server.rules.max_queue,
            free_decoders: server.decoders,
            decoding: VecDeque::new(),
            free_instances: server.rules.instances,
            pace: Pace::default(),
            due: f64::INFINITY,
        }
    }
}

impl Simulation<'_> {
    /// A request has waited long enough for company.
    pub(super) fn is_due(&mut self, server: u32) {
        self.servers[server as usize].due = f64::INFINITY;
        self.run_what_may(server);
    }

    /// A request is at its server, which has places for it or not.
    pub(super) fn is_at_server(&mut self, call: u32) {
        let Call { device, image, .. } = self.calls[call as usize];
        let transfer = self
            .scenario
            .bytes
            .request(self.scenario.ways.bytes[image as usize]);
        self.measured.receives(transfer.wire_bytes, self.now);
        let server = self.server_of(device);
        if self.servers[server as usize].free_places == 0 {
            // Those that nobody waits for any more make room.
            let now = self.now;
            self.servers[server as usize]
                .queue
                .drop_useless(now, &mut self.dropped);
            self.let_go(server);
        }
        let state = &mut self.servers[server as usize];
        if state.free_places == 0 {
            self.calls[call as usize].pause = state.pace.retry_after(self.scenario.server.rules);
            let back = self.back_at(device, self.scenario.bytes.refusal());
            return self.at(back, What::Refused(call));
        }
        state.free_places -= 1;
        self.calls[call as usize].arrived = self.now;
        self.measured.enters(self.now);
        state.decoding.push_back(call);
        self.decode_what_may(server);
    }

    fn decode_what_may(&mut self, server: u32) {
        while self.servers[server as usize].free_decoders > 0 {
            let state = &mut self.servers[server as usize];
            let Some(call) = state.decoding.pop_front() else {
                return;
            };
            if self.useless_at(call) <= self.now {
                self.dropped.push(call);
                self.let_go(server);
                continue;
            }
            self.servers[server as usize].free_decoders -= 1;
            let decoded = self.now + self.scenario.server.decode_seconds;
            self.at(decoded, What::Decoded(call));
        }
    }

    /// When a server knows that nobody waits for a call any more.
    fn useless_at(&self, call: u32) -> f64 {
        let Call { taken, device, .. } = self.calls[call as usize];
        let link = &self.scenario.links[device as usize];
        taken + self.scenario.deadline + self.scenario.late + link.half_round_trip()
    }

    /// An image is decoded, and waits for the network.
    pub(super) fn is_decoded(&mut self, call: u32) {
        let server = self.server_of(self.calls[call as usize].device);
        let waiting = Waiting {
            call,
            joined: self.now,
            deadline: self.useless_at(call),
        };
        let state = &mut self.servers[server as usize];
        state.free_decoders += 1;
        state.queue.push(waiting);
        self.run_what_may(server);
        self.decode_what_may(server);
    }

    /// Frees the places of those that a server has dropped.
    fn let_go(&mut self, server: u32) {
        while let Some(call) = self.dropped.pop() {
            self.servers[server as usize].free_places += 1;
            self.measured
                .leaves(self.calls[call as usize].arrived, self.now);
            self.release(call);
        }
    }

    /// Free instances of a server take what may run.
    fn run_what_may(&mut self, server: u32) {
        let scenario = self.scenario;
        loop {
            let state = &mut self.servers[server as usize];
            if state.free_instances == 0 {
                return;
            }
            let rules = scenario.server.rules;
            let next = state
                .queue
                .next(self.now, state.pace.0, rules, &mut self.dropped);
            match next {
                Next::Run(count) => {
                    let mut calls = Vec::new();
                    let reused = self.free_batches.pop();
                    if let Some(free) = reused {
                        calls = std::mem::take(&mut self.batches[free as usize].calls);
                        calls.clear();
                    }
                    state.queue.take(count, &mut calls);
                    state.free_places += count;
                    state.free_instances -= 1;
                    let seconds = scenario
                        .server
                        .service
                        .seconds(count, &mut self.service_rng);
                    self.measured.runs(count, seconds);
                    let batch = Batch {
                        server,
                        seconds,
                        calls,
                    };
                    let place = match reused {
                        Some(free) => {
                            self.batches[free as usize] = batch;
                            free
                        }
                        None => {
                            self.batches.push(batch);
                            (self.batches.len() - 1) as u32
                        }
                    };
                    self.at(self.now + seconds, What::Ran(place));
                    self.let_go(server);
                }
                Next::WaitUntil(due) => {
                    if due < state.due {
                        state.due = due;
                        self.at(due, What::Due(server));
                    }
                    return self.let_go(server);
                }
                Next::Wait => return self.let_go(server),
            }
        }
    }

    /// A batch has run.
    pub(super) fn ran(&mut self, batch: u32) {
        let Batch {
            server,
            seconds,
            ref mut calls,
        } = self.batches[batch as usize];
        let calls = std::mem::take(calls);
        let state = &mut self.servers[server as usize];
        state.pace.keep(seconds, calls.len());
        state.free_instances += 1;
        for &call in &calls {
            let Call {
                device, arrived, ..
            } = self.calls[call as usize];
            self.measured.leaves(arrived, self.now);
            let back = self.back_at(device, self.scenario.bytes.reply());
            self.at(back, What::Replied(call));
        }
        self.batches[batch as usize].calls = calls;
        self.free_batches.push(batch);
        self.run_what_may(server);
    }
}
