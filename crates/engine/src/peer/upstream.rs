//! Those who serve the networks of a site: one endpoint, or several of which one is used.
//!
//! [`Endpoints`] decides; what is here makes the calls, and [`signs`] asks who is there. An image whose call
//! fails in a way that another endpoint can mend is asked there within the same deadline, and so is one whose endpoint
//! falls silent: that call goes on, and the first reply is the answer. With one endpoint there is nobody else to ask, and
//! so it is asked for a sign of life only where images want to be sent and its circuit is open.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use outpost_cascade::{CircuitConfig, CircuitState, Endpoints, FallbackCause, Link, Presence};
use outpost_runtime::Manifest;
use outpost_transport::{Channel, Handshakes, Protocol, WireBytes};
use tokio::{sync::watch, task::JoinSet};

use super::{
    BudgetConfig, BudgetLeft, Budgets, EncodersError, EnergyUse, LateCall, Offload, Packing,
    Patience, Peer, PeerConfig, PeerError, Place, Sent, ThriftAccount, Waiting, lock,
    remote::RemoteNetwork,
};
use crate::picture::Picture;
use signs::watch_over;

mod signs;

/// The endpoints that serve the networks of a site.
pub struct Upstream {
    peers: Vec<Arc<Peer>>,
    state: Mutex<State>,
    /// Changes whenever an endpoint is found away, for those who wait for its reply.
    falls: watch::Sender<()>,
    failovers: AtomicU64,
    counts: Vec<Counts>,
    origin: Instant,
    health_every: Duration,
    /// How many times as long it is at present.
    slowdown: AtomicU32,
    /// How the budgets and the circuits are bounded.
    settings: (BudgetConfig, CircuitConfig),
    /// How often it was changed whether they are asked: an odd number while they are.
    changes: watch::Sender<u64>,
    /// The networks that they are asked for.
    networks: Mutex<Vec<Weak<RemoteNetwork>>>,
    /// What asks for signs of life; ends with the endpoints.
    tasks: Mutex<JoinSet<()>>,
}

struct State {
    endpoints: Endpoints,
    /// Endpoints that are watched while calls at them wait.
    watched: HashSet<usize>,
}

/// What was asked of an endpoint.
#[derive(Debug, Default)]
struct Counts {
    answered: AtomicU64,
    failed: AtomicU64,
    questions: AtomicU64,
}

/// An endpoint, as of now.
#[derive(Debug, Clone)]
pub struct EndpointStatus {
    /// Its URL.
    pub url: String,
    /// Whether images ask it first.
    pub is_in_use: bool,
    /// Whether it is there.
    pub presence: Presence,
    /// Whether it is asked at all, as of the last call.
    pub circuit: CircuitState,
    /// What an offload to it costs now; none where there was none for a while.
    pub link: Option<Link>,
    /// The round trip of questions whether it is there.
    pub round_trip: Option<Duration>,
    /// Offloads that it answered.
    pub answered: u64,
    /// Offloads that it did not answer.
    pub failed: u64,
    /// Questions for a sign of life, while images wanted to be sent and its circuit was open.
    pub questions: u64,
    /// What all its connections cost on the wire over HTTP/2, headers and handshakes included.
    pub wire_h2: WireBytes,
    /// And over HTTP/3.
    pub wire_h3: WireBytes,
    /// Its connections over HTTP/3.
    pub handshakes: Handshakes,
    /// Until when the certificate is valid that it showed last, believed or not; none where none was shown.
    pub certificate_until: Option<SystemTime>,
}

/// A call at an endpoint, until nobody waits for it.
struct Calling<'a> {
    upstream: &'a Upstream,
    endpoint: usize,
}

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        self.upstream.state().endpoints.ended(self.endpoint);
    }
}

/// What came of asking one endpoint.
struct Attempt {
    endpoint: usize,
    offload: Offload,
    late: Option<Waiting>,
}

