//! What images saw of an outage, and of a device that got another address.

use super::{
    super::{
        profile::{Always, Event},
        rows::Row,
    },
    experiment::{Experiment, Measured, has, may_send, times},
    figures::line,
    speed::Verdict,
};

/// An answer may be this much later than its deadline, as in a soak.
pub(super) const LATE_MS: f64 = 20.0;
/// Offloading resumes within so much of the path's being up again.
pub(super) const RESUMES_MS: f64 = 2000.0;
/// Round trips and milliseconds beside them that calls may stall where the address changes.
const STALL_ROUND_TRIPS: f64 = 2.0;
const STALL_MS: f64 = 100.0;
/// Images that begin so long after a change of the address may still be held up by it.
const AFTER_MS: f64 = 2000.0;

/// When an image's caller was told what came of it.
fn ended(row: &Row) -> f64 {
    row.started_ms + row.latency_ms
}

/// A stretch of a run in which the path was down.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outage<'a> {
    pub(super) run: &'a Measured,
    /// From when to when, milliseconds; without an end where the run had none.
    pub(super) down: f64,
    pub(super) up: f64,
    pub(super) deadline: f64,
    /// Images under way meanwhile.
    pub(super) images: usize,
    /// Those answered later than their deadline, or not at all.
    pub(super) late: usize,
    /// The slowest of them, milliseconds.
    pub(super) slowest: f64,
    /// Milliseconds from the path's being up again to the cloud's first answer.
    pub(super) resumed: Option<f64>,
    /// Images begun after the path was up again, and before that answer, that asked in vain.
    pub(super) in_vain: usize,
}

impl Outage<'_> {
    /// Whether all were answered in time.
    pub(super) fn answered(&self) -> Verdict {
        match (self.images, self.late) {
            (0, _) => Verdict::NotRun,
            (_, 0) => Verdict::Holds,
            _ => Verdict::Fails,
        }
    }

    /// Whether the cloud answers again soon enough. Where nobody asked it sooner, it is not late.
    pub(super) fn resumes(&self) -> Verdict {
        match self.resumed {
            _ if !self.up.is_finite() || !may_send(&self.run.record.run.policy) => Verdict::NotRun,
            Some(after) if after <= RESUMES_MS => Verdict::Holds,
            Some(_) if self.in_vain == 0 => Verdict::Holds,
            None if self.in_vain == 0 => Verdict::NotRun,
            _ => Verdict::Fails,
        }
    }
}

/// All outages of all runs.
pub(super) fn outages(experiment: &Experiment) -> Vec<Outage<'_>> {
    let mut found = Vec::new();
    for run in &experiment.runs {
        let ups: Vec<f64> = times(&run.record, Event::Up(Always)).collect();
        for down in times(&run.record, Event::Down(Always)) {
            let up = ups.iter().copied().find(|&up| up > down);
            let deadline = experiment.deadline_ms(&run.record.run.cascade);
            found.push(outage(run, down, up.unwrap_or(f64::INFINITY), deadline));
        }
    }
    found
}

fn outage(run: &Measured, down: f64, up: f64, deadline: f64) -> Outage<'_> {
    let rows = || run.rows.iter();
    let during = || rows().filter(|row| ended(row) >= down && row.started_ms <= up);
    let late = |row: &&Row| row.class.is_none() || row.latency_ms > deadline + LATE_MS;
    let answers = rows().filter(|row| row.site == "cloud" && ended(row) >= up);
    let first = answers.min_by(|a, b| ended(a).total_cmp(&ended(b)));
    let first_at = first.map_or(f64::INFINITY, ended);
    let in_vain = rows().filter(|row| {
        let is_between = row.started_ms >= up && row.started_ms < first_at;
        is_between && (row.is_fallback() || row.class.is_none())
    });
    Outage {
        run,
        down,
        up,
        deadline,
        images: during().count(),
        late: during().filter(late).count(),
        slowest: during().map(|row| row.latency_ms).fold(0.0, f64::max),
        resumed: first.map(|row| ended(row) - up),
        in_vain: in_vain.count(),
    }
}

/// A change of the device's address in a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Move<'a> {
    pub(super) run: &'a Measured,
    /// When, milliseconds.
    pub(super) at: f64,
    /// Images sent that ended after it.
    pub(super) calls: usize,
    /// Those that have the device's answer in place of the cloud's, or none.
    pub(super) lost: usize,
    /// The longest that an image under way then or begun soon after took beyond what one of its bytes takes, milliseconds; of one
    /// that was lost, until it was.
    pub(super) stalled: f64,
    /// The same of images that the change did not touch: what is usual.
    pub(super) usual: f64,
    /// What calls may stall.
    pub(super) bound: f64,
}

impl Move<'_> {
    /// Whether no call was lost and none stalled longer than it may.
    pub(super) fn verdict(&self) -> Verdict {
        match self.calls {
            0 => Verdict::NotRun,
            _ if self.lost == 0 && self.stalled <= self.bound => Verdict::Holds,
            _ => Verdict::Fails,
        }
    }
}

/// All changes of the address in runs that send images.
pub(super) fn moves(experiment: &Experiment) -> Vec<Move<'_>> {
    let runs = experiment.runs.iter();
    let sending = runs.filter(|run| may_send(&run.record.run.policy));
    sending.flat_map(moves_of).collect()
}

fn moves_of(run: &Measured) -> Vec<Move<'_>> {
    let at = times(&run.record, Event::NewAddress(Always));
    at.map(|at| moved(run, at)).collect()
}

fn moved(run: &Measured, at: f64) -> Move<'_> {
    // Those that fell back without a request, as with a circuit open, count too: they wanted the cloud.
    let calls = || {
        let rows = run.rows.iter();
        rows.filter(|row| row.is_offloaded() || row.is_fallback() || row.class.is_none())
    };
    let after = || calls().filter(|row| ended(row) >= at);
    let touched = |row: &&Row| ended(row) >= at && row.started_ms <= at + AFTER_MS;
    let answered = |row: &&Row| row.site == "cloud";
    let points: Vec<(f64, f64)> = calls()
        .filter(|row| !touched(row) && answered(row))
        .map(|row| (f64::from(row.bytes_sent), row.latency_ms))
        .collect();
    let (least, a_byte) = line(&points).unwrap_or((0.0, 0.0));
    let beyond = |row: &Row| row.latency_ms - least - a_byte * f64::from(row.bytes_sent);
    let most = |rows: &mut dyn Iterator<Item = &Row>| rows.map(beyond).fold(0.0, f64::max);
    Move {
        run,
        at,
        calls: after().count(),
        lost: after().filter(|row| !answered(row)).count(),
        stalled: most(&mut calls().filter(touched)),
        usual: most(&mut calls().filter(|row| !touched(row) && answered(row))),
        bound: STALL_ROUND_TRIPS * run.record.path.round_trip_ms + STALL_MS,
    }
}

/// Whether a profile of the experiment has such an event.
pub(super) fn was_run(experiment: &Experiment, event: Event) -> bool {
    let mut names = experiment.order.iter();
    names.any(|name| has(&experiment.profiles[name], event))
}
