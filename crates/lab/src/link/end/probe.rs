//! What a path is like: round trips of small datagrams, and the rate at which a train of large ones arrives.

use std::{
    io::{self, Read},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::percentile::nearest_rank;

/// Small datagrams, and the time between two.
const PINGS: usize = 15;
const PING_EVERY: Duration = Duration::from_millis(20);
/// Time that a train takes at the least, and its least datagrams.
const TRAIN: Duration = Duration::from_millis(600);
const TRAIN_LENGTH: usize = 24;
/// How much faster a train is sent than it should arrive.
const PRESSURE: f64 = 1.25;
/// Headers of IPv4 and UDP.
const HEADERS: usize = 28;
/// Bytes of a datagram's payload.
const LARGEST: usize = 1200;
const SMALLEST: usize = 100;
/// What a lost answer is waited for, beyond the round trip.
const PATIENCE: Duration = Duration::from_millis(500);
/// Once an end hears nothing for so long, a train is over.
const SILENCE: Duration = Duration::from_millis(700);
/// How often an answer is asked for.
const ATTEMPTS: usize = 12;

/// What a path should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::link) struct Aim {
    pub(in crate::link) round_trip: Duration,
    /// Bits a second of the network layer.
    pub(in crate::link) uplink: Option<f64>,
    pub(in crate::link) downlink: Option<f64>,
}

/// What a path is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(in crate::link) struct Probed {
    /// Median, milliseconds.
    pub(in crate::link) round_trip_ms: f64,
    /// Bits a second of the network layer, where a rate was aimed at.
    pub(in crate::link) uplink: Option<f64>,
    pub(in crate::link) downlink: Option<f64>,
}

/// What datagrams say.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Word {
    /// Comes back as it is.
    Ping(usize),
    /// One of a train, as long as the train's.
    Car,
    /// Asks what came of the train since the last ping.
    Ask,
    /// What came of it: bits a second.
    Rate(Option<f64>),
    /// Asks for a train of this rate, in bits a second.
    Send(f64),
}

/// A socket that speaks in words.
struct Wire(UdpSocket);

