//! A new configuration, policy or credential while the program runs.
//!
//! What follows from the configuration is built anew and swapped whole: images under way end with the agent that took
//! them up. Where something does not hold, nothing changes, and the log, a metric and `/v1/state` say why.

mod changes;

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    time::Duration,
};

use outpost_cascade::DecideBy;
use outpost_engine::{Engine, error_chain};
use outpost_supervision::{Call, Digests, Watch, ready, reloading};
use tokio::{runtime::Handle, sync::watch, task::spawn_blocking};

use crate::{
    agent::{Agent, StartError},
    api::{ApiError, Credentials, InUse},
    audit::Auditor,
    certificates::Certificate,
    config::{Config, ConfigError},
    in_charge::InCharge,
    metrics::Metrics,
    page::{self, PageServeError},
    power::Power,
    reloads::{Reload, Reloads},
};

use changes::Snapshot;

/// What the service manager is told while all is well.
pub(crate) const ANSWERING: &str = "answering";

/// Where the configuration comes from: a file, and what the command line says over it.
pub struct Source {
    path: Option<PathBuf>,
    load: Box<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>,
    /// The files as they were before they were read last.
    seen: Digests,
    /// What was read last and held together.
    latest: Snapshot,
    /// What is in effect; none before the first.
    in_effect: Option<Snapshot>,
}

/// Follows the configuration and its files.
pub(crate) struct Reloader {
    /// What is in effect.
    pub(crate) config: Config,
    /// Certificates that it names.
    pub(crate) certificates: watch::Sender<Vec<Certificate>>,
    pub(crate) source: Source,
    pub(crate) agent: InCharge,
    /// None without an API.
    pub(crate) api: Option<InUse>,
    /// None without a page.
    pub(crate) page: Option<page::InUse>,
    /// None without audits.
    pub(crate) auditor: Option<Auditor>,
    pub(crate) metrics: Metrics,
    pub(crate) reloads: Reloads,
    pub(crate) power: Power,
}

/// Why a configuration and its files are not put to use.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    /// The configuration does not hold together.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The cascade, its networks or its peers are at fault.
    #[error(transparent)]
    Agent(#[from] StartError),
    /// What the API shows and asks for is at fault.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The page, or what it runs, is at fault.
    #[error(transparent)]
    Page(#[from] PageServeError),
    /// A library panicked over a file.
    #[error("a library crashed over one of the files: please report it with them")]
    Crashed,
}

/// Whether the same networks answer, by the same policy.
fn says_as(before: &Engine, now: &Engine) -> bool {
    let networks = |engine: &Engine| -> Vec<String> {
        let nodes = engine.cascade().nodes();
        nodes
            .map(|(id, _)| engine.manifest(id).sha256.clone())
            .collect()
    };
    before.policy() == now.policy() && networks(before) == networks(now)
}

impl Source {
    /// One whose configuration `load` reads, from the file `path` where there is one.
    pub fn new(
        path: Option<PathBuf>,
        load: impl Fn() -> Result<Config, ConfigError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            path,
            load: Box::new(load),
            seen: Digests::default(),
            latest: Snapshot::default(),
            in_effect: None,
        }
    }

    /// Reads the configuration, as it is now.
    ///
    /// # Errors
    /// A [`ConfigError`] that names the file, field or flag at fault.
    pub fn load(&mut self) -> Result<Config, ConfigError> {
        // Before it is read: a change in between is seen at the next look.
        let own = Digests::of(&self.path);
        match (self.load)() {
            Ok(config) => {
                self.seen = own;
                self.seen.add(config.files());
                self.latest = Snapshot::new(self.path.as_deref(), self.seen.clone());
                self.in_effect.get_or_insert_with(|| self.latest.clone());
                Ok(config)
            }
            Err(error) => {
                self.seen = self.seen.again();
                Err(error)
            }
        }
    }
}

