//! Tokens for the page: short-lived, for inference with the models of its cascade, and only so many of them.

use std::{
    collections::HashMap,
    fmt, io,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};
use http::StatusCode;
use sha2::{Digest, Sha256};
use tokio::time::{MissedTickBehavior, interval};

use super::{Caller, TokenDigest, new_token::random_token};
use crate::{config::PageConfig, metrics::Metrics};

/// How often tokens that have ended are put away, so that the metric of those that have not is right.
const LOOK: Duration = Duration::from_secs(1);

/// Issues tokens, and knows those that are good. Clones share them.
#[derive(Clone)]
pub(crate) struct PageTokens(Arc<Shared>);

struct Shared {
    /// How long a token is good.
    lifetime: Duration,
    /// How many are good at a time.
    at_once: usize,
    per_minute: u32,
    issuing: DefaultDirectRateLimiter,
    /// Images of one token.
    quota: Quota,
    /// Models that they are for.
    models: Vec<String>,
    good: Mutex<HashMap<TokenDigest, Good>>,
    metrics: Metrics,
}

struct Good {
    until: Instant,
    caller: Arc<Caller>,
}

/// Why no token is issued.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenRefusal {
    /// So many pages are open.
    #[error("{at_once} pages have a token, as many as may at a time: try again in {} s", wait(*retry_after))]
    AtOnce {
        at_once: usize,
        retry_after: Duration,
    },
    /// So many were opened just now.
    #[error("{per_minute} tokens a minute are issued to pages: try again in {} s", wait(*retry_after))]
    PerMinute {
        per_minute: u32,
        retry_after: Duration,
    },
    /// The system gives no random bits.
    #[error("no token can be made: see the log of the service")]
    Random(#[source] io::Error),
}

/// Whole seconds, rounded up.
fn wait(time: Duration) -> u64 {
    time.as_secs_f64().ceil() as u64
}

impl TokenRefusal {
    /// The status of an answer that says so.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::AtOnce { .. } | Self::PerMinute { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Random(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// When to come back.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::AtOnce { retry_after, .. } | Self::PerMinute { retry_after, .. } => {
                Some(*retry_after)
            }
            Self::Random(_) => None,
        }
    }

    fn cause(&self) -> &'static str {
        match self {
            Self::AtOnce { .. } => "at-once",
            Self::PerMinute { .. } => "per-minute",
            Self::Random(_) => "random",
        }
    }
}

