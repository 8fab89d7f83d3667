//! What the operating system says of processes and this machine. Linux only; elsewhere nothing is
//! known.

use std::{fs, path::Path};

/// Resident memory of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Now.
    pub(crate) resident_bytes: u64,
    /// At most so far.
    pub(crate) peak_bytes: u64,
}

/// Resident memory of this process, where the system tells.
pub(crate) fn memory() -> Option<Memory> {
    memory_in(&fs::read_to_string("/proc/self/status").ok()?)
}

/// Resident memory of another process, where the system tells.
pub(crate) fn memory_of(process: u32) -> Option<Memory> {
    memory_in(&fs::read_to_string(format!("/proc/{process}/status")).ok()?)
}

/// Name of the processor, or of the board where the processor has none, where the system tells.
pub(crate) fn cpu_model() -> Option<String> {
    let listed = fs::read_to_string("/proc/cpuinfo").ok();
    listed.as_deref().and_then(cpu_model_in).or_else(|| {
        let board = fs::read_to_string("/proc/device-tree/model").ok()?;
        Some(board.trim_end_matches('\0').to_owned())
    })
}

/// Processor time that a process has used so far, its ended children left out, where the system tells.
pub(crate) fn cpu_seconds_of(process: u32) -> Option<f64> {
    cpu_seconds_in(&fs::read_to_string(format!("/proc/{process}/stat")).ok()?)
}

/// What the processor's packages have used since some time, and where they begin again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Energy {
    microjoules: u64,
    most: u64,
}

/// The counters of the processor's first package, where the system has them and lets this process read them.
pub(crate) fn energy() -> Option<Energy> {
    let package = Path::new("/sys/class/powercap/intel-rapl:0");
    let read = |name: &str| -> Option<u64> {
        fs::read_to_string(package.join(name))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    Some(Energy {
        microjoules: read("energy_uj")?,
        most: read("max_energy_range_uj")?,
    })
}

/// Joules from one look to the next, at most once around.
pub(crate) fn joules_between(first: Option<Energy>, next: Option<Energy>) -> Option<f64> {
    let (first, next) = (first?, next?);
    let microjoules = match next.microjoules.checked_sub(first.microjoules) {
        Some(microjoules) => microjoules,
        None => (next.microjoules + first.most).saturating_sub(first.microjoules),
    };
    Some(microjoules as f64 / 1e6)
}

fn cpu_seconds_in(stat: &str) -> Option<f64> {
    /// Ticks a second of the kernel's interface, the same on all that this runs on.
    const TICKS: f64 = 100.0;
    // The name, in brackets, may have spaces. After it come the state and, from the twelfth on, ticks in the program and for it
    // in the kernel.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut ticks = rest.split_whitespace().skip(11);
    let mut next = || ticks.next()?.parse::<u64>().ok();
    let (user, system) = (next()?, next()?);
    Some((user + system) as f64 / TICKS)
}

fn memory_in(status: &str) -> Option<Memory> {
    let bytes = |field: &str| {
        let kibibytes = value_of(status, field)?.strip_suffix("kB")?.trim();
        Some(kibibytes.parse::<u64>().ok()? * 1024)
    };
    Some(Memory {
        resident_bytes: bytes("VmRSS")?,
        peak_bytes: bytes("VmHWM")?,
    })
}

fn cpu_model_in(cpuinfo: &str) -> Option<String> {
    // x86 has "model name", a Raspberry Pi names its board.
    ["model name", "Model"]
        .into_iter()
        .find_map(|field| value_of(cpuinfo, field))
        .map(str::to_owned)
}

/// The value of the first line `field : value`.
fn value_of<'a>(text: &'a str, field: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == field).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        let status = "Name:\tlab\nVmPeak:\t  900 kB\nVmHWM:\t     300 kB\nVmRSS:\t     200 kB\n";
        assert_eq!(
            memory_in(status),
            Some(Memory {
                resident_bytes: 200 << 10,
                peak_bytes: 300 << 10,
            })
        );
        assert_eq!(memory_in("VmRSS:\t200 kB\n"), None);
    }

    #[test]
    fn processor_time_is_that_of_program_and_kernel() {
        let stat = "77 (a (b) c) S 1 77 77 0 -1 4194304 500 0 0 0 250 50 9 9 20 0 4 0 100";
        assert_eq!(cpu_seconds_in(stat), Some(3.0));
        assert_eq!(cpu_seconds_in("77 (a"), None);
    }

    #[test]
    fn counters_of_energy_go_around() {
        let at = |microjoules| {
            Some(Energy {
                microjoules,
                most: 10_000_000,
            })
        };
        assert_eq!(joules_between(at(1_000_000), at(3_500_000)), Some(2.5));
        assert_eq!(joules_between(at(9_000_000), at(1_000_000)), Some(2.0));
        assert_eq!(joules_between(None, at(1)), None);
    }

    #[test]
    fn the_processor_or_the_board_is_named() {
        let x86 = "processor\t: 0\nmodel\t\t: 85\nmodel name\t: Some CPU @ 2 GHz\n";
        assert_eq!(cpu_model_in(x86).unwrap(), "Some CPU @ 2 GHz");
        let board = "processor\t: 0\nHardware\t: BCM2835\nModel\t\t: Raspberry Pi 4\n";
        assert_eq!(cpu_model_in(board).unwrap(), "Raspberry Pi 4");
        assert_eq!(cpu_model_in("processor\t: 0\n"), None);
    }
}
