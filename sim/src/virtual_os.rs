//! The operating system's clock and entropy, made virtual on the thread that simulates.
//!
//! Promises: on a thread between [`enter`] and the drop of its [`Guard`], whoever asks the C library for the time or for
//! random bytes (`std::time`, `HashMap`'s keys, every crate of the `rand` family, so also code that knows of no
//! [`Platform`](weft_node::Platform)) is answered from the virtual clock and the seed. Other threads, and every other
//! program, are answered by the system.
//!
//! Does not promise anything about code that goes past the C library: a system call of its own, or the processor's
//! counters. [`Reads`] says how often the two were asked, and the tests of determinism find what slipped by.
//!
//! How: this crate defines the symbols `clock_gettime`, `getrandom` and `getentropy`, which the linker prefers to the C
//! library's in every program that contains this crate. The node does not contain it.

use std::cell::Cell;

use libc::{c_int, c_uint, c_void, clockid_t, size_t, ssize_t, timespec};

/// What the monotonic clock shows at the start: not zero, because code subtracts from it.
const MONOTONIC_START_NS: u64 = 1_000_000_000_000;
/// What the calendar shows at the start: 2026-01-01T00:00:00Z.
pub const CALENDAR_START_NS: u64 = 1_767_225_600_000_000_000;

thread_local! {
    /// Nanoseconds of the monotonic clock; 0: this thread is not virtual.
    static NOW_NS: Cell<u64> = const { Cell::new(0) };
    static ENTROPY: Cell<[u64; 4]> = const { Cell::new([0; 4]) };
    static READS: Cell<Reads> = const { Cell::new(Reads { clock: 0, entropy: 0 }) };
    static ORIGIN: Cell<Option<tokio::time::Instant>> = const { Cell::new(None) };
}

/// How often a thread's virtual clock and entropy were asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reads {
    /// Questions for the time.
    pub clock: u64,
    /// Questions for random bytes.
    pub entropy: u64,
}

/// Makes the thread real again when dropped.
#[derive(Debug)]
pub struct Guard(());

impl Drop for Guard {
    fn drop(&mut self) {
        NOW_NS.with(|now| now.set(0));
        ORIGIN.with(|origin| origin.set(None));
    }
}

/// Makes this thread virtual. To be called on a fresh thread, before the runtime is built, so that whatever a thread
/// draws once for its lifetime is drawn from the seed.
#[must_use]
pub fn enter(seed: u64) -> Guard {
    let mut state = seed;
    let words = std::array::from_fn(|_| split_mix(&mut state));
    ENTROPY.with(|entropy| entropy.set(words));
    READS.with(|reads| reads.set(Reads::default()));
    NOW_NS.with(|now| now.set(MONOTONIC_START_NS));
    Guard(())
}

/// Ties the virtual clock to tokio's paused one, as of now. To be called within the runtime.
pub fn follow_tokio() {
    ORIGIN.with(|origin| origin.set(Some(tokio::time::Instant::now())));
}

/// Moves the virtual clock to where tokio's is. To be called whenever the runtime wakes up.
pub fn catch_up() {
    if let Some(origin) = ORIGIN.with(Cell::get) {
        let elapsed_ns = tokio::time::Instant::now().duration_since(origin).as_nanos();
        let elapsed_ns = u64::try_from(elapsed_ns).unwrap_or(u64::MAX / 2);
        NOW_NS.with(|now| now.set(MONOTONIC_START_NS + elapsed_ns));
    }
}

/// Milliseconds since the Unix epoch on the virtual calendar of this thread; 0 on one that is real.
pub fn calendar_ms() -> u64 {
    match NOW_NS.with(Cell::get) {
        0 => 0,
        now_ns => (CALENDAR_START_NS + now_ns - MONOTONIC_START_NS) / 1_000_000,
    }
}

/// How often this thread was asked since [`enter`].
pub fn reads() -> Reads {
    READS.with(Cell::get)
}

