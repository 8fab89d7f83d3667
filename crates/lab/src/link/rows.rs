//! What the runs of an experiment left: a row an image, a record a run.
//!
//! Each finished run is `runs/RUN.json`, its [`Record`], beside `runs/RUN.csv`, its [`Row`]s. At the end all rows stand in
//! `rows.parquet` and `rows.csv`, all records in `runs.csv`. The Parquet file's metadata holds the [`Origin`] under
//! `outpost.link`, so that it says by itself how to make it again.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow_array::{ArrayRef, BooleanArray, Float64Array, RecordBatch, StringArray, UInt32Array};
use arrow_schema::{DataType, Field, Schema};
use parquet::{
    arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder},
    basic::Compression,
    file::properties::WriterProperties,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::plan::Run;

/// Where the origin stands in the Parquet file's metadata.
const KEY: &str = "outpost.link";

/// What an experiment was made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// The version of the programs.
    pub version: String,
    /// The commit that they were built from, where there is a repository.
    pub commit: Option<String>,
    /// The processor.
    pub machine: Option<String>,
    /// Its cores.
    pub cores: usize,
    /// What emulated the path, with its version.
    pub emulator: String,
    /// The plan file, as it was read.
    pub plan: String,
    /// The folder that the plan's paths are relative to.
    pub folder: PathBuf,
    /// The file of profiles, as it was read; absent for those that are built in.
    pub profiles: Option<String>,
}

/// A run and how its path and programs did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// What was run.
    pub run: Run,
    /// When it began, seconds since 1970.
    pub began: f64,
    /// Seconds that the measured images took.
    pub seconds: f64,
    /// What the path was found to be, right before.
    pub path: Found,
    /// Changes of the path: milliseconds since the first measured image, and what happened.
    pub changes: Vec<(f64, String)>,
    /// Bytes on the wire from the device program's start to the run's end, as it counts them.
    pub agent_bytes: Option<Wire>,
    /// The same as the emulator's interface counts them.
    pub path_bytes: Wire,
    /// Seconds of processor time that the device program used for the measured images.
    pub device_cpu_seconds: f64,
    /// Joules that the machine used for them, where it counts.
    pub joules: Option<f64>,
    /// Images that have no answer.
    pub unanswered: u32,
}

/// What a path was found to be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Found {
    /// Median round trip of small datagrams, milliseconds.
    pub round_trip_ms: f64,
    /// Bits a second that got through from the device; absent where the profile does not bound them.
    pub uplink_bps: Option<f64>,
    /// The same to the device.
    pub downlink_bps: Option<f64>,
    /// Whether all is as the profile says.
    pub holds: bool,
}

/// Bytes on a wire, from the network layer's headers on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wire {
    /// From the device.
    pub sent: u64,
    /// To the device.
    pub received: u64,
}

/// An image of a run and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The run, by its identifier.
    pub run: String,
    /// The link profile.
    pub profile: String,
    /// The cascade, by the plan's name for it.
    pub cascade: String,
    /// The policy, as the plan has it.
    pub policy: String,
    /// `h2` or `h3`, as it was asked for.
    pub transport: String,
    /// How images were to be sent.
    pub payload: String,
    /// How images came.
    pub arrivals: String,
    /// Callers, or most images under way.
    pub concurrency: u32,
    /// Which repeat of the plan, from 0.
    pub repeat: u32,
    /// What the order of images and their times were drawn from.
    pub seed: u32,
    /// The image's place in the run, from 0.
    pub number: u32,
    /// The image's file.
    pub file: String,
    /// Its true class.
    pub label: u32,
    /// The class that was answered; absent without an answer.
    pub class: Option<u32>,
    /// The class that held in the end, after a late answer of the cloud.
    pub last_class: Option<u32>,
    /// `device` or `cloud`; empty without an answer.
    pub site: String,
    /// `confident`, `offloaded` or `fallback:<cause>`; without an answer what went wrong.
    pub reason: String,
    /// Milliseconds from the first measured image to this one's start.
    pub started_ms: f64,
    /// Milliseconds from handing the image over to its answer, as the caller sees it.
    pub latency_ms: f64,
    /// The same as the device program says.
    pub total_ms: Option<f64>,
    /// Milliseconds of decoding and of the device's networks.
    pub device_ms: Option<f64>,
    /// Milliseconds of encoding for the link.
    pub encode_ms: Option<f64>,
    /// Milliseconds on the link.
    pub link_ms: Option<f64>,
    /// Milliseconds in the cloud.
    pub cloud_ms: Option<f64>,
    /// Bytes of the request, without headers.
    pub bytes_sent: u32,
    /// The transport that the reply came by.
    pub used: Option<String>,
}

