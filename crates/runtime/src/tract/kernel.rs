//! Convolutions on CPUs with AVX2 and FMA, one thread.
//!
//! Six channels of sixteen output pixels are summed at a time: twelve vector registers of sums, the
//! weights broadcast, the pixels loaded. What the pixels of a tile meet is gathered once, `[weights of a
//! channel][PIXELS]`, and serves all channels of the output. Where every channel is on its own there is
//! nothing to share, and runs of pixels go through the weights one by one.

use std::{cell::RefCell, ops::Range};

use fearless_simd::{Avx2, Level, f32x8, prelude::*};

use super::planes::Geometry;

/// Values in a register.
const LANES: usize = 8;
/// Pixels of a tile.
const PIXELS: usize = 2 * LANES;
/// Channels of a tile.
const ROWS: usize = 6;
/// Weights of a channel that are multiplied in one go: what a tile meets, 20 KB, stays in the first-level
/// cache.
const DEPTH: usize = 320;
/// Tiles that are gathered before weights are multiplied, and `ROWS` of channels whose weights meet them in
/// turn: 160 KB and 240 KB, which the second-level caches of CPUs with AVX2 hold in most.
const TILES: usize = 8;
const BLOCKS: usize = 32;
/// Pixels that go through the weights of one channel together.
const RUN: usize = 4 * LANES;

/// A convolution with what follows it: `min(max(x * weights + bias + residual, low), high)`.
#[derive(Debug)]
pub(super) struct Kernel {
    geometry: Geometry,
    weights: Weights,
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

