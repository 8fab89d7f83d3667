//! What a way through a cascade costs, and what that is worth.

/// The cost of getting from one node to another.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Step {
    /// Seconds of what runs in between, the link's round trip included.
    pub seconds: f64,
    /// Seconds on the link for every byte of the example; 0 within a site.
    pub seconds_per_byte: f64,
    /// Whether the example travels over a link.
    pub sends: bool,
}

/// The costs of all steps of a graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Costs {
    /// To the entry.
    pub entry: Step,
    /// For every node, to each of its successors.
    pub jumps: Vec<Vec<Step>>,
}

/// What a second and a byte are worth, in points of loss: the γ of the paper, for each.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Price {
    /// Loss, 0 to 1, that saving a second makes up for.
    pub per_second: f64,
    /// Loss, 0 to 1, that saving a byte on a link makes up for.
    pub per_byte: f64,
}

/// What an example has cost.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Spent {
    /// Seconds, of networks and links.
    pub seconds: f64,
    /// Of these, the seconds before it was sent.
    pub local_seconds: f64,
    /// Bytes over links.
    pub bytes: f64,
    is_sent: bool,
}

impl Spent {
    pub(crate) fn add(&mut self, step: &Step, payload_bytes: u32) {
        let payload = f64::from(payload_bytes);
        self.seconds += step.seconds + step.seconds_per_byte * payload;
        if step.sends {
            self.bytes += payload;
            self.is_sent = true;
        }
        if !self.is_sent {
            self.local_seconds = self.seconds;
        }
    }
}

impl Price {
    /// The price of a second alone.
    pub fn of_time(per_second: f64) -> Self {
        Self {
            per_second,
            per_byte: 0.0,
        }
    }

    /// What `spent` is worth, in points of loss.
    pub fn of(&self, spent: Spent) -> f64 {
        self.per_second * spent.seconds + self.per_byte * spent.bytes
    }

    /// What a step is worth for an example of that size.
    pub(crate) fn of_step(&self, step: &Step, payload_bytes: u32) -> f64 {
        let mut spent = Spent::default();
        spent.add(step, payload_bytes);
        self.of(spent)
    }

    /// Prices of time from 0 upwards: the cost of `dearest_seconds`, the longest way, is worth from a
    /// fifth of a point up to the whole of a loss, in equal factors. Less than that and no policy
    /// differs from that of price 0; more and all exit at once. `count` is 3 or more.
    pub fn sweep(count: usize, dearest_seconds: f64) -> Vec<Self> {
        let (least, most) = (0.002_f64, 1.0_f64);
        (0..count)
            .map(|i| match i {
                0 => Self::default(),
                _ => {
                    let share = (i - 1) as f64 / (count.max(3) - 2) as f64;
                    Self::of_time(least * (most / least).powf(share) / dearest_seconds.max(1e-12))
                }
            })
            .collect()
    }
}