impl Row {
    /// Whether the first answer is right.
    pub fn is_right(&self) -> bool {
        self.class == Some(self.label)
    }

    /// Whether the device answered in place of a cloud that did not.
    pub fn is_fallback(&self) -> bool {
        self.reason.starts_with("fallback")
    }

    /// Whether the cloud was asked.
    pub fn is_offloaded(&self) -> bool {
        self.bytes_sent > 0
    }
}

/// Why rows or records were not read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RowsError {
    /// A file cannot be read or written.
    #[error("cannot use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{} is not of `lab link`, or is damaged: {problem}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// The folder of an experiment.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// The experiment in `folder`, which is made where there is none.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn at(folder: &Path) -> Result<Self, RowsError> {
        let runs = folder.join("runs");
        fs::create_dir_all(&runs).map_err(file(&runs))?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// A file of the experiment.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Notes what the experiment is made of, or finds that it was begun with the same.
    ///
    /// # Errors
    /// Where the folder has another experiment.
    pub fn claim(&self, origin: &Origin) -> Result<(), RowsError> {
        let path = self.path("origin.json");
        if !path.exists() {
            return write_json(&path, origin);
        }
        let found: Origin = read_json(&path)?;
        if found.plan == origin.plan && found.profiles == origin.profiles {
            return Ok(());
        }
        Err(RowsError::Foreign {
            path,
            problem: "it is of another plan: name another folder with --out".to_owned(),
        })
    }

    /// What the experiment is made of.
    ///
    /// # Errors
    /// Where there is none.
    pub fn origin(&self) -> Result<Origin, RowsError> {
        read_json(&self.path("origin.json"))
    }

    /// Whether a run is there, whole and not void.
    pub fn has(&self, run: &str) -> bool {
        let record: Option<Record> = read_json(&self.run_file(run, "json")).ok();
        record.is_some_and(|record| record.path.holds)
    }

    /// Keeps a run. Its record is written last: where it stands, all is there.
    ///
    /// # Errors
    /// Where the disk does not take it.
    pub fn keep(&self, record: &Record, rows: &[Row]) -> Result<(), RowsError> {
        write_csv(&self.run_file(&record.run.id, "csv"), rows)?;
        write_json(&self.run_file(&record.run.id, "json"), record)
    }

    /// All runs that are there, by their identifiers.
    ///
    /// # Errors
    /// Where a file is damaged.
    pub fn records(&self) -> Result<Vec<Record>, RowsError> {
        let folder = self.path("runs");
        let mut paths = Vec::new();
        for entry in fs::read_dir(&folder).map_err(file(&folder))? {
            let path = entry.map_err(file(&folder))?.path();
            if path.extension().is_some_and(|found| found == "json") {
                paths.push(path);
            }
        }
        paths.sort();
        paths.iter().map(|path| read_json(path)).collect()
    }

    /// The rows of a run.
    ///
    /// # Errors
    /// Where it is not there or damaged.
    pub fn rows(&self, run: &str) -> Result<Vec<Row>, RowsError> {
        let path = self.run_file(run, "csv");
        let mut reader = csv::Reader::from_path(&path).map_err(foreign(&path))?;
        let rows = reader.deserialize().collect::<Result<_, _>>();
        rows.map_err(foreign(&path))
    }

    /// Brings all runs together: `rows.parquet`, `rows.csv` and `runs.csv`.
    ///
    /// # Errors
    /// Where a file is damaged or the disk is full.
    pub fn gather(&self) -> Result<(), RowsError> {
        let records = self.records()?;
        let mut rows = Vec::new();
        for record in &records {
            rows.extend(self.rows(&record.run.id)?);
        }
        write_csv(&self.path("rows.csv"), &rows)?;
        write_csv(
            &self.path("runs.csv"),
            &records.iter().map(Flat::of).collect::<Vec<_>>(),
        )?;
        write_parquet(&self.path("rows.parquet"), &self.origin()?, &rows)
    }

    fn run_file(&self, run: &str, extension: &str) -> PathBuf {
        self.folder.join("runs").join(format!("{run}.{extension}"))
    }
}

