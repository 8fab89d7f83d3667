//! Traces as Parquet files.
//!
//! A row an image. The columns `file`, `label`, `payload_bytes` and `decode_seconds`; and for every
//! node, named after it, `.classes` and `.probabilities` (lists, the most probable first), `.entropy`,
//! `.label_probability`, `.seconds` and, where they were asked for, `.features` (a list). What the
//! trace is of stands as JSON in the schema's metadata, under `outpost.trace`.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow_array::{
    Array, ArrayRef, FixedSizeListArray, Float32Array, RecordBatch, StringArray, UInt32Array,
};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use outpost_exit_policy::{Summary, TOP};
use parquet::{
    arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder},
    basic::Compression,
    errors::ParquetError,
    file::properties::WriterProperties,
};

use super::{
    CollectError, ROWS_PER_PART,
    table::{NodeSpec, NodeTrace, Rows, Trace, TraceSpec},
    with_suffix,
};

/// Version of the format.
pub(super) const SCHEMA: u32 = 1;
/// Where the specification stands in the schema's metadata.
const KEY: &str = "outpost.trace";
/// More than any cascade has; bounds what a damaged file makes the reader keep.
const MOST_NODES: usize = 1000;

/// Why a trace was not read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The file cannot be read.
    #[error("cannot read the trace {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write the trace {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It is no Parquet file, or a damaged one.
    #[error("{} is no Parquet file, or a damaged one: trace again", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// Why; absent where the reader crashed over it.
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// It is a Parquet file and no trace, or one of another version.
    #[error("{} is no trace of this program ({problem}): make one with `lab trace`", path.display())]
    NoTrace {
        /// The file.
        path: PathBuf,
        /// What is missing.
        problem: String,
    },
    /// A column is missing, of another type or length, or holds what cannot be.
    #[error("{}, column {column:?}: {problem}", path.display())]
    Column {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// What is wrong.
        problem: &'static str,
    },
}

/// Writes rows, part by part, under a name that stands only once all is there.
pub(super) fn write(
    path: &Path,
    spec: &TraceSpec,
    parts: impl IntoIterator<Item = Result<Rows, CollectError>>,
) -> Result<(), CollectError> {
    let partial = with_suffix(path, ".partial");
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| TraceError::Write {
        path: path.to_owned(),
        source,
    };
    let schema = schema(spec);
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_max_row_group_row_count(Some(ROWS_PER_PART))
        .build();
    let file = File::create(&partial).map_err(|error| failed(error.into()))?;
    let mut writer = ArrowWriter::try_new(file, schema.clone(), Some(properties))
        .map_err(|error| failed(error.into()))?;
    for rows in parts {
        let batch = batch(&schema, spec, rows?).map_err(|error| failed(error.into()))?;
        writer.write(&batch).map_err(|error| failed(error.into()))?;
    }
    let file = writer.into_inner().map_err(|error| failed(error.into()))?;
    file.sync_all().map_err(|error| failed(error.into()))?;
    fs::rename(&partial, path).map_err(|error| failed(error.into()))?;
    Ok(())
}

fn list(item: DataType, width: usize) -> DataType {
    DataType::FixedSizeList(Arc::new(Field::new("item", item, false)), width as i32)
}

fn schema(spec: &TraceSpec) -> SchemaRef {
    let field = |name: &str, kind| Field::new(name, kind, false);
    let mut fields = vec![
        field("file", DataType::Utf8),
        field("label", DataType::UInt32),
        field("payload_bytes", DataType::UInt32),
        field("decode_seconds", DataType::Float32),
    ];
    for node in &spec.nodes {
        let of = |column: &str, kind| field(&format!("{}.{column}", node.name), kind);
        fields.extend([
            of("classes", list(DataType::UInt32, node.top)),
            of("probabilities", list(DataType::Float32, node.top)),
            of("entropy", DataType::Float32),
            of("label_probability", DataType::Float32),
            of("seconds", DataType::Float32),
        ]);
        if node.feature_width > 0 {
            fields.push(of("features", list(DataType::Float32, node.feature_width)));
        }
    }
    let json = serde_json::to_string(spec).expect("names and numbers are JSON");
    Arc::new(Schema::new_with_metadata(
        fields,
        HashMap::from([(KEY.to_owned(), json)]),
    ))
}

