//! Memory that is used again and again, by whichever thread is at work.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Memory of one kind: as many pieces as were ever in use at a time, where threads that took turns would each keep one.
pub(crate) struct Spare<T>(Mutex<Vec<T>>);

impl<T: Default> Spare<T> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// Has `work` use a piece, which holds what was left in it. It may wait for other threads meanwhile.
    pub(crate) fn lend<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        let mut piece = self.take();
        let result = work(&mut piece);
        self.give_back(piece);
        result
    }

    /// A piece, which holds what was left in it.
    pub(crate) fn take(&self) -> T {
        let taken = self.lock().pop();
        taken.unwrap_or_default()
    }

    /// Has others use a piece.
    pub(crate) fn give_back(&self, piece: T) {
        self.lock().push(piece);
    }

    /// The list is whole after every call.
    fn lock(&self) -> MutexGuard<'_, Vec<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn threads_that_take_turns_share_a_piece_and_those_at_work_together_have_one_each() {
        let spare: Spare<Vec<u8>> = Spare::new();
        for turn in 1..=3 {
            thread::scope(|scope| {
                scope.spawn(|| spare.lend(|piece| piece.push(turn)));
            });
        }
        spare.lend(|first| {
            assert_eq!(*first, [1, 2, 3]);
            spare.lend(|second| assert!(second.is_empty()));
        });
        assert_eq!(spare.lock().len(), 2);
    }
}
