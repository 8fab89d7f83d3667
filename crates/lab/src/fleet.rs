//! `lab fleet`: many devices before a fleet of servers, simulated from measured traces, and that simulation beside real runs.
//!
//! - [`plan`] is what is asked, a TOML file; [`workload`] what becomes of the images of a trace under each policy.
//! - [`arrivals`], [`links`], [`batching`] and [`service`] are the parts of the [`simulation`], which is pure.
//! - [`sizing`] finds how many servers are needed; [`statistics`] says how sure a figure is.
//! - [`rows`] and [`page`] are the results; [`validate`] compares them with the real `cloud-service`.

pub mod arrivals;
pub mod batching;
pub mod links;
pub mod plan;
pub mod rows;
pub mod service;
pub mod simulation;
pub mod sizing;
pub mod statistics;
pub mod time;
pub mod validate;
pub mod workload;

mod page;

use std::{
    fs, io,
    io::Write,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    sync::mpsc,
    thread,
};

use outpost_exit_policy::{GoalError, ProblemError};
use outpost_runtime::sha256_hex;

use crate::{
    bundle::BundleFileError,
    learn::{LearnPolicyError, progress},
    table::{percent, row, table},
    topology::TopologyError,
    trace::TraceError,
};
use plan::{Plan, PlanError};
use rows::{Origin, Row};
use service::{ServiceError, ServiceTimes};
use sizing::Parts;
use statistics::Estimate;
use validate::{Record, ValidateError};
use workload::{Taking, Workload};

/// What `lab fleet` is asked.
#[derive(Debug, clap::Args)]
pub struct FleetArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Servers needed, bytes that come in and cost for each number of devices of a plan, by policy.
    Simulate(SimulateArgs),
    /// Run the real cloud-service with 1 to 64 devices on this machine, and tell how near the simulator comes.
    Validate(validate::ValidateArgs),
}

/// What `lab fleet simulate` is asked.
#[derive(Debug, clap::Args)]
pub struct SimulateArgs {
    /// The plan; `crates/lab/plans/photos.toml` shows every field.
    #[arg(value_name = "PLAN.toml")]
    pub plan: PathBuf,
    /// A trace of `lab trace` in place of the plan's; rows tell its images.
    #[arg(long, value_name = "FILE.parquet")]
    pub trace: Option<PathBuf>,
    /// What `lab fleet validate` found; without it no row counts as validated.
    #[arg(long, value_name = "FILE.json")]
    pub validation: Option<PathBuf>,
    /// Also write the rows as CSV.
    #[arg(long, value_name = "FILE.csv")]
    pub csv: Option<PathBuf>,
    /// Also write the rows as Parquet, with the plan.
    #[arg(long, value_name = "FILE.parquet")]
    pub parquet: Option<PathBuf>,
    /// Also write a page with plots.
    #[arg(long, value_name = "FILE.html")]
    pub out: Option<PathBuf>,
}

