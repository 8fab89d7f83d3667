//! Convolutions on CPUs with AVX2 and FMA, and in WebAssembly with SIMD.
//!
//! Six channels of output pixels, two registers of each, are summed at a time: twelve vector registers of sums, the
//! weights broadcast, the pixels loaded. What the pixels of a tile meet is gathered once, `[weights of a
//! channel][PIXELS]`, and serves all channels of the output. Where every channel is on its own there is
//! nothing to share, and runs of pixels go through the weights one by one.
//!
//! Threads share the channels of the output among them. Each gathers for itself, which costs less than meeting after
//! every tile.
//!
//! Where what follows looks at every channel on its own, a band of rows at a time goes through both, and what lies between them is
//! never in memory whole.

mod depthwise;
mod shared;
mod then;
mod tile;
pub(super) mod vectors;

pub(super) use then::Then;

use std::ops::Range;

use fearless_simd::prelude::*;
use rayon::{ThreadPool, prelude::*};

use super::{planes::Geometry, threads};
use crate::spare::Spare;
use vectors::{Instructions, LANES, Values};

/// Pixels of a tile.
const PIXELS: usize = 2 * LANES;
/// Channels of a tile.
const ROWS: usize = 6;
/// Products of a convolution that are worth waking others for: some 30 µs of work.
const SHARED_FROM: usize = 1 << 20;

/// A convolution with what follows it: `min(max(x * weights + bias + residual, low), high)`.
#[derive(Debug, Clone)]
pub(super) struct Kernel {
    geometry: Geometry,
    weights: Weights,
    /// What follows.
    clamp: Clamp,
    /// See [`Geometry::taps`].
    taps: Vec<usize>,
    simd: Instructions,
}

/// Bounds of what leaves; infinite where there are none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Clamp {
    /// The least value.
    pub(super) low: f32,
    /// The largest value.
    pub(super) high: f32,
}

#[derive(Debug, Clone)]
enum Weights {
    /// For each group and each `ROWS` of its output channels a bias, and for each weight of a channel
    /// that weight of all; zeros fill up the last of a group.
    Shared {
        weights: Vec<[f32; ROWS]>,
        bias: Vec<[f32; ROWS]>,
    },
    /// `[channels][taps]`, `[channels]`.
    Depthwise { weights: Vec<f32>, bias: Vec<f32> },
}

/// What a convolution's output goes on with.
#[derive(Clone, Copy)]
enum Behind<'a> {
    Nothing,
    /// As large as the output, and added before the bounds apply.
    Residual(&'a [f32]),
    Then(&'a Then),
}

impl Behind<'_> {
    /// Pixels of what leaves in the end, of a convolution with so many.
    fn pixels(&self, pixels: usize) -> usize {
        match self {
            Self::Then(then) => then.pixels(),
            Self::Nothing | Self::Residual(_) => pixels,
        }
    }
}

/// What a part of a convolution needs on the way.
#[derive(Default)]
struct Scratch {
    /// Of one channel.
    planes: Vec<f32>,
    panel: Vec<f32>,
    /// Sums of a strip of tiles, before all weights of a channel are done.
    partial: Vec<[[f32; PIXELS]; ROWS]>,
}

static SCRATCH: Spare<Scratch> = Spare::new();
/// Images as all parts of a convolution see them.
static PLANES: Spare<Vec<f32>> = Spare::new();

