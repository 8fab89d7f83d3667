//! Questions for a sign of life: whether a peer is there, and serves what it would be asked.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use outpost_cascade::FallbackCause;
use outpost_offload::Failure;
use outpost_proto::inference::{ModelReadyRequest, ServerReadyRequest};
use tokio::time::timeout_at;
use tonic::{Code, Status};

use super::{Over, Payload, Peer, RemoteNetwork, failure::failure_of, lock, with_deadline};

impl Peer {
    /// Asks whether it serves these networks, or with none of them whether it is there and ready; gives the round trip, without
    /// that of connecting.
    ///
    /// # Errors
    /// Why it is of no use, of which a person has been told.
    pub(super) async fn ask_for_a_sign(
        &self,
        over: Over,
        networks: &[Arc<RemoteNetwork>],
        within: Duration,
    ) -> Result<Duration, FallbackCause> {
        let deadline = Instant::now() + within;
        let waits = self.calls_under_way() > 0;
        let sign = async {
            self.connected(over).await?;
            let mut asked_for = HashSet::new();
            let mut least: Option<Duration> = None;
            for network in networks {
                if let Some(took) = self.ask_for(network, &mut asked_for, deadline).await? {
                    least = Some(least.map_or(took, |least| least.min(took)));
                }
            }
            match least {
                Some(least) => Ok(least),
                None => self.ask_whether_ready(deadline).await,
            }
        };
        let answered = timeout_at(deadline.into(), sign).await;
        let answered = answered.unwrap_or_else(|elapsed| Err(Failure::deadline(elapsed)));
        match answered {
            Ok(round_trip) => {
                let now = self.origin.elapsed();
                lock(&self.circuit).seen(now);
                if !waits {
                    lock(&self.link).answered_in(round_trip, now);
                }
                Ok(round_trip)
            }
            Err(failure) => {
                if failure.cause == FallbackCause::Deadline && over == Over::Present {
                    // The connection is silent: the next question and call are for another.
                    self.channel().retire();
                }
                Err(self.report(&failure))
            }
        }
    }

    /// Asks whether the server is ready; gives the round trip.
    pub(super) async fn ask_whether_ready(&self, deadline: Instant) -> Result<Duration, Failure> {
        let asked = Instant::now();
        let request = with_deadline(ServerReadyRequest {}, deadline);
        match self.client().server_ready(request).await {
            Ok(response) if response.get_ref().ready => Ok(asked.elapsed()),
            Ok(_) => {
                let status = Status::unavailable("the server says that it is not ready");
                Err(Failure::of_status(status))
            }
            Err(status) => {
                let failure = failure_of(status);
                match failure.tells_of_absence() {
                    true => Err(failure),
                    // Who refuses the question is there.
                    false => Ok(asked.elapsed()),
                }
            }
        }
    }

    /// Asks whether it serves a network: for what it tells of it where that is not known yet, else whether it is ready, by each
    /// name once. Gives the round trip; none where nothing was to be asked.
    async fn ask_for(
        &self,
        network: &Arc<RemoteNetwork>,
        asked_for: &mut HashSet<String>,
        deadline: Instant,
    ) -> Result<Option<Duration>, Failure> {
        let told = network.told(self.place.index);
        let is_told = told.input.initialized() || self.payload_for(network) != Payload::Auto;
        if is_told && !asked_for.insert(network.model().to_owned()) {
            return Ok(None);
        }
        let asked = Instant::now();
        let answered = match is_told {
            true => self.ask_whether_served(network, deadline).await,
            false => {
                let input = || self.ask_for_input(network, deadline);
                told.input.get_or_try_init(input).await.map(drop)
            }
        };
        if let Err(failure) = &answered
            && failure.may_be_of_a_change()
        {
            network.forget(self.place.index, &told);
        }
        answered.map(|()| Some(asked.elapsed()))
    }

    async fn ask_whether_served(
        &self,
        network: &RemoteNetwork,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let request = ModelReadyRequest {
            name: network.model().to_owned(),
            version: String::new(),
        };
        let answered = self
            .client()
            .model_ready(with_deadline(request, deadline))
            .await;
        match answered {
            Ok(response) if response.get_ref().ready => Ok(()),
            Ok(_) => {
                let name = network.model();
                let status = format!("the server says that the model {name:?} is not ready");
                Err(Failure::of_status(Status::unavailable(status)))
            }
            // It knows no such question.
            Err(status) if status.code() == Code::Unimplemented => Ok(()),
            Err(status) => match failure_of(status) {
                busy if busy.cause == FallbackCause::Overloaded => Ok(()),
                failure => Err(failure),
            },
        }
    }
}
