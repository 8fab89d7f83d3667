//! Convolutions on CPUs with AVX2 and FMA, and in WebAssembly with SIMD, one thread.
//!
//! Six channels of output pixels, two registers of each, are summed at a time: twelve vector registers of sums, the
//! weights broadcast, the pixels loaded. What the pixels of a tile meet is gathered once, `[weights of a
//! channel][PIXELS]`, and serves all channels of the output. Where every channel is on its own there is
//! nothing to share, and runs of pixels go through the weights one by one.

mod depthwise;
mod shared;
mod tile;
pub(super) mod vectors;

use std::cell::RefCell;

use fearless_simd::prelude::*;

use super::planes::Geometry;
use vectors::{Instructions, LANES, Values};

/// Pixels of a tile.
const PIXELS: usize = 2 * LANES;
/// Channels of a tile.
const ROWS: usize = 6;
/// A convolution with what follows it: `min(max(x * weights + bias + residual, low), high)`.
#[derive(Debug)]
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

#[derive(Debug)]
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

/// Memory that a thread keeps from one convolution to the next.
#[derive(Default)]
struct Scratch {
    planes: Vec<f32>,
    panel: Vec<f32>,
    /// Sums of a strip of tiles, before all weights of a channel are done.
    partial: Vec<[[f32; PIXELS]; ROWS]>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

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

    /// Convolves one image, `[channels, height, width]`; `residual` is as large as the output.
    ///
    /// # Panics
    /// Where a slice does not have the size that the geometry says.
    pub(super) fn run(&self, image: &[f32], residual: Option<&[f32]>, output: &mut [f32]) {
        assert_eq!(image.len(), self.geometry.input.iter().product::<usize>());
        assert_eq!(output.len(), self.geometry.output.iter().product::<usize>());
        assert!(residual.is_none_or(|residual| residual.len() == output.len()));
        SCRATCH.with_borrow_mut(|scratch| {
            let run = Run {
                kernel: self,
                image,
                residual,
                output,
                scratch,
            };
            self.simd.vectorize(
                #[inline(always)]
                || run.call(),
            );
        });
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

/// A run, compiled for the CPU's vectors.
struct Run<'a> {
    kernel: &'a Kernel,
    image: &'a [f32],
    residual: Option<&'a [f32]>,
    output: &'a mut [f32],
    scratch: &'a mut Scratch,
}

impl Run<'_> {
    #[inline(always)]
    fn call(self) {
        match &self.kernel.weights {
            Weights::Shared { weights, bias } => self.shared(weights, bias),
            Weights::Depthwise { weights, bias } => self.depthwise(weights, bias),
        }
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
