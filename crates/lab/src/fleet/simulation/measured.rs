//! What is seen of a simulated fleet.

use super::Window;

/// What became of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// The device answered by its policy.
    Device,
    /// The cloud answered in time.
    Cloud,
    /// The device answered, as the cloud had not by the deadline.
    Deadline,
    /// The device answered, as the cloud had too much to do.
    Overloaded,
    /// The device answered, as its circuit was open.
    CircuitOpen,
    /// Nobody answered: the cloud did not, and the device has no network.
    Unanswered,
}

/// One image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seen {
    /// Seconds from taking it up to its answer, or until it was given up.
    pub latency: f32,
    /// What became of it.
    pub how: How,
    /// Whether it was to be sent.
    pub was_to_be_sent: bool,
    /// Whether its answer is right.
    pub is_right: bool,
}

impl Seen {
    pub(super) fn new(latency: f64, how: How, was_to_be_sent: bool, is_right: bool) -> Self {
        Self {
            latency: latency as f32,
            how,
            was_to_be_sent,
            is_right,
        }
    }
}

/// What became of the images of a window, and what the servers did from the first of them to the last.
#[derive(Debug, Clone)]
pub struct Measured {
    window: Window,
    /// In the order in which they came.
    seen: Vec<Option<Seen>>,
    unsettled: u64,
    /// When the first came, and the last, once they have.
    first: Option<f64>,
    last: Option<f64>,
    wire_bytes: u64,
    bytes_by_second: Vec<u64>,
    batches: u64,
    batch_images: u64,
    busy_seconds: f64,
    /// Calls at servers now, and since when.
    at_servers: u64,
    changed: f64,
    call_seconds: f64,
    left: u64,
    stayed_seconds: f64,
    corrected: u64,
}

impl Measured {
    pub(super) fn new(window: Window) -> Self {
        Self {
            window,
            seen: vec![None; window.images as usize],
            unsettled: window.images,
            first: None,
            last: None,
            wire_bytes: 0,
            bytes_by_second: Vec::new(),
            batches: 0,
            batch_images: 0,
            busy_seconds: 0.0,
            at_servers: 0,
            changed: 0.0,
            call_seconds: 0.0,
            left: 0,
            stayed_seconds: 0.0,
            corrected: 0,
        }
    }

    /// Images whose end is not known.
    pub(super) fn unsettled(&self) -> u64 {
        self.unsettled
    }

    fn place(&self, number: u64) -> Option<usize> {
        let place = number.checked_sub(self.window.warm_up)?;
        (place < self.window.images).then_some(place as usize)
    }

    pub(super) fn arrives(&mut self, number: u64, now: f64) {
        if number == self.window.warm_up {
            self.first = Some(now);
            self.changed = now;
        }
        if number + 1 == self.window.warm_up + self.window.images {
            self.count_calls(now);
            self.last = Some(now);
        }
    }

    fn is_open(&self) -> bool {
        self.first.is_some() && self.last.is_none()
    }

    pub(super) fn settle(&mut self, number: u64, seen: Seen) {
        if let Some(place) = self.place(number) {
            debug_assert!(self.seen[place].is_none(), "an image has one end");
            self.seen[place] = Some(seen);
            self.unsettled -= 1;
        }
    }

    pub(super) fn corrects(&mut self, number: u64) {
        self.corrected += u64::from(self.place(number).is_some());
    }

    pub(super) fn receives(&mut self, wire_bytes: u64, now: f64) {
        if let (Some(first), None) = (self.first, self.last) {
            self.wire_bytes += wire_bytes;
            let second = (now - first) as usize;
            if self.bytes_by_second.len() <= second {
                self.bytes_by_second.resize(second + 1, 0);
            }
            self.bytes_by_second[second] += wire_bytes;
        }
    }

    pub(super) fn enters(&mut self, now: f64) {
        self.count_calls(now);
        self.at_servers += 1;
    }

    pub(super) fn leaves(&mut self, arrived: f64, now: f64) {
        self.count_calls(now);
        self.at_servers -= 1;
        if self.is_open() {
            self.left += 1;
            self.stayed_seconds += now - arrived;
        }
    }

    fn count_calls(&mut self, now: f64) {
        if self.is_open() {
            self.call_seconds += self.at_servers as f64 * (now - self.changed);
        }
        self.changed = now;
    }

    pub(super) fn runs(&mut self, images: usize, seconds: f64) {
        if self.is_open() {
            self.batches += 1;
            self.batch_images += images as u64;
            self.busy_seconds += seconds;
        }
    }

    /// The images, in the order in which they came.
    pub fn seen(&self) -> impl Iterator<Item = &Seen> {
        self.seen.iter().flatten()
    }

    /// Seconds from the first image to the last.
    pub fn seconds(&self) -> f64 {
        match (self.first, self.last) {
            (Some(first), Some(last)) => last - first,
            _ => 0.0,
        }
    }

    /// Images that ended so.
    pub fn count(&self, how: How) -> u64 {
        self.seen().filter(|seen| seen.how == how).count() as u64
    }

    /// Bytes a second that come to the servers, with what carries them.
    pub fn ingress_bytes_per_second(&self) -> f64 {
        self.wire_bytes as f64 / self.seconds()
    }

    /// The most of them in a whole second; none in a window of less than two.
    pub fn peak_ingress_bytes(&self) -> Option<u64> {
        let whole = self.bytes_by_second.len().checked_sub(1)?;
        self.bytes_by_second[..whole].iter().max().copied()
    }

    /// Mean images of a batch; none where there was none.
    pub fn mean_batch(&self) -> Option<f64> {
        (self.batches > 0).then(|| self.batch_images as f64 / self.batches as f64)
    }

    /// Share of the time that instances of the servers are at work.
    pub fn utilisation(&self, instances: u32) -> f64 {
        self.busy_seconds / (self.seconds() * f64::from(instances))
    }

    /// Calls at the servers, a mean over time.
    pub fn mean_at_servers(&self) -> f64 {
        self.call_seconds / self.seconds()
    }

    /// Mean seconds of a call at its server.
    pub fn mean_stay(&self) -> f64 {
        self.stayed_seconds / self.left as f64
    }

    /// Calls a second that leave the servers.
    pub fn leaving_per_second(&self) -> f64 {
        self.left as f64 / self.seconds()
    }

    /// Fallback answers that the cloud corrected later.
    pub fn corrected(&self) -> u64 {
        self.corrected
    }
}
