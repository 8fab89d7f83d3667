//! How many servers a number of devices needs, and what one such fleet comes to.

use std::collections::BTreeMap;

use super::{
    batching::Rules,
    links::{self, Bytes, DeviceLink},
    plan::Plan,
    service::ServiceTimes,
    simulation::{How, Scenario, Seen, Server, Window, arrivals_of, simulate},
    statistics::{Estimate, estimate, mean, percentile},
    workload::{Kind, Policy},
};

/// A server that is busy for less of its time makes nobody wait to speak of.
const PLENTY: f64 = 0.2;
/// Runs with one server more each that are tried where a longer run says that a fleet is too small after all.
const MOST_STEPS: u32 = 8;

/// What a fleet of a plan is made of, apart from the number of devices.
pub struct Parts<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// Its rules of batching.
    pub rules: Rules,
    /// Its times of batches.
    pub service: ServiceTimes,
    /// What its calls weigh.
    pub bytes: Bytes,
}

/// What so many servers come to.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Number of servers.
    pub servers: u32,
    /// Images that were looked at.
    pub images: u64,
    /// Simulated seconds from the first of them to the last.
    pub seconds: f64,
    /// Share of the images that are to be sent for which the cloud's answer is there in the time of the target; none where none is.
    pub in_time: Option<Estimate>,
    /// Seconds from taking up an image that is to be sent to its answer, whoever gives it.
    pub sent_p50: Option<Estimate>,
    /// The same, what 95 % do not exceed.
    pub sent_p95: Option<Estimate>,
    /// The same, what 99 % do not exceed.
    pub sent_p99: Option<Estimate>,
    /// Mean seconds of all images.
    pub mean: Option<Estimate>,
    /// What 99 % of all images do not exceed, in seconds.
    pub p99: Option<Estimate>,
    /// Share of right answers.
    pub accuracy: f64,
    /// Shares of all images, by what became of them.
    pub shares: Shares,
    /// Bytes a second that come to the servers in the busiest hour, with what carries them.
    pub ingress: f64,
    /// The most of them in a second.
    pub peak_ingress: Option<f64>,
    /// Mean images of a batch.
    pub mean_batch: Option<f64>,
    /// Share of the time that the servers' instances work.
    pub utilisation: f64,
}

/// Shares of all images; together 1.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Shares {
    /// The device, by its policy.
    pub device: f64,
    /// The cloud, in time.
    pub cloud: f64,
    /// The device, in place of the cloud.
    pub fallback: f64,
    /// Nobody.
    pub unanswered: f64,
}

/// A fleet for so many devices.
#[derive(Debug, Clone, PartialEq)]
pub struct Sized {
    /// Number of devices.
    pub devices: u32,
    /// Fewest servers for which the target may hold; none where it does with no number.
    pub least: Option<u32>,
    /// What it comes to: the fewest servers for which the target holds with 95 % confidence, the number of the plan, or as many
    /// as leave nobody waiting where the target does not hold even so.
    pub run: Run,
    /// Whether the target holds, at that confidence.
    pub holds: bool,
    /// Dollars, or what the plan's prices are in, for a million images.
    pub cost_per_million: f64,
    /// Of these, for bytes.
    pub ingress_cost_per_million: f64,
}

impl<'a> Parts<'a> {
    /// The parts of a plan.
    pub fn new(plan: &'a Plan, service: ServiceTimes) -> Self {
        Self {
            rules: rules(plan),
            service,
            bytes: Bytes::new(plan.bytes.clone()),
            plan,
        }
    }

    /// The fleet that so many devices need under a policy.
    pub fn size(&self, policy: &Policy, devices: u32) -> Sized {
        let mut search = Search {
            parts: self,
            policy,
            links: links::draw(&self.plan.link, devices, self.plan.seed),
            runs: BTreeMap::new(),
        };
        let (least, servers) = match (policy.kind, self.plan.server.count) {
            (Kind::DeviceOnly, _) => (Some(0), 0),
            (_, Some(count)) => (None, count),
            (_, None) => search.fewest(),
        };
        let run = search.run_to_precision(servers);
        let (run, holds) = search.confirmed(run, self.plan.server.count.is_none());
        let price = &self.plan.prices;
        let hourly = f64::from(devices) * self.plan.arrivals.per_device_hour;
        let busiest = hourly * self.plan.arrivals.peak_over_mean / 3600.0;
        let gigabytes = run.ingress / busiest / 1e9;
        let ingress = 1e6 * gigabytes * price.ingress_gb;
        let of_servers = 1e6 * f64::from(run.servers) * price.server_hour / hourly;
        Sized {
            devices,
            least: match holds {
                true => least.or(Some(run.servers)),
                false => None,
            },
            holds,
            cost_per_million: of_servers + ingress,
            ingress_cost_per_million: ingress,
            run,
        }
    }

