//! The results of a plan: a row for each number of devices and policy, with all that is needed to make it again, as CSV and
//! as Parquet.

use std::{collections::HashMap, fs::File, path::Path, sync::Arc};

use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray, UInt64Array};
use arrow_schema::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;

use super::{FleetError, sizing::Sized, statistics::Estimate, workload::Policy};

/// A result.
#[derive(Debug, Clone)]
pub struct Row {
    /// The policy.
    pub policy: Policy,
    /// The fleet that it needs.
    pub sized: Sized,
    /// Why the simulator was not validated for it; empty where it was.
    pub not_validated: Vec<String>,
}

/// What is the same for all rows.
#[derive(Debug, Clone)]
pub struct Origin {
    /// SHA-256 of the plan's file.
    pub plan_sha256: String,
    /// SHA-256 of the policy bundle.
    pub policy_sha256: String,
    /// SHA-256 over the names and labels of the trace's images.
    pub images_sha256: String,
    /// SHA-256 of the file of times.
    pub service_sha256: String,
    /// The seed.
    pub seed: u64,
    /// The currency of costs.
    pub currency: String,
}

/// A column, by what is in it.
enum Column {
    Text(fn(&Row, &Origin) -> String),
    Count(fn(&Row, &Origin) -> Option<u64>),
    Number(fn(&Row) -> Option<f64>),
}

fn milliseconds(estimate: Option<Estimate>) -> [Option<f64>; 3] {
    let of = |end: fn(Estimate) -> f64| estimate.map(|estimate| 1e3 * end(estimate));
    [of(|e| e.value), of(|e| e.low), of(|e| e.high)]
}

/// All columns, in their order.
const COLUMNS: &[(&str, Column)] = {
    use Column::{Count, Number, Text};
    &[
        ("devices", Count(|row, _| Some(row.sized.devices.into()))),
        ("policy", Text(|row, _| row.policy.kind.as_str().to_owned())),
        (
            "operating_point",
            Text(|row, _| row.policy.operating_point.clone()),
        ),
        ("accuracy_on_trace", Number(|row| Some(row.policy.accuracy))),
        ("points_lost", Number(|row| Some(row.policy.points_lost))),
        (
            "points_lost_low",
            Number(|row| Some(row.policy.lost_interval.0)),
        ),
        (
            "points_lost_high",
            Number(|row| Some(row.policy.lost_interval.1)),
        ),
        ("offload_rate", Number(|row| Some(row.policy.offload_rate))),
        (
            "servers",
            Count(|row, _| Some(row.sized.run.servers.into())),
        ),
        (
            "servers_least",
            Count(|row, _| row.sized.least.map(u64::from)),
        ),
        ("target_holds", Text(|row, _| row.sized.holds.to_string())),
        (
            "in_time",
            Number(|row| row.sized.run.in_time.map(|e| e.value)),
        ),
        (
            "in_time_low",
            Number(|row| row.sized.run.in_time.map(|e| e.low)),
        ),
        (
            "in_time_high",
            Number(|row| row.sized.run.in_time.map(|e| e.high)),
        ),
        (
            "sent_p50_ms",
            Number(|row| milliseconds(row.sized.run.sent_p50)[0]),
        ),
        (
            "sent_p95_ms",
            Number(|row| milliseconds(row.sized.run.sent_p95)[0]),
        ),
        (
            "sent_p99_ms",
            Number(|row| milliseconds(row.sized.run.sent_p99)[0]),
        ),
        (
            "sent_p99_low_ms",
            Number(|row| milliseconds(row.sized.run.sent_p99)[1]),
        ),
        (
            "sent_p99_high_ms",
            Number(|row| milliseconds(row.sized.run.sent_p99)[2]),
        ),
        ("mean_ms", Number(|row| milliseconds(row.sized.run.mean)[0])),
        ("p99_ms", Number(|row| milliseconds(row.sized.run.p99)[0])),
        ("accuracy", Number(|row| Some(row.sized.run.accuracy))),
        (
            "device_share",
            Number(|row| Some(row.sized.run.shares.device)),
        ),
        (
            "cloud_share",
            Number(|row| Some(row.sized.run.shares.cloud)),
        ),
        (
            "fallback_share",
            Number(|row| Some(row.sized.run.shares.fallback)),
        ),
        (
            "unanswered_share",
            Number(|row| Some(row.sized.run.shares.unanswered)),
        ),
        (
            "ingress_gbit_per_second",
            Number(|row| Some(row.ingress_gbit())),
        ),
        (
            "peak_ingress_gbit_per_second",
            Number(|row| row.sized.run.peak_ingress.map(|bytes| 8e-9 * bytes)),
        ),
        ("mean_batch", Number(|row| row.sized.run.mean_batch)),
        ("utilisation", Number(|row| Some(row.sized.run.utilisation))),
        (
            "cost_per_million",
            Number(|row| Some(row.sized.cost_per_million)),
        ),
        (
            "ingress_cost_per_million",
            Number(|row| Some(row.sized.ingress_cost_per_million)),
        ),
        ("currency", Text(|_, origin| origin.currency.clone())),
        ("not_validated", Text(|row, _| row.not_validated.join("; "))),
        ("images", Count(|row, _| Some(row.sized.run.images))),
        (
            "simulated_seconds",
            Number(|row| Some(row.sized.run.seconds)),
        ),
        ("seed", Count(|_, origin| Some(origin.seed))),
        ("plan_sha256", Text(|_, origin| origin.plan_sha256.clone())),
        (
            "policy_sha256",
            Text(|_, origin| origin.policy_sha256.clone()),
        ),
        (
            "images_sha256",
            Text(|_, origin| origin.images_sha256.clone()),
        ),
        (
            "service_times_sha256",
            Text(|_, origin| origin.service_sha256.clone()),
        ),
        (
            "program_version",
            Text(|_, _| env!("CARGO_PKG_VERSION").to_owned()),
        ),
    ]
};

