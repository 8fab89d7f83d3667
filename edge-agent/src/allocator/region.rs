//! Address space out of which large pieces are handed, with what is free and which of it is in memory.

#![allow(
    unsafe_code,
    reason = "memory is mapped, divided and given back here, and nothing else knows where"
)]

use std::{
    alloc::Layout,
    ptr::NonNull,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rlsf::Tlsf;

/// Bytes of address space, none of which is memory before it is used: the pixels of the largest image that is taken by default,
/// and as much beside them as networks ask for.
const SIZE: usize = 256 << 20;
/// Bytes at the beginning of what is free that say so, and more.
const HEAD: usize = 64;

/// Address space that is mapped once it is needed, and never unmapped.
pub(super) struct Region {
    /// Where it begins; 0 before it is mapped.
    start: AtomicUsize,
    space: Mutex<Space>,
    /// Something was freed, for the first time since what is free was given back.
    freed: Condvar,
}

/// What is free of it: two-level segregated fit (Masmano et al., "TLSF: a new dynamic memory allocator for real-time systems",
/// 2004), which makes one of free neighbours at once.
struct Space {
    free: Tlsf<'static, u32, u32, 28, 32>,
    /// All of it, once it is mapped.
    mapped: Option<NonNull<[u8]>>,
    /// The system gave no address space; it is not asked again.
    is_refused: bool,
    /// Those who want what is freed to be given back at once.
    keep_nothing: usize,
    /// Whether something was freed since what is free was given back.
    has_freed: bool,
    /// Pieces asked for and freed until now.
    calls: u64,
}

/// SAFETY: what its pointers lead to is reached through it alone.
unsafe impl Send for Space {}

impl Region {
    pub(super) const fn new() -> Self {
        Self {
            start: AtomicUsize::new(0),
            space: Mutex::new(Space {
                free: Tlsf::new(),
                mapped: None,
                is_refused: false,
                keep_nothing: 0,
                has_freed: false,
                calls: 0,
            }),
            freed: Condvar::new(),
        }
    }

    /// Whether a piece is of this region.
    pub(super) fn has(&self, piece: *const u8) -> bool {
        // Whoever has a piece of it was told after it was mapped.
        let start = self.start.load(Ordering::Relaxed);
        start != 0 && piece.addr().wrapping_sub(start) < SIZE
    }

    /// A piece, which holds whatever it held before; none where there is no room.
    pub(super) fn allocate(&self, layout: Layout) -> Option<NonNull<u8>> {
        let mut space = self.lock();
        if space.mapped.is_none() && !space.is_refused {
            let start = space.map();
            self.start.store(start, Ordering::Relaxed);
        }
        space.calls += 1;
        space.free.allocate(layout)
    }

    /// Takes a piece back.
    ///
    /// # Safety
    /// It must be of this region, with this layout, and nobody may use it any more.
    pub(super) unsafe fn free(&self, piece: NonNull<u8>, layout: Layout) {
        let mut space = self.lock();
        if space.keep_nothing > 0 {
            let piece = NonNull::slice_from_raw_parts(piece, layout.size());
            unsafe { give_back(piece) };
        }
        unsafe { space.free.deallocate(piece, layout.align()) };
        self.freed_in(space);
    }

    /// A piece of this layout that begins with what `piece` holds, which it takes the place of; none where there is no room for
    /// it, or what is freed is to be given back at once, and `piece` stays.
    ///
    /// # Safety
    /// It must be of this region, with the alignment of `layout`, and nobody may use it any more, unless it stays.
    pub(super) unsafe fn resize(&self, piece: NonNull<u8>, layout: Layout) -> Option<NonNull<u8>> {
        let mut space = self.lock();
        if space.keep_nothing > 0 {
            return None;
        }
        let resized = unsafe { space.free.reallocate(piece, layout) }?;
        self.freed_in(space);
        Some(resized)
    }

    /// Has everything that is free given back at once, until as many calls of [`Self::keep_again`].
    pub(super) fn keep_nothing(&self) {
        let mut space = self.lock();
        space.keep_nothing += 1;
        space.give_back();
    }

    /// See [`Self::keep_nothing`].
    pub(super) fn keep_again(&self) {
        self.lock().keep_nothing -= 1;
    }

    /// Waits until something was freed and then nothing was asked for or freed for `idle`, but no longer than `busy`, and gives
    /// back what is free.
    pub(super) fn give_back_in_time(&self, idle: Duration, busy: Duration) {
        let space = self.lock();
        let space = self.freed.wait_while(space, |space| !space.has_freed);
        let mut calls = space.unwrap_or_else(PoisonError::into_inner).calls;
        let begun = Instant::now();
        loop {
            thread::sleep(idle);
            let mut space = self.lock();
            if space.calls == calls || begun.elapsed() >= busy {
                space.give_back();
                return;
            }
            calls = space.calls;
        }
    }

    /// Notes that something was freed.
    fn freed_in(&self, mut space: MutexGuard<'_, Space>) {
        space.calls += 1;
        if !space.has_freed {
            space.has_freed = true;
            self.freed.notify_one();
        }
    }

    /// The space is whole after every call.
    fn lock(&self) -> MutexGuard<'_, Space> {
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Space {
    /// Where it begins from now on; 0 where the system gives none.
    fn map(&mut self) -> usize {
        let Some(mapped) = address_space() else {
            self.is_refused = true;
            return 0;
        };
        // SAFETY: it is never unmapped.
        unsafe { self.free.insert_free_block_ptr(mapped) };
        self.mapped = Some(mapped);
        mapped.addr().get()
    }

    /// Gives back what is free.
    fn give_back(&mut self) {
        self.has_freed = false;
        let Some(mapped) = self.mapped else {
            return;
        };
        // SAFETY: it is all that there is.
        for block in unsafe { self.free.iter_blocks(mapped) } {
            if block.is_occupied() {
                continue;
            }
            let block = block.as_ptr();
            if let Some(len) = block.len().checked_sub(HEAD) {
                // SAFETY: what says that the block is free lies before the rest of it.
                unsafe {
                    let rest = block.cast::<u8>().add(HEAD);
                    give_back(NonNull::slice_from_raw_parts(rest, len));
                }
            }
        }
    }
}

/// Address space that is nobody else's, and no memory before it is used.
#[cfg(target_os = "linux")]
fn address_space() -> Option<NonNull<[u8]>> {
    use std::ptr;

    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

    let access = ProtFlags::READ | ProtFlags::WRITE;
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: it replaces no other mapping.
    let start = unsafe { mmap_anonymous(ptr::null_mut(), SIZE, access, flags) };
    let start = NonNull::new(start.ok()?.cast())?;
    Some(NonNull::slice_from_raw_parts(start, SIZE))
}

/// Elsewhere the C library serves large pieces too.
#[cfg(not(target_os = "linux"))]
fn address_space() -> Option<NonNull<[u8]>> {
    None
}

/// Gives back the memory of whole pages, which hold zeros from then on.
///
/// # Safety
/// It must be mapped, and nobody may want what it holds.
#[cfg(target_os = "linux")]
unsafe fn give_back(memory: NonNull<[u8]>) {
    use rustix::{
        mm::{Advice, madvise},
        param::page_size,
    };

    let start = memory.cast::<u8>();
    let page = page_size();
    let skipped = start.addr().get().next_multiple_of(page) - start.addr().get();
    let len = memory.len().saturating_sub(skipped) / page * page;
    if len > 0 {
        // Refused, it stays in memory.
        let _ = unsafe {
            madvise(
                start.add(skipped).as_ptr().cast(),
                len,
                Advice::LinuxDontNeed,
            )
        };
    }
}

#[cfg(not(target_os = "linux"))]
unsafe fn give_back(_: NonNull<[u8]>) {}

#[cfg(all(test, target_os = "linux"))]
mod tests;
