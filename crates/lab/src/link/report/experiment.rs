//! An experiment as its folder has it, and which of its runs are compared with which.

use std::path::Path;

use super::{
    super::{
        plan::{Plan, Policy},
        profile::{Condition, Event, Profile, Profiles, profiles},
        rows::{Origin, Record, Row, RowsError, Store},
    },
    ReportError,
};

/// Bytes of an image where none was sent.
const SOME_IMAGE: f64 = 100e3;
/// The profile that "4G and worse" goes by.
const BAD: &str = "4g-good";

/// A run with its images.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Measured {
    pub(super) record: Record,
    pub(super) rows: Vec<Row>,
}

impl Measured {
    /// Mean bytes that a request had.
    fn sent(&self) -> impl Iterator<Item = f64> {
        let sent = self.rows.iter().filter(|row| row.is_offloaded());
        sent.map(|row| f64::from(row.bytes_sent))
    }
}

/// All that policies which are compared share.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Setting {
    pub(super) cascade: String,
    pub(super) profile: String,
    pub(super) transport: &'static str,
    pub(super) payload: String,
    pub(super) arrivals: String,
    pub(super) concurrency: u32,
}

impl Setting {
    fn of(record: &Record) -> Self {
        let run = &record.run;
        Self {
            cascade: run.cascade.clone(),
            profile: run.profile.clone(),
            transport: run.transport.as_str(),
            payload: run.payload.clone(),
            arrivals: run.arrivals.to_string(),
            concurrency: run.concurrency,
        }
    }

    /// The same by another transport.
    pub(super) fn by(&self, transport: &'static str) -> Self {
        Self {
            transport,
            ..self.clone()
        }
    }
}

/// Everything that a report is made of.
#[derive(Debug, Clone)]
pub(super) struct Experiment {
    pub(super) origin: Origin,
    pub(super) plan: Plan,
    pub(super) profiles: Profiles,
    /// Runs whose path was as its profile says.
    pub(super) runs: Vec<Measured>,
    /// Runs whose path was not.
    pub(super) void: Vec<Record>,
    /// Profiles of those runs, the best first, those that change last.
    pub(super) order: Vec<String>,
    /// Settings in which something may be sent, in the order of cascades and profiles.
    pub(super) settings: Vec<Setting>,
    /// Mean bytes of what was sent in one request.
    pub(super) image_bytes: f64,
}

impl Experiment {
    /// Reads the experiment of a folder.
    pub(super) fn load(store: &Store) -> Result<Self, ReportError> {
        if !store.path("origin.json").exists() {
            return Err(ReportError::None(store.path("")));
        }
        let origin = store.origin()?;
        let profiles = profiles(origin.profiles.as_deref())?;
        let plan = Plan::parse(&origin.plan, &store.path("origin.json"), &profiles)?;
        let (mut runs, mut void) = (Vec::new(), Vec::new());
        for record in store.records()? {
            let rows = store.rows(&record.run.id)?;
            check(store, &record, &rows, &plan, &profiles)?;
            match record.path.holds {
                true => runs.push(Measured { record, rows }),
                false => void.push(record),
            }
        }
        if runs.is_empty() && void.is_empty() {
            return Err(ReportError::Empty(store.path("")));
        }
        Ok(Self::new(origin, plan, profiles, runs, void))
    }