    /// How many servers the work of a policy would keep busy all the time.
    fn load(&self, policy: &Policy, devices: u32) -> f64 {
        let plan = self.plan;
        let per_second = f64::from(devices) * plan.arrivals.per_device_hour / 3600.0
            * plan.arrivals.peak_over_mean
            * policy.offload_rate;
        let most = self.service.most_per_second(self.rules.max_batch);
        let networks = per_second / (most * f64::from(self.rules.instances));
        let decoders = per_second * plan.server.decode_ms / 1e3 / f64::from(plan.server.decoders);
        networks.max(decoders)
    }
}

/// The rules of batching of a plan.
pub fn rules(plan: &Plan) -> Rules {
    Rules {
        max_batch: plan.server.max_batch,
        max_delay: plan.server.max_delay_ms / 1e3,
        preferred: plan.server.preferred.clone(),
        max_queue: plan.server.max_queue,
        instances: plan.server.instances,
    }
}

struct Search<'a> {
    parts: &'a Parts<'a>,
    policy: &'a Policy,
    links: Vec<DeviceLink>,
    /// By the number of servers.
    runs: BTreeMap<u32, Run>,
}

impl Search<'_> {
    /// Simulates so many servers and images.
    fn simulate(&self, servers: u32, images: u64) -> Run {
        let plan = self.parts.plan;
        let scenario = Scenario {
            ways: &self.policy.ways,
            links: &self.links,
            bytes: &self.parts.bytes,
            servers,
            server: Server {
                rules: &self.parts.rules,
                service: &self.parts.service,
                decoders: plan.server.decoders,
                decode_seconds: plan.server.decode_ms / 1e3,
                call_seconds: plan.server.call_ms / 1e3,
            },
            deadline: plan.device.deadline_ms / 1e3,
            late: plan.device.correct_within_ms / 1e3,
            seed: plan.seed,
        };
        let window = Window {
            warm_up: self.warm_up(images),
            images,
        };
        let arrivals = arrivals_of(&plan.arrivals, &scenario);
        let measured = simulate(&scenario, arrivals, window);
        let seen: Vec<Seen> = measured.seen().copied().collect();
        let sent: Vec<Seen> = seen.iter().copied().filter(|s| s.was_to_be_sent).collect();
        let within = (plan.target.within_ms / 1e3) as f32;
        let is_in_time = |s: &Seen| s.how == How::Cloud && s.latency <= within;
        let share = |s: &[Seen], is: &dyn Fn(&Seen) -> bool| {
            mean(s.iter().map(|s| f64::from(u8::from(is(s)))))
        };
        let latencies = |s: &[Seen]| s.iter().map(|s| f64::from(s.latency)).collect::<Vec<_>>();
        let nth = |s: &[Seen], percent| percentile(latencies(s), percent);
        let of_all = |how: &[How]| {
            let count: u64 = how.iter().map(|&how| measured.count(how)).sum();
            count as f64 / seen.len() as f64
        };
        Run {
            servers,
            images,
            seconds: measured.seconds(),
            in_time: estimate(&sent, |s| share(s, &is_in_time)),
            sent_p50: estimate(&sent, |s| nth(s, 50)),
            sent_p95: estimate(&sent, |s| nth(s, 95)),
            sent_p99: estimate(&sent, |s| nth(s, 99)),
            mean: estimate(&seen, |s| mean(latencies(s))),
            p99: estimate(&seen, |s| nth(s, 99)),
            accuracy: share(&seen, &|s| s.is_right).unwrap_or(0.0),
            shares: Shares {
                device: of_all(&[How::Device]),
                cloud: of_all(&[How::Cloud]),
                fallback: of_all(&[How::Deadline, How::Overloaded, How::CircuitOpen]),
                unanswered: of_all(&[How::Unanswered]),
            },
            ingress: measured.ingress_bytes_per_second(),
            peak_ingress: measured.peak_ingress_bytes().map(|bytes| bytes as f64),
            mean_batch: measured.mean_batch(),
            utilisation: match servers {
                0 => 0.0,
                _ => measured.utilisation(servers * self.parts.rules.instances),
            },
        }
    }

    /// Images a second in the busiest hour.
    fn per_second(&self) -> f64 {
        let arrivals = &self.parts.plan.arrivals;
        self.links.len() as f64 * arrivals.per_device_hour * arrivals.peak_over_mean / 3600.0
    }

    /// Images that fill the fleet: a tenth of those that count, and those of a third of the least time, of twice the longest
    /// that an image lasts, and of fifty images on a device.
    fn warm_up(&self, images: u64) -> u64 {
        let plan = self.parts.plan;
        let longest = (plan.device.deadline_ms + plan.device.correct_within_ms) / 1e3;
        let fills = (2.0 * longest)
            .max(50.0 * self.policy.device_seconds)
            .max(plan.simulation.seconds / 3.0);
        (images / 10).max((self.per_second() * fills).ceil() as u64)
    }

    /// Images of the shortest run.
    fn least_images(&self) -> u64 {
        let plan = &self.parts.plan.simulation;
        plan.images
            .max((self.per_second() * plan.seconds).ceil() as u64)
    }

    fn short_run(&mut self, servers: u32) -> Run {
        if let Some(run) = self.runs.get(&servers) {
            return run.clone();
        }
        let run = self.simulate(servers, self.least_images());
        self.runs.insert(servers, run.clone());
        run
    }

    /// A run with as many images as the wanted precision takes.
    fn run_to_precision(&mut self, servers: u32) -> Run {
        let wanted = &self.parts.plan.simulation;
        let mut run = self.short_run(servers);
        loop {
            let narrow = |p99: Option<Estimate>| {
                p99.is_some_and(|p99| p99.relative_half_width() <= wanted.precision)
            };
            let is_precise = match self.policy.offload_rate > 0.0 {
                true => narrow(run.sent_p99) && run.in_time.is_some(),
                false => narrow(run.p99),
            };
            if is_precise || run.images * 2 > wanted.most_images {
                return run;
            }
            run = self.simulate(servers, run.images * 2);
        }
    }

    /// A run in which the target holds with confidence, from the given one on; and whether it does.
    fn confirmed(&mut self, mut run: Run, may_grow: bool) -> (Run, bool) {
        if self.policy.offload_rate <= 0.0 {
            return (run, true);
        }
        let share = self.parts.plan.target.share;
        let first = run.clone();
        for _ in 0..MOST_STEPS {
            if surely(&run, share) {
                return (run, true);
            }
            if !may_grow {
                break;
            }
            run = self.run_to_precision(run.servers + 1);
        }
        (first, false)
    }

    /// The fewest servers for which the target may hold, and the fewest for which it surely does: by doubling and halving,
    /// as more servers never make images later.
    fn fewest(&mut self) -> (Option<u32>, u32) {
        let share = self.parts.plan.target.share;
        let load = self.parts.load(self.policy, self.links.len() as u32);
        // With no more than their load, queues would grow without end.
        let lowest = load.floor() as u32 + 1;
        let plenty = (load / PLENTY).ceil() as u32 + 1;
        if !surely(&self.short_run(plenty), share) {
            return (None, plenty);
        }
        let may = self.first_of(lowest, plenty, |run| possibly(run, share));
        let sure = self.first_of(may, plenty, |run| surely(run, share));
        (Some(may), sure)
    }

    /// The smallest number from `low` to `high` that is enough; `high` is.
    fn first_of(&mut self, mut low: u32, mut high: u32, is_enough: impl Fn(&Run) -> bool) -> u32 {
        // Most fleets need little more than their load.
        let mut step = 0;
        while low + step < high {
            let probed = low + step;
            if is_enough(&self.short_run(probed)) {
                high = probed;
                break;
            }
            low = probed + 1;
            step = (2 * step).max(1);
        }
        while low < high {
            let middle = low + (high - low) / 2;
            match is_enough(&self.short_run(middle)) {
                true => high = middle,
                false => low = middle + 1,
            }
        }
        low
    }
}

fn surely(run: &Run, share: f64) -> bool {
    // A part in which no image is to be sent tells nothing.
    run.in_time.is_some_and(|in_time| in_time.low >= share)
}

fn possibly(run: &Run, share: f64) -> bool {
    run.in_time.is_some_and(|in_time| in_time.high >= share)
}