/// Seconds of a clock of the system, whatever thread asks. `CLOCK_THREAD_CPUTIME_ID` is how much this thread has worked.
pub fn real_seconds(clock: clockid_t) -> f64 {
    let mut time = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one `timespec` where it is told to; the system call is not the symbol defined below.
    unsafe { libc::syscall(libc::SYS_clock_gettime, clock, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The next of a sequence that `state` numbers; good enough to spread, useless for secrets.
pub fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// xoshiro256**.
fn next_word() -> u64 {
    ENTROPY.with(|cell| {
        let mut s = cell.get();
        let word = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        cell.set(s);
        word
    })
}

fn count(add: impl FnOnce(&mut Reads)) {
    READS.with(|cell| {
        let mut reads = cell.get();
        add(&mut reads);
        cell.set(reads);
    });
}

/// The C library's function of this name.
///
/// # Safety
/// `time` must point to a `timespec` that may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    let now_ns = NOW_NS.with(Cell::get);
    if now_ns == 0 {
        return unsafe { real_clock_gettime(clock, time) };
    }
    count(|reads| reads.clock += 1);
    let ns = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE | libc::CLOCK_TAI => {
            CALENDAR_START_NS + now_ns - MONOTONIC_START_NS
        }
        _ => now_ns,
    };
    // SAFETY: the caller's promise.
    unsafe {
        (*time).tv_sec = (ns / 1_000_000_000) as libc::time_t;
        (*time).tv_nsec = (ns % 1_000_000_000) as libc::c_long;
    }
    0
}

/// The next definition of the symbol, which is the C library's: it knows the fast way into the kernel.
unsafe fn real_clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    type ClockGettime = unsafe extern "C" fn(clockid_t, *mut timespec) -> c_int;
    static REAL: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    // SAFETY: `dlsym` reads a name that ends in zero.
    let real = *REAL.get_or_init(|| unsafe { libc::dlsym(libc::RTLD_NEXT, c"clock_gettime".as_ptr()) } as usize);
    if real == 0 {
        // SAFETY: as the caller promised; the system call writes one `timespec`.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) as c_int };
    }
    // SAFETY: the symbol of this name has this type in every C library.
    unsafe { std::mem::transmute::<usize, ClockGettime>(real)(clock, time) }
}

/// The C library's function of this name.
///
/// # Safety
/// `buffer` must point to `len` bytes that may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, len: size_t, flags: c_uint) -> ssize_t {
    if NOW_NS.with(Cell::get) == 0 {
        // SAFETY: the caller's promise is what the system call needs.
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, len, flags) as ssize_t };
    }
    if buffer.is_null() || len == 0 {
        // Asked once in a process, to see whether there is such a function.
        return 0;
    }
    count(|reads| reads.entropy += 1);
    // SAFETY: the caller's promise.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), len) };
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&next_word().to_le_bytes()[..chunk.len()]);
    }
    len as ssize_t
}

/// The C library's function of this name.
///
/// # Safety
/// `buffer` must point to `len` bytes that may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getentropy(buffer: *mut c_void, len: size_t) -> c_int {
    // SAFETY: the caller's promise.
    if unsafe { getrandom(buffer, len, 0) } == len as ssize_t {
        0
    } else {
        -1
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashSet,
        hash::BuildHasher as _,
        time::{Duration, Instant, SystemTime},
    };

    use super::*;

    /// What a thread sees of the world, by every way this repository's code and its crates go.
    fn look(seed: u64) -> (SystemTime, u64, u64, [u8; 16], u64) {
        let look = move || {
            let _guard = enter(seed);
            let hashed = HashSet::<u8>::new().hasher().hash_one(7_u8);
            let mut bytes = [0; 16];
            use rand::TryRng as _;
            rand::rngs::SysRng.try_fill_bytes(&mut bytes).unwrap();
            (SystemTime::now(), hashed, rand::random::<u64>(), bytes, reads().entropy)
        };
        std::thread::spawn(look).join().unwrap()
    }

    #[test]
    fn a_virtual_thread_sees_what_the_seed_says_and_nothing_else() {
        // The first to ask in a process also asks whether there is entropy at all: that is counted once.
        look(1);
        let (first, again, other) = (look(7), look(7), look(8));
        assert_eq!(first, again);
        assert_eq!(
            first.0,
            SystemTime::UNIX_EPOCH + Duration::from_nanos(CALENDAR_START_NS)
        );
        assert!(first.1 != other.1 && first.2 != other.2 && first.3 != other.3);
        assert!(first.4 > 0, "nobody asked for entropy: the symbol was not replaced");
    }

    #[test]
    fn a_real_thread_sees_the_real_world() {
        let _guard = enter(1);
        let real = std::thread::spawn(|| (Instant::now(), SystemTime::now()))
            .join()
            .unwrap();
        assert!(real.1 > SystemTime::UNIX_EPOCH + Duration::from_nanos(CALENDAR_START_NS) + Duration::from_secs(3600));
        assert_eq!(
            Instant::now(),
            Instant::now(),
            "the virtual clock stands until it is moved"
        );
    }

    #[test]
    fn the_clock_follows_tokios() {
        let run = || {
            let _guard = enter(1);
            let mut builder = tokio::runtime::Builder::new_current_thread();
            let runtime = builder
                .enable_time()
                .start_paused(true)
                .on_thread_unpark(catch_up)
                .build()
                .unwrap();
            runtime.block_on(async {
                follow_tokio();
                let (system, instant) = (SystemTime::now(), Instant::now());
                tokio::time::sleep(Duration::from_secs(3600)).await;
                (system.elapsed().unwrap(), instant.elapsed())
            })
        };
        let wall = Instant::now();
        let (system, instant) = std::thread::spawn(run).join().unwrap();
        assert_eq!(
            (system, instant),
            (Duration::from_secs(3600), Duration::from_secs(3600))
        );
        assert!(wall.elapsed() < Duration::from_secs(60));
    }
}
