//! What looks at every channel of a convolution's output on its own, in bands of rows.

use std::ops::Range;

use super::{Kernel, PIXELS, Part, ROWS};
use crate::{
    spare::Spare,
    tract::{planes::Geometry, pooling::MaxPooling},
};

/// Values of all channels that lie between for a band, half a megabyte: what the second-level caches of most CPUs hold, and rows
/// enough that those which two bands share, and are computed twice, are few.
const BAND: usize = 1 << 17;

/// Bands begin so many times as many rows apart as they share at least.
const LEAST_APART: usize = 4;

/// What lies between, for a band.
static BETWEEN: Spare<Vec<f32>> = Spare::new();

/// What follows a convolution.
#[derive(Debug, Clone)]
pub(in crate::tract) struct Then {
    geometry: Geometry,
    bands: Vec<Band>,
}

#[derive(Debug, Clone)]
struct Band {
    /// Pixels of the convolution's output.
    from: Range<usize>,
    /// Pixels that become of them.
    to: Range<usize>,
    step: Step,
}

#[derive(Debug, Clone)]
enum Step {
    /// A convolution whose every channel is on its own.
    Depthwise(Kernel),
    /// The largest value of windows.
    Largest(MaxPooling),
}

impl Then {
    /// A convolution whose every channel is on its own; none where nothing is won by bands.
    pub(in crate::tract) fn depthwise(kernel: &Kernel) -> Option<Self> {
        let step = |geometry: Geometry| {
            Step::Depthwise(Kernel {
                taps: geometry.taps(),
                geometry,
                ..kernel.clone()
            })
        };
        Self::new(kernel.geometry().clone(), step)
    }

    /// The largest value of the windows of `geometry`; none where nothing is won by bands.
    pub(in crate::tract) fn largest(geometry: Geometry) -> Option<Self> {
        Self::new(geometry, |geometry| {
            Step::Largest(MaxPooling::new(geometry))
        })
    }

    fn new(geometry: Geometry, step: impl Fn(Geometry) -> Step) -> Option<Self> {
        let [channels, height, width] = geometry.input;
        let [_, rows, columns] = geometry.output;
        let (stride, padding) = (geometry.strides[0], geometry.padding[0]);
        let reach = (geometry.kernel[0] - 1) * geometry.dilations[0] + 1;
        let most = (BAND / (channels * width).max(1)).saturating_sub(reach) / stride + 1;
        // Rows that two bands share are computed twice.
        if most * stride < LEAST_APART * reach.saturating_sub(stride) {
            return None;
        }
        let mut bands = Vec::new();
        for first in (0..rows).step_by(most) {
            let last = rows.min(first + most);
            // The first row that is met, in those with the padding above them; none of a band may lie in padding whole.
            let top = first * stride;
            let from =
                top.saturating_sub(padding)..((last - 1) * stride + reach).saturating_sub(padding);
            let from = from.start..from.end.min(height);
            if from.len() * width < PIXELS {
                return None;
            }
            let geometry = Geometry {
                input: [channels, from.len(), width],
                output: [channels, last - first, columns],
                padding: [padding.saturating_sub(top), geometry.padding[1]],
                ..geometry.clone()
            };
            bands.push(Band {
                from: from.start * width..from.end * width,
                to: first * columns..last * columns,
                step: step(geometry),
            });
        }
        (bands.len() > 1).then_some(Self { geometry, bands })
    }

    /// What it is for.
    pub(in crate::tract) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Pixels of its output.
    pub(super) fn pixels(&self) -> usize {
        self.geometry.pixels()
    }
}

impl Step {
    /// Goes through channels, of which `first` is the first; those of the output begin `pitch` values apart.
    fn run(&self, first: usize, channels: &[f32], output: &mut [f32], pitch: usize) {
        match self {
            Self::Depthwise(kernel) => Part {
                kernel,
                group: 0,
                first,
                window: 0..kernel.geometry.pixels(),
                planes: channels,
                residual: None,
                output,
                pitch,
            }
            .compute(),
            Self::Largest(pooling) => pooling.run(channels, output, pitch),
        }
    }
}

impl Part<'_> {
    /// Computes the channels, and what `then` makes of them.
    pub(super) fn compute_then(self, then: &Then) {
        let channels = self.output.len() / self.pitch;
        BETWEEN.lend(|between| {
            for Band { from, to, step } in &then.bands {
                let len = channels * from.len();
                // No more than the largest band takes.
                between.reserve_exact(len.saturating_sub(between.len()));
                between.resize(len.max(between.len()), 0.0);
                let between = &mut between[..len];
                Part {
                    kernel: self.kernel,
                    group: self.group,
                    first: self.first,
                    window: from.clone(),
                    planes: self.planes,
                    residual: None,
                    output: between,
                    pitch: from.len(),
                }
                .compute();
                let output = &mut self.output[to.start..];
                step.run(self.first * ROWS, between, output, self.pitch);
            }
        });
    }
}
