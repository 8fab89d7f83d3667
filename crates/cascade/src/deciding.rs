//! By what images are decided now: an operating point of a learned policy, or the functions of the cascade's file, or those
//! of a mode; and by what else.

use std::{fmt, sync::Arc, time::Duration};

use outpost_exit_policy::{
    Bundle, Choice, DecisionFunction, Expected, Function, Goal, GoalError, OperatingPoint, lot,
};

use crate::{
    follower::Follower,
    graph::{Cascade, Mode, Node, NodeId, Site},
    link::Link,
};

/// Whose decisions count, and which.
#[derive(Debug, Clone)]
pub struct Deciding {
    /// The cascade with the functions that decide.
    cascade: Cascade,
    /// The same with those that decide about a share of the images.
    other: Option<(Cascade, f64)>,
    /// By node; 1 where no learned policy says otherwise.
    temperatures: Vec<f32>,
    mode: Mode,
    learned: Option<Chosen>,
}

/// A goal, and what meets it.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// The goal.
    pub goal: Goal,
    /// Name of the operating point.
    pub operating_point: String,
    /// Name of another, and the share of images, 0 to 1, that it decides about; see [`outpost_exit_policy::Choice`].
    pub other: Option<(String, f64)>,
    /// What is expected of them.
    pub expected: Expected,
    /// Both in words.
    words: String,
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

/// What to decide by from now on; what is not said stays.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DecideBy {
    /// A goal for the learned policy.
    pub goal: Option<Goal>,
    /// Whose decisions count.
    pub mode: Option<Mode>,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecideByError {
    /// There is no learned policy.
    #[error(
        "there is no learned policy and so no operating point: give one with --policy, or `policy` in the configuration"
    )]
    NoPolicy,
    /// No operating point meets the goal.
    #[error(transparent)]
    Goal(#[from] GoalError),
    /// The cascade does not begin on the device.
    #[error("the cascade does not begin on the device, which so cannot answer alone")]
    NoDeviceNetwork,
}

/// Whether a function of any operating point looks at pooled features.
pub fn needs_features(bundle: &Bundle) -> bool {
    let mut functions = bundle
        .operating_points()
        .iter()
        .flat_map(|point| &point.functions);
    functions.any(Function::needs_features)
}

impl Deciding {
    /// The decisions of the cascade's file, or of what was chosen from a bundle that fits it; or those of a mode.
    pub fn new(
        cascade: &Cascade,
        learned: Option<(&Bundle, &Goal, Choice<'_>)>,
        mode: Mode,
    ) -> Self {
        let file = cascade.clone();
        let Some((bundle, goal, choice)) = learned else {
            return Self {
                temperatures: vec![1.0; file.nodes().count()],
                cascade: file.with_mode(mode),
                other: None,
                mode,
                learned: None,
            };
        };
        let decided_by = |point: &OperatingPoint| {
            let functions = point.functions.iter().cloned();
            let functions = functions.map(|f| Arc::new(f) as Arc<dyn DecisionFunction>);
            file.clone().with_policies(functions).with_mode(mode)
        };
        Self {
            cascade: decided_by(choice.point),
            other: choice
                .other
                .map(|(point, share)| (decided_by(point), share)),
            temperatures: bundle.nodes().iter().map(|node| node.temperature).collect(),
            mode,
            learned: Some(Chosen {
                goal: goal.clone(),
                operating_point: choice.point.name.clone(),
                other: choice
                    .other
                    .map(|(point, share)| (point.name.clone(), share)),
                expected: choice.expected(),
                words: choice.to_string(),
            }),
        }
    }

    /// What holds after a change, of decisions about `file`, by `policy` where one was learned for it. All of the change is
    /// made or none.
    ///
    /// # Errors
    /// [`DecideByError`], where there is no such operating point, or the mode is not for this cascade.
    pub fn changed(
        &self,
        file: &Cascade,
        policy: Option<&Bundle>,
        change: &DecideBy,
    ) -> Result<Self, DecideByError> {
        let present = self.chosen().map(|chosen| &chosen.goal);
        let goal = change.goal.as_ref().or(present);
        let mode = change.mode.unwrap_or(self.mode);
        if mode == Mode::DeviceOnly && file.node(file.entry()).site() != Site::Device {
            return Err(DecideByError::NoDeviceNetwork);
        }
        let learned = match (policy, goal) {
            (None, Some(_)) => return Err(DecideByError::NoPolicy),
            (Some(bundle), Some(goal)) => Some((bundle, goal, bundle.choose(goal)?)),
            (_, None) => None,
        };
        Ok(Self::new(file, learned, mode))
    }

    /// Looks at what offloads over `link` cost at `now`; what holds instead where another operating point of the policy, which
    /// was learned for `file`, meets the goal better at that price, and has done so by enough for long.
    ///
    /// A goal that is a name is kept to. Where no link is known, it is taken for the one that the policy was learned for.
    pub fn followed(
        &self,
        file: &Cascade,
        policy: &Bundle,
        link: Option<&Link>,
        (follower, now): (&mut Follower, Duration),
    ) -> Option<Self> {
        let chosen = self.chosen()?;
        if matches!(chosen.goal, Goal::Name(_)) || self.mode != Mode::Policy {
            return None;
        }
        let seconds = |expected: &Expected| match link {
            Some(link) => expected.seconds_at(|bytes| link.offload_of(bytes)),
            None => expected.seconds,
        };
        let best = match policy.choose_at(&chosen.goal, seconds) {
            Ok(choice) => choice,
            // None meets it now; the nearest is as good as it gets.
            Err(GoalError::Unmet { nearest, .. }) => policy.choose(&Goal::Name(nearest)).ok()?,
            Err(_) => return None,
        };
        let is_worth_it =
            chosen
                .goal
                .is_worth_changing(&chosen.expected, &best.expected(), seconds);
        if !follower.look(is_worth_it, now) {
            return None;
        }
        Some(Self::new(
            file,
            Some((policy, &chosen.goal, best)),
            self.mode,
        ))
    }

    /// The cascade with the functions that decide about an image of these pixels.
    pub fn cascade(&self, pixels: &[u8]) -> &Cascade {
        match &self.other {
            Some((other, share)) if lot(pixels) < *share => other,
            _ => &self.cascade,
        }
    }

    /// Temperature of what a node says; 1 where no learned policy says otherwise.
    ///
    /// # Panics
    /// For a node of another, larger cascade.
    pub fn temperature(&self, node: NodeId) -> f32 {
        self.temperatures[node.index()]
    }

    /// The first node at a site whose policy is missing.
    pub fn undecided(&self, site: Site) -> Option<&Node> {
        self.cascade.undecided(site)
    }

    /// Whose decisions count.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// What was chosen of the learned policy, where there is one; it decides in [`Mode::Policy`].
    pub fn chosen(&self) -> Option<&Chosen> {
        self.learned.as_ref()
    }
}
