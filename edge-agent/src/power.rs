//! What the device runs from, and how it spares that.
//!
//! The class is what the configuration says, or follows the system's power supplies. With it change bounds of the energy that
//! offloads take, the operating point, whether answers are audited, and pauses.

mod supplies;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use outpost_cascade::DecideBy;
use outpost_engine::{EnergyUse, Engine, Thrift, ThriftAccount};
use outpost_exit_policy::Goal;
use serde::Serialize;
use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{PowerClass, PowerConfig, Spared},
    in_charge::InCharge,
    metrics::Metrics,
};
pub(crate) use supplies::Supplies;

/// What a device runs from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Class {
    Mains,
    Battery,
    Saver,
}

/// The class in force. Clones share it.
#[derive(Clone)]
pub(crate) struct Power {
    config: Arc<PowerConfig>,
    metrics: Metrics,
    present: Arc<Mutex<Present>>,
    /// What offloads to all sites took, also those of engines before.
    account: ThriftAccount,
}

/// What holds now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Present {
    pub(crate) class: Class,
    /// Percent of the battery's charge, where the class follows the system and it says that.
    pub(crate) charge: Option<u8>,
    /// Whether the supplies could not be read when they were last looked at.
    is_blind: bool,
}

impl Class {
    pub(crate) const ALL: [Self; 3] = [Self::Mains, Self::Battery, Self::Saver];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Mains => "mains",
            Self::Battery => "battery",
            Self::Saver => "saver",
        }
    }
}

impl Power {
    /// Looks at the supplies where the class is to follow them.
    pub(crate) fn new(config: &PowerConfig, metrics: &Metrics) -> Self {
        let class = match config.class {
            PowerClass::Mains | PowerClass::Auto => Class::Mains,
            PowerClass::Battery => Class::Battery,
            PowerClass::Saver => Class::Saver,
        };
        let power = Self {
            config: Arc::new(config.clone()),
            metrics: metrics.clone(),
            present: Arc::new(Mutex::new(Present {
                class,
                charge: None,
                is_blind: false,
            })),
            account: ThriftAccount::default(),
        };
        if power.follows() {
            *power.lock() = power.look();
        }
        metrics.runs_from(power.present(), false);
        power
    }

    /// What holds now.
    pub(crate) fn present(&self) -> Present {
        *self.lock()
    }

    /// Whether anything may be spared.
    pub(crate) fn matters(&self) -> bool {
        self.config.class != PowerClass::Mains
    }

    /// How many times as long pauses are.
    pub(crate) fn slowdown(&self) -> u32 {
        self.spared()
            .and_then(|spared| spared.slowdown)
            .map_or(1, |slowdown| slowdown.get())
    }

    /// Whether answers may be audited.
    pub(crate) fn allows_audits(&self) -> bool {
        self.spared().is_none_or(|spared| spared.audits)
    }

    /// Which operating point is to be used, where the class says it.
    pub(crate) fn goal(&self) -> Option<&Goal> {
        self.goal_of(self.present().class)
    }

    fn goal_of(&self, class: Class) -> Option<&Goal> {
        self.spared_by(class)?.operating_point.as_ref()
    }

    /// Has an engine spare what there is to spare now.
    pub(crate) fn spare(&self, engine: &Engine) {
        let thrift = match self.spared() {
            None => Thrift {
                energy: self.config.offload.map(Into::into),
                ..Thrift::default()
            },
            Some(spared) => Thrift {
                offloads_per_hour: spared.offloads_per_hour,
                joules_per_hour: spared.joules_per_hour,
                energy: self.config.offload.map(Into::into),
                slowdown: spared.slowdown.unwrap_or(Thrift::default().slowdown),
            },
        };
        self.account.go_by(&thrift);
        for (_, upstream) in engine.peers() {
            upstream.spare(&self.account);
        }
    }

    /// The energy that offloads took, as far as that is known: all sites of an engine have one account.
    pub(crate) fn energy(engine: &Engine) -> Option<EnergyUse> {
        let (_, upstream) = engine.peers().next()?;
        upstream.energy()
    }

    /// Has the agent in charge go by the class of the start, and by others as the supplies change, until `ending`.
    pub(crate) async fn follow(self, agent: InCharge, ending: CancellationToken) {
        if !self.follows() {
            return;
        }
        let mut looks = interval(Duration::from_secs(self.config.look_seconds));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while ending.run_until_cancelled(looks.tick()).await.is_some() {
            let before = self.present();
            let power = self.clone();
            // A driver answers for a file there, and may take its time.
            let Ok(now) = spawn_blocking(move || power.look()).await else {
                continue;
            };
            *self.lock() = now;
            let has_changed = now.class != before.class;
            if has_changed {
                tracing::info!(
                    from = before.class.as_str(),
                    to = now.class.as_str(),
                    charge = now.charge,
                    "the device runs from something else"
                );
                self.enter(&agent, before.class);
            }
            self.metrics.runs_from(now, has_changed);
        }
    }

    /// Has the agent in charge go by the class in force, where it went by that of `before` until now. What a person chose
    /// holds where neither says an operating point.
    pub(crate) fn enter(&self, agent: &InCharge, before: Class) {
        let in_charge = agent.get();
        self.spare(in_charge.engine());
        let goal = match (self.goal(), self.goal_of(before)) {
            (Some(goal), _) => goal.clone(),
            (None, Some(_)) => in_charge.goal().clone(),
            (None, None) => return,
        };
        let change = DecideBy {
            goal: Some(goal),
            mode: None,
        };
        if let Err(error) = agent.decide_by(&change) {
            tracing::warn!(%error, "the policy has no such operating point as the class wants: what was decided by holds");
        }
    }

    fn follows(&self) -> bool {
        self.config.class == PowerClass::Auto
    }

    /// What holds by the supplies as they are now.
    fn look(&self) -> Present {
        let present = self.present();
        match Supplies::read(&self.config.supplies) {
            Ok(supplies) => Present {
                class: supplies.class(present.class, self.config.saver_below),
                charge: supplies.charge(),
                is_blind: false,
            },
            Err(error) => {
                if !present.is_blind {
                    tracing::warn!(
                        %error,
                        class = present.class.as_str(),
                        "what the device runs from cannot be told: it is taken to be as before"
                    );
                }
                Present {
                    is_blind: true,
                    ..present
                }
            }
        }
    }

    /// What the class in force allows; none where it spares nothing.
    fn spared(&self) -> Option<&Spared> {
        self.spared_by(self.present().class)
    }

    fn spared_by(&self, class: Class) -> Option<&Spared> {
        match class {
            Class::Mains => None,
            Class::Battery => Some(&self.config.battery),
            Class::Saver => Some(&self.config.saver),
        }
    }

    /// The state is whole after every statement.
    fn lock(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
