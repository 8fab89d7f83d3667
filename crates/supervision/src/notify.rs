//! How a program stands, for a service manager that asked to be told (`NOTIFY_SOCKET`).

use sd_notify::NotifyState;

/// It does its work, and how.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
}

/// It reads its files again; [`ready`] follows, whatever comes of it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        // Both in one message, as systemd wants them.
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "the service manager is not told of a reload"),
    }
}

/// It ends.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("ending")]);
}

/// How it stands, in words.
pub fn status(status: &str) {
    tell(&[NotifyState::Status(&one_line(status))]);
}

/// It makes progress.
pub(crate) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// A line of a message is a variable of its own.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager was not told");
    }
}
