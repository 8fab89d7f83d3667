//! Convolutions whose output channels share what a pixel meets: tiles, in an order that keeps what is used
//! again in the caches.

use super::{
    Kernel, PIXELS, Part, ROWS, Scratch,
    tile::{Tile, biased, finish, multiply, resumed, tile_of, write},
};

/// Weights of a channel that are multiplied in one go: what a tile meets, 20 KB, stays in the first-level
/// cache.
const DEPTH: usize = 320;
/// Tiles that are gathered before weights are multiplied, and `ROWS` of channels whose weights meet them in
/// turn: 160 KB and 240 KB, which the second-level caches of CPUs with AVX2 hold in most.
const TILES: usize = 8;
const BLOCKS: usize = 32;

impl Part<'_> {
    #[inline(always)]
    pub(super) fn shared(
        self,
        weights: &[[f32; ROWS]],
        bias: &[[f32; ROWS]],
        scratch: &mut Scratch,
    ) {
        let Kernel {
            geometry,
            clamp,
            taps,
            simd,
            ..
        } = self.kernel;
        let Scratch { panel, partial, .. } = scratch;
        let (window, plane_len) = (self.window, geometry.planes_len());
        let depth = geometry.group_inputs() * taps.len();
        let part_len = depth.div_ceil(depth.div_ceil(DEPTH));
        // One row more for what is copied behind a tile's last stretch.
        let panel_len = (part_len + 1) * PIXELS;
        panel.resize(TILES * panel_len, 0.0);
        let outputs = self.output.len() / self.pitch;
        let blocks = outputs.div_ceil(ROWS);
        if part_len < depth {
            partial.resize(blocks * TILES, [[0.0; PIXELS]; ROWS]);
        }
        let first_block = self.group * geometry.group_outputs().div_ceil(ROWS) + self.first;
        let weights = &weights[first_block * depth..][..blocks * depth];
        let bias = &bias[first_block..][..blocks];
        let planes = &self.planes[self.group * geometry.group_inputs() * plane_len..];
        let tiles = window.len().div_ceil(PIXELS);
        for strip in (0..tiles).step_by(TILES) {
            let strip = strip..tiles.min(strip + TILES);
            // The last tile covers pixels of the one before again rather than none.
            let first_pixel = |tile: usize| (tile * PIXELS).min(window.len() - PIXELS);
            for start in (0..depth).step_by(part_len) {
                let part = start..depth.min(start + part_len);
                for (tile, panel) in strip.clone().zip(panel.chunks_exact_mut(panel_len)) {
                    let tile = Tile::new(geometry, window.start + first_pixel(tile));
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
                                let at = channel * self.pitch + first;
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
}
