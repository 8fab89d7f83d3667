//! The sessions of one graph: a session runs one batch at a time.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use ort::session::Session;

/// Sessions of one graph, each in use by one caller at a time; further callers wait.
pub(super) struct Sessions {
    /// Sessions that run nothing.
    idle: Mutex<Vec<Session>>,
    returned: Condvar,
}

/// A session in use, which is idle again once this is dropped, whatever became of the batch.
struct Taken<'a> {
    sessions: &'a Sessions,
    /// There until the drop.
    session: Option<Session>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut idle = self.sessions.lock();
        idle.extend(self.session.take());
        self.sessions.returned.notify_one();
    }
}

impl Sessions {
    /// Those of `all`, at least one.
    pub(super) fn new(all: Vec<Session>) -> Self {
        Self {
            idle: Mutex::new(all),
            returned: Condvar::new(),
        }
    }

    /// Has one of them do `work`, once one is idle.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Session) -> T) -> T {
        let mut taken = self.take();
        work(taken.session.as_mut().expect("there until the drop"))
    }

    fn take(&self) -> Taken<'_> {
        let mut idle = self
            .returned
            .wait_while(self.lock(), |idle| idle.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        Taken {
            sessions: self,
            session: idle.pop(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Session>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