/// What the experiment was made of whose rows are in a Parquet file.
///
/// # Errors
/// Where it is no such file.
pub fn origin_of(path: &Path) -> Result<Origin, RowsError> {
    let opened = File::open(path).map_err(file(path))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(opened).map_err(foreign(path))?;
    let metadata = reader.schema().metadata().get(KEY);
    let json = metadata.ok_or_else(|| RowsError::Foreign {
        path: path.to_owned(),
        problem: format!("its metadata lacks {KEY:?}"),
    })?;
    serde_json::from_str(json).map_err(foreign(path))
}

/// A record as a line of CSV.
#[derive(Debug, Serialize)]
struct Flat<'a> {
    run: &'a str,
    profile: &'a str,
    cascade: &'a str,
    policy: String,
    transport: &'static str,
    payload: &'a str,
    arrivals: String,
    concurrency: u32,
    repeat: u32,
    seed: u32,
    began: f64,
    seconds: f64,
    round_trip_ms: f64,
    uplink_bps: Option<f64>,
    downlink_bps: Option<f64>,
    path_holds: bool,
    changes: String,
    agent_sent_bytes: Option<u64>,
    agent_received_bytes: Option<u64>,
    path_sent_bytes: u64,
    path_received_bytes: u64,
    device_cpu_seconds: f64,
    joules: Option<f64>,
    unanswered: u32,
}

impl<'a> Flat<'a> {
    fn of(record: &'a Record) -> Self {
        let run = &record.run;
        let changes = record.changes.iter();
        Self {
            run: &run.id,
            profile: &run.profile,
            cascade: &run.cascade,
            policy: run.policy.to_string(),
            transport: run.transport.as_str(),
            payload: &run.payload,
            arrivals: run.arrivals.to_string(),
            concurrency: run.concurrency,
            repeat: run.repeat,
            seed: run.seed,
            began: record.began,
            seconds: record.seconds,
            round_trip_ms: record.path.round_trip_ms,
            uplink_bps: record.path.uplink_bps,
            downlink_bps: record.path.downlink_bps,
            path_holds: record.path.holds,
            changes: changes
                .map(|(at, what)| format!("{at:.0} ms: {what}"))
                .collect::<Vec<_>>()
                .join("; "),
            agent_sent_bytes: record.agent_bytes.map(|bytes| bytes.sent),
            agent_received_bytes: record.agent_bytes.map(|bytes| bytes.received),
            path_sent_bytes: record.path_bytes.sent,
            path_received_bytes: record.path_bytes.received,
            device_cpu_seconds: record.device_cpu_seconds,
            joules: record.joules,
            unanswered: record.unanswered,
        }
    }
}

fn file(path: &Path) -> impl Fn(io::Error) -> RowsError {
    let path = path.to_owned();
    move |source| RowsError::File {
        path: path.clone(),
        source,
    }
}

fn foreign<E: std::error::Error>(path: &Path) -> impl Fn(E) -> RowsError {
    let path = path.to_owned();
    move |error| RowsError::Foreign {
        path: path.clone(),
        problem: error.to_string(),
    }
}

/// Writes under another name first: a file has its name once it is whole.
fn put(path: &Path, bytes: &[u8]) -> Result<(), RowsError> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    fs::write(&partial, bytes).map_err(file(&partial))?;
    fs::rename(&partial, path).map_err(file(path))
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), RowsError> {
    let text = serde_json::to_vec_pretty(value).map_err(foreign(path))?;
    put(path, &text)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, RowsError> {
    let text = fs::read(path).map_err(file(path))?;
    serde_json::from_slice(&text).map_err(foreign(path))
}

fn write_csv(path: &Path, rows: &[impl Serialize]) -> Result<(), RowsError> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
        writer.serialize(row).map_err(foreign(path))?;
    }
    let text = writer.into_inner().map_err(foreign(path))?;
    put(path, &text)
}