impl Kernel {
    /// Prepares weights `[output channels, input channels of a group, height, width]` and a bias for every
    /// output channel; `None` on an x86 CPU without AVX2 and FMA, and for fewer pixels than a tile has.
    ///
    /// # Panics
    /// Where weights or bias do not have the size that `geometry` says.
    pub(super) fn new(
        geometry: Geometry,
        weights: &[f32],
        bias: Vec<f32>,
        clamp: Clamp,
    ) -> Option<Self> {
        let simd = vectors::find()?;
        if geometry.pixels() < PIXELS && !geometry.is_depthwise() {
            return None;
        }
        let taps = geometry.taps();
        let depth = geometry.group_inputs() * taps.len();
        assert_eq!(weights.len(), geometry.output[0] * depth);
        assert_eq!(bias.len(), geometry.output[0]);
        let weights = if geometry.is_depthwise() {
            Weights::Depthwise {
                weights: weights.to_vec(),
                bias,
            }
        } else {
            let group = geometry.group_outputs();
            Weights::Shared {
                weights: interleave(weights, group, depth),
                bias: interleave(&bias, group, 1),
            }
        };
        Some(Self {
            geometry,
            weights,
            clamp,
            taps,
            simd,
        })
    }

    /// What it is for.
    pub(super) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Whether [`Then`] may follow: all channels of the output belong together.
    pub(super) fn may_be_followed(&self) -> bool {
        self.geometry.groups == 1 && !self.geometry.is_depthwise()
    }

    /// Convolves one image, `[channels, height, width]`; `residual` is as large as the output.
    ///
    /// # Panics
    /// Where a slice does not have the size that the geometry says.
    pub(super) fn run(&self, image: &[f32], residual: Option<&[f32]>, output: &mut [f32]) {
        assert!(residual.is_none_or(|residual| residual.len() == output.len()));
        let behind = residual.map_or(Behind::Nothing, Behind::Residual);
        self.run_with(image, behind, output);
    }

    /// The same, and what follows; the output is what that makes of the convolution's.
    ///
    /// # Panics
    /// Where a slice does not have the size that the geometry says.
    pub(super) fn run_then(&self, image: &[f32], then: &Then, output: &mut [f32]) {
        self.run_with(image, Behind::Then(then), output);
    }

    fn run_with(&self, image: &[f32], behind: Behind<'_>, output: &mut [f32]) {
        let geometry = &self.geometry;
        let pixels = behind.pixels(geometry.pixels());
        assert_eq!(image.len(), geometry.input.iter().product::<usize>());
        assert_eq!(output.len(), geometry.output[0] * pixels);
        let products =
            geometry.output.iter().product::<usize>() * geometry.group_inputs() * self.taps.len();
        let pool = threads::shared().filter(|_| products >= SHARED_FROM);
        self.run_on(pool.as_deref(), image, behind, output);
    }

    fn run_on(
        &self,
        pool: Option<&ThreadPool>,
        image: &[f32],
        behind: Behind<'_>,
        output: &mut [f32],
    ) {
        let mut compute = |planes: &[f32]| match pool {
            None => self.compute(1, planes, behind, output),
            Some(pool) => {
                let threads = pool.current_num_threads();
                pool.install(|| self.compute(threads, planes, behind, output));
            }
        };
        match self.weights {
            Weights::Shared { .. } if !self.geometry.is_pointwise() => {
                PLANES.lend(|planes| compute(self.lay_out(image, planes)));
            }
            _ => compute(image),
        }
    }

