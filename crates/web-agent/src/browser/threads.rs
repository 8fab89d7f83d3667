//! Threads of a browser: each is a worker of the page that begins with the same module and memory.

#![expect(
    unreachable_pub,
    reason = "what is exported to JavaScript must be public, and Rust does not reach it"
)]

use std::{
    cell::RefCell,
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        mpsc::{self, Receiver, Sender},
    },
};

use js_sys::Array;
use outpost_runtime::Threads;
use rayon::{ThreadBuilder, ThreadPoolBuilder};
use wasm_bindgen::prelude::*;

use super::thrown;

/// What threads are to become, and those who wait to be one. Where memory is shared, so is this.
static WAITING: LazyLock<(Sender<ThreadBuilder>, Mutex<Receiver<ThreadBuilder>>)> =
    LazyLock::new(|| {
        let (give, take) = mpsc::channel();
        (give, Mutex::new(take))
    });

thread_local! {
    static POOL: RefCell<Threads> = RefCell::default();
}

/// Those that share the work of the thread that asks.
pub(super) fn of_this_thread() -> Threads {
    POOL.with_borrow(Threads::clone)
}

/// Has `count` threads share the work of each image, for agents that are made here afterwards: this one, and each that begins
/// with the `[module, memory]` given and calls `work`. Those that never come are not missed. This one must be a worker's: a page's own
/// thread may not wait.
///
/// # Errors
/// An `Error` where this thread has shared its work before.
#[wasm_bindgen]
pub fn share_work(count: usize) -> Result<Array, JsValue> {
    let pool = ThreadPoolBuilder::new()
        .num_threads(count)
        .use_current_thread()
        .spawn_handler(|thread| {
            let (give, _) = &*WAITING;
            give.send(thread).expect("who takes is never dropped");
            Ok(())
        })
        .build()
        .map_err(thrown)?;
    POOL.set(Threads::from_pool(Arc::new(pool)));
    Ok(Array::of2(&wasm_bindgen::module(), &wasm_bindgen::memory()))
}

/// Makes this thread one of those that share the work, until the worker ends.
#[wasm_bindgen]
pub fn work() {
    let (_, take) = &*WAITING;
    // The lock is free again before the work begins.
    let thread = take.lock().unwrap_or_else(PoisonError::into_inner).recv();
    if let Ok(thread) = thread {
        thread.run();
    }
}
