//! The figures of `lab bench` and how they are shown.

use std::fmt;

use comfy_table::{Attribute, Cell, Table, presets::UTF8_FULL_CONDENSED};
use indicatif::HumanBytes;
use serde::Serialize;

/// Figures of one network on one machine; what could not be had is `None`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BenchReport {
    /// Name of the network, or of the file.
    pub name: String,
    /// What it is, by its manifest.
    pub description: Option<String>,
    /// What ran it.
    pub runtime: &'static str,
    /// Name of the processor.
    pub cpu_model: Option<String>,
    /// Threads that the processor runs at once.
    pub cpu_threads: Option<usize>,
    /// Channels, height and width of the input.
    pub input_shape: [usize; 3],
    /// Size of the ONNX file.
    pub file_bytes: u64,
    /// Threads that ran images at the same time.
    pub threads: usize,
    /// Threads that shared the work of these.
    pub image_threads: usize,
    /// Images behind the latency and the throughput.
    pub images: usize,
    /// From the file on disk to ready.
    pub load_ms: f64,
    /// The first image after the load.
    pub first_inference_ms: f64,
    /// Median time of one inference.
    pub latency_median_ms: f64,
    /// The time that 5 % of the inferences do not exceed.
    pub latency_p5_ms: f64,
    /// The time that 95 % of the inferences do not exceed.
    pub latency_p95_ms: f64,
    /// Inferences a second, of all threads.
    pub throughput_images_per_sec: f64,
    /// Median time to decode a 640×480 JPEG.
    pub decode_median_ms: Option<f64>,
    /// Median time from its pixels to the network's input.
    pub preprocess_median_ms: Option<f64>,
    /// Multiply-adds an image, by the manifest.
    pub multiply_adds_per_image: Option<u64>,
    /// Multiply-adds a second, in 10⁹, of all threads.
    pub giga_multiply_adds_per_sec: Option<f64>,
    /// Resident memory before the network was loaded.
    pub resident_before_load_bytes: Option<u64>,
    /// Resident memory after the network was loaded.
    pub resident_after_load_bytes: Option<u64>,
    /// The most resident memory there was, loading included.
    pub resident_peak_bytes: Option<u64>,
}

impl BenchReport {
    fn preparation(&self) -> String {
        let (Some(decode_ms), Some(preprocess_ms)) =
            (self.decode_median_ms, self.preprocess_median_ms)
        else {
            return "not measured: no manifest says how an image goes in".to_owned();
        };
        let both_ms = decode_ms + preprocess_ms;
        format!(
            "{decode_ms:.2} ms decode + {preprocess_ms:.2} ms pre-process a 640×480 JPEG: {:.0} % of an image's time",
            100.0 * both_ms / (both_ms + self.latency_median_ms)
        )
    }

    fn work(&self) -> String {
        let (Some(work), Some(rate)) = (
            self.multiply_adds_per_image,
            self.giga_multiply_adds_per_sec,
        ) else {
            return "not known: no manifest".to_owned();
        };
        format!(
            "{:.2} G multiply-adds an image, {rate:.1} GMAC/s",
            work as f64 / 1e9
        )
    }

    fn memory(&self) -> String {
        let (Some(before), Some(after), Some(peak)) = (
            self.resident_before_load_bytes,
            self.resident_after_load_bytes,
            self.resident_peak_bytes,
        ) else {
            return "not available".to_owned();
        };
        format!(
            "{} before load, {} after, {} at the peak",
            HumanBytes(before),
            HumanBytes(after),
            HumanBytes(peak)
        )
    }

    fn machine(&self) -> String {
        let model = self.cpu_model.as_deref().unwrap_or("not available");
        match self.cpu_threads {
            Some(threads) => format!("{model}, {}", count(threads, "thread")),
            None => model.to_owned(),
        }
    }
}

impl fmt::Display for BenchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [channels, height, width] = self.input_shape;
        let heading = self.description.as_deref().unwrap_or("ONNX file");
        let rows = [
            ("processor", self.machine()),
            (
                "run by",
                match self.image_threads {
                    1 => format!("{}, on {}", self.runtime, count(self.threads, "thread")),
                    shared => format!(
                        "{}, {} at a time, shared by {}",
                        self.runtime,
                        count(self.threads, "image"),
                        count(shared, "thread")
                    ),
                },
            ),
            (
                "file",
                format!(
                    "{}, input {channels}×{height}×{width}",
                    HumanBytes(self.file_bytes)
                ),
            ),
            ("load", format!("{:.0} ms", self.load_ms)),
            ("first image", format!("{:.1} ms", self.first_inference_ms)),
            (
                "latency",
                format!(
                    "{:.2} ms median, {:.2} to {:.2} ms (p5 to p95, {})",
                    self.latency_median_ms,
                    self.latency_p5_ms,
                    self.latency_p95_ms,
                    count(self.images, "image")
                ),
            ),
            (
                "throughput",
                format!("{:.1} images/s", self.throughput_images_per_sec),
            ),
            ("work", self.work()),
            ("before it", self.preparation()),
            ("memory", self.memory()),
        ];
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED).set_header([
            Cell::new(&self.name).add_attribute(Attribute::Bold),
            Cell::new(heading),
        ]);
        for (name, value) in rows {
            table.add_row([name, &value]);
        }
        table.fmt(f)
    }
}

fn count(number: usize, thing: &str) -> String {
    match number {
        1 => format!("1 {thing}"),
        number => format!("{number} {thing}s"),
    }
}
