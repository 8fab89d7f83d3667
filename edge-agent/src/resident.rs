//! What the program keeps in memory of its own file that it does not need.
//!
//! Starting, loading and rewriting networks, and connecting run through most of the program's code, which it then has mapped
//! for good though it hardly runs again. Given back, it stays in the system's cache of files as long as there is room, and what
//! is needed again is mapped again without being read. Memory that was written to is not touched.

use std::{
    ops::Range,
    sync::Arc,
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};

use crate::allocator::NothingKept;

/// While networks are loaded code is given back so often: what a pass over a network needs is mapped again in less time.
const EVERY: Duration = Duration::from_millis(15);
/// Later so often: mapping again what is in use takes a millisecond.
const LATER_EVERY: Duration = Duration::from_secs(10);

/// Gives code back from now on.
pub(crate) async fn keep_giving_code_back() {
    let code: Arc<[_]> = code().into();
    let mut times = interval(LATER_EVERY);
    times.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        times.tick().await;
        let code = code.clone();
        // Not done, it takes more memory until the next time.
        let _ = spawn_blocking(move || give_back(&code)).await;
    }
}

/// Has `load` run, and meanwhile gives back the code that it runs through, and what it frees: a network is in memory several
/// times while it is loaded, and loaded once.
pub(crate) fn while_loading<T>(load: impl FnOnce() -> T) -> T {
    let _freed = NothingKept::new();
    thread::scope(|scope| {
        let (working, is_working) = channel();
        // Without a thread it only takes more memory.
        let _ = thread::Builder::new().spawn_scoped(scope, || keep_giving_back(is_working));
        let loaded = load();
        drop(working);
        loaded
    })
}

/// Gives code back as long as somebody is at work; how often.
fn keep_giving_back(is_working: Receiver<()>) -> usize {
    let code = code();
    let mut passes = 0;
    while is_working.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
        passes += usize::from(give_back(&code) > 0);
    }
    passes
}

/// Where the program's own file is mapped, and nothing was ever written to. That stays so as long as the program runs: unlike
/// libraries, it is never mapped anew.
#[cfg(target_os = "linux")]
fn code() -> Vec<Range<usize>> {
    use std::{env, fs};

    let (Ok(smaps), Ok(program)) = (fs::read_to_string("/proc/self/smaps"), env::current_exe())
    else {
        return Vec::new();
    };
    program
        .to_str()
        .map_or_else(Vec::new, |program| unwritten(&smaps, program))
}

#[cfg(not(target_os = "linux"))]
fn code() -> Vec<Range<usize>> {
    Vec::new()
}

/// Gives back what is mapped there; the bytes of it.
#[cfg(target_os = "linux")]
fn give_back(code: &[Range<usize>]) -> usize {
    use std::ptr;

    use rustix::mm::{Advice, madvise};

    let mut bytes = 0;
    for range in code {
        let start = ptr::with_exposed_provenance_mut(range.start);
        #[allow(
            unsafe_code,
            reason = "pages of the program's own file, never written to: the next access reads the same from the file"
        )]
        let given = unsafe { madvise(start, range.len(), Advice::LinuxDontNeed) };
        if given.is_ok() {
            bytes += range.len();
        }
    }
    bytes
}

#[cfg(not(target_os = "linux"))]
fn give_back(_: &[Range<usize>]) -> usize {
    0
}

/// The mappings of the file `program` that are not writable and of which no page was ever written, as relocations do: of
/// `/proc/PID/smaps`.
fn unwritten(smaps: &str, program: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut mapping = None;
    for line in smaps.lines() {
        if let Some(head) = mapping_of(line, program) {
            mapping = head;
        } else if line
            .strip_prefix("Anonymous:")
            .is_some_and(|size| size.trim() == "0 kB")
        {
            found.extend(mapping.take());
        }
    }
    found
}

/// None where the line begins no mapping; none within where it begins one of something else than `program`, read alone.
fn mapping_of(line: &str, program: &str) -> Option<Option<Range<usize>>> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let address = |digits| usize::from_str_radix(digits, 16).ok();
    let range = address(start)?..address(end)?;
    let permissions = words.next()?;
    // Offset, device, inode; the path may have spaces. That of a file that was replaced meanwhile has " (deleted)" behind it.
    let is_program = words.nth(2).is_some() && line.ends_with(&format!(" {program}"));
    let is_read_alone =
        permissions.starts_with('r') && permissions.as_bytes().get(1) == Some(&b'-');
    let is_private = permissions.ends_with('p');
    Some((is_program && is_read_alone && is_private).then_some(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55d0a0000000-55d0a0a00000 r--p 00000000 fe:00 123   /usr/bin/edge-agent
Size:              10240 kB
Anonymous:             0 kB
VmFlags: rd mr mw me
55d0a0a00000-55d0a2a00000 r-xp 00a00000 fe:00 123   /usr/bin/edge-agent
Anonymous:             0 kB
55d0a2a00000-55d0a2c00000 r--p 02a00000 fe:00 123   /usr/bin/edge-agent
Anonymous:          1524 kB
55d0a2c00000-55d0a2c10000 rw-p 02c00000 fe:00 123   /usr/bin/edge-agent
Anonymous:             0 kB
55d0a3000000-55d0a3021000 rw-p 00000000 00:00 0     [heap]
Anonymous:           132 kB
7f0000000000-7f0000001000 r--s 00000000 fe:00 124   /var/lib/outpost/queue
Anonymous:             0 kB
7f0000100000-7f0000200000 r-xp 00000000 fe:00 125   /usr/lib/libc.so.6
Anonymous:             0 kB
7f0000200000-7f0000300000 r-xp 00000000 fe:00 126   /usr/bin/edge-agent (deleted)
Anonymous:             0 kB
7fff00000000-7fff00002000 r-xp 00000000 00:00 0     [vdso]
Anonymous:             0 kB
";

    #[test]
    fn only_what_was_never_written_and_is_the_program_is_given_back() {
        let expected = [
            0x55d0_a000_0000..0x55d0_a0a0_0000,
            0x55d0_a0a0_0000..0x55d0_a2a0_0000,
        ];
        assert_eq!(unwritten(SMAPS, "/usr/bin/edge-agent"), expected);
        assert!(unwritten(SMAPS, "/usr/bin/edge").is_empty());
        assert!(unwritten("nonsense\n\n-\nff-zz r--p", "/usr/bin/edge-agent").is_empty());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_program_goes_on_without_its_code_in_memory() {
        assert!(give_back(&code()) > 0);
        let (working, is_working) = channel();
        let giving = thread::spawn(|| keep_giving_back(is_working));
        thread::sleep(10 * EVERY);
        drop(working);
        assert!(giving.join().unwrap() > 0);
    }
}
