//! The link of every device: what its bytes take there and back.

use fastrand::Rng;

use super::plan::{BytesPlan, LinkPlan, LogNormal, Quantity};

/// Draws links apart from all else.
const STREAM: u64 = 0x11_4b5;
/// The normal deviate that 95 % do not exceed.
const Z95: f64 = 1.644_853_626_951_472_7;
/// Bytes of a refusal: headers and trailers, no message.
const REFUSAL_BYTES: u64 = 200;

/// A device's link.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeviceLink {
    /// Seconds there and back.
    pub round_trip: f32,
    /// Bytes a second towards the servers.
    pub uplink: f32,
    /// Bytes a second from them.
    pub downlink: f32,
    /// Share of the packets that are lost.
    pub loss: f32,
}

/// Bytes that go over a link together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// With what carries them.
    pub wire_bytes: u64,
    /// Packets that they fill.
    pub packets: u64,
}

/// What calls weigh.
#[derive(Debug, Clone, PartialEq)]
pub struct Bytes(BytesPlan);

/// The links of so many devices.
pub fn draw(plans: &[LinkPlan], devices: u32, seed: u64) -> Vec<DeviceLink> {
    let mut rng = Rng::with_seed(seed ^ STREAM);
    let all: f64 = plans.iter().map(|plan| plan.weight).sum();
    (0..devices)
        .map(|_| {
            let mut at = all * rng.f64();
            let chosen = plans.iter().find(|plan| {
                at -= plan.weight;
                at < 0.0
            });
            let plan = chosen.unwrap_or(&plans[plans.len() - 1]);
            DeviceLink {
                round_trip: (value(plan.round_trip_ms, &mut rng) / 1e3) as f32,
                uplink: (value(plan.uplink_mbps, &mut rng) * 1e6 / 8.0) as f32,
                downlink: (value(plan.downlink_mbps, &mut rng) * 1e6 / 8.0) as f32,
                loss: plan.loss as f32,
            }
        })
        .collect()
}

fn value(quantity: Quantity, rng: &mut Rng) -> f64 {
    match quantity {
        Quantity::Same(value) => value,
        Quantity::LogNormal(LogNormal { median, p95 }) => {
            // Box and Muller's transform.
            let radius = (-2.0 * (1.0 - rng.f64()).ln()).sqrt();
            let normal = radius * (std::f64::consts::TAU * rng.f64()).cos();
            median * (normal * (p95 / median).ln() / Z95).exp()
        }
    }
}

impl DeviceLink {
    /// Seconds that bytes take to leave the device.
    pub fn uplink_seconds(&self, transfer: Transfer) -> f64 {
        transfer.wire_bytes as f64 / f64::from(self.uplink)
    }

    /// Seconds that bytes take to leave the last router before the device.
    pub fn downlink_seconds(&self, transfer: Transfer) -> f64 {
        transfer.wire_bytes as f64 / f64::from(self.downlink)
    }

    /// Half of the round trip.
    pub fn half_round_trip(&self) -> f64 {
        f64::from(self.round_trip) / 2.0
    }

    /// Seconds to the other end, and a round trip for each time that some packet must be sent again: all packets are there
    /// after `r` rounds with the probability (1 − lossʳ)^packets.
    pub fn one_way_seconds(&self, transfer: Transfer, rng: &mut Rng) -> f64 {
        let loss = f64::from(self.loss);
        let mut rounds = 1.0;
        if loss > 0.0 {
            let drawn = rng.f64();
            let packets = transfer.packets as f64;
            while (1.0 - loss.powf(rounds)).powf(packets) < drawn && rounds < 100.0 {
                rounds += 1.0;
            }
        }
        self.half_round_trip() + (rounds - 1.0) * f64::from(self.round_trip)
    }
}

impl Bytes {
    /// By a plan.
    pub fn new(plan: BytesPlan) -> Self {
        Self(plan)
    }

    fn transfer(&self, bytes: u64) -> Transfer {
        let packets = bytes.div_ceil(self.0.packet.into()).max(1);
        Transfer {
            wire_bytes: bytes + packets * u64::from(self.0.packet_overhead),
            packets,
        }
    }

    /// A request with an image of so many bytes.
    pub fn request(&self, image: u32) -> Transfer {
        self.transfer(u64::from(image) + u64::from(self.0.request))
    }

    /// A reply.
    pub fn reply(&self) -> Transfer {
        self.transfer(self.0.reply.into())
    }

    /// A refusal.
    pub fn refusal(&self) -> Transfer {
        self.transfer(REFUSAL_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(name: &str, weight: f64, round_trip_ms: Quantity) -> LinkPlan {
        LinkPlan {
            name: name.to_owned(),
            weight,
            round_trip_ms,
            uplink_mbps: Quantity::Same(8.0),
            downlink_mbps: Quantity::Same(80.0),
            loss: 0.0,
        }
    }

    #[test]
    fn links_are_drawn_by_weight_and_from_their_distribution() {
        let spread = Quantity::LogNormal(LogNormal {
            median: 100.0,
            p95: 300.0,
        });
        let plans = [
            plan("near", 3.0, Quantity::Same(10.0)),
            plan("far", 1.0, spread),
        ];
        let links = draw(&plans, 40_000, 1);
        let far: Vec<f32> = links
            .iter()
            .map(|link| link.round_trip)
            .filter(|&seconds| seconds != 0.010)
            .collect();
        assert!((9_500..10_500).contains(&far.len()), "{}", far.len());
        let above = |most: f32| far.iter().filter(|&&s| s > most).count() as f64 / far.len() as f64;
        assert!((above(0.1) - 0.5).abs() < 0.02, "{}", above(0.1));
        assert!((above(0.3) - 0.05).abs() < 0.01, "{}", above(0.3));
    }

    #[test]
    fn a_transfer_takes_its_bytes_and_its_packets() {
        let bytes = Bytes::new(BytesPlan {
            image: None,
            request: 300,
            reply: 4_100,
            packet: 1_400,
            packet_overhead: 60,
        });
        let request = bytes.request(9_700);
        assert_eq!((request.packets, request.wire_bytes), (8, 10_480));
        let link = draw(&[plan("l", 1.0, Quantity::Same(10.0))], 1, 1)[0];
        assert!((link.uplink_seconds(request) - 0.01048).abs() < 1e-9);
        let mut rng = Rng::with_seed(1);
        assert!((link.one_way_seconds(request, &mut rng) - 0.005).abs() < 1e-9);
    }

    #[test]
    fn a_lost_packet_costs_a_round_trip() {
        let mut link = draw(&[plan("l", 1.0, Quantity::Same(100.0))], 1, 1)[0];
        link.loss = 0.1;
        let transfer = Transfer {
            wire_bytes: 100,
            packets: 1,
        };
        let mut rng = Rng::with_seed(2);
        let count = 100_000;
        let mean = (0..count)
            .map(|_| link.one_way_seconds(transfer, &mut rng))
            .sum::<f64>()
            / f64::from(count);
        // Half a round trip, and 1/(1 − loss) − 1 of one in the mean.
        assert!((mean - (0.05 + 0.1 / 9.0)).abs() < 5e-4, "{mean}");
    }
}
