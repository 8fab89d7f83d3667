//! What images are decided by, and how the cloud is reached, in the shape of `GET /v1/state` of `edge-agent run`.

use outpost_cascade::{CircuitState, Mode, Site};
use outpost_offload::state::{Link, Node, Policy, Runtime};
use serde::Serialize;

/// What images are decided by, and who is reached.
#[derive(Debug, Clone, Serialize)]
pub struct State {
    /// The program's version.
    pub version: &'static str,
    /// The cascade's name.
    pub cascade: String,
    /// What runs its networks on the device.
    pub runtime: Runtime,
    /// Its nodes, in the order of its file.
    pub nodes: Vec<Node>,
    /// `policy`, `device-only` or `cloud-only`.
    pub mode: Mode,
    /// Milliseconds from taking up an image to its answer.
    pub deadline_ms: u64,
    /// The learned policy, where there is one.
    pub policy: Option<Policy>,
    /// Who is asked for what is elsewhere.
    pub peers: Vec<Peer>,
}

/// Who is asked for what is elsewhere.
#[derive(Debug, Clone, Serialize)]
pub struct Peer {
    /// `cloud`.
    pub site: Site,
    /// `closed` while it is asked, `open` while it is not, `half-open` while one call shows whether it is back.
    pub circuit: CircuitState,
    /// What an offload costs now; absent where there was none in the last minute.
    pub link: Option<Link>,
}
