//! The watchdog: a sign of life while the program makes progress, and none where it is stuck.

use std::time::Duration;

use tokio::{
    task::{JoinError, spawn_blocking},
    time::{MissedTickBehavior, interval, timeout},
};

use crate::notify;

/// Tells the service manager, twice in the time that it gave (`WATCHDOG_USEC`), that the program makes progress; ends at
/// once where it gave none.
///
/// It does while new tasks run, blocking ones get a thread, and no piece of work takes longer than half of that time:
/// `oldest` says how long the oldest has been under way. Where it does not, nothing is told, the log says why once, and
/// the manager does what its unit says.
pub async fn watchdog(oldest: impl Fn() -> Option<Duration>) {
    if let Some(time) = sd_notify::watchdog_enabled() {
        watch(time / 2, oldest, notify::alive).await;
    }
}

async fn watch(
    period: Duration,
    oldest: impl Fn() -> Option<Duration>,
    tell: impl Fn() + Clone + Send + 'static,
) {
    // A period of zero is none.
    let mut looks = interval(period.max(Duration::from_millis(1)));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_stuck = false;
    loop {
        looks.tick().await;
        match stuck(period, &oldest).await {
            None => {
                is_stuck = false;
                // A manager that does not listen must not hold an async thread up.
                let _ = spawn_blocking(tell.clone()).await;
            }
            Some(why) if !is_stuck => {
                is_stuck = true;
                tracing::error!("no progress, and no sign of life until there is: {why}");
                notify::status(&why);
            }
            Some(_) => {}
        }
    }
}

/// Why the program makes no progress, where it makes none.
async fn stuck(period: Duration, oldest: &impl Fn() -> Option<Duration>) -> Option<String> {
    let answers = async {
        tokio::spawn(async {}).await?;
        spawn_blocking(|| {}).await?;
        Ok::<(), JoinError>(())
    };
    match timeout(period, answers).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Some(format!("tasks do not end well: {error}")),
        Err(_) => return Some(format!("no thread was free within {period:?}")),
    }
    let oldest = oldest()?;
    (oldest > period)
        .then(|| format!("an image or a batch has been worked on for {oldest:.1?}, more than half of the watchdog's time"))
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use tokio::time::sleep;

    use super::*;
    use crate::Underway;

    const PERIOD: Duration = Duration::from_millis(40);

    #[tokio::test]
    async fn signs_of_life_end_while_work_is_stuck_and_come_again() {
        let underway = Underway::default();
        let told = Arc::new(AtomicUsize::new(0));
        let watch = {
            let (underway, told) = (underway.clone(), told.clone());
            tokio::spawn(watch(
                PERIOD,
                move || underway.oldest(),
                move || {
                    told.fetch_add(1, Ordering::Relaxed);
                },
            ))
        };
        let more = |before: usize| {
            let told = told.clone();
            async move {
                while told.load(Ordering::Relaxed) <= before {
                    sleep(Duration::from_millis(5)).await;
                }
            }
        };
        let patience = Duration::from_secs(20);
        timeout(patience, more(1)).await.unwrap();
        let stuck = underway.begin();
        sleep(2 * PERIOD).await;
        let before = told.load(Ordering::Relaxed);
        sleep(10 * PERIOD).await;
        // One look may have begun before.
        assert!(told.load(Ordering::Relaxed) <= before + 1);
        drop(stuck);
        let before = told.load(Ordering::Relaxed);
        timeout(patience, more(before)).await.unwrap();
        watch.abort();
    }

    #[test]
    fn a_program_without_a_free_thread_is_stuck() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (free, blocked) = std::sync::mpsc::channel::<()>();
        let taken = runtime.spawn_blocking(move || blocked.recv());
        let why = runtime.block_on(stuck(PERIOD, &|| None));
        assert!(why.unwrap().contains("no thread"));
        drop(free);
        let _ = runtime.block_on(taken);
        // Generous: the thread is given back in its own time.
        let why = runtime.block_on(stuck(Duration::from_secs(20), &|| None));
        assert_eq!(why, None);
    }
}
