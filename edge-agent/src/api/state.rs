//! `/v1/state`: what is decided by, and another operating point or mode.

use std::ops::Add;

use axum::{
    Json,
    extract::{State, rejection::JsonRejection},
    http::StatusCode,
};
use outpost_cascade::{CircuitState, DecideBy, Mode, Presence, Site};
use outpost_engine::{EndpointStatus, Upstream};
use outpost_exit_policy::Goal;
use outpost_offload::{
    milliseconds,
    state::{Link, Node, Policy, Runtime},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Context, problem::Problem};
use crate::{audit::AuditStatus, power::Class, reloads::Reload};

/// What images are decided by, and who is reached.
#[derive(Serialize, ToSchema)]
pub(super) struct Status {
    /// The program's version.
    version: &'static str,
    /// The cascade's name.
    cascade: String,
    /// What runs its networks on the device.
    runtime: Runtime,
    /// Its nodes, in the order of its file.
    nodes: Vec<Node>,
    /// `policy`, `device-only` or `cloud-only`.
    #[schema(value_type = String)]
    mode: Mode,
    /// Milliseconds from taking up an image to its answer.
    deadline_ms: u64,
    /// The learned policy, where there is one.
    policy: Option<Policy>,
    /// Images that wait on disk for a cloud; absent where none is kept.
    waiting: Option<u64>,
    /// Those who are asked for what is elsewhere.
    peers: Vec<Peer>,
    /// What the device runs from, and how it spares that; absent where it spares nothing whatever it runs from.
    power: Option<Power>,
    /// Whether the cloud agrees with the device's answers; absent where none are audited.
    audit: Option<Audit>,
    /// What came of it when the configuration and its files were last read again; absent where they were not since the start.
    reload: Option<Reload>,
}

/// What the device runs from.
#[derive(Serialize, ToSchema)]
struct Power {
    /// `mains`, `battery`, or `saver`: a battery that is to be saved.
    #[schema(value_type = String)]
    class: Class,
    /// Percent of the battery's charge; absent where the system is not asked, or does not tell.
    charge: Option<u8>,
    /// Joules that offloads took since the start; absent where it is not configured what one takes.
    joules_spent: Option<f64>,
    /// Joules that they may still take, of those of an hour; absent without a bound.
    joules_left: Option<f64>,
}

/// What the cloud says afterwards about answers that the device gave by itself.
#[derive(Serialize, ToSchema)]
struct Audit {
    /// Share of them that it is asked about, 0 to 1.
    share: f64,
    /// Answers that it was asked about, and answered.
    audits: u64,
    /// Share that it agrees with, 0 to 1; absent before the first.
    agreement: Option<f64>,
    /// The 95 % interval of that.
    interval: Option<[f64; 2]>,
    /// Share that it was expected to agree with; absent where neither the configuration nor the policy says it.
    expected: Option<f64>,
    /// Whether it agrees less often than was expected, beyond chance.
    drift_alarm: bool,
}

impl Audit {
    fn new(status: &AuditStatus, expected: Option<f64>) -> Self {
        let estimate = status.estimate.as_ref();
        Self {
            share: status.share,
            audits: status.audits,
            agreement: estimate.map(|estimate| estimate.agreement),
            interval: estimate.map(|estimate| [estimate.low, estimate.high]),
            expected,
            drift_alarm: status.has_drifted,
        }
    }
}

/// Who is asked for what is elsewhere.
#[derive(Serialize, ToSchema)]
struct Peer {
    /// `fog` or `cloud`.
    #[schema(value_type = String)]
    site: Site,
    /// `closed` while it is asked, `open` while it is not, `half-open` while one call shows whether it is back.
    #[schema(value_type = String)]
    circuit: CircuitState,
    /// What an offload costs now; absent where there was none in the last minute.
    link: Option<Link>,
    /// The URL of the endpoint in use, which the two are of; absent where there is only one.
    #[serde(skip_serializing_if = "Option::is_none")]
    in_use: Option<String>,
    /// The budgets in force, which are for all endpoints together.
    budgets: Vec<BudgetLeft>,
    /// Changes to another endpoint because the one in use did not answer.
    failovers: u64,
    /// What its endpoints cost on the wire since the start, all together.
    wire: Wire,
    /// The endpoints, in the order of the configuration; none where there is only one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    endpoints: Vec<Endpoint>,
}

