//! Convolutions on CPUs with AVX2 and FMA, one thread.
//!
//! Six channels of sixteen output pixels are summed at a time: twelve vector registers of sums, the
//! weights broadcast, the pixels loaded. What the pixels of a tile meet is gathered once, `[weights of a
//! channel][PIXELS]`, and serves all channels of the output. Where every channel is on its own there is
//! nothing to share, and runs of pixels go through the weights one by one.

use std::cell::RefCell;

use fearless_simd::{Avx2, Level, f32x8, prelude::*};

use super::planes::Geometry;

/// Values in a register.
const LANES: usize = 8;
/// Pixels of a tile.
const PIXELS: usize = 2 * LANES;
/// Channels of a tile.
const ROWS: usize = 6;
/// Pixels that go through the weights of one channel together.
const RUN: usize = 4 * LANES;

/// A convolution with what follows it: `min(max(x * weights + bias + residual, low), high)`.
#[derive(Debug)]
pub(super) struct Kernel {
    geometry: Geometry,
    weights: Weights,
    /// A value for every channel of the output.
    bias: Vec<f32>,
    /// What follows.
    clamp: Clamp,
    /// See [`Geometry::taps`].
    taps: Vec<usize>,
    simd: Avx2,
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
    /// For each group, for each `ROWS` of its output channels, for each weight of a channel; zeros fill up the last.
    Shared(Vec<[f32; ROWS]>),
    /// `[channels][taps]`.
    Depthwise(Vec<f32>),
}