impl Source {
    /// What was read last is in effect; gives what changed by that.
    fn takes_effect(&mut self) -> Vec<String> {
        let before = self.in_effect.replace(self.latest.clone());
        let before = before.unwrap_or_default();
        self.latest.changed_since(&before, self.path.as_deref())
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Reloader {
    /// Reads the files again at every SIGHUP and where they changed; those that were refused at every look, as what they
    /// lack may come without a change of theirs.
    pub(crate) async fn follow(mut self) {
        let every = Duration::from_secs(self.config.reload_seconds);
        let mut watch = Watch::new(every).unwrap_or_else(|error| {
            tracing::warn!(%error, "SIGHUP does not have the configuration read again");
            Watch::without_signal(every)
        });
        let mut is_refused = false;
        loop {
            let call = watch.next(&self.source.seen).await;
            if call == Call::Look && !is_refused {
                continue;
            }
            if call != Call::Look {
                reloading();
            }
            let (reloader, outcome) = self.reload_off_the_async_threads().await;
            self = reloader;
            let said = match outcome {
                Ok(restart_for) => {
                    is_refused = false;
                    self.applied(restart_for);
                    ANSWERING.to_owned()
                }
                Err(error) => {
                    is_refused = true;
                    let cause = error_chain(&error);
                    let said = format!("answering as before, since a reload was refused: {cause}");
                    self.refused(cause, call);
                    said
                }
            };
            ready(&said);
        }
    }

    fn applied(&mut self, restart_for: Vec<&'static str>) {
        self.metrics.reloaded("applied");
        let mut changed = self.source.takes_effect();
        let waits = |field: &str| {
            restart_for.iter().any(|waiting| {
                let within = field.strip_prefix(waiting);
                within.is_some_and(|within| within.is_empty() || within.starts_with('.'))
            })
        };
        changed.retain(|field| !waits(field));
        tracing::info!(
            changed = changed.join(", "),
            "the configuration and its files were read again and are in use"
        );
        if !restart_for.is_empty() {
            tracing::warn!(
                fields = restart_for.join(", "),
                "new values of these fields wait for a restart of the program: restart to apply them"
            );
        }
        self.reloads.note(Reload {
            changed,
            restart_for,
            ..Reload::new("applied")
        });
    }

    /// Tells of each cause once, unless a person asked again.
    fn refused(&self, cause: String, call: Call) {
        if call == Call::Look && self.reloads.was_refused_for(&cause) {
            return;
        }
        self.metrics.reloaded("refused");
        tracing::error!(
            error = cause,
            "the configuration or one of its files does not hold: what was before stays in use"
        );
        self.reloads.note(Reload {
            error: Some(cause),
            ..Reload::new("refused")
        });
    }

    /// Loading networks takes some 100 ms.
    async fn reload_off_the_async_threads(
        mut self,
    ) -> (Self, Result<Vec<&'static str>, ReloadError>) {
        let runtime = Handle::current();
        let reload = move || {
            // Peers connect meanwhile.
            let _entered = runtime.enter();
            // Nothing is changed before all is built.
            let outcome = catch_unwind(AssertUnwindSafe(|| self.reload()));
            let outcome = outcome.unwrap_or(Err(ReloadError::Crashed));
            (self, outcome)
        };
        spawn_blocking(reload).await.expect("panics are caught")
    }

    /// Puts the configuration and its files to use as they are now; gives the fields that wait for a restart.
    ///
    /// # Errors
    /// What does not hold; then nothing has changed.
    fn reload(&mut self) -> Result<Vec<&'static str>, ReloadError> {
        let config = self.source.load()?;
        config.check_run()?;
        let (config, restart_for) = config.beside(&self.config);
        config.check_run()?;
        let credentials = config.api.as_ref().map(Credentials::load).transpose()?;
        let page = page::Loaded::load(&config)?;
        let agent = Agent::after(&config, Some(&self.agent.get()))?;
        let is_the_same = says_as(self.agent.get().engine(), agent.engine());
        let keeps_goal = config.operating_point == self.config.operating_point;
        let keeps_mode = config.mode == self.config.mode;
        self.agent.replace(agent, |agent, deciding| {
            self.power.spare(agent.engine());
            let goal = deciding.chosen().map(|chosen| chosen.goal.clone());
            let has_policy = agent.engine().policy().is_some();
            // What a person chose holds until the configuration says otherwise.
            let goal = goal.filter(|_| keeps_goal);
            let goal = goal.or_else(|| self.power.goal().cloned());
            let goal = goal.filter(|_| has_policy);
            let mode = keeps_mode.then(|| deciding.mode());
            // The mode first: where it is the device alone, nobody is to be connected to meanwhile.
            for change in [
                DecideBy { goal: None, mode },
                DecideBy { goal, mode: None },
            ] {
                if let Err(error) = agent.engine().decide_by(&change) {
                    tracing::warn!(%error, "what was decided by does not fit any more: the configuration's holds");
                }
            }
        });
        if let Some(auditor) = &self.auditor
            && !is_the_same
        {
            auditor.begin_anew();
        }
        if let (Some(api), Some(credentials)) = (&self.api, credentials) {
            api.replace(credentials);
        }
        if let (Some(in_use), Some(page)) = (&self.page, page) {
            in_use.replace(page);
        }
        self.certificates.send_replace(Certificate::all_of(&config));
        self.config = config;
        Ok(restart_for)
    }
}
