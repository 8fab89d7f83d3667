//! Places for connections: so many in all, and so many of them for one address.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
};

/// Bits of an IPv6 address that stand for one customer of a provider, who has all addresses below them.
const IPV6_CUSTOMER_BITS: u32 = 64;

/// The places of one listener. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Places {
    limits: PlaceLimits,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct PlaceLimits {
    pub(super) in_all: usize,
    pub(super) per_peer: usize,
}

#[derive(Debug, Default)]
struct Taken {
    in_all: usize,
    by_peer: HashMap<IpAddr, usize>,
}

/// A place that is free again once it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    taken: Arc<Mutex<Taken>>,
    peer: IpAddr,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoPlace {
    #[error("the limit of connections is reached")]
    InAll,
    #[error("the limit of connections of one peer is reached")]
    ForPeer,
}

impl Places {
    pub(super) fn new(limits: PlaceLimits) -> Self {
        Self {
            limits,
            taken: Arc::default(),
        }
    }

    pub(super) fn take(&self, peer: SocketAddr) -> Result<Place, NoPlace> {
        let peer = customer(peer.ip());
        let mut taken = lock(&self.taken);
        if taken.in_all >= self.limits.in_all {
            return Err(NoPlace::InAll);
        }
        let of_peer = taken.by_peer.get(&peer).copied().unwrap_or_default();
        if of_peer >= self.limits.per_peer {
            return Err(NoPlace::ForPeer);
        }
        taken.by_peer.insert(peer, of_peer + 1);
        taken.in_all += 1;
        Ok(Place {
            taken: self.taken.clone(),
            peer,
        })
    }

    /// Whether half of the places are taken, of all or of those of `peer`.
    pub(super) fn are_scarce(&self, peer: SocketAddr) -> bool {
        let taken = lock(&self.taken);
        let of_peer = taken.by_peer.get(&customer(peer.ip()));
        taken.in_all > self.limits.in_all / 2
            || of_peer.is_some_and(|&count| count > self.limits.per_peer / 2)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        taken.in_all -= 1;
        let of_peer = taken.by_peer.get_mut(&self.peer);
        let of_peer = of_peer.expect("a place that is taken is counted");
        *of_peer -= 1;
        if *of_peer == 0 {
            taken.by_peer.remove(&self.peer);
        }
    }
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().expect("no holder of the lock panics")
}

/// The address that stands for all of one customer's.
fn customer(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let kept = u128::MAX << (128 - IPV6_CUSTOMER_BITS);
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & kept))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(in_all: usize, per_peer: usize) -> Places {
        Places::new(PlaceLimits { in_all, per_peer })
    }

    fn peer(address: &str) -> SocketAddr {
        SocketAddr::new(address.parse().unwrap(), 1)
    }

    #[test]
    fn a_peer_cannot_take_the_places_of_others() {
        let places = places(4, 2);
        let (one, other) = (peer("192.0.2.1"), peer("192.0.2.2"));
        let first = places.take(one).unwrap();
        let _second = places.take(one).unwrap();
        assert_eq!(places.take(one).unwrap_err(), NoPlace::ForPeer);
        let _third = places.take(other).unwrap();
        drop(first);
        let _fourth = places.take(one).unwrap();
        let _fifth = places.take(other).unwrap();
        assert_eq!(places.take(peer("192.0.2.3")).unwrap_err(), NoPlace::InAll);
    }

    #[test]
    fn what_was_taken_and_given_back_leaves_nothing_behind() {
        let places = places(2, 1);
        for last in 0..=255 {
            drop(places.take(peer(&format!("192.0.2.{last}"))).unwrap());
        }
        let taken = lock(&places.taken);
        assert_eq!((taken.in_all, taken.by_peer.len()), (0, 0));
    }

    #[test]
    fn the_addresses_of_one_customer_count_as_one() {
        let places = places(8, 1);
        let _place = places.take(peer("2001:db8:0:1::1")).unwrap();
        assert!(places.take(peer("2001:db8:0:1:ffff::2")).is_err());
        let _place = places.take(peer("2001:db8:0:2::1")).unwrap();
        let _place = places.take(peer("192.0.2.1")).unwrap();
        assert!(places.take(peer("::ffff:192.0.2.1")).is_err());
    }

    #[test]
    fn places_are_scarce_for_a_peer_before_they_are_for_all() {
        let places = places(100, 2);
        let one = peer("192.0.2.1");
        let _taken = [places.take(one).unwrap(), places.take(one).unwrap()];
        assert!(places.are_scarce(one));
        assert!(!places.are_scarce(peer("192.0.2.2")));
    }
}
