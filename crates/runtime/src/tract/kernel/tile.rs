//! A tile of the output, and its sums in registers.

use std::ops::Range;

use fearless_simd::prelude::*;

use super::{
    Clamp, LANES, PIXELS, ROWS, bound,
    vectors::{Instructions, Values},
};
use crate::tract::planes::Geometry;

/// Pixels of the output side by side in their planes: the first one's place in the tile and in the planes.
#[derive(Clone, Copy, Default)]
struct Stretch {
    to: usize,
    from: usize,
}

/// `PIXELS` pixels of the output, one after another.
pub(super) struct Tile {
    stretches: [Stretch; PIXELS],
    count: usize,
}

impl Tile {
    #[inline(always)]
    pub(super) fn new(geometry: &Geometry, first: usize) -> Self {
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
    pub(super) fn gather(
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
pub(super) fn tile_of(values: &[f32], at: usize) -> &[f32; PIXELS] {
    values[at..]
        .first_chunk()
        .expect("there is room for a tile behind the planes")
}

/// Adds the product of `[weights][ROWS]` weights and `[weights][PIXELS]` values.
#[inline(always)]
pub(super) fn multiply(
    simd: Instructions,
    weights: &[[f32; ROWS]],
    values: &[[f32; PIXELS]],
    mut sums: [[Values; 2]; ROWS],
) -> [[Values; 2]; ROWS] {
    for (weights, values) in weights.iter().zip(values) {
        let values = registers(simd, values);
        for (sums, &weight) in sums.iter_mut().zip(weights) {
            let weight = Values::splat(simd, weight);
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum = weight.mul_add(value, *sum);
            }
        }
    }
    sums
}

// Loops, not `map`: closures that the library calls are compiled without the CPU's vectors.

/// Sums that begin with the bias of their channels.
#[inline(always)]
pub(super) fn biased(simd: Instructions, bias: &[f32; ROWS]) -> [[Values; 2]; ROWS] {
    let mut sums = [[Values::splat(simd, 0.0); 2]; ROWS];
    for (sums, &bias) in sums.iter_mut().zip(bias) {
        *sums = [Values::splat(simd, bias); 2];
    }
    sums
}

/// Sums that go on from `partial`.
#[inline(always)]
pub(super) fn resumed(simd: Instructions, partial: &[[f32; PIXELS]; ROWS]) -> [[Values; 2]; ROWS] {
    let mut sums = [[Values::splat(simd, 0.0); 2]; ROWS];
    for (sums, row) in sums.iter_mut().zip(partial) {
        *sums = registers(simd, row);
    }
    sums
}

/// Writes what leaves for a row of a tile.
#[inline(always)]
pub(super) fn finish(
    simd: Instructions,
    mut sums: [Values; 2],
    residual: Option<&[f32; PIXELS]>,
    clamp: Clamp,
    output: &mut [f32; PIXELS],
) {
    if let Some(residual) = residual {
        for (sum, value) in sums.iter_mut().zip(registers(simd, residual)) {
            *sum += value;
        }
    }
    for sum in &mut sums {
        *sum = bound(simd, *sum, clamp);
    }
    write(output, sums);
}

#[inline(always)]
pub(super) fn write(row: &mut [f32; PIXELS], sums: [Values; 2]) {
    let (lanes, _) = row.as_chunks_mut::<LANES>();
    for (lanes, sum) in lanes.iter_mut().zip(sums) {
        *lanes = sum.into();
    }
}

#[inline(always)]
fn registers(simd: Instructions, values: &[f32; PIXELS]) -> [Values; 2] {
    let (lanes, _) = values.as_chunks::<LANES>();
    [lanes[0].simd_into(simd), lanes[1].simd_into(simd)]
}
