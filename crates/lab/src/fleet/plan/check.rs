//! What the numbers of a plan may be.

use super::{ArrivalKind, LinkPlan, LogNormal, Plan, Quantity, ServerPlan, SimulationPlan};

/// Most devices of a plan: each keeps some 40 bytes.
const MOST_DEVICES: u32 = 10_000_000;
/// Least images of a run: twenty parts of fewer tell no percentile.
const LEAST_IMAGES: u64 = 2_000;

/// Why a plan is none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// It is no TOML, lacks a field or has one too many.
    #[error("it does not parse")]
    Parse(#[from] toml::de::Error),
    /// A number is out of its range.
    #[error("`{field}` is {value}: give {wanted}")]
    Number {
        /// The field.
        field: String,
        /// What it is.
        value: f64,
        /// What it may be.
        wanted: &'static str,
    },
    /// A list has nothing in it.
    #[error("`{0}` is empty: give one at least")]
    Empty(&'static str),
    /// A field that goes with the kind of arrivals is missing, or is there without it.
    #[error("`arrivals.{field}` goes with `kind = \"bursts\"`: {what}")]
    Bursts {
        /// The field.
        field: &'static str,
        /// What to do.
        what: &'static str,
    },
}

impl Plan {
    /// Checks every number.
    pub(super) fn check(&self) -> Result<(), PlanError> {
        if self.devices.is_empty() {
            return Err(PlanError::Empty("devices"));
        }
        if self.trace.operating_points.is_empty() {
            return Err(PlanError::Empty("trace.operating_points"));
        }
        if self.link.is_empty() {
            return Err(PlanError::Empty("link"));
        }
        for &devices in &self.devices {
            within("devices", devices, 1.0, MOST_DEVICES)?;
        }
        self.check_arrivals()?;
        positive("device.time_scale", self.device.time_scale)?;
        positive("device.deadline_ms", self.device.deadline_ms)?;
        amount("device.correct_within_ms", self.device.correct_within_ms)?;
        for link in &self.link {
            link.check()?;
        }
        self.server.check()?;
        within("bytes.packet", self.bytes.packet, 1.0, u32::MAX)?;
        if let Some(image) = self.bytes.image {
            within("bytes.image", image, 1.0, u32::MAX)?;
        }
        amount("prices.server_hour", self.prices.server_hour)?;
        amount("prices.ingress_gb", self.prices.ingress_gb)?;
        positive("target.within_ms", self.target.within_ms)?;
        if !(self.target.share > 0.0 && self.target.share < 1.0) {
            let wanted = "more than 0 and less than 1";
            return Err(number("target.share", self.target.share, wanted));
        }
        let SimulationPlan {
            images,
            seconds,
            precision,
            most_images,
        } = self.simulation;
        amount("simulation.seconds", seconds)?;
        if images < LEAST_IMAGES {
            let wanted = "2000 or more";
            return Err(number("simulation.images", images as f64, wanted));
        }
        if most_images < images {
            let wanted = "no less than `simulation.images`";
            return Err(number("simulation.most_images", most_images as f64, wanted));
        }
        positive("simulation.precision", precision)
    }

    fn check_arrivals(&self) -> Result<(), PlanError> {
        let arrivals = &self.arrivals;
        positive("arrivals.per_device_hour", arrivals.per_device_hour)?;
        if !(arrivals.peak_over_mean.is_finite() && arrivals.peak_over_mean >= 1.0) {
            let wanted = "1 or more";
            let value = arrivals.peak_over_mean;
            return Err(number("arrivals.peak_over_mean", value, wanted));
        }
        let bursts = |field, what| Err(PlanError::Bursts { field, what });
        let is_bursts = arrivals.kind == ArrivalKind::Bursts;
        match (is_bursts, arrivals.burst_images) {
            (true, None) => return bursts("burst_images", "give the images of a burst"),
            (false, Some(_)) => return bursts("burst_images", "leave it out"),
            (true, Some(images)) => within("arrivals.burst_images", images, 1.0, 100_000_u32)?,
            (false, None) => {}
        }
        match (is_bursts, arrivals.burst_apart_ms) {
            (true, None) => bursts("burst_apart_ms", "give the time between two images of one"),
            (false, Some(_)) => bursts("burst_apart_ms", "leave it out"),
            (true, Some(apart)) => amount("arrivals.burst_apart_ms", apart),
            (false, None) => Ok(()),
        }
    }
}

impl LinkPlan {
    fn check(&self) -> Result<(), PlanError> {
        let field = |field: &str| format!("{field} of the link {:?}", self.name);
        positive(&field("weight"), self.weight)?;
        for (name, quantity) in [
            ("uplink_mbps", self.uplink_mbps),
            ("downlink_mbps", self.downlink_mbps),
        ] {
            quantity.check(&field(name), positive)?;
        }
        self.round_trip_ms.check(&field("round_trip_ms"), amount)?;
        if !(0.0..=0.5).contains(&self.loss) {
            let wanted = "a share from 0 to 0.5";
            return Err(number(&field("loss"), self.loss, wanted));
        }
        Ok(())
    }
}

impl Quantity {
    fn check(
        self,
        field: &str,
        valid: impl Fn(&str, f64) -> Result<(), PlanError>,
    ) -> Result<(), PlanError> {
        match self {
            Self::Same(value) => valid(field, value),
            Self::LogNormal(LogNormal { median, p95 }) => {
                positive(field, median)?;
                if !(p95.is_finite() && p95 >= median) {
                    return Err(number(field, p95, "a p95 that is no less than the median"));
                }
                Ok(())
            }
        }
    }
}

impl ServerPlan {
    fn check(&self) -> Result<(), PlanError> {
        if let Some(count) = self.count {
            within("server.count", count, 1.0, 1_000_000_u32)?;
        }
        within("server.decoders", self.decoders, 1.0, 1024_u32)?;
        within("server.instances", self.instances, 1.0, 1024_u32)?;
        amount("server.decode_ms", self.decode_ms)?;
        amount("server.call_ms", self.call_ms)?;
        // The bounds of cloud-service's own configuration.
        within("server.max_batch", self.max_batch as u32, 1.0, 1024_u32)?;
        within(
            "server.max_queue",
            self.max_queue as u32,
            1.0,
            1_000_000_u32,
        )?;
        if !(0.0..=10_000.0).contains(&self.max_delay_ms) {
            let wanted = "milliseconds, 0 to 10000";
            return Err(number("server.max_delay_ms", self.max_delay_ms, wanted));
        }
        let fits = |size: &&usize| !(1..=self.max_batch).contains(*size);
        if let Some(&size) = self.preferred.iter().find(fits) {
            let wanted = "sizes from 1 to `max_batch`";
            return Err(number("server.preferred", size as f64, wanted));
        }
        Ok(())
    }
}

fn number(field: &str, value: f64, wanted: &'static str) -> PlanError {
    PlanError::Number {
        field: field.to_owned(),
        value,
        wanted,
    }
}

fn positive(field: &str, value: f64) -> Result<(), PlanError> {
    match value.is_finite() && value > 0.0 {
        true => Ok(()),
        false => Err(number(field, value, "a number above 0")),
    }
}

fn amount(field: &str, value: f64) -> Result<(), PlanError> {
    match value.is_finite() && value >= 0.0 {
        true => Ok(()),
        false => Err(number(field, value, "0 or more")),
    }
}

fn within(field: &str, value: u32, least: f64, most: u32) -> Result<(), PlanError> {
    let value = f64::from(value);
    match value >= least && value <= f64::from(most) {
        true => Ok(()),
        false => Err(number(
            field,
            value,
            "1 or more, and no more than is sensible",
        )),
    }
}
