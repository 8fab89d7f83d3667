//! The connections of an attempt that calls may use before anything has come back.

use tokio::sync::watch;

use super::http3::Http3;

/// Where an attempt to connect says what may be used before it is over.
pub(super) struct Offer(watch::Sender<Option<Http3>>);

/// What an attempt to connect offers.
#[derive(Clone)]
pub(super) struct Offered(watch::Receiver<Option<Http3>>);

/// Both ends.
pub(super) fn offer() -> (Offer, Offered) {
    let (sender, receiver) = watch::channel(None);
    (Offer(sender), Offered(receiver))
}

impl Offer {
    /// Offers a connection, unless there is one on offer: of several addresses the first.
    pub(super) fn make(&self, connection: &Http3) {
        self.0.send_if_modified(|offered| {
            let is_first = offered.is_none();
            if is_first {
                *offered = Some(connection.clone());
            }
            is_first
        });
    }

    /// Takes a connection back, where it is the one on offer.
    pub(super) fn withdraw(&self, connection: &Http3) {
        let identity = connection.identity();
        self.0
            .send_if_modified(|offered| offered.take_if(|offered| offered.is(&identity)).is_some());
    }
}

impl Offered {
    /// Waits for a connection; for ever if none is offered.
    pub(super) async fn taken(mut self) -> Http3 {
        let offered = self.0.wait_for(Option::is_some).await;
        let offered = offered.ok().and_then(|offered| offered.clone());
        match offered {
            Some(connection) => connection,
            None => std::future::pending().await,
        }
    }
}
