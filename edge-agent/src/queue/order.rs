//! Which image is sent next, and which makes way.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use uuid::Uuid;

/// The images that wait, by value: a pure account of what the store holds.
///
/// Of two that are worth the same, the one with the greater identifier is worth more: it is the newer one.
#[derive(Debug)]
pub(super) struct Order {
    by_value: BTreeSet<(u32, Uuid)>,
    by_turn: BTreeSet<Turn>,
    waiting: HashMap<Uuid, Waiting>,
    bytes: u64,
    bounds: Bounds,
}

/// When an image is sent, the greatest first: by the fewest attempts in vain, then by value.
type Turn = (Reverse<u32>, u32, Uuid);

/// How much may wait, and for how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) bytes: u64,
    pub(super) age: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    value: u32,
    bytes: u64,
    /// Attempts that failed, maybe by its doing. A start of the program forgets them.
    attempts: u32,
    /// When it is too old, on the clock of the caller.
    until: Duration,
    /// Whether it waits for a call that is under way.
    is_held: bool,
}

impl Waiting {
    fn turn(&self, id: Uuid) -> Turn {
        (Reverse(self.attempts), self.value, id)
    }
}

impl Order {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            by_value: BTreeSet::new(),
            by_turn: BTreeSet::new(),
            waiting: HashMap::new(),
            bytes: 0,
            bounds,
        }
    }

    /// Adds an image that is worth `value`, 0 to 1, and is `age` old at `now`; gives those that make way for it, the
    /// least worth first. Among them may be the image itself. One of the same identifier is replaced.
    pub(super) fn insert(
        &mut self,
        id: Uuid,
        value: f32,
        bytes: u64,
        age: Duration,
        now: Duration,
    ) -> Vec<Uuid> {
        self.remove(id);
        // As finely as a confidence is printed.
        let value = (value.clamp(0.0, 1.0) * 1e6) as u32;
        let left = self.bounds.age.saturating_sub(age);
        self.by_value.insert((value, id));
        let waiting = Waiting {
            value,
            bytes,
            attempts: 0,
            until: now + left,
            is_held: false,
        };
        self.by_turn.insert(waiting.turn(id));
        self.waiting.insert(id, waiting);
        self.bytes += bytes;
        let mut making_way = Vec::new();
        while self.bytes > self.bounds.bytes
            && let Some(&(_, least)) = self.by_value.first()
        {
            self.remove(least);
            making_way.push(least);
        }
        making_way
    }

    /// Takes an image out; gives whether it was there.
    pub(super) fn remove(&mut self, id: Uuid) -> bool {
        let Some(waiting) = self.waiting.remove(&id) else {
            return false;
        };
        self.by_value.remove(&(waiting.value, id));
        self.by_turn.remove(&waiting.turn(id));
        self.bytes -= waiting.bytes;
        true
    }

    /// Keeps an image from being the next, or no longer.
    pub(super) fn hold(&mut self, id: Uuid, is_held: bool) {
        if let Some(waiting) = self.waiting.get_mut(&id) {
            waiting.is_held = is_held;
        }
    }

    /// An attempt at an image failed, maybe by its doing: those with fewer such attempts go before it.
    pub(super) fn attempted(&mut self, id: Uuid) {
        if let Some(waiting) = self.waiting.get_mut(&id) {
            self.by_turn.remove(&waiting.turn(id));
            waiting.attempts += 1;
            self.by_turn.insert(waiting.turn(id));
        }
    }

    /// Such attempts at an image.
    pub(super) fn attempts(&self, id: Uuid) -> u32 {
        self.waiting.get(&id).map_or(0, |waiting| waiting.attempts)
    }

    /// Of the images that may be sent and were attempted the least, the one that is worth the most.
    pub(super) fn next(&self) -> Option<Uuid> {
        let is_free = |id: &Uuid| !self.waiting[id].is_held;
        self.by_turn.iter().rev().map(|&(.., id)| id).find(is_free)
    }

    /// Takes out those that are too old at `now`.
    pub(super) fn expire(&mut self, now: Duration) -> Vec<Uuid> {
        let old = |(&id, waiting): (&Uuid, &Waiting)| (waiting.until <= now).then_some(id);
        let expired: Vec<Uuid> = self.waiting.iter().filter_map(old).collect();
        for &id in &expired {
            self.remove(id);
        }
        expired
    }

    pub(super) fn images(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    fn order(bytes: u64) -> Order {
        Order::new(Bounds {
            bytes,
            age: Duration::from_secs(10),
        })
    }

    fn insert(order: &mut Order, number: u128, value: f32, bytes: u64) -> Vec<u128> {
        let making_way = order.insert(id(number), value, bytes, Duration::ZERO, Duration::ZERO);
        making_way.into_iter().map(|id| id.as_u128()).collect()
    }

    #[test]
    fn the_most_valuable_is_next_and_of_equals_the_newest() {
        let mut order = order(100);
        for (number, value) in [(1, 0.5), (2, 0.9), (3, 0.5), (4, 0.1)] {
            assert!(insert(&mut order, number, value, 1).is_empty());
        }
        order.hold(id(2), true);
        let mut sent = Vec::new();
        while let Some(next) = order.next() {
            sent.push(next.as_u128());
            assert!(order.remove(next));
            assert!(!order.remove(next));
            order.hold(id(2), sent.len() < 2);
        }
        assert_eq!(sent, [3, 1, 2, 4]);
        assert_eq!((order.images(), order.bytes()), (0, 0));
    }

    #[test]
    fn one_that_was_attempted_lets_others_go_first_and_keeps_its_room() {
        let mut order = order(3);
        for (number, value) in [(1, 0.9), (2, 0.5), (3, 0.1)] {
            insert(&mut order, number, value, 1);
        }
        let mut attempted = Vec::new();
        for _ in 0..5 {
            let next = order.next().unwrap();
            attempted.push(next.as_u128());
            order.attempted(next);
        }
        assert_eq!(attempted, [1, 2, 3, 1, 2]);
        // One that has left meanwhile.
        order.attempted(id(7));
        assert_eq!(insert(&mut order, 4, 0.2, 1), [3]);
        assert_eq!(order.next(), Some(id(4)));
        for number in [4, 1, 2] {
            assert_eq!(order.next(), Some(id(number)));
            assert!(order.remove(id(number)));
        }
        assert_eq!(order.next(), None);
    }

    #[test]
    fn the_least_valuable_make_way() {
        let mut order = order(10);
        assert!(insert(&mut order, 1, 0.5, 4).is_empty());
        assert!(insert(&mut order, 2, 0.2, 4).is_empty());
        assert_eq!(insert(&mut order, 3, 0.4, 4), [2]);
        assert_eq!(insert(&mut order, 4, 0.9, 9), [3, 1]);
        // One that is worth less than all that are here, and one that is larger than all the room.
        assert_eq!(insert(&mut order, 5, 0.1, 2), [5]);
        assert_eq!(insert(&mut order, 6, 0.95, 11), [4, 6]);
        assert_eq!(order.images(), 0);
    }

    #[test]
    fn one_of_the_same_identifier_is_replaced() {
        let mut order = order(10);
        insert(&mut order, 1, 0.5, 4);
        assert!(insert(&mut order, 1, 0.7, 6).is_empty());
        assert_eq!((order.images(), order.bytes()), (1, 6));
    }

    #[test]
    fn what_is_too_old_goes_whatever_it_is_worth() {
        let mut order = order(10);
        let seconds = Duration::from_secs;
        order.insert(id(1), 0.9, 1, seconds(8), seconds(100));
        order.insert(id(2), 0.1, 1, seconds(0), seconds(100));
        // From a clock that was wrong.
        order.insert(id(3), 0.5, 1, seconds(1 << 40), seconds(100));
        assert_eq!(order.expire(seconds(100)), [id(3)]);
        assert!(order.expire(seconds(101)).is_empty());
        assert_eq!(order.expire(seconds(102)), [id(1)]);
        assert_eq!(order.next(), Some(id(2)));
    }
}