    /// Of what was read.
    pub(super) fn new(
        origin: Origin,
        plan: Plan,
        profiles: Profiles,
        runs: Vec<Measured>,
        void: Vec<Record>,
    ) -> Self {
        let sent: Vec<f64> = runs.iter().flat_map(Measured::sent).collect();
        let image_bytes = match sent.len() {
            0 => SOME_IMAGE,
            count => sent.iter().sum::<f64>() / count as f64,
        };
        let mut order: Vec<String> = Vec::new();
        for run in &runs {
            let name = &run.record.run.profile;
            if !order.contains(name) {
                order.push(name.clone());
            }
        }
        order.sort_by(|a, b| {
            let key = |name: &String| {
                let profile = &profiles[name];
                let condition = profile.condition;
                let changes = !profile.changes.is_empty();
                (changes, badness(&condition, image_bytes), condition.loss)
            };
            let (a, b) = (key(a), key(b));
            let by_time = a.0.cmp(&b.0).then(a.1.total_cmp(&b.1));
            by_time.then(a.2.total_cmp(&b.2))
        });
        let mut all = Self {
            origin,
            plan,
            profiles,
            runs,
            void,
            order,
            settings: Vec::new(),
            image_bytes,
        };
        all.settings = all.settings();
        all
    }

    fn settings(&self) -> Vec<Setting> {
        let mut settings: Vec<Setting> = Vec::new();
        for run in &self.runs {
            let setting = Setting::of(&run.record);
            if may_send(&run.record.run.policy) && !settings.contains(&setting) {
                settings.push(setting);
            }
        }
        let place = |setting: &Setting| {
            let cascades = self.plan.cascades.iter();
            let cascade = cascades.map(|cascade| &cascade.name);
            let profiles = self.order.iter();
            (
                cascade.take_while(|name| **name != setting.cascade).count(),
                profiles
                    .take_while(|name| **name != setting.profile)
                    .count(),
                setting.payload.clone(),
                setting.arrivals.clone(),
                setting.concurrency,
                setting.transport,
            )
        };
        settings.sort_by_key(place);
        settings
    }

    /// Runs of a policy in a setting, a repeat each. Nothing is sent by the device alone, so that its runs are of all transports
    /// and payloads.
    pub(super) fn of(&self, setting: &Setting, policy: &Policy) -> Vec<&Measured> {
        let runs = self.runs.iter().filter(|measured| {
            let run = &measured.record.run;
            let found = Setting::of(&measured.record);
            let found = match may_send(policy) {
                true => found,
                false => Setting {
                    transport: setting.transport,
                    payload: setting.payload.clone(),
                    ..found
                },
            };
            run.policy == *policy && found == *setting
        });
        let mut runs: Vec<&Measured> = runs.collect();
        runs.sort_by_key(|measured| measured.record.run.repeat);
        runs
    }

    /// Policies that were run in a setting, in the order of the plan.
    pub(super) fn policies(&self, setting: &Setting) -> Vec<Policy> {
        let of_plan = self.policies_of(&setting.cascade).into_iter();
        of_plan
            .filter(|policy| !self.of(setting, policy).is_empty())
            .collect()
    }

    /// Policies of a cascade, in the order of the plan.
    pub(super) fn policies_of(&self, cascade: &str) -> Vec<Policy> {
        let mut policies: Vec<Policy> = Vec::new();
        let of_plan = self.plan.cascade(cascade).into_iter();
        for policy in of_plan.flat_map(|cascade| &cascade.policies) {
            if !policies.contains(policy) {
                policies.push(policy.clone());
            }
        }
        policies
    }

    /// Settings of a cascade whose path stays as it is, or changes.
    pub(super) fn settings_of(&self, cascade: &str, changing: bool) -> Vec<&Setting> {
        let of = |setting: &&Setting| {
            setting.cascade == cascade && self.changes(&setting.profile) == changing
        };
        self.settings.iter().filter(of).collect()
    }

    /// Whether a profile changes while it is run.
    pub(super) fn changes(&self, profile: &str) -> bool {
        !self.profiles[profile].changes.is_empty()
    }