impl Row {
    /// What comes to the servers in the busiest hour, in Gbit/s.
    pub fn ingress_gbit(&self) -> f64 {
        8e-9 * self.sized.run.ingress
    }
}

/// Writes the rows as CSV.
///
/// # Errors
/// [`FleetError::Rows`], which names the file.
pub fn write_csv(path: &Path, rows: &[Row], origin: &Origin) -> Result<(), FleetError> {
    let write = || -> Result<(), csv::Error> {
        let mut writer = csv::Writer::from_path(path)?;
        writer.write_record(COLUMNS.iter().map(|(name, _)| name))?;
        for row in rows {
            writer.write_record(COLUMNS.iter().map(|(_, column)| match column {
                Column::Text(of) => of(row, origin),
                Column::Count(of) => of(row, origin).map_or(String::new(), |n| n.to_string()),
                Column::Number(of) => of(row).map_or(String::new(), |n| n.to_string()),
            }))?;
        }
        writer.flush()?;
        Ok(())
    };
    write().map_err(failed(path))
}

/// Writes the rows as Parquet; the plan stands in the schema's metadata, under `outpost.fleet.plan`.
///
/// # Errors
/// [`FleetError::Rows`], which names the file.
pub fn write_parquet(
    path: &Path,
    rows: &[Row],
    origin: &Origin,
    plan: &str,
) -> Result<(), FleetError> {
    let fields: Vec<Field> = COLUMNS
        .iter()
        .map(|(name, column)| {
            let (kind, may_be_none) = match column {
                Column::Text(_) => (DataType::Utf8, false),
                Column::Count(_) => (DataType::UInt64, true),
                Column::Number(_) => (DataType::Float64, true),
            };
            Field::new(*name, kind, may_be_none)
        })
        .collect();
    let metadata = HashMap::from([("outpost.fleet.plan".to_owned(), plan.to_owned())]);
    let schema = Arc::new(Schema::new_with_metadata(fields, metadata));
    let columns = COLUMNS.iter().map(|(_, column)| match column {
        Column::Text(of) => {
            let values = rows.iter().map(|row| of(row, origin));
            Arc::new(StringArray::from_iter_values(values)) as ArrayRef
        }
        Column::Count(of) => {
            let values = rows.iter().map(|row| of(row, origin));
            Arc::new(values.collect::<UInt64Array>()) as ArrayRef
        }
        Column::Number(of) => Arc::new(rows.iter().map(of).collect::<Float64Array>()) as ArrayRef,
    });
    let columns: Vec<ArrayRef> = columns.collect();
    let batch = RecordBatch::try_new(schema.clone(), columns).map_err(failed(path))?;
    let file = File::create(path).map_err(super::file(path))?;
    let mut writer = ArrowWriter::try_new(file, schema, None).map_err(failed(path))?;
    writer.write(&batch).map_err(failed(path))?;
    writer.close().map_err(failed(path))?;
    Ok(())
}

fn failed<E: std::error::Error + Send + Sync + 'static>(path: &Path) -> impl Fn(E) -> FleetError {
    let path = path.to_owned();
    move |source| FleetError::Rows {
        path: path.clone(),
        source: Box::new(source),
    }
}
