//! What the system tells of its power supplies: `/sys/class/power_supply` of Linux, a folder a supply.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::Class;

/// Points of charge above the bound at which a battery is saved no more: it is not to and fro at the bound.
const MARGIN: u8 = 3;

/// What supplies there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Supplies {
    /// Whether one for the mains is plugged in.
    mains: bool,
    /// Whether another that is no battery gives something: USB, or without a wire.
    other: bool,
    batteries: Vec<Battery>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Battery {
    status: Status,
    /// Percent.
    charge: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Discharging,
    /// Charging, full, or not charged at present.
    Fed,
    Unknown,
}

/// Why it cannot be told.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: give `power.class` another value than \"auto\" where the system does not tell", path.display())]
pub(crate) struct SuppliesError {
    path: PathBuf,
    source: io::Error,
}

impl Supplies {
    /// Reads what is there now.
    ///
    /// # Errors
    /// [`SuppliesError`] where there is no such folder; a supply that says nothing is none.
    pub(crate) fn read(folder: &Path) -> Result<Self, SuppliesError> {
        let failed = |source| SuppliesError {
            path: folder.to_owned(),
            source,
        };
        let mut supplies = Self::default();
        for entry in fs::read_dir(folder).map_err(failed)? {
            supplies.add(&entry.map_err(failed)?.path());
        }
        Ok(supplies)
    }

    fn add(&mut self, supply: &Path) {
        let says = |name: &str| {
            let text = fs::read_to_string(supply.join(name)).ok()?;
            Some(text.trim().to_owned())
        };
        let Some(kind) = says("type") else { return };
        // The battery of a mouse is none of this machine.
        if says("scope").as_deref() == Some("Device") || says("present").as_deref() == Some("0") {
            return;
        }
        let is_online = says("online").is_some_and(|online| online != "0");
        match kind.as_str() {
            "Battery" | "UPS" => self.batteries.push(Battery {
                status: match says("status").as_deref() {
                    Some("Discharging") => Status::Discharging,
                    Some("Charging" | "Full" | "Not charging") => Status::Fed,
                    _ => Status::Unknown,
                },
                charge: says("capacity").and_then(|percent| percent.parse().ok()),
            }),
            "Mains" => self.mains |= is_online,
            _ => self.other |= is_online,
        }
    }

    /// Whether anything is there that tells.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Percent of what batteries may hold; none without one that says it.
    pub(crate) fn charge(&self) -> Option<u8> {
        let charges = self.batteries.iter().filter_map(|battery| battery.charge);
        let charges: Vec<u32> = charges.map(u32::from).collect();
        let count = u32::try_from(charges.len())
            .ok()
            .filter(|&count| count > 0)?;
        u8::try_from(charges.iter().sum::<u32>() / count).ok()
    }

    /// The class of a device that had that of `before` until now.
    pub(crate) fn class(&self, before: Class, saver_below: u8) -> Class {
        if !self.is_on_battery() {
            return Class::Mains;
        }
        let bound = match before {
            Class::Saver => saver_below.saturating_add(MARGIN),
            Class::Mains | Class::Battery => saver_below,
        };
        match self.charge() {
            Some(charge) if charge < bound => Class::Saver,
            _ => Class::Battery,
        }
    }

    fn is_on_battery(&self) -> bool {
        let has = |status| {
            self.batteries
                .iter()
                .any(|battery| battery.status == status)
        };
        if self.mains {
            false
        } else if has(Status::Discharging) {
            // Also where USB gives less than what is used.
            true
        } else {
            !self.batteries.is_empty() && !self.other && !has(Status::Fed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supply(folder: &Path, name: &str, says: &[(&str, &str)]) {
        let folder = folder.join(name);
        fs::create_dir_all(&folder).unwrap();
        for (file, text) in says {
            fs::write(folder.join(file), format!("{text}\n")).unwrap();
        }
    }

    fn class(supplies: &[&[(&str, &str)]]) -> Class {
        let folder = tempfile::tempdir().unwrap();
        for (number, says) in supplies.iter().enumerate() {
            supply(folder.path(), &number.to_string(), says);
        }
        let found = Supplies::read(folder.path()).unwrap();
        found.class(Class::Mains, 20)
    }

    fn battery<'a>(status: &'a str, capacity: &'a str) -> [(&'a str, &'a str); 3] {
        [
            ("type", "Battery"),
            ("status", status),
            ("capacity", capacity),
        ]
    }

    #[test]
    fn the_class_follows_what_the_system_says() {
        let mains = |online| [("type", "Mains"), ("online", online)];
        let usb = |online| [("type", "USB"), ("online", online)];
        for (supplies, expected) in [
            // A board without any, and a PC.
            (vec![], Class::Mains),
            (vec![&mains("1")[..]], Class::Mains),
            // A laptop.
            (vec![&mains("1"), &battery("Charging", "5")], Class::Mains),
            (
                vec![&mains("1"), &battery("Discharging", "50")],
                Class::Mains,
            ),
            (
                vec![&mains("0"), &battery("Discharging", "50")],
                Class::Battery,
            ),
            (
                vec![&mains("0"), &battery("Discharging", "20")],
                Class::Battery,
            ),
            (
                vec![&mains("0"), &battery("Discharging", "19")],
                Class::Saver,
            ),
            // A phone, on a charger and on one that gives too little.
            (vec![&usb("1"), &battery("Charging", "19")], Class::Mains),
            (vec![&usb("1"), &battery("Discharging", "19")], Class::Saver),
            // Drivers that say little.
            (vec![&battery("Unknown", "80")], Class::Battery),
            (vec![&battery("Full", "100")], Class::Mains),
            (
                vec![&[("type", "Battery"), ("status", "Discharging")]],
                Class::Battery,
            ),
            (vec![&battery("Discharging", "much")], Class::Battery),
            (
                vec![&[("type", "UPS"), ("status", "Discharging")]],
                Class::Battery,
            ),
            // What is not there, or is no supply.
            (vec![&[("online", "1")]], Class::Mains),
            (vec![&[("type", "Battery"), ("present", "0")]], Class::Mains),
        ] {
            assert_eq!(class(&supplies), expected, "{supplies:?}");
        }
        let mouse = [&battery("Discharging", "5")[..], &[("scope", "Device")]].concat();
        assert_eq!(class(&[&mouse]), Class::Mains);
    }

    #[test]
    fn a_battery_at_the_bound_does_not_go_to_and_fro() {
        let folder = tempfile::tempdir().unwrap();
        let mut class = Class::Battery;
        let mut classes = Vec::new();
        for charge in ["21", "19", "20", "22", "23", "22", "19"] {
            supply(folder.path(), "BAT0", &battery("Discharging", charge));
            class = Supplies::read(folder.path()).unwrap().class(class, 20);
            classes.push(class);
        }
        use Class::{Battery, Saver};
        assert_eq!(
            classes,
            [Battery, Saver, Saver, Saver, Battery, Battery, Saver]
        );
    }

    #[test]
    fn two_batteries_are_taken_together_and_a_missing_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        supply(folder.path(), "BAT0", &battery("Discharging", "5"));
        supply(folder.path(), "BAT1", &battery("Unknown", "90"));
        let supplies = Supplies::read(folder.path()).unwrap();
        assert_eq!(supplies.charge(), Some(47));
        assert_eq!(supplies.class(Class::Mains, 20), Class::Battery);
        let error = Supplies::read(&folder.path().join("none")).unwrap_err();
        assert!(error.to_string().contains("none"), "{error}");
    }
}
