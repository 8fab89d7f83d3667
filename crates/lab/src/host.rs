//! What the operating system says of processes and this machine. Linux only; elsewhere nothing is
//! known.

use std::fs;

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
    fn the_processor_or_the_board_is_named() {
        let x86 = "processor\t: 0\nmodel\t\t: 85\nmodel name\t: Some CPU @ 2 GHz\n";
        assert_eq!(cpu_model_in(x86).unwrap(), "Some CPU @ 2 GHz");
        let board = "processor\t: 0\nHardware\t: BCM2835\nModel\t\t: Raspberry Pi 4\n";
        assert_eq!(cpu_model_in(board).unwrap(), "Raspberry Pi 4");
        assert_eq!(cpu_model_in("processor\t: 0\n"), None);
    }
}