    /// The transport that plots are of where there are several: HTTP/3 where it was run.
    pub(super) fn transport(&self) -> &'static str {
        let is_h3 = |setting: &Setting| setting.transport == "h3";
        match self.settings.iter().any(is_h3) || self.settings.is_empty() {
            true => "h3",
            false => "h2",
        }
    }

    /// Whether a path is no better than LTE near the mast.
    pub(super) fn is_bad(&self, profile: &str) -> bool {
        let of = |name: &str| {
            let condition = self.profiles.get(name).map(|profile| &profile.condition);
            condition.map_or(f64::INFINITY, |c| badness(c, self.image_bytes))
        };
        of(profile) >= of(BAD)
    }

    /// Milliseconds to the deadline of a cascade's images.
    pub(super) fn deadline_ms(&self, cascade: &str) -> f64 {
        let cascade = self.plan.cascade(cascade);
        cascade.map_or(f64::INFINITY, |cascade| cascade.deadline_ms as f64)
    }

    /// Names of cascades that were run.
    pub(super) fn cascades(&self) -> Vec<&str> {
        let was_run = |name: &&str| self.runs.iter().any(|run| run.record.run.cascade == **name);
        let names = self
            .plan
            .cascades
            .iter()
            .map(|cascade| cascade.name.as_str());
        names.filter(was_run).collect()
    }

    /// A setting in few words: the profile, and what else tells it from others.
    pub(super) fn words(&self, setting: &Setting) -> String {
        let mut words = setting.profile.clone();
        let several = |of: &dyn Fn(&Setting) -> String| {
            let same = self.settings.iter().filter(|other| {
                other.profile == setting.profile && other.cascade == setting.cascade
            });
            same.map(of).any(|other| other != of(setting))
        };
        if several(&|s| s.payload.clone()) {
            words += &format!(", {}", setting.payload);
        }
        if several(&|s| s.arrivals.clone()) {
            words += &format!(", {}", setting.arrivals);
        }
        if several(&|s| s.concurrency.to_string()) {
            words += &format!(", {} callers", setting.concurrency);
        }
        words
    }
}

/// Whether a policy ever sends an image.
pub(super) fn may_send(policy: &Policy) -> bool {
    *policy != Policy::DeviceOnly
}

/// Milliseconds that an image of so many bytes takes at the least to go there and its answer back.
pub(super) fn badness(condition: &Condition, bytes: f64) -> f64 {
    let uplink = condition
        .uplink_mbps
        .map_or(0.0, |mbps| 8.0 * bytes / (1e3 * mbps));
    condition.round_trip_ms + uplink
}

/// Times in milliseconds at which `is` happened in a run.
pub(super) fn times(record: &Record, is: Event) -> impl Iterator<Item = f64> {
    let word = is.to_string();
    let changes = record.changes.iter();
    changes.filter_map(move |(at, what)| (*what == word).then_some(*at))
}

/// Whether such an event is among the changes of a profile.
pub(super) fn has(profile: &Profile, is: Event) -> bool {
    profile.changes.iter().any(|change| change.what == is)
}

/// Refuses a run that is not whole, or not of this plan.
fn check(
    store: &Store,
    record: &Record,
    rows: &[Row],
    plan: &Plan,
    profiles: &Profiles,
) -> Result<(), ReportError> {
    let run = &record.run;
    let at = |extension: &str| {
        let runs = store.path("runs");
        runs.join(format!("{}.{extension}", run.id))
    };
    let foreign = |path: &Path, problem: String| {
        let path = path.to_owned();
        Err(RowsError::Foreign { path, problem }.into())
    };
    if plan.cascade(&run.cascade).is_none() || !profiles.contains_key(&run.profile) {
        let problem = "the plan has no such cascade or profile".to_owned();
        return foreign(&at("json"), problem);
    }
    if let Some(row) = rows.iter().find(|row| row.run != run.id) {
        return foreign(&at("csv"), format!("it has a row of the run {:?}", row.run));
    }
    let unanswered = rows.iter().filter(|row| row.class.is_none()).count();
    if unanswered != record.unanswered as usize {
        let problem = format!(
            "{unanswered} of its images have no answer, where its record says {}",
            record.unanswered
        );
        return foreign(&at("csv"), problem);
    }
    Ok(())
}
