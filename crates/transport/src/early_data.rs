//! Calls that go out before a handshake is done.
//!
//! A client that has a session with a service sends such a call in its first packets, a round trip earlier. The service
//! cannot know then whether they are a copy of somebody else's making, so that only calls that may run twice go out so.

/// Marks a call that may run twice without harm: in the extensions of its request.
///
/// A [`Channel`](crate::Channel) may send it as early data, and sends it once more where the service passed that over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idempotent;

/// That a call went out before the handshake was done: in the extensions of its response, and of the request as it is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlyData {
    /// The service took it.
    Accepted,
    /// The service passed it over, or it did not get through, and the call was sent again over a connection.
    Rejected,
}