    #[inline(always)]
    fn shared(self, weights: &[[f32; ROWS]], bias: &[[f32; ROWS]]) {
        let Kernel {
            geometry,
            clamp,
            taps,
            simd,
            ..
        } = self.kernel;
        let Scratch {
            planes,
            panel,
            partial,
        } = self.scratch;
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
        let part_len = depth.div_ceil(depth.div_ceil(DEPTH));
        // One row more for what is copied behind a tile's last stretch.
        let panel_len = (part_len + 1) * PIXELS;
        panel.resize(TILES * panel_len, 0.0);
        let outputs = geometry.group_outputs();
        let blocks = outputs.div_ceil(ROWS);
        if part_len < depth {
            partial.resize(blocks * TILES, [[0.0; PIXELS]; ROWS]);
        }
        let tiles = pixels.div_ceil(PIXELS);
        for (group, strip) in (0..geometry.groups)
            .flat_map(|group| (0..tiles).step_by(TILES).map(move |strip| (group, strip)))
        {
            let planes = &planes[group * geometry.group_inputs() * plane_len..];
            let weights = &weights[group * blocks * depth..][..blocks * depth];
            let bias = &bias[group * blocks..][..blocks];
            let strip = strip..tiles.min(strip + TILES);
            // The last tile covers pixels of the one before again rather than none.
            let first_pixel = |tile: usize| (tile * PIXELS).min(pixels - PIXELS);
            for start in (0..depth).step_by(part_len) {
                let part = start..depth.min(start + part_len);
                for (tile, panel) in strip.clone().zip(panel.chunks_exact_mut(panel_len)) {
                    let tile = Tile::new(geometry, first_pixel(tile));
                    tile.gather(planes, plane_len, taps, part.clone(), panel);
                }
                for near in (0..blocks).step_by(BLOCKS) {
                    for (tile, panel) in strip.clone().zip(panel.chunks_exact(panel_len)) {
                        let (rows, _) = panel.as_chunks();
                        let rows = &rows[..part.len()];
                        let first = first_pixel(tile);
                        for block in near..blocks.min(near + BLOCKS) {
                            let weights = &weights[block * depth..][part.clone()];
                            let between = block * TILES + tile - strip.start;
                            let sums = match start {
                                0 => biased(*simd, &bias[block]),
                                _ => resumed(*simd, &partial[between]),
                            };
                            let sums = multiply(*simd, weights, rows, sums);
                            if part.end < depth {
                                for (row, sum) in partial[between].iter_mut().zip(sums) {
                                    write(row, sum);
                                }
                                continue;
                            }
                            let channels = block * ROWS..outputs.min((block + 1) * ROWS);
                            for (channel, sum) in channels.zip(sums) {
                                let at = (group * outputs + channel) * pixels + first;
                                let residual = self.residual.map(|residual| tile_of(residual, at));
                                let output = self.output[at..]
                                    .first_chunk_mut()
                                    .expect("a tile lies within the output");
                                finish(*simd, sum, residual, *clamp, output);
                            }
                        }
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn depthwise(self, weights: &[f32], bias: &[f32]) {
        let Kernel {
            geometry,
            clamp,
            taps,
            simd,
            ..
        } = self.kernel;
        let Scratch { planes, panel, .. } = self.scratch;
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

    /// What the tile's pixels meet of the weights `part` of a channel, `[weights][PIXELS]`; the panel has a
    /// row more.
    #[inline(always)]
    fn gather(
        &self,
        planes: &[f32],
        plane_len: usize,
        taps: &[usize],
        part: Range<usize>,
        panel: &mut [f32],
    ) {
        let (mut channel, mut tap) = (part.start / taps.len(), part.start % taps.len());
        for row in 0..part.len() {
            let place = channel * plane_len + taps[tap];
            for stretch in &self.stretches[..self.count] {
                let to = panel[row * PIXELS + stretch.to..]
                    .first_chunk_mut()
                    .expect("there is a row behind the last");
                *to = *tile_of(planes, place + stretch.from);
            }
            tap += 1;
            if tap == taps.len() {
                (channel, tap) = (channel + 1, 0);
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

/// Adds the product of `[weights][ROWS]` weights and `[weights][PIXELS]` values.
#[inline(always)]
fn multiply(
    simd: Avx2,
    weights: &[[f32; ROWS]],
    values: &[[f32; PIXELS]],
    mut sums: [[f32x8<Avx2>; 2]; ROWS],
) -> [[f32x8<Avx2>; 2]; ROWS] {
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

// Loops, not `map`: closures that the library calls are compiled without the CPU's vectors.

/// Sums that begin with the bias of their channels.
#[inline(always)]
fn biased(simd: Avx2, bias: &[f32; ROWS]) -> [[f32x8<Avx2>; 2]; ROWS] {
    let mut sums = [[simd.splat_f32x8(0.0); 2]; ROWS];
    for (sums, &bias) in sums.iter_mut().zip(bias) {
        *sums = [simd.splat_f32x8(bias); 2];
    }
    sums
}

/// Sums that go on from `partial`.
#[inline(always)]
fn resumed(simd: Avx2, partial: &[[f32; PIXELS]; ROWS]) -> [[f32x8<Avx2>; 2]; ROWS] {
    let mut sums = [[simd.splat_f32x8(0.0); 2]; ROWS];
    for (sums, row) in sums.iter_mut().zip(partial) {
        *sums = registers(simd, row);
    }
    sums
}

/// Writes what leaves for a row of a tile.
#[inline(always)]
fn finish(
    simd: Avx2,
    mut sums: [f32x8<Avx2>; 2],
    residual: Option<&[f32; PIXELS]>,
    clamp: Clamp,
    output: &mut [f32; PIXELS],
) {
    if let Some(residual) = residual {
        for (sum, value) in sums.iter_mut().zip(registers(simd, residual)) {
            *sum = simd.add_f32x8(*sum, value);
        }
    }
    for sum in &mut sums {
        *sum = bound(simd, *sum, clamp);
    }
    write(output, sums);
}

#[inline(always)]
fn write(row: &mut [f32; PIXELS], sums: [f32x8<Avx2>; 2]) {
    let (lanes, _) = row.as_chunks_mut::<LANES>();
    for (lanes, sum) in lanes.iter_mut().zip(sums) {
        *lanes = sum.into();
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
