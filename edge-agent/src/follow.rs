//! The operating point follows the link.

use std::time::{Duration, Instant};

use outpost_cascade::Follower;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{in_charge::InCharge, metrics::Metrics};

/// Between looks at what an offload costs.
const LOOKS: Duration = Duration::from_millis(500);

/// Looks at the link until `ending`, while the agent in charge is to follow it.
pub(crate) async fn follow_link(agent: InCharge, metrics: Metrics, ending: CancellationToken) {
    let mut follower = Follower::default();
    let origin = Instant::now();
    let mut looks = interval(LOOKS);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while ending.run_until_cancelled(looks.tick()).await.is_some() {
        let agent = agent.get();
        if !agent.follows_link() {
            continue;
        }
        let changed = agent.engine().follow(&mut follower, origin.elapsed());
        if let Some(deciding) = changed {
            metrics.followed();
            tracing::info!(
                operating_point = deciding.chosen().map(tracing::field::display),
                "the link has changed: deciding by another operating point"
            );
        }
    }
}
