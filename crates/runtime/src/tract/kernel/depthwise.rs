//! Convolutions whose every channel is on its own.

use fearless_simd::prelude::*;

use super::{Kernel, LANES, Part, Scratch, bound, vectors::Values};

/// Pixels that go through the weights of one channel together.
const RUN: usize = 4 * LANES;

impl Part<'_> {
    #[inline(always)]
    pub(super) fn depthwise(self, weights: &[f32], bias: &[f32], scratch: &mut Scratch) {
        let Kernel {
            geometry,
            clamp,
            taps,
            simd,
            ..
        } = self.kernel;
        let Scratch { planes, panel, .. } = scratch;
        let (pixels, pitch) = (geometry.pixels(), geometry.pitch());
        let [_, height, width] = geometry.output;
        // Rows run on through the padding between them, and the last run past the end.
        let len = (height * pitch).next_multiple_of(RUN);
        planes.clear();
        planes.resize(geometry.planes_len() + len, 0.0);
        panel.resize(len, 0.0);
        let channel_len = geometry.input[1] * geometry.input[2];
        let channels = self.planes.chunks_exact(channel_len);
        let outputs = self.output.chunks_mut(self.pitch);
        let weights = weights.chunks_exact(taps.len()).zip(bias).skip(self.first);
        for ((image, output), (weights, &bias)) in channels.zip(outputs).zip(weights) {
            geometry.lay_out(image, &mut planes[..geometry.planes_len()]);
            let planes = &planes[..];
            let (runs, _) = panel[..len].as_chunks_mut::<RUN>();
            for (index, run) in runs.iter_mut().enumerate() {
                let mut sums = [Values::splat(*simd, bias); RUN / LANES];
                for (&weight, &tap) in weights.iter().zip(taps) {
                    let weight = Values::splat(*simd, weight);
                    let met: &[f32; RUN] = planes[index * RUN + tap..]
                        .first_chunk()
                        .expect("there is room for a run behind the planes");
                    let (met, _) = met.as_chunks::<LANES>();
                    for (sum, &met) in sums.iter_mut().zip(met) {
                        let met: Values = met.simd_into(*simd);
                        *sum = weight.mul_add(met, *sum);
                    }
                }
                let (lanes, _) = run.as_chunks_mut::<LANES>();
                for (lanes, sum) in lanes.iter_mut().zip(sums) {
                    *lanes = bound(*simd, sum, *clamp).into();
                }
            }
            let output = output[..pixels].chunks_exact_mut(width);
            for (to, from) in output.zip(panel.chunks(pitch)) {
                to.copy_from_slice(&from[..width]);
            }
        }
    }
}
