//! What images use up: bytes on the wire, processor time and energy of the device.

use super::{
    super::{plan::Policy, rows::Row},
    experiment::{Experiment, Measured, may_send},
    figures::{Estimate, estimate},
};

/// What the device's and the path's counts of bytes may differ.
pub(super) const OFF: f64 = 0.03;

/// Bytes that a policy's images cost, over all paths that stay as they are.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Bytes {
    pub(super) cascade: String,
    pub(super) policy: Policy,
    pub(super) transport: &'static str,
    pub(super) payload: String,
    pub(super) images: usize,
    /// Of requests, an image.
    pub(super) request: f64,
    /// On the wire from the device and to it, an image, handshakes and all that keeps connections alive included.
    pub(super) sent: f64,
    pub(super) received: f64,
}

/// By cascade, policy, payload and transport.
pub(super) fn bytes(experiment: &Experiment) -> Vec<Bytes> {
    let mut found = Vec::new();
    for cascade in experiment.cascades() {
        for policy in experiment.policies_of(cascade) {
            let runs = experiment.runs.iter().filter(|measured| {
                let run = &measured.record.run;
                run.cascade == cascade
                    && run.policy == policy
                    && may_send(&policy)
                    && !experiment.changes(&run.profile)
            });
            let runs: Vec<&Measured> = runs.collect();
            let mut kinds: Vec<(String, &'static str)> = Vec::new();
            for measured in &runs {
                let run = &measured.record.run;
                let kind = (run.payload.clone(), run.transport.as_str());
                if !kinds.contains(&kind) {
                    kinds.push(kind);
                }
            }
            kinds.sort();
            for (payload, transport) in kinds {
                let of = runs.iter().copied().filter(|measured| {
                    let run = &measured.record.run;
                    run.payload == payload && run.transport.as_str() == transport
                });
                let of: Vec<&Measured> = of.collect();
                found.push(Bytes {
                    cascade: cascade.to_owned(),
                    policy: policy.clone(),
                    ..of_runs(experiment, &of, transport, payload)
                });
            }
        }
    }
    found
}

fn of_runs(
    experiment: &Experiment,
    runs: &[&Measured],
    transport: &'static str,
    payload: String,
) -> Bytes {
    let images: usize = runs.iter().map(|run| run.rows.len()).sum();
    // What the path counts is of the images before those that are measured, too.
    let all = images + runs.len() * experiment.plan.warm_up as usize;
    let sum = |of: &dyn Fn(&Measured) -> f64| runs.iter().map(|run| of(run)).sum::<f64>();
    let request = |run: &Measured| {
        let bytes = run.rows.iter().map(|row| f64::from(row.bytes_sent));
        bytes.sum::<f64>()
    };
    Bytes {
        cascade: String::new(),
        policy: Policy::CloudOnly,
        transport,
        payload,
        images,
        request: sum(&request) / images.max(1) as f64,
        sent: sum(&|run| run.record.path_bytes.sent as f64) / all.max(1) as f64,
        received: sum(&|run| run.record.path_bytes.received as f64) / all.max(1) as f64,
    }
}

/// How far the device's count of bytes is from the path's in a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counted<'a> {
    pub(super) run: &'a Measured,
    /// The difference as a share of the path's count, in the direction in which it is larger; above 0 where the device counts more.
    pub(super) off: f64,
}

/// All runs that sent something and whose device counts.
pub(super) fn counts(experiment: &Experiment) -> Vec<Counted<'_>> {
    let runs = experiment.runs.iter();
    let sending = runs.filter(|run| run.rows.iter().any(Row::is_offloaded));
    sending.filter_map(counted).collect()
}

fn counted(run: &Measured) -> Option<Counted<'_>> {
    let agent = run.record.agent_bytes?;
    let path = run.record.path_bytes;
    let off = |agent: u64, path: u64| (agent as f64 - path as f64) / (path as f64).max(1.0);
    let (sent, received) = (
        off(agent.sent, path.sent),
        off(agent.received, path.received),
    );
    let off = match sent.abs() >= received.abs() {
        true => sent,
        false => received,
    };
    Some(Counted { run, off })
}

/// What the device spends on an image.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Spent {
    pub(super) cascade: String,
    pub(super) policy: Policy,
    pub(super) runs: usize,
    pub(super) images: usize,
    /// Milliseconds of processor time; the interval is over runs.
    pub(super) cpu_ms: Estimate,
    /// Joules of the machine, where it counts them.
    pub(super) joules: Option<Estimate>,
}

/// By cascade and policy, over paths that stay as they are.
pub(super) fn spent(experiment: &Experiment) -> Vec<Spent> {
    let mut found = Vec::new();
    for cascade in experiment.cascades() {
        for policy in experiment.policies_of(cascade) {
            let runs = experiment.runs.iter().filter(|measured| {
                let run = &measured.record.run;
                let is_of = run.cascade == cascade && run.policy == policy;
                is_of && !experiment.changes(&run.profile) && !measured.rows.is_empty()
            });
            let runs: Vec<&Measured> = runs.collect();
            let an_image = |of: &dyn Fn(&Measured) -> Option<f64>| {
                let each = runs
                    .iter()
                    .filter_map(|run| Some((of(run)?, run.rows.len() as f64)));
                estimate(&[each.collect::<Vec<_>>()], |runs| {
                    let spent: f64 = runs.iter().map(|run| run.0).sum();
                    spent / runs.iter().map(|run| run.1).sum::<f64>()
                })
            };
            let cpu = |run: &Measured| Some(1e3 * run.record.device_cpu_seconds);
            let Some(cpu_ms) = an_image(&cpu) else {
                continue;
            };
            found.push(Spent {
                cascade: cascade.to_owned(),
                policy,
                runs: runs.len(),
                images: runs.iter().map(|run| run.rows.len()).sum(),
                cpu_ms,
                joules: an_image(&|run| run.record.joules),
            });
        }
    }
    found
}