/// Why nothing was simulated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FleetError {
    /// The plan is at fault.
    #[error("cannot use the plan {}", path.display())]
    Plan {
        /// The file.
        path: PathBuf,
        /// Why.
        source: PlanError,
    },
    /// A file cannot be read or written.
    #[error("cannot use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The cascade is at fault.
    #[error(transparent)]
    Cascade(#[from] LearnPolicyError),
    /// The trace is at fault.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The policy bundle is at fault.
    #[error(transparent)]
    Bundle(#[from] BundleFileError),
    /// The bundle has no such operating point.
    #[error(transparent)]
    Goal(#[from] GoalError),
    /// The trace is of another cascade.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// A cost is at fault.
    #[error(transparent)]
    Problem(#[from] ProblemError),
    /// The trace lacks the features of a node.
    #[error(
        "the trace lacks the features of {0:?} that the policy looks at: trace again, with --features"
    )]
    Features(String),
    /// The cascade has networks elsewhere than on the device and in the cloud, or ones in the cloud that decide.
    #[error(
        "node {0:?} is neither on the device nor a network of the cloud that decides nothing: give another cascade"
    )]
    Sites(String),
    /// The cascade has not one network in the cloud.
    #[error(
        "the cascade has {0} networks in the cloud, and a fleet serves one: give another cascade"
    )]
    Clouds(usize),
    /// The times of batches are at fault.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The rows cannot be written.
    #[error("cannot write {}", path.display())]
    Rows {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The real run, or what it left, is at fault.
    #[error(transparent)]
    Validate(#[from] ValidateError),
    /// The tables cannot be printed.
    #[error("cannot print")]
    Print(#[from] io::Error),
}

fn file(path: &Path) -> impl Fn(io::Error) -> FleetError {
    let path = path.to_owned();
    move |source| FleetError::File {
        path: path.clone(),
        source,
    }
}

/// Runs `lab fleet`.
///
/// # Errors
/// A [`FleetError`] that names what is at fault.
pub fn run(args: &FleetArgs, out: &mut dyn Write) -> Result<(), FleetError> {
    match &args.command {
        Command::Simulate(args) => simulate(args, out),
        Command::Validate(args) => Ok(validate::run(args, out)?),
    }
}

/// The results of a plan.
pub(crate) struct Results {
    plan: Plan,
    workload: Workload,
    validation: Option<Record>,
    rows: Vec<Row>,
    origin: Origin,
}

fn simulate(args: &SimulateArgs, out: &mut dyn Write) -> Result<(), FleetError> {
    let (mut plan, text) = Plan::load(&args.plan)?;
    if let Some(trace) = &args.trace {
        plan.trace.file.clone_from(trace);
    }
    let service = ServiceTimes::load(&plan.server.service_times, plan.server.max_batch)?;
    let validation = args.validation.as_deref().map(Record::load).transpose()?;
    let taking = Taking {
        time_scale: plan.device.time_scale,
        bytes: plan.bytes.image,
        seed: plan.seed,
    };
    let workload = Workload::load(&plan.trace, taking)?;
    let times = fs::read(&plan.server.service_times);
    let origin = Origin {
        plan_sha256: sha256_hex(text.as_bytes()),
        policy_sha256: workload.bundle.clone(),
        images_sha256: workload.images.clone(),
        service_sha256: sha256_hex(&times.map_err(file(&plan.server.service_times))?),
        seed: plan.seed,
        currency: plan.prices.currency.clone(),
    };
    let rows = rows_of(&plan, service, &workload, validation.as_ref());
    let results = Results {
        plan,
        workload,
        validation,
        rows,
        origin,
    };
    print(&results, out)?;
    if let Some(path) = &args.csv {
        rows::write_csv(path, &results.rows, &results.origin)?;
        writeln!(out, "{}", path.display())?;
    }
    if let Some(path) = &args.parquet {
        rows::write_parquet(path, &results.rows, &results.origin, &text)?;
        writeln!(out, "{}", path.display())?;
    }
    if let Some(path) = &args.out {
        fs::write(path, page::page(&results).into_string()).map_err(file(path))?;
        writeln!(out, "{}", path.display())?;
    }
    Ok(())
}

/// A row for each number of devices and policy, on all cores.
fn rows_of(
    plan: &Plan,
    service: ServiceTimes,
    workload: &Workload,
    validation: Option<&Record>,
) -> Vec<Row> {
    let parts = Parts::new(plan, service);
    let mut tasks: Vec<(usize, u32, &workload::Policy)> = plan
        .devices
        .iter()
        .flat_map(|&devices| workload.policies.iter().map(move |p| (devices, p)))
        .enumerate()
        .map(|(place, (devices, policy))| (place, devices, policy))
        .collect();
    // The long ones first.
    tasks.sort_by_key(|&(_, devices, _)| std::cmp::Reverse(devices));
    let progress = progress("simulating", tasks.len() as u64);
    let next = AtomicUsize::new(0);
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let (done, results) = mpsc::channel();
    let mut rows: Vec<(usize, Row)> = thread::scope(|scope| {
        for _ in 0..cores.min(tasks.len()) {
            let (done, next, tasks, parts) = (done.clone(), &next, &tasks, &parts);
            scope.spawn(move || {
                while let Some(&(place, devices, policy)) =
                    tasks.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let sized = parts.size(policy, devices);
                    let row = Row {
                        not_validated: validate::not_validated(validation, plan, &sized, policy),
                        policy: policy.clone(),
                        sized,
                    };
                    // The receiver is there until all is done.
                    let _ = done.send((place, row));
                }
            });
        }
        drop(done);
        results.iter().inspect(|_| progress.inc(1)).collect()
    });
    progress.finish_and_clear();
    rows.sort_by_key(|(place, _)| *place);
    rows.into_iter().map(|(_, row)| row).collect()
}

/// Milliseconds with their interval.
fn milliseconds(estimate: Option<Estimate>) -> String {
    estimate.map_or("–".to_owned(), |estimate| {
        format!(
            "{:.0} ({:.0}–{:.0})",
            1e3 * estimate.value,
            1e3 * estimate.low,
            1e3 * estimate.high
        )
    })
}

/// The servers of a row, and the least that may do.
pub(crate) fn servers(row: &Row, is_given: bool) -> String {
    let servers = row.sized.run.servers;
    match (row.sized.holds, row.sized.least) {
        (true, Some(least)) if least < servers => format!("{servers} ({least}–{servers})"),
        (true, _) => servers.to_string(),
        (false, _) if is_given => format!("{servers}, too few"),
        (false, _) => "no number".to_owned(),
    }
}

/// A rate in Gbit/s, with two digits that count at least.
pub(crate) fn gbit(rate: f64) -> String {
    if rate <= 0.0 {
        return "0".to_owned();
    }
    let leading_zeros = (-rate.log10()).ceil().max(0.0) as usize;
    format!("{rate:.*}", leading_zeros + 1)
}

/// A cost.
pub(crate) fn cost(cost: f64) -> String {
    match cost {
        cost if cost >= 100.0 => format!("{cost:.0}"),
        cost => format!("{cost:.2}"),
    }
}

fn print(results: &Results, out: &mut dyn Write) -> Result<(), FleetError> {
    let Results {
        plan,
        workload,
        rows,
        ..
    } = results;
    writeln!(
        out,
        "{} alone gets {} of {} images right; {}",
        workload.network,
        percent(workload.cloud_accuracy),
        workload.files.len(),
        plan.server.name
    )?;
    let mut policies = table(&["policy", "top-1", "points lost (95 %)", "sent", "device ms"]);
    for policy in &workload.policies {
        let (low, high) = policy.lost_interval;
        policies.add_row(row(
            &policy.name,
            [
                percent(policy.accuracy),
                format!("{:.2} ({low:.2} to {high:.2})", policy.points_lost),
                percent(policy.offload_rate),
                format!("{:.1}", 1e3 * policy.device_seconds),
            ],
        ));
    }
    writeln!(out, "{policies}")?;
    let currency = &plan.prices.currency;
    let mut fleets = table(&[
        "devices",
        "policy",
        "servers (95 %)",
        "sent, p99 ms (95 %)",
        "in time",
        "batch",
        "busy",
        "Gbit/s in",
        &format!("{currency} per million"),
        "validated",
    ]);
    for one in rows {
        let run = &one.sized.run;
        let is_given = plan.server.count.is_some();
        fleets.add_row(row(
            one.sized.devices.to_string(),
            [
                one.policy.name.clone(),
                servers(one, is_given),
                milliseconds(run.sent_p99),
                run.in_time
                    .map_or("–".to_owned(), |e| format!("{:.2} %", 100.0 * e.value)),
                run.mean_batch
                    .map_or("–".to_owned(), |batch| format!("{batch:.1}")),
                percent(run.utilisation),
                gbit(one.ingress_gbit()),
                cost(one.sized.cost_per_million),
                if one.not_validated.is_empty() {
                    "yes"
                } else {
                    "no"
                }
                .to_owned(),
            ],
        ));
    }
    writeln!(out, "{fleets}")?;
    for said in notes(results) {
        writeln!(out, "{said}")?;
    }
    Ok(())
}

/// What a reader must know beside the figures.
pub(crate) fn notes(results: &Results) -> Vec<String> {
    let Results { plan, rows, .. } = results;
    let mut notes = vec![format!(
        "Servers: the fewest for which the cloud answers {} of the images that are to be sent within {} ms, with 95 % \
         confidence; in brackets from the fewest for which it may. Costs: servers all day at {} {} an hour, and {} {} a \
         gigabyte that comes in, of the plan.",
        percent(plan.target.share),
        plan.target.within_ms,
        plan.prices.server_hour,
        plan.prices.currency,
        plan.prices.ingress_gb,
        plan.prices.currency,
    )];
    let imprecise = rows.iter().filter(|row| !is_precise(row, plan)).count();
    if imprecise > 0 {
        notes.push(format!(
            "{imprecise} of {} rows have a p99 whose interval is wider than {} to either side: raise \
             `simulation.most_images`.",
            rows.len(),
            percent(plan.simulation.precision)
        ));
    }
    let mut reasons: Vec<&String> = rows.iter().flat_map(|row| &row.not_validated).collect();
    reasons.sort();
    reasons.dedup();
    match reasons[..] {
        [] => {}
        _ => {
            let reasons: Vec<&str> = reasons.iter().map(|reason| reason.as_str()).collect();
            notes.push(format!("Not validated: {}.", reasons.join("; ")));
        }
    }
    notes
}

/// Whether the interval of a row's p99 is as narrow as was wanted.
fn is_precise(row: &Row, plan: &Plan) -> bool {
    let run = &row.sized.run;
    let p99 = match row.policy.offload_rate > 0.0 {
        true => run.sent_p99,
        false => run.p99,
    };
    p99.is_some_and(|p99| p99.relative_half_width() <= plan.simulation.precision)
}