/// Memory that a thread keeps from one convolution to the next.
#[derive(Default)]
struct Scratch {
    planes: Vec<f32>,
    panel: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Pixels of the output side by side in their planes: the first one's place in the tile and in the planes.
#[derive(Clone, Copy, Default)]
struct Stretch {
    to: usize,
    from: usize,
}

/// `PIXELS` pixels of the output, one after another.
struct Tile {
    stretches: [Stretch; PIXELS],
    count: usize,
}

impl Kernel {
    /// Prepares weights `[output channels, input channels of a group, height, width]` and a bias for every
    /// output channel; `None` on a CPU without AVX2 and FMA, and for fewer pixels than a tile has.
    ///
    /// # Panics
    /// Where weights or bias do not have the size that `geometry` says.
    pub(super) fn new(
        geometry: Geometry,
        weights: &[f32],
        bias: Vec<f32>,
        clamp: Clamp,
    ) -> Option<Self> {
        let simd = Level::new().as_avx2()?;
        if geometry.pixels() < PIXELS && !geometry.is_depthwise() {
            return None;
        }
        let taps = geometry.taps();
        let depth = geometry.group_inputs() * taps.len();
        assert_eq!(weights.len(), geometry.output[0] * depth);
        assert_eq!(bias.len(), geometry.output[0]);
        let weights = if geometry.is_depthwise() {
            Weights::Depthwise(weights.to_vec())
        } else {
            let groups = weights.chunks_exact(geometry.group_outputs() * depth);
            let blocks = groups.flat_map(|group| group.chunks(ROWS * depth));
            let interleave = |block| {
                (0..depth).map(move |k| {
                    let mut column = [0.0; ROWS];
                    let rows = <[f32]>::chunks_exact(block, depth);
                    for (to, row) in column.iter_mut().zip(rows) {
                        *to = row[k];
                    }
                    column
                })
            };
            Weights::Shared(blocks.flat_map(interleave).collect())
        };
        Some(Self {
            geometry,
            weights,
            bias,
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
            Weights::Shared(weights) => self.shared(weights),
            Weights::Depthwise(weights) => self.depthwise(weights),
        }
    }

    #[inline(always)]
    fn shared(self, weights: &[[f32; ROWS]]) {
        let Kernel {
            geometry,
            bias,
            clamp,
            taps,
            simd,
            ..
        } = self.kernel;
        let Scratch { planes, panel } = self.scratch;
        let pixels = geometry.pixels();
        let (planes, plane_len) = if geometry.is_pointwise() {
            (self.image, pixels)
        } else {
            let len = geometry.planes_len();
            let channel_len = geometry.input[1] * geometry.input[2];
            planes.clear();
            // A stretch is copied whole wherever it ends.
            planes.resize(len * geometry.input[0] + PIXELS, 0.0);
            let channels = self.image.chunks_exact(channel_len);
            for (channel, planes) in channels.zip(planes.chunks_exact_mut(len)) {
                geometry.lay_out(channel, planes);
            }
            (&planes[..], len)
        };
        let depth = geometry.group_inputs() * taps.len();
        panel.resize((depth + 1) * PIXELS, 0.0);
        let outputs = geometry.group_outputs();
        let blocks = outputs.div_ceil(ROWS);
        for group in 0..geometry.groups {
            let inputs = group * geometry.group_inputs()..(group + 1) * geometry.group_inputs();
            let weights = &weights[group * blocks * depth..][..blocks * depth];
            for first in (0..pixels).step_by(PIXELS) {
                // The last tile covers pixels of the one before again rather than none.
                let first = first.min(pixels - PIXELS);
                let tile = Tile::new(geometry, first);
                tile.gather(&planes[inputs.start * plane_len..], plane_len, taps, panel);
                let (rows, _) = panel.as_chunks();
                for (block, weights) in weights.chunks_exact(depth).enumerate() {
                    let sums = multiply(*simd, weights, &rows[..depth]);
                    let channels = group * outputs + block * ROWS..(group + 1) * outputs;
                    for (channel, sum) in channels.zip(sums) {
                        let at = channel * pixels + first;
                        let residual = self.residual.map(|residual| tile_of(residual, at));
                        let output = self.output[at..]
                            .first_chunk_mut()
                            .expect("a tile lies within the output");
                        finish(*simd, sum, bias[channel], residual, *clamp, output);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn depthwise(self, weights: &[f32]) {
        let Kernel {
            geometry,
            bias,
            clamp,
            taps,
            simd,
            ..
        } = self.kernel;
        let Scratch { planes, panel } = self.scratch;
        let (pixels, pitch) = (geometry.pixels(), geometry.pitch());
        let [_, height, width] = geometry.output;
        // Rows run on through the padding between them, and the last run past the end.
        let len = (height * pitch).next_multiple_of(RUN);
        planes.clear();
        planes.resize(geometry.planes_len() + len, 0.0);
        panel.resize(len, 0.0);
        let channels = self
            .image
            .chunks_exact(geometry.input[1] * geometry.input[2]);
        let outputs = self.output.chunks_exact_mut(pixels);
        let weights = weights.chunks_exact(taps.len()).zip(bias);
        for ((image, output), (weights, &bias)) in channels.zip(outputs).zip(weights) {
            geometry.lay_out(image, &mut planes[..geometry.planes_len()]);
            let planes = &planes[..];
            let (runs, _) = panel[..len].as_chunks_mut::<RUN>();
            for (index, run) in runs.iter_mut().enumerate() {
                let mut sums = [simd.splat_f32x8(bias); RUN / LANES];
                for (&weight, &tap) in weights.iter().zip(taps) {
                    let weight = simd.splat_f32x8(weight);
                    let met: &[f32; RUN] = planes[index * RUN + tap..]
                        .first_chunk()
                        .expect("there is room for a run behind the planes");
                    let (met, _) = met.as_chunks::<LANES>();
                    for (sum, &met) in sums.iter_mut().zip(met) {
                        *sum = simd.mul_add_f32x8(weight, met.simd_into(*simd), *sum);
                    }
                }
                let (lanes, _) = run.as_chunks_mut::<LANES>();
                for (lanes, sum) in lanes.iter_mut().zip(sums) {
                    *lanes = bound(*simd, sum, *clamp).into();
                }
            }
            for (to, from) in output.chunks_exact_mut(width).zip(panel.chunks(pitch)) {
                to.copy_from_slice(&from[..width]);
            }
        }
    }
}

impl Tile {
    #[inline(always)]
    fn new(geometry: &Geometry, first: usize) -> Self {
        let mut tile = Self {
            stretches: [Stretch::default(); PIXELS],
            count: 0,
        };
        let (columns, pitch) = (geometry.output[2], geometry.pitch());
        let mut to = 0;
        while to < PIXELS {
            let pixel = first + to;
            tile.stretches[tile.count] = Stretch {
                to,
                from: pixel / columns * pitch + pixel % columns,
            };
            tile.count += 1;
            // Without padding between them rows follow each other.
            to = if pitch == columns {
                PIXELS
            } else {
                to + columns - pixel % columns
            };
        }
        tile
    }

    /// What the tile's pixels meet, `[input channels][taps][PIXELS]`, and one row more for what is copied
    /// behind the last stretch.
    #[inline(always)]
    fn gather(&self, planes: &[f32], plane_len: usize, taps: &[usize], panel: &mut [f32]) {
        let rows = panel.len() / PIXELS - 1;
        let places = (0..rows / taps.len())
            .flat_map(|channel| taps.iter().map(move |tap| channel * plane_len + tap));
        for (row, place) in places.enumerate() {
            for stretch in &self.stretches[..self.count] {
                let to = panel[row * PIXELS + stretch.to..]
                    .first_chunk_mut()
                    .expect("there is a row behind the last");
                *to = *tile_of(planes, place + stretch.from);
            }
        }
    }
}

/// The values from `at`.
#[inline(always)]
fn tile_of(values: &[f32], at: usize) -> &[f32; PIXELS] {
    values[at..]
        .first_chunk()
        .expect("there is room for a tile behind the planes")
}

/// The product of `[depth][ROWS]` weights and `[depth][PIXELS]` values.
#[inline(always)]
fn multiply(
    simd: Avx2,
    weights: &[[f32; ROWS]],
    values: &[[f32; PIXELS]],
) -> [[f32x8<Avx2>; 2]; ROWS] {
    let mut sums = [[simd.splat_f32x8(0.0); 2]; ROWS];
    for (weights, values) in weights.iter().zip(values) {
        let values = registers(simd, values);
        for (sums, &weight) in sums.iter_mut().zip(weights) {
            let weight = simd.splat_f32x8(weight);
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum = simd.mul_add_f32x8(weight, value, *sum);
            }
        }
    }
    sums
}

/// Writes what leaves for a row of a tile.
#[inline(always)]
fn finish(
    simd: Avx2,
    sums: [f32x8<Avx2>; 2],
    bias: f32,
    residual: Option<&[f32; PIXELS]>,
    clamp: Clamp,
    output: &mut [f32; PIXELS],
) {
    let bias = simd.splat_f32x8(bias);
    let mut sums = sums.map(|sum| simd.add_f32x8(sum, bias));
    if let Some(residual) = residual {
        for (sum, value) in sums.iter_mut().zip(registers(simd, residual)) {
            *sum = simd.add_f32x8(*sum, value);
        }
    }
    let (lanes, _) = output.as_chunks_mut::<LANES>();
    for (lanes, sum) in lanes.iter_mut().zip(sums) {
        *lanes = bound(simd, sum, clamp).into();
    }
}

#[inline(always)]
fn registers(simd: Avx2, values: &[f32; PIXELS]) -> [f32x8<Avx2>; 2] {
    let (lanes, _) = values.as_chunks::<LANES>();
    [lanes[0].simd_into(simd), lanes[1].simd_into(simd)]
}

/// The instructions give their second operand where one is not a number: what is not, stays so.
#[inline(always)]
fn bound(simd: Avx2, value: f32x8<Avx2>, clamp: Clamp) -> f32x8<Avx2> {
    let value = simd.max_f32x8(simd.splat_f32x8(clamp.low), value);
    simd.min_f32x8(simd.splat_f32x8(clamp.high), value)
}

#[cfg(test)]
mod tests;