fn batch(schema: &SchemaRef, spec: &TraceSpec, rows: Rows) -> Result<RecordBatch, ArrowError> {
    let floats = |values: Vec<f32>| Arc::new(Float32Array::from(values)) as ArrayRef;
    let integers = |values: Vec<u32>| Arc::new(UInt32Array::from(values)) as ArrayRef;
    let lists = |values: ArrayRef, width: usize| -> Result<ArrayRef, ArrowError> {
        let item = Arc::new(Field::new("item", values.data_type().clone(), false));
        let lists = FixedSizeListArray::try_new(item, width as i32, values, None)?;
        Ok(Arc::new(lists))
    };
    let mut columns = vec![
        Arc::new(StringArray::from(rows.files)) as ArrayRef,
        integers(rows.labels),
        integers(rows.payload_bytes),
        floats(rows.decode_seconds),
    ];
    for (node, said) in spec.nodes.iter().zip(rows.nodes) {
        columns.extend([
            lists(integers(said.classes), node.top)?,
            lists(floats(said.probabilities), node.top)?,
            floats(said.entropy),
            floats(said.label_probability),
            floats(said.seconds),
        ]);
        if node.feature_width > 0 {
            columns.push(lists(floats(said.features), node.feature_width)?);
        }
    }
    RecordBatch::try_new(schema.clone(), columns)
}

impl Trace {
    /// Reads and checks a trace.
    ///
    /// # Errors
    /// A [`TraceError`] that names the file and, where one is at fault, the column.
    pub fn load(path: &Path) -> Result<Self, TraceError> {
        let file = File::open(path).map_err(|source| TraceError::Read {
            path: path.to_owned(),
            source,
        })?;
        // The Parquet reader trusts the lengths in a file; a damaged one may make it panic.
        catch_unwind(AssertUnwindSafe(|| read(path, file))).unwrap_or_else(|_| {
            Err(TraceError::Parquet {
                path: path.to_owned(),
                source: None,
            })
        })
    }
}

fn read(path: &Path, file: File) -> Result<Trace, TraceError> {
    let damaged = |error: ParquetError| TraceError::Parquet {
        path: path.to_owned(),
        source: Some(error.into()),
    };
    let no_trace = |problem: String| TraceError::NoTrace {
        path: path.to_owned(),
        problem,
    };
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).map_err(damaged)?;
    let metadata = reader.schema().metadata().get(KEY);
    let json = metadata.ok_or_else(|| no_trace(format!("its metadata lacks {KEY:?}")))?;
    let spec: TraceSpec =
        serde_json::from_str(json).map_err(|error| no_trace(error.to_string()))?;
    if spec.schema != SCHEMA {
        let problem = format!("its schema is {}, this program's {SCHEMA}", spec.schema);
        return Err(no_trace(problem));
    }
    let plausible = |node: &NodeSpec| {
        node.classes >= 2
            && (1..=node.classes).contains(&node.top)
            && node.top >= TOP.min(node.classes)
    };
    if spec.nodes.is_empty() || spec.nodes.len() > MOST_NODES || !spec.nodes.iter().all(plausible) {
        return Err(no_trace("its nodes make no sense".to_owned()));
    }
    let mut rows = Rows::new(spec.nodes.len());
    for batch in reader
        .with_batch_size(ROWS_PER_PART)
        .build()
        .map_err(damaged)?
    {
        let batch = batch.map_err(|error| damaged(error.into()))?;
        rows.append(part(path, &spec, &batch)?);
    }
    if rows.files.is_empty() {
        return Err(no_trace("it has no rows".to_owned()));
    }
    Ok(Trace { spec, rows })
}

