//! `[power]` of the configuration.

use std::{
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use outpost_cascade::OffloadEnergy;
use outpost_exit_policy::Goal;
use serde::Deserialize;

use super::{ConfigError, MOST_RELOAD_SECONDS};

/// How many times as long pauses are on a battery that is nearly empty.
const SAVER_SLOWDOWN: NonZeroU32 = NonZeroU32::new(4).expect("it is not zero");
/// The most joules a megabyte, watts, and seconds: far beyond what any radio takes.
const MOST_OF_A_RADIO: f64 = 1e6;

/// What the device runs from, and how it spares that, in `edge-agent run`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PowerConfig {
    /// `mains`, `battery`, `saver`, or `auto`: as the system says. Default `mains`, which spares nothing.
    pub class: PowerClass,
    /// Percent of its charge below which a battery is to be saved, with `auto`. Default 20.
    pub saver_below: u8,
    /// Where the system tells of its power supplies. Default `/sys/class/power_supply`.
    pub supplies: PathBuf,
    /// Seconds between looks there. Default 10.
    pub look_seconds: u64,
    /// What an offload takes of the battery; needed for `joules_per_hour`.
    pub offload: Option<OffloadCost>,
    /// What the class `battery` allows.
    pub battery: Spared,
    /// What the class `saver` allows.
    pub saver: Spared,
}

/// What a device runs from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PowerClass {
    /// It does not matter how much.
    #[default]
    Mains,
    /// A battery.
    Battery,
    /// A battery that is to be saved.
    Saver,
    /// As the system says.
    Auto,
}

/// What an offload takes of the battery, as it was measured on such a device.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OffloadCost {
    /// Joules a million bytes that are sent.
    pub joules_per_megabyte: f64,
    /// Watts of the radio while it is awake and sends nothing, beyond those while it sleeps.
    pub radio_watts: f64,
    /// Seconds for which it stays awake after it sent something.
    pub radio_tail_seconds: f64,
}

/// What a class allows.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Spared {
    /// Joules an hour that offloads may take; no bound by default.
    pub joules_per_hour: Option<NonZeroU32>,
    /// Offloads an hour; no bound by default but that of `[cloud.budget]`.
    pub offloads_per_hour: Option<NonZeroU32>,
    /// Which operating point of the policy is used; that of the configuration by default.
    pub operating_point: Option<Goal>,
    /// Whether answers are audited. Default no.
    pub audits: bool,
    /// How many times as long the pauses are between images of cameras and web servers, and between questions to clouds that
    /// are not in use. Default 1, and 4 for `saver`.
    pub slowdown: Option<NonZeroU32>,
}

impl Default for PowerConfig {
    fn default() -> Self {
        Self {
            class: PowerClass::default(),
            saver_below: 20,
            supplies: PathBuf::from("/sys/class/power_supply"),
            look_seconds: 10,
            offload: None,
            battery: Spared::default(),
            saver: Spared {
                slowdown: Some(SAVER_SLOWDOWN),
                ..Spared::default()
            },
        }
    }
}

impl From<OffloadCost> for OffloadEnergy {
    fn from(cost: OffloadCost) -> Self {
        Self {
            joules_per_byte: cost.joules_per_megabyte / 1e6,
            radio_watts: cost.radio_watts,
            radio_tail: Duration::from_secs_f64(cost.radio_tail_seconds),
        }
    }
}

impl PowerConfig {
    pub(super) fn resolve(&mut self, folder: &Path) {
        self.supplies = folder.join(&self.supplies);
        // Where the table is there and does not say it.
        self.saver.slowdown.get_or_insert(SAVER_SLOWDOWN);
    }

    /// Checks what types cannot.
    pub(super) fn check(&self, has_policy: bool) -> Result<(), ConfigError> {
        match self.look_seconds {
            0 => return Err(ConfigError::Zero("power.look_seconds")),
            seconds if seconds > MOST_RELOAD_SECONDS => {
                return Err(ConfigError::TooLarge {
                    name: "power.look_seconds",
                    limit: MOST_RELOAD_SECONDS,
                });
            }
            _ => {}
        }
        if self.saver_below > 100 {
            return Err(ConfigError::TooLarge {
                name: "power.saver_below",
                limit: 100,
            });
        }
        if let Some(cost) = self.offload {
            for (name, value) in [
                (
                    "power.offload.joules_per_megabyte",
                    cost.joules_per_megabyte,
                ),
                ("power.offload.radio_watts", cost.radio_watts),
                ("power.offload.radio_tail_seconds", cost.radio_tail_seconds),
            ] {
                let most = MOST_OF_A_RADIO;
                if !(0.0..=most).contains(&value) {
                    return Err(ConfigError::Range { name, value, most });
                }
            }
        }
        for (class, spared) in [("battery", &self.battery), ("saver", &self.saver)] {
            if spared.joules_per_hour.is_some() && self.offload.is_none() {
                return Err(ConfigError::NoOffloadCost(class));
            }
            if spared.operating_point.is_some() && !has_policy {
                return Err(ConfigError::NoPolicyToSpare(class));
            }
        }
        Ok(())
    }
}