impl Upstream {
    /// The endpoints that `config` names, which are connected to when they are first needed.
    ///
    /// # Errors
    /// [`PeerError`], which names the file or the field at fault, and the endpoint where there are several.
    pub fn new(config: &PeerConfig, circuit: CircuitConfig) -> Result<Self, PeerError> {
        super::check_encoding(config)?;
        if config.health_every_ms == 0 {
            return Err(PeerError::HealthEvery);
        }
        let origin = Instant::now();
        let budgets = Arc::new(Mutex::new(Budgets::new(&config.budget)));
        let endpoints = config.endpoints();
        let mut urls = HashSet::new();
        if let Some(twice) = endpoints.iter().find(|one| !urls.insert(&one.url)) {
            return Err(PeerError::SameUrl(twice.url.clone()));
        }
        let is_alone = endpoints.len() == 1;
        let peer = |(index, endpoint): (usize, &PeerConfig)| {
            let place = Place { index, is_alone };
            let peer = Peer::new(endpoint, circuit, budgets.clone(), (place, origin));
            let peer = peer.map_err(|source| match is_alone {
                true => source,
                false => PeerError::Endpoint {
                    url: endpoint.url.clone(),
                    source: Box::new(source),
                },
            })?;
            Ok(Arc::new(peer))
        };
        let peers: Vec<Arc<Peer>> = endpoints
            .iter()
            .enumerate()
            .map(peer)
            .collect::<Result<_, PeerError>>()?;
        let choosing = config.choosing();
        Ok(Self {
            state: Mutex::new(State {
                endpoints: Endpoints::new(choosing, peers.len()),
                watched: HashSet::new(),
            }),
            falls: watch::Sender::new(()),
            failovers: AtomicU64::new(0),
            counts: peers.iter().map(|_| Counts::default()).collect(),
            origin,
            health_every: choosing.health_every,
            slowdown: AtomicU32::new(1),
            settings: (config.budget, circuit),
            changes: watch::Sender::new(0),
            networks: Mutex::default(),
            tasks: Mutex::new(JoinSet::new()),
            peers,
        })
    }

    /// Shares what is left of the budgets, and of endpoints with the same URL the circuits and what is known of the links,
    /// with those before; where no endpoint is the same, nothing. Its own bounds hold from [`Upstream::take_over`] on.
    #[must_use]
    pub fn after(mut self, before: &Self) -> Self {
        let earlier = |peer: &Peer| before.peers.iter().find(|other| other.name == peer.name);
        let Some(shared) = self.peers.iter().find_map(|peer| earlier(peer)) else {
            return self;
        };
        for peer in &mut self.peers {
            let earlier = earlier(peer);
            let peer = Arc::get_mut(peer).expect("nobody shares it before it is started");
            // Whose times the budgets go by.
            peer.origin = shared.origin;
            peer.budgets = shared.budgets.clone();
            if let Some(earlier) = earlier {
                peer.circuit = earlier.circuit.clone();
                peer.link = earlier.link.clone();
                peer.wire = earlier.wire.clone();
                peer.channel().count_with(peer.wire.clone());
            }
            lock(&peer.budgets).count(peer.name.clone(), peer.wire.clone());
        }
        self
    }

    /// Bounds what it shares with those before it by its own configuration.
    pub fn take_over(&self) {
        let (budget, circuit) = self.settings;
        for peer in &self.peers {
            lock(&peer.circuit).configure(circuit);
        }
        lock(&self.used().budgets).resize(&budget);
    }

    /// Spares what the device runs from as that account has it now, on which offloads count from now on.
    pub fn spare(&self, account: &ThriftAccount) {
        lock(&self.used().budgets).spare(account);
        self.slowdown.store(account.slowdown(), Ordering::Relaxed);
    }

    /// The energy that all offloads on the account took; none where it is not known what one takes.
    pub fn energy(&self) -> Option<EnergyUse> {
        lock(&self.used().budgets).energy()
    }

    /// What is left of the budgets in force, which are for all endpoints together.
    pub fn budgets(&self) -> Vec<BudgetLeft> {
        let used = self.used();
        lock(&used.budgets).left(used.origin.elapsed())
    }

    /// Makes calls over other channels from now on, one an endpoint, as those with new credentials; calls under way end
    /// over the old ones.
    pub fn replace_channels(&self, channels: impl IntoIterator<Item = Channel>) {
        for (peer, channel) in self.peers.iter().zip(channels) {
            peer.replace_channel(channel);
        }
    }

    /// How many endpoints there are.
    pub(crate) fn count(&self) -> usize {
        self.peers.len()
    }

    /// Whether the endpoint in use is asked at all, as of the last call.
    pub fn circuit(&self) -> CircuitState {
        self.used().circuit()
    }

    /// What an offload to the endpoint in use costs now; none where there was none for a while.
    pub fn link(&self) -> Option<Link> {
        self.used().link()
    }

    /// How often another endpoint took the place of one that did not answer.
    pub fn failovers(&self) -> u64 {
        self.failovers.load(Ordering::Relaxed)
    }

