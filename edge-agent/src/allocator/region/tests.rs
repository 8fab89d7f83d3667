use std::{
    iter, slice,
    sync::mpsc::{TryRecvError, channel},
};

use proptest::prelude::*;

use super::*;

const MB: usize = 1 << 20;

/// What is done to a region.
#[derive(Debug, Clone)]
enum Call {
    Allocate { size: usize, align: usize },
    Free(usize),
    Resize(usize, usize),
    GiveBack,
    KeepNothing(bool),
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let size = prop_oneof![1 => 1..300_usize, 3 => 1..2 * MB];
    let call = prop_oneof![
        4 => (size.clone(), 0..8_u32).prop_map(|(size, align)| Call::Allocate { size, align: 1 << align }),
        3 => any::<usize>().prop_map(Call::Free),
        2 => (any::<usize>(), size).prop_map(|(which, size)| Call::Resize(which, size)),
        1 => Just(Call::GiveBack),
        1 => any::<bool>().prop_map(Call::KeepNothing),
    ];
    prop::collection::vec(call, 1..60)
}

/// A piece that somebody has, filled with one byte.
struct Held {
    piece: NonNull<u8>,
    layout: Layout,
    filling: u8,
}

impl Held {
    fn bytes(&self) -> &[u8] {
        unsafe { slice::from_raw_parts(self.piece.as_ptr(), self.layout.size()) }
    }

    fn fill(&mut self, filling: u8) {
        self.filling = filling;
        unsafe { self.piece.write_bytes(filling, self.layout.size()) };
    }
}

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).expect("a power of two")
}

fn take(region: &Region, size: usize, filling: u8) -> Held {
    let layout = layout(size, 64);
    let piece = region.allocate(layout).expect("there is room");
    let mut held = Held {
        piece,
        layout,
        filling,
    };
    held.fill(filling);
    held
}

fn free(region: &Region, held: &Held) {
    unsafe { region.free(held.piece, held.layout) };
}

/// What lies in the middle of a piece, whoever has it.
fn middle(held: &Held) -> u8 {
    unsafe { held.piece.add(held.layout.size() / 2).read_volatile() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_piece_is_whose_it_is_until_it_is_freed(calls in calls()) {
        let region = Region::new();
        let mut held: Vec<Held> = Vec::new();
        let mut keeps_nothing = 0;
        for (filling, call) in iter::repeat(1..=250_u8).flatten().zip(calls) {
            match call {
                Call::Allocate { size, align } => {
                    let layout = layout(size, align);
                    let piece = region.allocate(layout).unwrap();
                    prop_assert!(region.has(piece.as_ptr()));
                    prop_assert_eq!(piece.addr().get() % align, 0);
                    held.push(Held { piece, layout, filling });
                    held.last_mut().unwrap().fill(filling);
                }
                Call::Free(which) if !held.is_empty() => {
                    let which = which % held.len();
                    free(&region, &held.swap_remove(which));
                }
                Call::Resize(which, size) if !held.is_empty() => {
                    let which = which % held.len();
                    let one = &mut held[which];
                    let new = layout(size, one.layout.align());
                    let resized = unsafe { region.resize(one.piece, new) };
                    prop_assert_eq!(resized.is_none(), keeps_nothing > 0);
                    if let Some(piece) = resized {
                        let kept = size.min(one.layout.size());
                        (one.piece, one.layout) = (piece, new);
                        prop_assert!(one.bytes()[..kept].iter().all(|&byte| byte == one.filling));
                        one.fill(filling);
                    }
                }
                Call::GiveBack => region.lock().give_back(),
                Call::KeepNothing(true) => {
                    keeps_nothing += 1;
                    region.keep_nothing();
                }
                Call::KeepNothing(false) if keeps_nothing > 0 => {
                    keeps_nothing -= 1;
                    region.keep_again();
                }
                _ => {}
            }
            for one in &held {
                prop_assert!(one.bytes().iter().all(|&byte| byte == one.filling));
            }
        }
    }
}

#[test]
fn what_is_freed_is_given_back_once_idle_and_what_is_held_stays() {
    let region: &'static Region = Box::leak(Box::new(Region::new()));
    let (gave_back, rounds) = channel();
    thread::spawn(move || {
        for round in 0..2 {
            region.give_back_in_time(Duration::from_millis(1), Duration::MAX);
            gave_back.send(round).unwrap();
        }
    });
    let (stays, goes) = (take(region, MB, 5), take(region, 3 * MB, 7));
    assert!(rounds.try_recv().is_err(), "nothing was freed");
    free(region, &goes);
    rounds.recv().unwrap();
    assert_eq!(middle(&goes), 0);
    assert!(stays.bytes().iter().all(|&byte| byte == 5));
    // And again, with what the freed one left.
    free(region, &take(region, 3 * MB, 9));
    rounds.recv().unwrap();
    assert_eq!(middle(&goes), 0);
}

#[test]
fn what_is_freed_is_given_back_in_time_though_the_region_is_never_idle() {
    let region: &'static Region = Box::leak(Box::new(Region::new()));
    let goes = take(region, 3 * MB, 7);
    let stays = take(region, MB, 5);
    let (stop, stopped) = channel::<()>();
    let at_work = thread::spawn(move || {
        while stopped.try_recv() == Err(TryRecvError::Empty) {
            free(region, &take(region, MB, 1));
        }
    });
    free(region, &goes);
    region.give_back_in_time(Duration::from_millis(1), Duration::from_millis(20));
    drop(stop);
    at_work.join().unwrap();
    assert_eq!(middle(&goes), 0);
    assert!(stays.bytes().iter().all(|&byte| byte == 5));
}

#[test]
fn nothing_is_kept_until_the_last_who_wants_that_is_done() {
    let region = Region::new();
    let before = take(&region, MB, 1);
    free(&region, &before);
    assert_eq!(middle(&before), 1);
    region.keep_nothing();
    assert_eq!(middle(&before), 0, "what was free already");
    region.keep_nothing();
    region.keep_again();
    let during = take(&region, MB, 2);
    free(&region, &during);
    assert_eq!(middle(&during), 0);
    region.keep_again();
    let after = take(&region, MB, 3);
    free(&region, &after);
    assert_eq!(middle(&after), 3);
}

#[test]
fn a_full_region_gives_no_piece_and_one_that_has_room_again_does() {
    let region = Region::new();
    let (most, half) = (layout(SIZE / 4 * 3, 64), layout(SIZE / 2, 64));
    let piece = region.allocate(most).unwrap();
    assert!(region.allocate(half).is_none());
    unsafe {
        assert!(region.resize(piece, layout(2 * SIZE, 64)).is_none());
        region.free(piece, most);
    }
    assert!(region.allocate(half).is_some());
}
