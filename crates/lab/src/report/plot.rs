//! Plots as SVG that takes its ink from the page around it.

use std::ops::Range;

use plotters::{
    coord::{
        Shift,
        ranged1d::{DefaultFormatting, KeyPointHint, Ranged},
        types::RangedCoordf64,
    },
    prelude::*,
};

/// Stands for the page's ink until [`themed`] puts that in its place.
const INK: RGBColor = RGBColor(1, 2, 3);
/// The same for faint lines.
const FAINT: RGBColor = RGBColor(4, 5, 6);

/// Colours of series, told apart on light and dark pages and by people who see few colours.
pub(crate) const PALETTE: [(u8, u8, u8); 8] = [
    (0x22, 0x8b, 0xe6),
    (0xe8, 0x59, 0x0c),
    (0x2b, 0x9a, 0x66),
    (0xc2, 0x55, 0x9d),
    (0xd9, 0x9a, 0x06),
    (0x6c, 0x5c, 0xe7),
    (0x0c, 0x9f, 0xae),
    (0x8d, 0x8d, 0x8d),
];

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Mark {
    /// A line.
    Line,
    /// A thin line.
    Thin,
    /// Dots.
    Dots,
    /// Dots for a thousand points.
    SmallDots,
}

/// A named row of points.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) colour: usize,
    pub(crate) mark: Mark,
    pub(crate) points: Vec<(f64, f64)>,
}

/// How values lie on the axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Scale {
    /// Evenly.
    #[default]
    Linear,
    /// By their logarithm along x, evenly along y.
    LogarithmicX,
    /// By their logarithm on both axes.
    Logarithmic,
}

impl Scale {
    fn is_log_x(self) -> bool {
        self != Self::Linear
    }

    fn is_log_y(self) -> bool {
        self == Self::Logarithmic
    }
}

/// A plot of two axes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plot {
    pub(crate) x: &'static str,
    pub(crate) y: &'static str,
    pub(crate) series: Vec<Series>,
    /// A range of y at every x, drawn behind the series.
    pub(crate) band: Vec<(f64, f64, f64)>,
    /// Ranges of x, drawn behind all else.
    pub(crate) spans: Vec<(f64, f64)>,
    /// How values lie on the axes; points that have no logarithm where one is needed are left out.
    pub(crate) scale: Scale,
    /// The range of y, where the points are not to say it.
    pub(crate) y_range: Option<(f64, f64)>,
    /// Width and height in pixels.
    pub(crate) size: (u32, u32),
}

/// An axis, level or by its logarithm.
#[derive(Debug, Clone, Copy)]
struct Axis {
    from: f64,
    to: f64,
    is_log: bool,
}

impl Axis {
    fn place(&self, value: f64) -> f64 {
        match self.is_log {
            true => value.max(f64::MIN_POSITIVE).ln(),
            false => value,
        }
    }
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let places = RangedCoordf64::from(self.place(self.from)..self.place(self.to));
        places.map(&self.place(*value), limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if !self.is_log {
            return RangedCoordf64::from(self.from..self.to).key_points(hint);
        }
        let decades = self.from.log10().floor() as i32..=self.to.log10().ceil() as i32;
        let within = |steps: &[f64]| {
            let all = decades.clone();
            let all = all.flat_map(|decade| steps.iter().map(move |s| s * 10f64.powi(decade)));
            all.filter(|value| (self.from..=self.to).contains(value))
                .collect::<Vec<f64>>()
        };
        let fine = within(&[1.0, 2.0, 5.0]);
        match fine.len() <= hint.max_num_points() {
            true => fine,
            false => within(&[1.0]),
        }
    }

    fn range(&self) -> Range<f64> {
        self.from..self.to
    }
}

impl Plot {
    /// A plot of this size with nothing in it yet.
    pub(crate) fn new(size: (u32, u32)) -> Self {
        Self {
            x: "",
            y: "",
            series: vec![],
            band: vec![],
            spans: vec![],
            scale: Scale::Linear,
            y_range: None,
            size,
        }
    }

    /// The plot as an SVG element; in its place the reason where it cannot be drawn.
    pub(crate) fn svg(&self) -> String {
        let mut svg = String::new();
        let drawn = {
            let root = SVGBackend::with_string(&mut svg, self.size).into_drawing_area();
            self.draw(&root)
        };
        match drawn {
            Ok(()) => themed(&svg),
            Err(error) => format!("<p>This plot cannot be drawn: {error}</p>"),
        }
    }

    /// Whether a point has a place on the axes.
    fn has_place(&self, point: (f64, f64)) -> bool {
        (point.0 > 0.0 || !self.scale.is_log_x()) && (point.1 > 0.0 || !self.scale.is_log_y())
    }