impl Wire {
    fn say(&self, word: Word, length: usize, to: SocketAddr) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(&word)?;
        // JSON may be followed by spaces.
        bytes.resize(bytes.len().max(length), b' ');
        self.0.send_to(&bytes, to).map(|_| ())
    }

    /// The next word, its length, and from whom; `None` where nothing comes within `patience`.
    fn hear(&self, patience: Duration) -> io::Result<Option<(Word, usize, SocketAddr)>> {
        let patience = patience.max(Duration::from_millis(1));
        self.0.set_read_timeout(Some(patience))?;
        let mut bytes = [0; 2048];
        match self.0.recv_from(&mut bytes) {
            // What is no word is nobody's of ours.
            Ok((length, from)) => Ok(serde_json::from_slice(&bytes[..length])
                .ok()
                .map(|word| (word, length, from))),
            Err(error) if is_timeout(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a train that is to arrive at `rate` bits a second.
    fn train(&self, rate: f64, to: SocketAddr) -> io::Result<()> {
        let (length, count) = train_of(rate);
        let pause = Duration::from_secs_f64((length + HEADERS) as f64 * 8.0 / (rate * PRESSURE));
        let began = Instant::now();
        for number in 0..count {
            let due = pause.mul_f64(number as f64);
            // Short pauses are made up for in bursts.
            let early = due.saturating_sub(began.elapsed());
            if early > Duration::from_micros(500) {
                thread::sleep(early);
            }
            self.say(Word::Car, length, to)?;
        }
        Ok(())
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

/// Payload and number of the datagrams of a train: small enough that none takes long at this rate, and so many that they take
/// a while.
fn train_of(rate: f64) -> (usize, usize) {
    let length = ((rate * 0.04 / 8.0) as usize).clamp(SMALLEST, LARGEST);
    let bits = (length + HEADERS) as f64 * 8.0;
    let count = (rate * PRESSURE * TRAIN.as_secs_f64() / bits).ceil() as usize;
    (length, count.max(TRAIN_LENGTH))
}

/// The arrivals of a train.
#[derive(Debug, Default, Clone, Copy)]
struct Train {
    first: Option<Instant>,
    last: Option<Instant>,
    /// Bytes after the first datagram.
    bytes: usize,
}

impl Train {
    fn take(&mut self, length: usize, now: Instant) {
        if self.first.is_none() {
            self.first = Some(now);
        } else {
            self.bytes += length + HEADERS;
        }
        self.last = Some(now);
    }

    /// Bits a second.
    fn rate(&self) -> Option<f64> {
        let seconds = (self.last? - self.first?).as_secs_f64();
        (seconds > 0.0).then(|| self.bytes as f64 * 8.0 / seconds)
    }
}

/// Answers probes until standard input ends.
pub(super) fn echo(address: SocketAddr) -> io::Result<()> {
    let wire = Wire(UdpSocket::bind(address)?);
    thread::spawn(move || {
        let _ = serve(&wire);
    });
    let mut rest = Vec::new();
    io::stdin().lock().read_to_end(&mut rest)?;
    Ok(())
}

fn serve(wire: &Wire) -> io::Result<()> {
    let mut train = Train::default();
    loop {
        let Some((word, length, from)) = wire.hear(SILENCE)? else {
            continue;
        };
        match word {
            Word::Ping(_) => {
                train = Train::default();
                wire.say(word, 0, from)?;
            }
            Word::Car => train.take(length, Instant::now()),
            Word::Ask => wire.say(Word::Rate(train.rate()), 0, from)?,
            Word::Send(rate) => {
                train = Train::default();
                wire.train(rate, from)?;
            }
            Word::Rate(_) => {}
        }
    }
}

/// Finds out what the path to `echo` is.
pub(super) fn probe(echo: SocketAddr, aim: Aim) -> io::Result<Probed> {
    let wire = Wire(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?);
    let round_trip_ms = round_trip(&wire, echo, aim.round_trip)?;
    let uplink = match aim.uplink {
        Some(rate) => {
            wire.train(rate, echo)?;
            uplink(&wire, echo, aim)?
        }
        None => None,
    };
    let downlink = match aim.downlink {
        Some(rate) => downlink(&wire, echo, rate, aim.round_trip)?,
        None => None,
    };
    Ok(Probed {
        round_trip_ms,
        uplink,
        downlink,
    })
}

fn round_trip(wire: &Wire, echo: SocketAddr, expected: Duration) -> io::Result<f64> {
    let began = Instant::now();
    let mut sent = Vec::new();
    let mut times = Vec::new();
    let until = PING_EVERY * PINGS as u32 + expected * 2 + PATIENCE;
    while times.len() < PINGS && began.elapsed() < until {
        let next = PING_EVERY * sent.len() as u32;
        if sent.len() < PINGS && began.elapsed() >= next {
            sent.push(Instant::now());
            wire.say(Word::Ping(sent.len() - 1), 0, echo)?;
            continue;
        }
        let patience = match sent.len() < PINGS {
            true => next.saturating_sub(began.elapsed()),
            false => until.saturating_sub(began.elapsed()),
        };
        if let Some((Word::Ping(number), ..)) = wire.hear(patience)?
            && let Some(sent) = sent.get(number)
        {
            times.push(sent.elapsed().as_secs_f64() * 1e3);
        }
    }
    nearest_rank(&mut times, 50).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::TimedOut,
            "no probe came back from the far end",
        )
    })
}

fn uplink(wire: &Wire, echo: SocketAddr, aim: Aim) -> io::Result<Option<f64>> {
    let mut last = None;
    // The train may still be under way: the same rate twice is the last word.
    for _ in 0..ATTEMPTS {
        thread::sleep(Duration::from_millis(100));
        wire.say(Word::Ask, 0, echo)?;
        let answer = wire.hear(aim.round_trip * 2 + PATIENCE)?;
        if let Some((Word::Rate(Some(rate)), ..)) = answer {
            if last == Some(rate) {
                break;
            }
            last = Some(rate);
        }
    }
    Ok(last)
}

fn downlink(
    wire: &Wire,
    echo: SocketAddr,
    rate: f64,
    round_trip: Duration,
) -> io::Result<Option<f64>> {
    for _ in 0..ATTEMPTS {
        let mut train = Train::default();
        wire.say(Word::Send(rate), 0, echo)?;
        let mut patience = round_trip * 2 + PATIENCE;
        while let Some((word, length, _)) = wire.hear(patience)? {
            if word == Word::Car {
                train.take(length, Instant::now());
                patience = SILENCE;
            }
        }
        if let Some(rate) = train.rate() {
            return Ok(Some(rate));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trains_take_a_while_at_every_rate_and_no_datagram_takes_long() {
        for rate in [2e4, 6e4, 1e6, 1e7, 1e8] {
            let (length, count) = train_of(rate);
            let seconds = |bytes: usize| bytes as f64 * 8.0 / rate;
            assert!(seconds((length + HEADERS) * count) >= 0.6, "{rate}");
            assert!(seconds(length + HEADERS) < 0.06, "{rate}");
        }
    }

    #[test]
    fn the_rate_is_that_of_what_follows_the_first() {
        let mut train = Train::default();
        assert_eq!(train.rate(), None);
        let start = Instant::now();
        for number in 0..11 {
            train.take(972, start + Duration::from_millis(8 * number));
        }
        assert!((train.rate().unwrap() - 1e6).abs() < 1.0);
    }

    #[test]
    fn a_path_without_bounds_is_found_to_be_fast() {
        let wire = Wire(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let address = wire.0.local_addr().unwrap();
        thread::spawn(move || serve(&wire));
        let aim = Aim {
            round_trip: Duration::ZERO,
            uplink: Some(2e6),
            downlink: Some(2e6),
        };
        let found = probe(address, aim).unwrap();
        assert!(found.round_trip_ms < 1000.0);
        // On loopback a train arrives as fast as it is sent.
        for rate in [found.uplink.unwrap(), found.downlink.unwrap()] {
            assert!((1e6..4e6).contains(&rate), "{rate}");
        }
    }
}