/// One batch's rows, checked.
fn part(path: &Path, spec: &TraceSpec, batch: &RecordBatch) -> Result<Rows, TraceError> {
    let columns = Columns { path, batch };
    let amount: fn(f32) -> bool = |value| value.is_finite() && value >= 0.0;
    let share: fn(f32) -> bool = |value| (0.0..=1.0 + 1e-5).contains(&value);
    let files: &StringArray = columns.column("file")?;
    let mut rows = Rows {
        files: files.iter().flatten().map(str::to_owned).collect(),
        labels: columns.integers("label")?,
        payload_bytes: columns.integers("payload_bytes")?,
        decode_seconds: columns.floats("decode_seconds", amount)?,
        nodes: vec![],
    };
    for node in &spec.nodes {
        let name = |column: &str| format!("{}.{column}", node.name);
        let said = NodeTrace {
            classes: columns.integer_lists(&name("classes"), node.top)?,
            probabilities: columns.float_lists(&name("probabilities"), node.top, share)?,
            entropy: columns.floats(&name("entropy"), f32::is_finite)?,
            label_probability: columns.floats(&name("label_probability"), share)?,
            seconds: columns.floats(&name("seconds"), amount)?,
            features: match node.feature_width {
                0 => vec![],
                width => columns.float_lists(&name("features"), width, f32::is_finite)?,
            },
        };
        let of_image = |image: usize| &said.probabilities[image * node.top..][..node.top];
        for (image, entropy) in said.entropy.iter().enumerate() {
            let mut top = [0.0; TOP];
            let kept = node.top.min(TOP);
            top[..kept].copy_from_slice(&of_image(image)[..kept]);
            if Summary::from_parts(top, *entropy, node.classes as u32).is_none() {
                let problem = "a row is no distribution, the most probable first";
                return Err(columns.wrong(&name("probabilities"), problem));
            }
        }
        rows.nodes.push(said);
    }
    Ok(rows)
}

/// The columns of a batch, by name.
struct Columns<'a> {
    path: &'a Path,
    batch: &'a RecordBatch,
}

impl<'a> Columns<'a> {
    fn wrong(&self, column: &str, problem: &'static str) -> TraceError {
        TraceError::Column {
            path: self.path.to_owned(),
            column: column.to_owned(),
            problem,
        }
    }

    /// A column of a type, no value missing.
    fn column<T: Array + 'static>(&self, name: &str) -> Result<&'a T, TraceError> {
        let column = self.batch.column_by_name(name);
        let column = column.ok_or_else(|| self.wrong(name, "it is missing"))?;
        self.typed(name, column)
    }

    fn typed<'b, T: Array + 'static>(
        &self,
        name: &str,
        values: &'b ArrayRef,
    ) -> Result<&'b T, TraceError> {
        let typed = values.as_any().downcast_ref::<T>();
        let typed = typed.ok_or_else(|| self.wrong(name, "it is of another type"))?;
        match typed.null_count() {
            0 => Ok(typed),
            _ => Err(self.wrong(name, "a value is missing")),
        }
    }

    /// The items of a column of lists of one length.
    fn items(&self, name: &str, width: usize) -> Result<ArrayRef, TraceError> {
        let lists: &FixedSizeListArray = self.column(name)?;
        if lists.value_length() as usize != width {
            return Err(self.wrong(name, "its lists are not of the stated length"));
        }
        Ok(lists
            .values()
            .slice(lists.offset() * width, lists.len() * width))
    }

    fn integers(&self, name: &str) -> Result<Vec<u32>, TraceError> {
        let values: &UInt32Array = self.column(name)?;
        Ok(values.values().to_vec())
    }

    fn integer_lists(&self, name: &str, width: usize) -> Result<Vec<u32>, TraceError> {
        let items = self.items(name, width)?;
        let values: &UInt32Array = self.typed(name, &items)?;
        Ok(values.values().to_vec())
    }

    fn floats(&self, name: &str, valid: fn(f32) -> bool) -> Result<Vec<f32>, TraceError> {
        let values: &Float32Array = self.column(name)?;
        self.valid(name, values, valid)
    }

    fn float_lists(
        &self,
        name: &str,
        width: usize,
        valid: fn(f32) -> bool,
    ) -> Result<Vec<f32>, TraceError> {
        let items = self.items(name, width)?;
        self.valid(name, self.typed(name, &items)?, valid)
    }

    fn valid(
        &self,
        name: &str,
        values: &Float32Array,
        valid: fn(f32) -> bool,
    ) -> Result<Vec<f32>, TraceError> {
        let values = values.values().to_vec();
        match values.iter().all(|&value| valid(value)) {
            true => Ok(values),
            false => Err(self.wrong(name, "a value is NaN or out of its range")),
        }
    }
}

#[cfg(test)]
mod tests;