impl PageTokens {
    /// Tokens for models, within the bounds of a configuration that was checked.
    pub(crate) fn new(config: &PageConfig, models: Vec<String>, metrics: Metrics) -> Self {
        let per_minute =
            |count: u32| Quota::per_minute(NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN));
        Self(Arc::new(Shared {
            lifetime: Duration::from_secs(config.token_seconds),
            at_once: config.tokens_at_once,
            per_minute: config.tokens_per_minute,
            issuing: RateLimiter::direct(per_minute(config.tokens_per_minute)),
            quota: per_minute(config.images_per_minute),
            models,
            good: Mutex::default(),
            metrics,
        }))
    }

    /// How long a token is good.
    pub(crate) fn lifetime(&self) -> Duration {
        self.0.lifetime
    }

    /// Makes a token that is good from `now` on.
    pub(crate) fn issue(&self, now: Instant) -> Result<String, TokenRefusal> {
        let issued = self.try_issue(now);
        match &issued {
            Ok(_) => self.0.metrics.page_token_issued(),
            Err(refusal) => self.0.metrics.page_token_refused(refusal.cause()),
        }
        issued
    }

    /// A page that may not call asked for one.
    pub(crate) fn refused_origin(&self) {
        self.0.metrics.page_token_refused("origin");
    }

    fn try_issue(&self, now: Instant) -> Result<String, TokenRefusal> {
        let shared = &*self.0;
        // First, as it costs nothing however many ask.
        if let Err(not_yet) = shared.issuing.check() {
            return Err(TokenRefusal::PerMinute {
                per_minute: shared.per_minute,
                retry_after: not_yet.wait_time_from(DefaultClock::default().now()),
            });
        }
        let mut good = self.put_away(now);
        if good.len() >= shared.at_once {
            let next = good.values().map(|good| good.until).min();
            return Err(TokenRefusal::AtOnce {
                at_once: shared.at_once,
                retry_after: next.map_or(shared.lifetime, |until| until - now),
            });
        }
        let token = random_token().map_err(TokenRefusal::Random)?;
        let one = Good {
            until: now + shared.lifetime,
            caller: Arc::new(Caller::of_page(shared.models.clone(), shared.quota)),
        };
        good.insert(Sha256::digest(&token).into(), one);
        shared.metrics.page_tokens(good.len());
        Ok(token)
    }

    /// Who shows the token with a digest, where it is good.
    pub(super) fn find(&self, digest: &TokenDigest, now: Instant) -> Option<Arc<Caller>> {
        let good = self.good();
        let one = good.get(digest).filter(|one| now < one.until);
        one.map(|one| one.caller.clone())
    }

    /// Puts those away that have ended, as time passes.
    pub(crate) async fn follow(self) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            drop(self.put_away(Instant::now()));
        }
    }

    fn put_away(&self, now: Instant) -> MutexGuard<'_, HashMap<TokenDigest, Good>> {
        let mut good = self.good();
        good.retain(|_, one| now < one.until);
        self.0.metrics.page_tokens(good.len());
        good
    }

    fn good(&self) -> MutexGuard<'_, HashMap<TokenDigest, Good>> {
        self.0.good.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for PageTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageTokens")
            .field("good", &self.good().len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(extra: &str) -> PageTokens {
        let config = format!("cascade = \"cascade.toml\"\n{extra}");
        let config: PageConfig = toml::from_str(&config).unwrap();
        PageTokens::new(&config, vec!["m".to_owned()], Metrics::default())
    }

    fn digest(token: &str) -> TokenDigest {
        Sha256::digest(token).into()
    }

    #[test]
    fn a_token_is_good_for_its_time_and_its_models() {
        let tokens = tokens("token_seconds = 60");
        let now = Instant::now();
        let token = tokens.issue(now).unwrap();
        let at = |seconds| tokens.find(&digest(&token), now + Duration::from_secs(seconds));
        let caller = at(59).unwrap();
        assert!(caller.may_use("m") && !caller.may_use("other"));
        assert!(at(60).is_none());
        assert!(tokens.find(&digest("other"), now).is_none());
        assert!(!format!("{tokens:?}").contains(&token));
    }

    #[test]
    fn so_many_are_good_at_a_time_and_room_comes_back() {
        let tokens = tokens("token_seconds = 60\ntokens_at_once = 2");
        let now = Instant::now();
        let first = tokens.issue(now).unwrap();
        let later = now + Duration::from_secs(20);
        let second = tokens.issue(later).unwrap();
        assert_ne!(first, second);
        let refusal = tokens.issue(later).unwrap_err();
        assert!(matches!(refusal, TokenRefusal::AtOnce { .. }));
        assert_eq!(refusal.retry_after(), Some(Duration::from_secs(40)));
        assert!(refusal.to_string().contains("40 s"), "{refusal}");
        tokens.issue(now + Duration::from_secs(60)).unwrap();
    }

    #[test]
    fn so_many_are_issued_in_a_minute() {
        let tokens = tokens("tokens_per_minute = 3");
        let now = Instant::now();
        for _ in 0..3 {
            tokens.issue(now).unwrap();
        }
        let refusal = tokens.issue(now).unwrap_err();
        assert!(matches!(refusal, TokenRefusal::PerMinute { .. }));
        assert!(refusal.retry_after().unwrap() <= Duration::from_secs(20));
        let text = tokens.0.metrics.encode();
        for line in [
            "outpost_cloud_page_tokens_issued_total 3",
            r#"outpost_cloud_page_tokens_refused_total{cause="per-minute"} 1"#,
            "outpost_cloud_page_tokens 3",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_token_comes_with_so_many_images() {
        let tokens = tokens("images_per_minute = 4");
        let now = Instant::now();
        let token = tokens.issue(now).unwrap();
        let caller = tokens.find(&digest(&token), now).unwrap();
        caller.take(4).unwrap();
        caller.take(1).unwrap_err();
        // Another page has its own.
        let other = tokens.issue(now).unwrap();
        tokens.find(&digest(&other), now).unwrap().take(4).unwrap();
    }
}
