//! The geometry of a convolution, and images laid out for it.
//!
//! An image is copied, with its padding, into planes: one for every phase of the strides, so that what
//! one weight meets from one output pixel to the next lies side by side whatever the stride. Output pixel
//! `(y, x)` meets the weight with the offset `tap` at `y * pitch + x + tap` of its channel's planes.

/// What a convolution of `[channels, height, width]` is, apart from its weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Groups of channels that know nothing of each other.
    pub(super) groups: usize,
    /// Channels, height and width.
    pub(super) input: [usize; 3],
    /// Channels, height and width.
    pub(super) output: [usize; 3],
    /// Height and width.
    pub(super) kernel: [usize; 2],
    /// Down and across.
    pub(super) strides: [usize; 2],
    /// Down and across.
    pub(super) dilations: [usize; 2],
    /// Rows above, columns to the left; what is missing below and to the right is zeros too.
    pub(super) padding: [usize; 2],
}

/// What convolutions ask.
#[cfg(any(target_arch = "x86_64", target_arch = "wasm32"))]
impl Geometry {
    /// Pixels of the output.
    pub(super) fn pixels(&self) -> usize {
        self.output[1] * self.output[2]
    }

    /// Channels of the input that an output pixel is made of.
    pub(super) fn group_inputs(&self) -> usize {
        self.input[0] / self.groups
    }

    /// Channels of the output in a group.
    pub(super) fn group_outputs(&self) -> usize {
        self.output[0] / self.groups
    }

    /// Whether every channel is a group.
    pub(super) fn is_depthwise(&self) -> bool {
        self.groups == self.input[0] && self.groups == self.output[0]
    }

    /// Whether the image is its own planes: one weight a channel, at every pixel.
    pub(super) fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1]
            && self.strides == [1, 1]
            && self.padding == [0, 0]
            && self.input[1..] == self.output[1..]
    }
}

impl Geometry {
    /// Rows of a plane.
    fn rows(&self) -> usize {
        self.output[1] + (self.kernel[0] - 1) * self.dilations[0] / self.strides[0]
    }

    /// Columns of a plane.
    pub(super) fn pitch(&self) -> usize {
        self.output[2] + (self.kernel[1] - 1) * self.dilations[1] / self.strides[1]
    }

    /// Values of all planes of a channel.
    pub(super) fn planes_len(&self) -> usize {
        self.strides[0] * self.strides[1] * self.rows() * self.pitch()
    }

    /// The offset of every weight of a channel, row by row.
    pub(super) fn taps(&self) -> Vec<usize> {
        let [down, across] = self.strides;
        let places = (0..self.kernel[0]).flat_map(|y| (0..self.kernel[1]).map(move |x| (y, x)));
        let offset = |(y, x): (usize, usize)| {
            let (y, x) = (y * self.dilations[0], x * self.dilations[1]);
            let plane = y % down * across + x % across;
            (plane * self.rows() + y / down) * self.pitch() + x / across
        };
        places.map(offset).collect()
    }

    /// Lays a channel of the input out; `planes` hold zeros where there is padding already.
    pub(super) fn lay_out(&self, channel: &[f32], planes: &mut [f32]) {
        let [down, across] = self.strides;
        let [above, left] = self.padding;
        let [_, height, width] = self.input;
        let pitch = self.pitch();
        let phases = (0..down).flat_map(|y| (0..across).map(move |x| (y, x)));
        let planes = planes.chunks_exact_mut(self.rows() * pitch).zip(phases);
        let rows = planes.flat_map(|(plane, phase)| {
            let rows = plane.chunks_exact_mut(pitch).enumerate();
            rows.map(move |(y, row)| (phase, y, row))
        });
        for ((phase_y, phase_x), y, row) in rows {
            let Some(y) = (y * down + phase_y)
                .checked_sub(above)
                .filter(|&y| y < height)
            else {
                continue;
            };
            // The first column that is not padding.
            let first = left.saturating_sub(phase_x).div_ceil(across);
            let source = &channel[y * width..][..width];
            let Some(source) = source.get(first * across + phase_x - left..) else {
                continue;
            };
            let Some(row) = row.get_mut(first..) else {
                continue;
            };
            match across {
                1 => {
                    let shared = row.len().min(source.len());
                    row[..shared].copy_from_slice(&source[..shared]);
                }
                // The usual stride, in a form that becomes shuffles of vectors.
                2 => {
                    let (pairs, last) = source.as_chunks::<2>();
                    for (to, [from, _]) in row.iter_mut().zip(pairs) {
                        *to = *from;
                    }
                    if let (Some(to), [from]) = (row.get_mut(pairs.len()), last) {
                        *to = *from;
                    }
                }
                _ => {
                    for (to, from) in row.iter_mut().zip(source.iter().step_by(across)) {
                        *to = *from;
                    }
                }
            }
        }
    }
}
