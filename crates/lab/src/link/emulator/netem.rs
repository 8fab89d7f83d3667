//! Paths by the kernel's own emulator, `tc netem`, between two namespaces that a pair of interfaces joins.

use std::{
    fs,
    net::Ipv4Addr,
    path::Path,
    process::{Child, Command, Stdio},
};

use super::{Condition, EmulatorError, Holder, Middle, run};

const DEVICE: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 1);
const CLOUD: Ipv4Addr = Ipv4Addr::new(10, 2, 1, 1);
/// The interfaces' name in either namespace.
const INTERFACE: &str = "path";
/// The largest packet.
const LARGEST: u64 = 1500;
/// Packets that netem holds at the least: those that are being delayed count, too.
const FEWEST: u64 = 1000;

#[derive(Debug)]
pub(in crate::link) struct Netem {
    name: String,
}

/// What lies between the ends is in the kernel; this holds the ends.
#[derive(Debug)]
pub(super) struct Between {
    holders: [Child; 2],
}

impl Netem {
    pub(super) fn find() -> Result<Self, EmulatorError> {
        let try_it = "ip link set lo up && tc qdisc add dev lo root netem delay 1ms";
        run("unshare", &["--net", "sh", "-c", try_it])
            .map_err(|error| EmulatorError::NoNetem(error.to_string()))?;
        let kernel = run("uname", &["-r"])?;
        Ok(Self {
            name: format!("tc netem of Linux {}", kernel.trim()),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn open(
        &self,
        condition: Condition,
        folder: &Path,
    ) -> Result<(Middle, Holder, Holder, Ipv4Addr), EmulatorError> {
        let hold = |end: &str| {
            let file = folder.join(format!("{end}.process"));
            let _ = fs::remove_file(&file);
            let child = Command::new("unshare")
                .arg("--net")
                .args(Holder::script(&file))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .map_err(|error| EmulatorError::Path(error.to_string()))?;
            let holder = Holder::await_in(&file, || None)?;
            Ok((child, holder))
        };
        let (device_child, device) = hold("device")?;
        let (cloud_child, cloud) = hold("cloud")?;
        let between = Between {
            holders: [device_child, cloud_child],
        };
        let other = cloud.process.to_string();
        device.run(
            "ip",
            &[
                "link", "add", INTERFACE, "type", "veth", "peer", "name", INTERFACE, "netns",
                &other,
            ],
        )?;
        for (end, own, other) in [(&device, DEVICE, CLOUD), (&cloud, CLOUD, DEVICE)] {
            let own = format!("{own}/32");
            let other = other.to_string();
            end.run("ip", &["address", "add", &own, "dev", INTERFACE])?;
            end.run("ip", &["link", "set", "lo", "up"])?;
            // Packets as they would be on a wire: segmented, so that rate, loss and counters are those of packets.
            end.run("ip", &["link", "set", INTERFACE, "up", "gso_max_segs", "1"])?;
            end.run("ip", &["route", "add", &other, "dev", INTERFACE])?;
            end.run(
                "ip",
                &["route", "add", "default", "via", &other, "dev", INTERFACE],
            )?;
            let (_, arguments) = (
                end,
                arguments("add", condition, uplink(end, &device, condition)),
            );
            end.run("tc", &words(&arguments))?;
        }
        Ok((Middle::Netem(between), device, cloud, CLOUD))
    }
}

/// The rate of what leaves `end`.
fn uplink(end: &Holder, device: &Holder, condition: Condition) -> Option<f64> {
    match end.process == device.process {
        true => condition.uplink_mbps,
        false => condition.downlink_mbps,
    }
}

fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// What `tc` is told for what leaves an end.
fn arguments(verb: &str, condition: Condition, mbps: Option<f64>) -> Vec<String> {
    let delay = condition.one_way();
    let mut words: Vec<String> = ["qdisc", verb, "dev", INTERFACE, "root", "netem", "delay"]
        .map(str::to_owned)
        .to_vec();
    words.push(format!("{}us", delay.as_micros()));
    if condition.loss > 0.0 {
        words.extend(["loss".to_owned(), format!("{}%", 100.0 * condition.loss)]);
    }
    let mut packets = FEWEST;
    if let Some(mbps) = mbps {
        words.extend(["rate".to_owned(), format!("{:.0}bit", mbps * 1e6)]);
        // What is queued for the rate, and what is under way.
        let under_way = mbps * 1e6 / 8.0 * delay.as_secs_f64();
        packets = (condition.queue_bytes(mbps) + under_way as u64).div_ceil(LARGEST);
    }
    words.extend(["limit".to_owned(), packets.max(10).to_string()]);
    words
}

impl Between {
    pub(super) fn set(
        &self,
        condition: Condition,
        device: &Holder,
        cloud: &Holder,
    ) -> Result<(), EmulatorError> {
        for end in [device, cloud] {
            let arguments = arguments("change", condition, uplink(end, device, condition));
            end.run("tc", &words(&arguments))?;
        }
        Ok(())
    }

    /// The namespaces go with those who hold them.
    pub(super) fn close(&mut self) {
        for holder in &mut self.holders {
            let _ = holder.kill();
            let _ = holder.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tc_is_told_the_condition() {
        let condition = Condition {
            round_trip_ms: 50.0,
            uplink_mbps: Some(12.0),
            downlink_mbps: None,
            loss: 0.01,
            queue_ms: 200.0,
        };
        assert_eq!(
            arguments("add", condition, condition.uplink_mbps).join(" "),
            "qdisc add dev path root netem delay 25000us loss 1% rate 12000000bit limit 225"
        );
        assert_eq!(
            arguments("change", condition.down(), None).join(" "),
            "qdisc change dev path root netem delay 25000us loss 100% limit 1000"
        );
    }
}
