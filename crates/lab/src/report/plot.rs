//! Plots as SVG that takes its ink from the page around it.

use plotters::{coord::Shift, prelude::*};

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
    /// By their logarithm, on both axes; values must be above 0.
    Logarithmic,
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
    /// How values lie on the axes.
    pub(crate) scale: Scale,
    /// Width and height in pixels.
    pub(crate) size: (u32, u32),
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
            size,
        }
    }

    /// The plot as an SVG element; in its place the reason where it cannot be drawn.
    pub(crate) fn svg(&self) -> String {
        let mut svg = String::new();
        let drawn = {
            let root = SVGBackend::with_string(&mut svg, self.size).into_drawing_area();
            match self.scale {
                Scale::Linear => self.draw(&root, &short),
                Scale::Logarithmic => self.logarithms().draw(&root, &power),
            }
        };
        match drawn {
            Ok(()) => themed(&svg),
            Err(error) => format!("<p>This plot cannot be drawn: {error}</p>"),
        }
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
            of_series.chain(of_band)
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
        let mut x = range(&mut points().map(|p| p.0), 0.03);
        if points().all(|p| p.0 >= 0.0) {
            x.0 = x.0.max(0.0);
        }
        (x, range(&mut points().map(|p| p.1), 0.06))
    }

    /// The plot with the logarithms of all its values.
    fn logarithms(&self) -> Self {
        let mut plot = self.clone();
        for (x, y) in plot.series.iter_mut().flat_map(|series| &mut series.points) {
            (*x, *y) = (x.log10(), y.log10());
        }
        for (x, low, high) in &mut plot.band {
            (*x, *low, *high) = (x.log10(), low.log10(), high.log10());
        }
        for (from, to) in &mut plot.spans {
            (*from, *to) = (from.log10(), to.log10());
        }
        plot
    }

    fn draw(
        &self,
        root: &DrawingArea<SVGBackend<'_>, Shift>,
        label: &dyn Fn(f64) -> String,
    ) -> Result<(), String> {
        let ((x0, x1), (y0, y1)) = self.ranges();
        let failed = |error: &dyn std::fmt::Display| error.to_string();
        let mut chart = ChartBuilder::on(root)
            .margin(10)
            .x_label_area_size(44)
            .y_label_area_size(58)
            .build_cartesian_2d(x0..x1, y0..y1)
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
            .x_labels(8)
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
                    let dots = series.points.iter();
                    chart
                        .draw_series(dots.map(|&point| Circle::new(point, radius, colour.filled())))
                        .map_err(|e| failed(&e))?;
                }
                Mark::Line | Mark::Thin => {
                    let width = if series.mark == Mark::Line { 3 } else { 1 };
                    let line =
                        LineSeries::new(series.points.iter().copied(), colour.stroke_width(width));
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

/// The number of which a value is the logarithm, to two digits.
fn power(logarithm: f64) -> String {
    let number = 10_f64.powf(logarithm);
    let digits = (1.0 - logarithm.floor()).max(0.0) as usize;
    match number {
        number if number >= 1e6 => format!("{}M", short(number / 1e6)),
        number if number >= 1e3 => format!("{}k", short(number / 1e3)),
        number if number >= 1.0 => short((number * 10.0).round() / 10.0),
        _ => {
            let text = format!("{number:.digits$}");
            text.trim_end_matches('0').to_owned()
        }
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
        let shown = [0.0, 1.0, 4.0, 6.0, -2.0, -5.0, 0.4].map(power);
        assert_eq!(shown, ["1", "10", "10k", "1M", "0.01", "0.00001", "2.5"]);
        let series = Series {
            name: "servers".to_owned(),
            colour: 0,
            mark: Mark::Line,
            points: vec![(10.0, 1.0), (1e6, 20.0)],
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
