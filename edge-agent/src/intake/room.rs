//! Memory for what callers bring.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::sync::Semaphore;

/// The part of the memory for all callers' bytes that one of them takes, which is free again once this is dropped.
#[derive(Debug)]
pub(crate) struct Room {
    all: Arc<Semaphore>,
    taken: AtomicUsize,
    is_full: AtomicBool,
}

/// There is no memory for more bytes of callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the images of all callers have more bytes than may be here at a time")]
pub(crate) struct NoRoom;

impl Room {
    /// None of `all` bytes yet.
    pub(super) fn of(all: Arc<Semaphore>) -> Self {
        Self {
            all,
            taken: AtomicUsize::new(0),
            is_full: AtomicBool::new(false),
        }
    }

    /// Takes so many bytes more.
    ///
    /// # Errors
    /// [`NoRoom`] where others have what is left.
    pub(crate) fn take(&self, bytes: usize) -> Result<(), NoRoom> {
        let permits = u32::try_from(bytes).ok();
        let taken = permits.and_then(|permits| self.all.try_acquire_many(permits).ok());
        let Some(taken) = taken else {
            self.is_full.store(true, Ordering::Relaxed);
            return Err(NoRoom);
        };
        taken.forget();
        self.taken.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Whether there was no room for some of the caller's bytes.
    pub(crate) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.all.add_permits(self.taken.load(Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_had_as_long_as_there_are_some_and_again_once_their_caller_is_gone() {
        let all = Arc::new(Semaphore::new(10));
        let (one, other) = (Room::of(all.clone()), Room::of(all.clone()));
        assert_eq!((one.take(6), other.take(4)), (Ok(()), Ok(())));
        assert_eq!((other.take(1), other.is_full()), (Err(NoRoom), true));
        assert!(!one.is_full());
        drop(one);
        assert_eq!(other.take(6), Ok(()));
        assert_eq!(other.take(usize::MAX), Err(NoRoom));
        drop(other);
        assert_eq!(all.available_permits(), 10);
    }
}