fn write_parquet(path: &Path, origin: &Origin, rows: &[Row]) -> Result<(), RowsError> {
    let mut fields = Vec::new();
    let mut columns: Vec<ArrayRef> = Vec::new();
    let mut column = |name: &str, kind: DataType, nullable: bool, values: ArrayRef| {
        fields.push(Field::new(name, kind, nullable));
        columns.push(values);
    };
    let texts = |of: fn(&Row) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(of)))
    };
    let integers = |of: fn(&Row) -> u32| -> ArrayRef {
        Arc::new(UInt32Array::from_iter_values(rows.iter().map(of)))
    };
    let classes = |of: fn(&Row) -> Option<u32>| -> ArrayRef {
        Arc::new(UInt32Array::from_iter(rows.iter().map(of)))
    };
    let times = |of: fn(&Row) -> Option<f64>| -> ArrayRef {
        Arc::new(Float64Array::from_iter(rows.iter().map(of)))
    };
    column("run", DataType::Utf8, false, texts(|row| &row.run));
    column("profile", DataType::Utf8, false, texts(|row| &row.profile));
    column("cascade", DataType::Utf8, false, texts(|row| &row.cascade));
    column("policy", DataType::Utf8, false, texts(|row| &row.policy));
    column(
        "transport",
        DataType::Utf8,
        false,
        texts(|row| &row.transport),
    );
    column("payload", DataType::Utf8, false, texts(|row| &row.payload));
    column(
        "arrivals",
        DataType::Utf8,
        false,
        texts(|row| &row.arrivals),
    );
    column(
        "concurrency",
        DataType::UInt32,
        false,
        integers(|row| row.concurrency),
    );
    column(
        "repeat",
        DataType::UInt32,
        false,
        integers(|row| row.repeat),
    );
    column("seed", DataType::UInt32, false, integers(|row| row.seed));
    column(
        "number",
        DataType::UInt32,
        false,
        integers(|row| row.number),
    );
    column("file", DataType::Utf8, false, texts(|row| &row.file));
    column("label", DataType::UInt32, false, integers(|row| row.label));
    column("class", DataType::UInt32, true, classes(|row| row.class));
    column(
        "last_class",
        DataType::UInt32,
        true,
        classes(|row| row.last_class),
    );
    let right = BooleanArray::from_iter(rows.iter().map(|row| Some(row.is_right())));
    column("right", DataType::Boolean, true, Arc::new(right));
    column("site", DataType::Utf8, false, texts(|row| &row.site));
    column("reason", DataType::Utf8, false, texts(|row| &row.reason));
    column(
        "started_ms",
        DataType::Float64,
        true,
        times(|row| Some(row.started_ms)),
    );
    column(
        "latency_ms",
        DataType::Float64,
        true,
        times(|row| Some(row.latency_ms)),
    );
    column(
        "total_ms",
        DataType::Float64,
        true,
        times(|row| row.total_ms),
    );
    column(
        "device_ms",
        DataType::Float64,
        true,
        times(|row| row.device_ms),
    );
    column(
        "encode_ms",
        DataType::Float64,
        true,
        times(|row| row.encode_ms),
    );
    column("link_ms", DataType::Float64, true, times(|row| row.link_ms));
    column(
        "cloud_ms",
        DataType::Float64,
        true,
        times(|row| row.cloud_ms),
    );
    column(
        "bytes_sent",
        DataType::UInt32,
        false,
        integers(|row| row.bytes_sent),
    );
    let used = rows.iter().map(|row| row.used.as_deref());
    column(
        "used",
        DataType::Utf8,
        true,
        Arc::new(StringArray::from_iter(used)),
    );

    let origin = serde_json::to_string(origin).map_err(foreign(path))?;
    let metadata = HashMap::from([(KEY.to_owned(), origin)]);
    let schema = Arc::new(Schema::new_with_metadata(fields, metadata));
    let batch = RecordBatch::try_new(schema.clone(), columns).map_err(foreign(path))?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .build();
    let mut writer =
        ArrowWriter::try_new(Vec::new(), schema, Some(properties)).map_err(foreign(path))?;
    writer.write(&batch).map_err(foreign(path))?;
    let bytes = writer.into_inner().map_err(foreign(path))?;
    put(path, &bytes)
}