/// What may still be sent.
#[derive(Serialize, ToSchema)]
struct BudgetLeft {
    /// `offloads_per_hour` or `bytes_per_day`, or one of what the device runs from: `power: offloads_per_hour`,
    /// `power: joules_per_hour`.
    name: &'static str,
    /// What may be used in any such time.
    most: f64,
    /// What is left of it.
    left: f64,
}

impl From<outpost_engine::BudgetLeft> for BudgetLeft {
    fn from(budget: outpost_engine::BudgetLeft) -> Self {
        Self {
            name: budget.name,
            most: budget.most,
            left: budget.left,
        }
    }
}

/// One of several that serve the same networks.
#[derive(Serialize, ToSchema)]
struct Endpoint {
    /// Its URL.
    url: String,
    /// Whether images ask it first.
    in_use: bool,
    /// `up`, `down`, or `unknown` before anything was heard.
    #[schema(value_type = String)]
    presence: Presence,
    /// As of the peer.
    #[schema(value_type = String)]
    circuit: CircuitState,
    /// As of the peer.
    link: Option<Link>,
    /// Milliseconds of a question whether it is there; absent before the first.
    ping_ms: Option<f64>,
    /// Offloads that it answered.
    answered: u64,
    /// Offloads that it did not answer.
    failed: u64,
    /// As of the peer.
    wire: Wire,
}

impl From<EndpointStatus> for Endpoint {
    fn from(status: EndpointStatus) -> Self {
        let wire = Wire::of(&status);
        Self {
            url: status.url,
            in_use: status.is_in_use,
            presence: status.presence,
            circuit: status.circuit,
            link: status.link.map(Link::from),
            ping_ms: status.round_trip.map(milliseconds),
            answered: status.answered,
            failed: status.failed,
            wire,
        }
    }
}

/// Bytes of all packets, with their headers from IP's on: images, answers, handshakes, acknowledgements, keep-alives.
#[derive(Serialize, ToSchema)]
struct Wire {
    /// Over HTTP/2, TCP's packets.
    h2: WireBytes,
    /// Over HTTP/3, QUIC's packets.
    h3: WireBytes,
}

/// Bytes of packets, by who sent them.
#[derive(Serialize, ToSchema)]
struct WireBytes {
    /// By this device.
    sent: u64,
    /// By the endpoint.
    received: u64,
}

impl Wire {
    fn of(status: &EndpointStatus) -> Self {
        Self::new(status.wire_h2, status.wire_h3)
    }

    fn of_all(endpoints: &[EndpointStatus]) -> Self {
        let sum = |of: fn(&EndpointStatus) -> outpost_transport::WireBytes| {
            endpoints.iter().map(of).fold(Default::default(), Add::add)
        };
        Self::new(sum(|one| one.wire_h2), sum(|one| one.wire_h3))
    }

    fn new(h2: outpost_transport::WireBytes, h3: outpost_transport::WireBytes) -> Self {
        let [h2, h3] = [h2, h3].map(|bytes| WireBytes {
            sent: bytes.sent,
            received: bytes.received,
        });
        Self { h2, h3 }
    }
}

/// What to decide by from now on; one of the two, or both.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    /// An operating point: its name, `loss=POINTS`, `time=5ms`, `offload=20%` or `price=POINTS`.
    operating_point: Option<String>,
    /// `policy`, `device-only` or `cloud-only`.
    #[schema(value_type = Option<String>)]
    mode: Option<Mode>,
}

