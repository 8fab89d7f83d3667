//! Convolutions whose output channels share what a pixel meets: tiles, in an order that keeps what is used
//! again in the caches.

use super::{
    Kernel, PIXELS, ROWS, Run, Scratch,
    tile::{Tile, biased, finish, multiply, resumed, tile_of, write},
};

/// Weights of a channel that are multiplied in one go: what a tile meets, 20 KB, stays in the first-level
/// cache.
const DEPTH: usize = 320;
/// Tiles that are gathered before weights are multiplied, and `ROWS` of channels whose weights meet them in
/// turn: 160 KB and 240 KB, which the second-level caches of CPUs with AVX2 hold in most.
const TILES: usize = 8;
const BLOCKS: usize = 32;

impl Run<'_> {
    #[inline(always)]
    pub(super) fn shared(self, weights: &[[f32; ROWS]], bias: &[[f32; ROWS]]) {
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
}