#[cfg(test)]
mod tests {
    use super::{
        super::plan::{Arrivals, Policy},
        *,
    };
    use outpost_transport::Protocol;

    fn origin() -> Origin {
        Origin {
            version: "1".to_owned(),
            commit: Some("c0ffee".to_owned()),
            machine: None,
            cores: 2,
            emulator: "none".to_owned(),
            plan: "images = 1".to_owned(),
            folder: PathBuf::from("/plans"),
            profiles: None,
        }
    }

    fn record() -> Record {
        Record {
            run: Run {
                id: "a-run".to_owned(),
                profile: "fibre".to_owned(),
                cascade: "small".to_owned(),
                policy: Policy::Learned("loss=1".to_owned()),
                transport: Protocol::H3,
                payload: "original".to_owned(),
                arrivals: Arrivals::Closed,
                concurrency: 1,
                repeat: 0,
                seed: 7,
                seconds: 2.5,
            },
            began: 1.5,
            seconds: 2.0,
            path: Found {
                round_trip_ms: 8.1,
                uplink_bps: Some(1e6),
                downlink_bps: None,
                holds: true,
            },
            changes: vec![(500.0, "the path is down".to_owned())],
            agent_bytes: None,
            path_bytes: Wire {
                sent: 1000,
                received: 200,
            },
            device_cpu_seconds: 0.25,
            joules: None,
            unanswered: 1,
        }
    }

    fn row(number: u32, class: Option<u32>) -> Row {
        Row {
            run: "a-run".to_owned(),
            profile: "fibre".to_owned(),
            cascade: "small".to_owned(),
            policy: "learned:loss=1".to_owned(),
            transport: "h3".to_owned(),
            payload: "original".to_owned(),
            arrivals: "closed".to_owned(),
            concurrency: 1,
            repeat: 0,
            seed: 7,
            number,
            file: format!("{number}.jpg"),
            label: 3,
            class,
            last_class: class,
            site: "cloud".to_owned(),
            reason: "offloaded".to_owned(),
            started_ms: 10.0,
            latency_ms: 20.25,
            total_ms: Some(20.0),
            device_ms: Some(1.5),
            encode_ms: None,
            link_ms: Some(12.0),
            cloud_ms: Some(6.5),
            bytes_sent: 900,
            used: class.map(|_| "h3".to_owned()),
        }
    }

    #[test]
    fn a_run_is_read_as_it_was_kept() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path()).unwrap();
        let rows = vec![row(0, Some(3)), row(1, None)];
        assert!(!store.has("a-run"));
        store.keep(&record(), &rows).unwrap();
        assert!(store.has("a-run"));
        assert_eq!(store.records().unwrap(), [record()]);
        assert_eq!(store.rows("a-run").unwrap(), rows);
        assert!(rows[0].is_right() && !rows[1].is_right());
    }

    #[test]
    fn rows_say_what_they_are_made_of() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path()).unwrap();
        store.claim(&origin()).unwrap();
        store.keep(&record(), &[row(0, Some(3))]).unwrap();
        store.gather().unwrap();
        assert_eq!(origin_of(&store.path("rows.parquet")).unwrap(), origin());
        let runs = fs::read_to_string(store.path("runs.csv")).unwrap();
        assert!(runs.contains("500 ms: the path is down"), "{runs}");
        let error = origin_of(&store.path("runs.csv")).unwrap_err().to_string();
        assert!(error.contains("not of `lab link`"), "{error}");
    }

    #[test]
    fn a_folder_holds_one_experiment() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path()).unwrap();
        store.claim(&origin()).unwrap();
        store.claim(&origin()).unwrap();
        let other = Origin {
            plan: "images = 2".to_owned(),
            ..origin()
        };
        let error = store.claim(&other).unwrap_err().to_string();
        assert!(error.contains("another plan"), "{error}");
    }
}