/// What images are decided by, the frontier of the policy, and who is reached.
#[utoipa::path(
    get,
    path = "/v1/state",
    operation_id = "state",
    responses(
        (status = 200, description = "As of now", body = Status),
        (status = 401, description = "The token is missing or wrong", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn state(State(context): State<Context>) -> Json<Status> {
    Json(status(&context))
}

/// Decides about the images to come by another operating point, or in another mode.
///
/// That holds until the program ends; what the configuration says counts again at its next start.
#[utoipa::path(
    put,
    path = "/v1/state",
    operation_id = "change",
    request_body = Change,
    responses(
        (status = 200, description = "What holds from now on", body = Status),
        (status = 400, description = "The body is not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "The token is missing or wrong", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "A page of another site called", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "There is no such operating point, or the mode is not for this cascade", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The content type is not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The body has an unknown field or value", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn change(
    State(context): State<Context>,
    change: Result<Json<Change>, JsonRejection>,
) -> Result<Json<Status>, Problem> {
    let Json(change) = change.map_err(|error| Problem::new(error.status(), error.body_text()))?;
    let unprocessable = |detail: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
    let goal = change.operating_point.as_deref().map(str::parse::<Goal>);
    let goal = goal
        .transpose()
        .map_err(|error| unprocessable(error.to_string()))?;
    if goal.is_none() && change.mode.is_none() {
        return Err(unprocessable(
            "nothing would change: give `operating_point`, `mode` or both".to_owned(),
        ));
    }
    let change = DecideBy {
        goal,
        mode: change.mode,
    };
    let deciding = context.intake.agent().decide_by(&change);
    let deciding =
        deciding.map_err(|error| Problem::new(StatusCode::CONFLICT, error.to_string()))?;
    tracing::info!(
        mode = ?deciding.mode(), operating_point = deciding.chosen().map(display),
        "deciding by another policy"
    );
    Ok(Json(status(&context)))
}

fn status(context: &Context) -> Status {
    let agent = context.intake.agent().get();
    let engine = agent.engine();
    let deciding = engine.deciding();
    let cascade = engine.cascade();
    Status {
        version: env!("CARGO_PKG_VERSION"),
        cascade: cascade.name().to_owned(),
        runtime: Runtime {
            name: engine.runtime().name,
            version: engine.runtime().version.clone(),
        },
        nodes: Node::all(cascade),
        mode: deciding.mode(),
        deadline_ms: agent.deadline().as_millis() as u64,
        policy: engine
            .policy()
            .and_then(|bundle| Policy::of(bundle, &deciding)),
        waiting: context.intake.waiting(),
        peers: engine.peers().map(peer).collect(),
        power: context.power.matters().then(|| {
            let present = context.power.present();
            let energy = crate::power::Power::energy(engine);
            Power {
                class: present.class,
                charge: present.charge,
                joules_spent: energy.map(|energy| energy.spent),
                joules_left: energy.and_then(|energy| energy.left),
            }
        }),
        audit: context.intake.audits().map(|status| {
            let chosen = deciding.chosen();
            let by_the_policy = chosen.and_then(|chosen| chosen.expected.agreement);
            Audit::new(&status, status.expected.or(by_the_policy))
        }),
        reload: context.reloads.latest(),
    }
}

fn peer((site, upstream): (Site, &Upstream)) -> Peer {
    let all = upstream.endpoints();
    let wire = Wire::of_all(&all);
    let endpoints = match all {
        several if several.len() > 1 => several,
        _ => Vec::new(),
    };
    let in_use = endpoints.iter().find(|endpoint| endpoint.is_in_use);
    Peer {
        site,
        circuit: upstream.circuit(),
        link: upstream.link().map(Link::from),
        in_use: in_use.map(|endpoint| endpoint.url.clone()),
        budgets: upstream
            .budgets()
            .into_iter()
            .map(BudgetLeft::from)
            .collect(),
        failovers: upstream.failovers(),
        wire,
        endpoints: endpoints.into_iter().map(Endpoint::from).collect(),
    }
}