    /// The endpoints, in the order of the configuration.
    pub fn endpoints(&self) -> Vec<EndpointStatus> {
        let state = self.state();
        let status = |(index, peer): (usize, &Arc<Peer>)| EndpointStatus {
            url: peer.name.to_string(),
            is_in_use: index == state.endpoints.in_use(),
            presence: state.endpoints.presence(index),
            circuit: peer.circuit(),
            link: peer.link(),
            round_trip: state.endpoints.round_trip(index),
            answered: self.counts[index].answered.load(Ordering::Relaxed),
            failed: self.counts[index].failed.load(Ordering::Relaxed),
            questions: self.counts[index].questions.load(Ordering::Relaxed),
            wire_h2: peer.wire.bytes(Protocol::H2),
            wire_h3: peer.wire.bytes(Protocol::H3),
            handshakes: peer.wire.handshakes(),
            certificate_until: peer
                .channel()
                .server_certificate()
                .map(|certificate| certificate.valid_until),
        };
        self.peers.iter().enumerate().map(status).collect()
    }

    /// Has health questions ask for that network, too, while there is one who wants it.
    pub(crate) fn serves(&self, network: &Arc<RemoteNetwork>) {
        lock(&self.networks).push(Arc::downgrade(network));
    }

    /// The networks that they are asked for.
    fn networks(&self) -> Vec<Arc<RemoteNetwork>> {
        lock(&self.networks)
            .iter()
            .filter_map(Weak::upgrade)
            .collect()
    }

    /// How images are made ready for the networks that may see them.
    pub(crate) fn packing(&self, seen_by: &[&Manifest]) -> Result<Packing, EncodersError> {
        Packing::new(&self.peers[0].packing, seen_by)
    }

    /// Asks about an image, until the deadline at the latest; gives the call, too, where it goes on after that.
    pub(crate) async fn classify(
        self: &Arc<Self>,
        network: &Arc<RemoteNetwork>,
        picture: Arc<Picture>,
        patience: Patience,
    ) -> (Offload, Option<LateCall>) {
        let (offload, calls) = if let [only] = &self.peers[..] {
            let sent = Sent::nothing_of(&picture);
            let (offload, late) = only.classify(network, picture, patience, &sent).await;
            self.count_call(0, &offload);
            self.ask_where_refused(0, &offload);
            (offload, Vec::from_iter(late))
        } else {
            self.ask_in_order(network, &picture, patience).boxed().await
        };
        self.close_unless_asked();
        let late = (!calls.is_empty()).then(|| LateCall::of_calls(calls, Arc::downgrade(self)));
        (offload, late)
    }

    /// Asks one endpoint after the other, the next one as soon as those before have failed or fallen silent; gives the calls,
    /// too, that go on.
    async fn ask_in_order(
        self: &Arc<Self>,
        network: &Arc<RemoteNetwork>,
        picture: &Arc<Picture>,
        patience: Patience,
    ) -> (Offload, Vec<Waiting>) {
        let started = Instant::now();
        let mut falls = self.falls.subscribe();
        let mut order = self.state().endpoints.order().into_iter();
        let mut running: FuturesUnordered<BoxFuture<'_, Attempt>> = FuturesUnordered::new();
        // Endpoints that may still reply, and how often each had been found away when it was asked.
        let mut waiting: Vec<(usize, u64)> = Vec::new();
        let mut sent = Vec::new();
        let mut failed = Vec::new();
        let mut late = Vec::new();
        let (mut offload, is_answered) = loop {
            while waiting.is_empty() && Instant::now() < patience.deadline {
                let Some(next) = order.next() else { break };
                waiting.push((next, self.state().endpoints.falls(next)));
                let of_this = Sent::nothing_of(picture);
                sent.push(of_this.clone());
                let picture = picture.clone();
                let attempt = self.attempt(next, network, picture, patience, of_this);
                running.push(attempt.boxed());
            }
            tokio::select! {
                biased;
                attempt = running.next() => {
                    let Some(attempt) = attempt else {
                        break (most_telling(failed), false);
                    };
                    waiting.retain(|(endpoint, _)| *endpoint != attempt.endpoint);
                    if attempt.offload.outcome.is_ok() {
                        break (attempt.offload, true);
                    }
                    if !attempt.offload.is_of_the_endpoint {
                        // Nobody would do better.
                        order = Vec::new().into_iter();
                    }
                    late.extend(attempt.late);
                    failed.push(attempt.offload);
                }
                _ = falls.changed() => {
                    let state = self.state();
                    waiting.retain(|(endpoint, falls)| state.endpoints.falls(*endpoint) == *falls);
                }
            }
        };
        drop(running);
        offload.bytes_sent = sent
            .iter()
            .map(|sent| sent.bytes.load(Ordering::Relaxed))
            .sum();
        offload.took = picture.shrinking() + started.elapsed();
        if is_answered {
            late.clear();
        }
        (offload, late)
    }