    /// Computes the output, in parts that so many threads may take.
    fn compute(&self, threads: usize, planes: &[f32], behind: Behind<'_>, output: &mut [f32]) {
        // Groups of channels that belong together, and the channels that a thread computes no fewer of.
        let (groups, unit) = match self.weights {
            Weights::Shared { .. } => (self.geometry.groups, ROWS),
            Weights::Depthwise { .. } => (1, 1),
        };
        let pixels = behind.pixels(self.geometry.pixels());
        let (channels, parts) = (self.geometry.output[0] / groups, threads.div_ceil(groups));
        let part_units = channels.div_ceil(unit).div_ceil(parts);
        let (group_len, part_len) = (channels * pixels, part_units * unit * pixels);
        let compute = |(group, part, output): (usize, usize, &mut [f32])| {
            let start = group * group_len + part * part_len;
            let first = part * part_units;
            let planes = match self.weights {
                Weights::Shared { .. } => planes,
                Weights::Depthwise { .. } => {
                    let [_, height, width] = self.geometry.input;
                    &planes[first * height * width..]
                }
            };
            let residual = match behind {
                Behind::Residual(residual) => Some(&residual[start..][..output.len()]),
                Behind::Nothing | Behind::Then(_) => None,
            };
            let part = Part {
                kernel: self,
                group,
                first,
                window: 0..self.geometry.pixels(),
                planes,
                residual,
                output,
                pitch: pixels,
            };
            match behind {
                Behind::Then(then) => part.compute_then(then),
                Behind::Nothing | Behind::Residual(_) => part.compute(),
            }
        };
        if threads == 1 {
            let groups = output.chunks_exact_mut(group_len).enumerate();
            groups.for_each(|(group, output)| compute((group, 0, output)));
            return;
        }
        let groups = output.par_chunks_exact_mut(group_len).enumerate();
        let all = groups.flat_map(|(group, output)| {
            let parts = output.par_chunks_mut(part_len).enumerate().with_max_len(1);
            parts.map(move |(part, output)| (group, part, output))
        });
        all.for_each(compute);
    }

    /// The planes of every channel.
    fn lay_out<'a>(&self, image: &[f32], planes: &'a mut Vec<f32>) -> &'a [f32] {
        let geometry = &self.geometry;
        let len = geometry.planes_len();
        planes.clear();
        // A stretch is copied whole wherever it ends.
        planes.resize(len * geometry.input[0] + PIXELS, 0.0);
        let channels = image.chunks_exact(geometry.input[1] * geometry.input[2]);
        self.simd.vectorize(
            #[inline(always)]
            || {
                for (channel, planes) in channels.zip(planes.chunks_exact_mut(len)) {
                    geometry.lay_out(channel, planes);
                }
            },
        );
        planes
    }
}

/// Rows of `depth` values, `ROWS` of a group side by side; zeros fill up the last of a group.
fn interleave(rows: &[f32], group: usize, depth: usize) -> Vec<[f32; ROWS]> {
    let mut columns = Vec::with_capacity(rows.len() / group * group.div_ceil(ROWS));
    for group in rows.chunks_exact(group * depth) {
        for block in group.chunks(ROWS * depth) {
            for at in 0..depth {
                let mut column = [0.0; ROWS];
                for (to, row) in column.iter_mut().zip(block.chunks_exact(depth)) {
                    *to = row[at];
                }
                columns.push(column);
            }
        }
    }
    columns
}

/// Channels of the output, one after another, that a thread computes.
struct Part<'a> {
    kernel: &'a Kernel,
    /// Their group.
    group: usize,
    /// The first of them, in channels that a thread computes no fewer of.
    first: usize,
    /// Pixels that are computed: all, where every channel is on its own.
    window: Range<usize>,
    /// The image; laid out, where channels share what a pixel meets, and from the first channel on, where each is on its own.
    planes: &'a [f32],
    /// Of the whole window.
    residual: Option<&'a [f32]>,
    output: &'a mut [f32],
    /// Values from the beginning of one channel of the output to that of the next.
    pitch: usize,
}

impl Part<'_> {
    /// Computes them, with the CPU's vectors.
    fn compute(self) {
        let Kernel { weights, simd, .. } = self.kernel;
        SCRATCH.lend(|scratch| {
            simd.vectorize(
                #[inline(always)]
                || match weights {
                    Weights::Shared { weights, bias } => self.shared(weights, bias, scratch),
                    Weights::Depthwise { weights, bias } => self.depthwise(weights, bias, scratch),
                },
            );
        });
    }
}

/// The instructions give their second operand where one is not a number: what is not, stays so.
#[inline(always)]
fn bound(simd: Instructions, value: Values, clamp: Clamp) -> Values {
    let value = Values::splat(simd, clamp.low).max(value);
    Values::splat(simd, clamp.high).min(value)
}

#[cfg(test)]
mod tests;
