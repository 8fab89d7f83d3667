//! Where the program's memory comes from.
//!
//! Large pieces, which are images, tensors and weights, come from a [`Region`] of their own; it keeps what is freed for the next
//! image, which asks for the same again, and packs it closer than an allocator for every purpose does. What a burst left free
//! goes back to the system once no image came for a while, and at work every second. Small pieces, and large ones once the
//! region is full, come from the C library.

#![allow(
    unsafe_code,
    reason = "an allocator gives pieces out and takes them back by their address"
)]

mod region;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    ptr::NonNull,
    thread,
    time::Duration,
};

use region::Region;

static REGION: Region = Region::new();

/// Pieces of so many bytes are large. A network's activations are; what is told about an image is not.
const LARGE: usize = 64 << 10;
/// Without a large piece asked for or freed for so long, what is free is given back.
const IDLE: Duration = Duration::from_millis(100);
/// At work it is given back so often: what one large image needed, or several that came together, would stay otherwise.
const BUSY: Duration = Duration::from_secs(1);

/// The program's allocator.
pub struct Allocator;

/// While there is one, large pieces that are freed go back to the system at once: a network is in memory several times while it
/// is loaded, and loaded once. At work that would cost a third of an image's time.
pub(crate) struct NothingKept(());

impl NothingKept {
    pub(crate) fn new() -> Self {
        REGION.keep_nothing();
        Self(())
    }
}

impl Drop for NothingKept {
    fn drop(&mut self) {
        REGION.keep_again();
    }
}

/// One arena of the C library's for all threads, instead of several for each core: what is small is asked for and freed by whichever
/// thread is at hand. To be called before there are threads.
pub fn one_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it changes nothing that pieces depend on. Refused, there are more.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// From now on, gives back what is free once no image comes for a while, and at work every now and then.
pub(crate) fn give_back_in_time() {
    let give_back = || {
        loop {
            REGION.give_back_in_time(IDLE, BUSY);
            #[cfg(target_env = "gnu")]
            // SAFETY: it leaves pieces that are in use alone.
            unsafe {
                libc::malloc_trim(0);
            }
        }
    };
    // Without a thread, what one image needed stays for the next.
    let _ = thread::Builder::new()
        .name("give-back".into())
        .spawn(give_back);
}

/// A large piece, where it is one and there is room.
fn large(layout: Layout) -> Option<NonNull<u8>> {
    match layout.size() >= LARGE {
        true => REGION.allocate(layout),
        false => None,
    }
}

/// SAFETY: a piece goes back to whom it is of, the region or the C library, and each keeps the contract for its own.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match large(layout) {
            Some(piece) => piece.as_ptr(),
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        match own(piece) {
            Some(piece) => unsafe { REGION.free(piece, layout) },
            None => unsafe { System.dealloc(piece, layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some(piece) = large(layout) else {
            return unsafe { System.alloc_zeroed(layout) };
        };
        unsafe { make_zero(piece.as_ptr(), layout.size()) };
        piece.as_ptr()
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller answers for it that the size is not too large for the alignment.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (own(piece), size >= LARGE) {
            (None, false) => return unsafe { System.realloc(piece, layout, size) },
            (Some(piece), true) => {
                if let Some(resized) = unsafe { REGION.resize(piece, new) } {
                    return resized.as_ptr();
                }
            }
            _ => {}
        }
        let moved = unsafe { self.alloc(new) };
        if !moved.is_null() {
            unsafe {
                piece.copy_to_nonoverlapping(moved, layout.size().min(size));
                self.dealloc(piece, layout);
            }
        }
        moved
    }
}

/// Makes zeros of what is none. Pages that hold zeros since nobody wrote to them yet are read alone, and so take no memory: who
/// asks for zeros may never use most of them, as who receives packets.
///
/// # Safety
/// The memory must be of the region, and nobody else's; it holds zeros, or what another left.
unsafe fn make_zero(piece: *mut u8, size: usize) {
    const PAGE: usize = 4096;
    static ZEROS: [u8; PAGE] = [0; PAGE];
    let mut done = 0;
    while done < size {
        // SAFETY: within the piece, and up to the end of a page.
        unsafe {
            let part = piece.add(done);
            let len = (PAGE - part.addr() % PAGE).min(size - done);
            if libc::memcmp(part.cast(), ZEROS.as_ptr().cast(), len) != 0 {
                part.write_bytes(0, len);
            }
            done += len;
        }
    }
}

/// The piece, where it is of the region.
fn own(piece: *mut u8) -> Option<NonNull<u8>> {
    NonNull::new(piece).filter(|piece| REGION.has(piece.as_ptr()))
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 64).unwrap()
    }

    #[test]
    fn a_piece_keeps_what_it_holds_as_it_grows_large_and_small_again() {
        let bytes: Vec<u8> = (0..=255).cycle().take(3 * LARGE).collect();
        let sizes = [100, LARGE - 1, LARGE, 3 * LARGE, 2 * LARGE, LARGE, 80];
        let mut size = 50;
        let mut piece = unsafe { Allocator.alloc(layout(size)) };
        for new in sizes {
            unsafe {
                piece.copy_from_nonoverlapping(bytes.as_ptr(), size);
                piece = Allocator.realloc(piece, layout(size), new);
                let kept = size.min(new);
                assert_eq!(slice::from_raw_parts(piece, kept), &bytes[..kept]);
            }
            assert!(piece.addr().is_multiple_of(64));
            assert_eq!(
                own(piece).is_some(),
                new >= LARGE && cfg!(target_os = "linux")
            );
            size = new;
        }
        unsafe { Allocator.dealloc(piece, layout(size)) };
    }

    #[test]
    fn zeros_are_zeros_where_something_else_was_before() {
        for size in [1000, LARGE, 5 * LARGE] {
            let layout = layout(size);
            unsafe {
                let before = Allocator.alloc(layout);
                before.write_bytes(1, size);
                Allocator.dealloc(before, layout);
                let zeros = Allocator.alloc_zeroed(layout);
                assert!(
                    slice::from_raw_parts(zeros, size)
                        .iter()
                        .all(|&byte| byte == 0)
                );
                Allocator.dealloc(zeros, layout);
            }
        }
    }

    #[test]
    fn what_the_region_has_no_room_for_is_of_the_c_library() {
        let layout = layout(300 << 20);
        let piece = unsafe { Allocator.alloc(layout) };
        assert!(!piece.is_null());
        assert_eq!(own(piece), None);
        unsafe { Allocator.dealloc(piece, layout) };
    }
}