    /// Asks one endpoint.
    async fn attempt(
        self: &Arc<Self>,
        endpoint: usize,
        network: &Arc<RemoteNetwork>,
        picture: Arc<Picture>,
        patience: Patience,
        sent: Arc<Sent>,
    ) -> Attempt {
        let calling = self.begin(endpoint);
        let peer = &self.peers[endpoint];
        let asked = peer.classify(network, picture, patience, &sent);
        let (mut offload, mut late) = asked.await;
        self.note(endpoint, &offload);
        drop(calling);
        self.count_call(endpoint, &offload);
        self.ask_where_refused(endpoint, &offload);
        if offload.outcome.is_ok() {
            offload.endpoint = Some(peer.name.clone());
        }
        if let Some(late) = &mut late {
            late.endpoint = Some(peer.name.clone());
        }
        Attempt {
            endpoint,
            offload,
            late,
        }
    }

    fn begin(self: &Arc<Self>, endpoint: usize) -> Calling<'_> {
        let mut state = self.state();
        state.endpoints.began(endpoint, self.origin.elapsed());
        if state.watched.insert(endpoint) {
            self.spawn(watch_over(Arc::downgrade(self), endpoint));
        }
        Calling {
            upstream: self,
            endpoint,
        }
    }

    /// What a call tells of its endpoint.
    fn note(&self, endpoint: usize, offload: &Offload) {
        let now = self.origin.elapsed();
        let mut state = self.state();
        let endpoints = &mut state.endpoints;
        let change = match &offload.outcome {
            Ok(_) => {
                endpoints.took(endpoint, offload.took, offload.carried());
                endpoints.heard(endpoint, None, now)
            }
            Err(cause) => match cause {
                // Not there, or of no use.
                FallbackCause::Unreachable
                | FallbackCause::Certificate
                | FallbackCause::ConnectionLost
                | FallbackCause::Unavailable
                | FallbackCause::Rejected
                | FallbackCause::BadReply => endpoints.failed(endpoint, now),
                FallbackCause::Unusable => endpoints.heard(endpoint, None, now),
                FallbackCause::Overloaded if offload.bytes_sent > 0 => {
                    endpoints.heard(endpoint, None, now)
                }
                // Its silence counts.
                FallbackCause::Deadline => None,
                _ => {
                    endpoints.not_made(endpoint);
                    None
                }
            },
        };
        drop(state);
        let cause = offload.outcome.as_ref().err();
        self.tell(change, cause.copied());
    }

    fn count_call(&self, endpoint: usize, offload: &Offload) {
        let counts = &self.counts[endpoint];
        let count = match offload.outcome.is_ok() {
            true => &counts.answered,
            false => &counts.failed,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn used(&self) -> &Peer {
        let in_use = self.state().endpoints.in_use();
        &self.peers[in_use]
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}

/// Why there is no reply, of what several endpoints came to: that the time was over, else what the last one that was
/// asked said.
fn most_telling(mut failed: Vec<Offload>) -> Offload {
    let rank = |offload: &Offload| match &offload.outcome {
        Err(FallbackCause::Deadline) => 2,
        Err(FallbackCause::CircuitOpen) => 0,
        _ => 1,
    };
    // The last of the most telling; the deadline may be over before anybody was asked.
    let most = (0..failed.len()).max_by_key(|&one| rank(&failed[one]));
    match most {
        Some(most) => failed.swap_remove(most),
        None => Offload::without_call(FallbackCause::Deadline),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OtherConfig;

    fn upstream(urls: &[&str]) -> Upstream {
        let config = PeerConfig {
            others: urls[1..].iter().map(|url| OtherConfig::new(*url)).collect(),
            ..PeerConfig::new(urls[0])
        };
        Upstream::new(&config, CircuitConfig::default()).unwrap()
    }

    #[tokio::test]
    async fn those_after_share_the_budgets_and_their_clock_and_what_is_known_of_the_same_urls() {
        let (first, second) = ("http://127.0.0.1:1", "http://127.0.0.1:2");
        let before = upstream(&[first]);
        let after = upstream(&[second, first]).after(&before);
        let [new, known] = &after.peers[..] else {
            panic!("two endpoints");
        };
        let earlier = &before.peers[0];
        for peer in [new, known] {
            assert!(Arc::ptr_eq(&peer.budgets, &earlier.budgets));
            assert_eq!(peer.origin, earlier.origin);
        }
        assert!(Arc::ptr_eq(&known.circuit, &earlier.circuit));
        assert!(Arc::ptr_eq(&known.link, &earlier.link));
        assert!(!Arc::ptr_eq(&new.circuit, &earlier.circuit));
        let others = upstream(&[second]).after(&before);
        assert!(!Arc::ptr_eq(&others.peers[0].budgets, &earlier.budgets));
    }
}