    fn ranges(&self) -> ((f64, f64), (f64, f64)) {
        let points = || {
            let of_series = self
                .series
                .iter()
                .flat_map(|series| series.points.iter().copied());
            let of_band = self
                .band
                .iter()
                .flat_map(|&(x, low, high)| [(x, low), (x, high)]);
            let all = of_series.chain(of_band);
            all.filter(|point| self.has_place(*point))
        };
        let range = |values: &mut dyn Iterator<Item = f64>, pad: f64| {
            let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| {
                (l.min(v), h.max(v))
            });
            match low < high {
                true => (low - pad * (high - low), high + pad * (high - low)),
                false if low.is_finite() => (low - 0.5, low + 0.5),
                false => (0.0, 1.0),
            }
        };
        let of = |values: &mut dyn Iterator<Item = f64>, pad: f64, is_log: bool| match is_log {
            true => {
                let (from, to) = range(&mut values.map(f64::ln), pad);
                (from.exp(), to.exp())
            }
            false => range(values, pad),
        };
        let y = || of(&mut points().map(|p| p.1), 0.06, self.scale.is_log_y());
        let y = self.y_range.unwrap_or_else(y);
        let mut x = of(&mut points().map(|p| p.0), 0.03, self.scale.is_log_x());
        if points().all(|p| p.0 >= 0.0) {
            x.0 = x.0.max(0.0);
        }
        (x, y)
    }

    fn draw(&self, root: &DrawingArea<SVGBackend<'_>, Shift>) -> Result<(), String> {
        let ((x0, x1), (y0, y1)) = self.ranges();
        let failed = |error: &dyn std::fmt::Display| error.to_string();
        let axis = |from, to, is_log| Axis { from, to, is_log };
        let is_drawn = |point: &(f64, f64)| self.has_place(*point);
        let label = match self.scale {
            Scale::Logarithmic => abbreviated,
            _ => short,
        };
        let (log_x, log_y) = (self.scale.is_log_x(), self.scale.is_log_y());
        let mut chart = ChartBuilder::on(root)
            .margin(10)
            .x_label_area_size(44)
            .y_label_area_size(58)
            .build_cartesian_2d(axis(x0, x1, log_x), axis(y0, y1, log_y))
            .map_err(|e| failed(&e))?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(FAINT)
            .light_line_style(TRANSPARENT)
            .axis_style(FAINT)
            .label_style(("sans-serif", 13, &INK))
            .axis_desc_style(("sans-serif", 14, &INK))
            .x_desc(self.x)
            .y_desc(self.y)
            .x_labels((self.size.0 as usize / 60).min(8))
            .y_labels(7)
            .x_label_formatter(&|value| label(*value))
            .y_label_formatter(&|value| label(*value))
            .draw()
            .map_err(|e| failed(&e))?;
        let spans = self.spans.iter();
        let spans = spans.map(|&(from, to)| Rectangle::new([(from, y0), (to, y1)], FAINT.filled()));
        chart.draw_series(spans).map_err(|e| failed(&e))?;
        if !self.band.is_empty() {
            let upper = self.band.iter().map(|&(x, _, high)| (x, high));
            let lower = self.band.iter().rev().map(|&(x, low, _)| (x, low));
            let outline: Vec<(f64, f64)> = upper.chain(lower).collect();
            let (r, g, b) = PALETTE[0];
            let colour = RGBColor(r, g, b).mix(0.18);
            chart
                .draw_series([Polygon::new(outline, colour)])
                .map_err(|e| failed(&e))?;
        }
        for series in &self.series {
            let (r, g, b) = PALETTE[series.colour % PALETTE.len()];
            let colour = RGBColor(r, g, b);
            match series.mark {
                Mark::Dots | Mark::SmallDots => {
                    let radius = if series.mark == Mark::Dots { 5 } else { 2 };
                    let dots = series.points.iter().copied().filter(is_drawn);
                    chart
                        .draw_series(dots.map(|point| Circle::new(point, radius, colour.filled())))
                        .map_err(|e| failed(&e))?;
                }
                Mark::Line | Mark::Thin => {
                    let width = if series.mark == Mark::Line { 3 } else { 1 };
                    let points = series.points.iter().copied().filter(is_drawn);
                    let line = LineSeries::new(points, colour.stroke_width(width));
                    chart.draw_series(line).map_err(|e| failed(&e))?;
                }
            }
        }
        Ok(())
    }
}

/// A number as short as an axis needs it.
fn short(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 || v == 0.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 0.1 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// A number with its thousands and millions as letters.
fn abbreviated(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{}M", short(value / 1e6)),
        value if value >= 1e3 => format!("{}k", short(value / 1e3)),
        value => short(value),
    }
}

/// Puts the page's ink in place of what stands for it, and lets the page set the size.
fn themed(svg: &str) -> String {
    svg.replace("#010203", "var(--ink)")
        .replace("#040506", "var(--faint)")
        .replacen(
            "<svg width",
            "<svg preserveAspectRatio=\"xMidYMid meet\" data-width",
            1,
        )
        .replacen(" height", " data-height", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: Vec<(f64, f64)>) -> String {
        Plot {
            x: "time",
            y: "top-1",
            series: vec![Series {
                name: "learned".to_owned(),
                colour: 0,
                mark: Mark::Line,
                points,
            }],
            ..Plot::new((400, 300))
        }
        .svg()
    }

    #[test]
    fn a_plot_has_its_line_and_the_pages_ink() {
        let svg = plot(vec![(0.1, 0.5), (10.0, 0.9)]);
        assert!(svg.contains("<polyline"), "{svg}");
        assert!(
            svg.contains("var(--ink)") && !svg.contains("#010203"),
            "{svg}"
        );
    }

    #[test]
    fn plots_of_one_point_or_none_are_drawn() {
        assert!(plot(vec![(1.0, 1.0)]).contains("<svg"));
        assert!(plot(vec![]).contains("<svg"));
    }

    #[test]
    fn logarithmic_axes_have_numbers() {
        let shown = [1.0, 10.0, 1e4, 1e6, 0.01, 2.5].map(abbreviated);
        assert_eq!(shown, ["1", "10", "10k", "1M", "0.01", "2.5"]);
        let series = Series {
            name: "servers".to_owned(),
            colour: 0,
            mark: Mark::Line,
            // The first has no logarithm.
            points: vec![(0.0, 1.0), (10.0, 1.0), (1e6, 20.0)],
        };
        let plot = Plot {
            series: vec![series],
            scale: Scale::Logarithmic,
            ..Plot::new((400, 300))
        };
        assert!(plot.svg().contains("100k"), "{}", plot.svg());
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 0.05, 0.5, 2.0, 12.5, 250.0].map(short);
        assert_eq!(shown, ["0", "0.05", "0.5", "2", "12.5", "250"]);
    }
}
