//! Work that is under way, and since when.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Pieces of work that are under way. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Underway(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// The next piece's number; later ones have greater ones.
    next: u64,
    began: BTreeMap<u64, Instant>,
}

/// A piece of work, which ends when this is dropped.
#[derive(Debug)]
pub struct Piece {
    number: u64,
    of: Underway,
}

impl Underway {
    /// A piece of work begins.
    pub fn begin(&self) -> Piece {
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        state.began.insert(number, Instant::now());
        Piece {
            number,
            of: self.clone(),
        }
    }

    /// How long the oldest piece has been under way; none where there is no work.
    pub fn oldest(&self) -> Option<Duration> {
        let began = self.lock().began.first_key_value().map(|(_, &at)| at);
        began.map(|at| at.elapsed())
    }

    /// The state is whole after every statement.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.of.lock().began.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_piece_counts_until_it_ends() {
        let underway = Underway::default();
        assert_eq!(underway.oldest(), None);
        let first = underway.begin();
        std::thread::sleep(Duration::from_millis(5));
        let second = underway.begin();
        assert!(underway.oldest().unwrap() >= Duration::from_millis(5));
        drop(first);
        let of_second = second.of.oldest();
        assert!(of_second.is_some());
        drop(second);
        assert_eq!(underway.oldest(), None);
    }
}
