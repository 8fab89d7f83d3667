use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// What one image takes.
const PACE: Duration = Duration::from_millis(2);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Request {
    number: usize,
    images: usize,
    joined: Instant,
    deadline: Option<Instant>,
    gone: bool,
}

impl Queued for Request {
    fn images(&self) -> usize {
        self.images
    }

    fn joined(&self) -> Instant {
        self.joined
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn is_gone(&self) -> bool {
        self.gone
    }
}

fn request(number: usize, images: usize, joined: Instant) -> Request {
    Request {
        number,
        images,
        joined,
        deadline: None,
        gone: false,
    }
}

fn milliseconds(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn policy(max_batch: usize, delay: u64, preferred: &[usize]) -> Policy {
    Policy {
        max_batch,
        max_delay: milliseconds(delay),
        preferred: preferred.to_vec(),
    }
}

/// The numbers of what runs next; what is dropped must be nothing.
fn runs(queue: &mut Queue<Request>, now: Instant) -> Option<Vec<usize>> {
    let mut dropped = Vec::new();
    let next = queue.next(now, PACE, &mut dropped);
    assert_eq!(dropped, []);
    match next {
        Next::Run(batch) => Some(batch.iter().map(|request| request.number).collect()),
        Next::Wait | Next::WaitUntil(_) => None,
    }
}

#[test]
fn without_a_delay_what_waits_runs_at_once() {
    let now = Instant::now();
    let mut queue = Queue::new(policy(4, 0, &[]));
    assert_eq!(queue.next(now, PACE, &mut Vec::new()), Next::Wait);
    for number in 0..6 {
        queue.push(request(number, 1, now));
    }
    assert_eq!(runs(&mut queue, now), Some(vec![0, 1, 2, 3]));
    assert_eq!(runs(&mut queue, now), Some(vec![4, 5]));
    assert_eq!(runs(&mut queue, now), None);
}

#[test]
fn a_request_waits_for_others_until_its_delay_is_over_or_a_preferred_size_is_there() {
    let now = Instant::now();
    let mut queue = Queue::new(policy(8, 10, &[2, 4]));
    queue.push(request(0, 1, now));
    let due = now + milliseconds(10);
    assert_eq!(
        queue.next(now + milliseconds(3), PACE, &mut Vec::new()),
        Next::WaitUntil(due)
    );
    assert_eq!(runs(&mut queue, due), Some(vec![0]));
    for number in 1..4 {
        queue.push(request(number, 1, due));
    }
    // Three wait: two of them are a preferred size, the third waits on.
    assert_eq!(runs(&mut queue, due), Some(vec![1, 2]));
    assert_eq!(runs(&mut queue, due), None);
    queue.close();
    assert_eq!(runs(&mut queue, due), Some(vec![3]));
    assert!(queue.is_done());
}

#[test]
fn a_preferred_size_is_met_exactly_or_not_at_all() {
    let now = Instant::now();
    let mut queue = Queue::new(policy(8, 10, &[4]));
    queue.push(request(0, 3, now));
    queue.push(request(1, 2, now));
    assert_eq!(runs(&mut queue, now), None);
    assert_eq!(runs(&mut queue, now + milliseconds(10)), Some(vec![0, 1]));
}

#[test]
fn nobody_waits_for_company_until_it_is_too_late() {
    let now = Instant::now();
    let mut queue = Queue::new(policy(8, 10, &[]));
    let hurried = Request {
        deadline: Some(now + milliseconds(7)),
        ..request(0, 1, now)
    };
    queue.push(hurried);
    let next = queue.next(now, PACE, &mut Vec::new());
    assert_eq!(next, Next::WaitUntil(now + milliseconds(5)));
    assert_eq!(runs(&mut queue, now + milliseconds(5)), Some(vec![0]));
}

#[test]
fn a_request_of_more_images_than_a_batch_runs_alone() {
    let now = Instant::now();
    let mut queue = Queue::new(policy(4, 10, &[]));
    for (number, images) in [(0, 3), (1, 9), (2, 1)] {
        queue.push(request(number, images, now));
    }
    assert_eq!(runs(&mut queue, now), Some(vec![0]));
    assert_eq!(runs(&mut queue, now), Some(vec![1]));
    assert_eq!(queue.images(), 1);
}

#[test]
fn what_is_too_late_or_has_no_caller_never_runs() {
    let now = Instant::now();
    let mut queue = Queue::new(policy(4, 0, &[]));
    let late = Request {
        deadline: Some(now + milliseconds(5)),
        ..request(0, 1, now)
    };
    let gone = Request {
        gone: true,
        ..request(1, 1, now)
    };
    for request in [late.clone(), gone.clone(), request(2, 1, now)] {
        queue.push(request);
    }
    let mut dropped = Vec::new();
    let next = queue.next(now + milliseconds(5), PACE, &mut dropped);
    assert_eq!(next, Next::Run(vec![request(2, 1, now)]));
    assert_eq!(dropped, [late, gone]);
}

/// What may happen, in any order.
#[derive(Debug, Clone)]
enum Event {
    Push {
        images: usize,
        patience: Option<u64>,
        gone: bool,
    },
    /// A free instance looks.
    Look,
    /// Time passes, in milliseconds.
    Pass(u64),
    Close,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (1_usize..6, prop::option::of(0_u64..30), prop::bool::weighted(0.1))
            .prop_map(|(images, patience, gone)| Event::Push { images, patience, gone }),
        6 => Just(Event::Look),
        3 => (0_u64..15).prop_map(Event::Pass),
        1 => Just(Event::Close),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// Whatever happens: each request leaves exactly once, in order, in a batch that is not too large,
    /// neither too late nor after its caller, and none waits longer than its delay for a free instance.
    #[test]
    fn every_request_leaves_exactly_once(
        max_batch in 1_usize..8,
        delay in 0_u64..20,
        preferred in prop::collection::btree_set(1_usize..8, 0..3),
        events in prop::collection::vec(event(), 1..80),
    ) {
        let preferred: Vec<usize> = preferred.into_iter().filter(|&size| size <= max_batch).collect();
        let mut queue = Queue::new(policy(max_batch, delay, &preferred));
        let mut now = Instant::now();
        let (mut pushed, mut left) = (0, BTreeSet::new());
        let mut last_run = None;
        let look = Event::Look;
        // At the end all that waits is asked for.
        let end = [Event::Close].into_iter().chain(std::iter::repeat_n(look, 100));
        for event in events.into_iter().chain(end) {
            match event {
                Event::Push { images, patience, gone } => {
                    let deadline = patience.map(|patience| now + milliseconds(patience));
                    queue.push(Request { number: pushed, images, joined: now, deadline, gone });
                    pushed += 1;
                }
                Event::Pass(time) => now += milliseconds(time),
                Event::Close => queue.close(),
                Event::Look => {
                    let mut dropped = Vec::new();
                    let next = queue.next(now, PACE, &mut dropped);
                    for request in dropped {
                        prop_assert!(request.gone || request.deadline.is_some_and(|at| at <= now));
                        prop_assert!(left.insert(request.number));
                    }
                    match next {
                        Next::Run(batch) => {
                            prop_assert!(!batch.is_empty());
                            let images: usize = batch.iter().map(Queued::images).sum();
                            prop_assert!(images <= max_batch || batch.len() == 1);
                            for request in batch {
                                prop_assert!(!request.gone);
                                prop_assert!(request.deadline.is_none_or(|at| at > now));
                                prop_assert!(last_run < Some(request.number));
                                last_run = Some(request.number);
                                prop_assert!(left.insert(request.number));
                            }
                        }
                        Next::WaitUntil(at) => {
                            prop_assert!(at > now);
                            let oldest = queue.waiting.front().map(|waiting| waiting.joined);
                            prop_assert!(Some(at) <= oldest.map(|since| since + milliseconds(delay)));
                            for waiting in &queue.waiting {
                                prop_assert!(waiting.deadline.is_none_or(|deadline| at < deadline));
                            }
                        }
                        Next::Wait => prop_assert_eq!(queue.images(), 0),
                    }
                }
            }
            let waiting: usize = queue.waiting.iter().map(|waiting| waiting.images).sum();
            prop_assert_eq!(queue.images(), waiting);
        }
        prop_assert_eq!(left.len(), pushed);
        prop_assert!(queue.is_done());
    }
}
