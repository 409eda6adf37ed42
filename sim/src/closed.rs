//! Closes the thread that simulates: who asks the kernel or the processor for the time or for random bytes there, past the C
//! library whose answers are virtual ([`crate::virtual_os`]), ends the process with a word on what it asked for and from where.
//!
//! Promises: such a question never goes unnoticed where the system can watch: system calls on any Linux that filters them,
//! the processor's counter, which the kernel's own fast clock reads too, on x86-64. Where it cannot, the run goes on, and
//! [`close`] says so; then only the digests of two runs tell of a leak.
//!
//! How: a filter of system calls for this thread alone, and a bit that makes the counter a fault; both end with the thread.

use std::{
    ffi::c_long,
    sync::{
        Once,
        atomic::{AtomicUsize, Ordering},
    },
};

use libc::{c_int, c_void, siginfo_t};

/// What is watched on this thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Watched {
    /// System calls.
    pub(crate) calls: bool,
    /// The processor's counter.
    pub(crate) counter: bool,
}

#[cfg(target_arch = "x86_64")]
const CALLS: [(c_long, &str); 4] = [
    (libc::SYS_getrandom, "getrandom"),
    (libc::SYS_clock_gettime, "clock_gettime"),
    (libc::SYS_gettimeofday, "gettimeofday"),
    (libc::SYS_time, "time"),
];
#[cfg(not(target_arch = "x86_64"))]
const CALLS: [(c_long, &str); 3] = [
    (libc::SYS_getrandom, "getrandom"),
    (libc::SYS_clock_gettime, "clock_gettime"),
    (libc::SYS_gettimeofday, "gettimeofday"),
];

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xC000_00B7;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURE: u32 = 0;

/// Where a filter finds the number of the call, and the architecture it is of.
const AT_NUMBER: u32 = 0;
const AT_ARCHITECTURE: u32 = 4;
/// Where the number of a trapped call is in what its signal says (64 bits).
const INFO_NUMBER: usize = 24;

/// What was done about faults before.
static FAULTS_BEFORE: AtomicUsize = AtomicUsize::new(0);

/// Closes the calling thread, for good.
pub(crate) fn close() -> Watched {
    static HANDLERS: Once = Once::new();
    HANDLERS.call_once(|| {
        handle(libc::SIGSYS, on_call);
        if let Some(before) = handle(libc::SIGSEGV, on_fault) {
            FAULTS_BEFORE.store(before, Ordering::Relaxed);
        }
    });
    make_room();
    Watched {
        calls: filter_calls(),
        counter: forbid_counter(),
    }
}

/// Gives this thread's handlers a stack on which one can say where it was.
fn make_room() {
    const STACK_BYTES: usize = 1 << 20;
    let stack = Box::leak(vec![0_u8; STACK_BYTES].into_boxed_slice());
    let place = libc::stack_t {
        ss_sp: stack.as_mut_ptr().cast(),
        ss_flags: 0,
        ss_size: STACK_BYTES,
    };
    // SAFETY: the stack is never given back.
    unsafe { libc::sigaltstack(&raw const place, std::ptr::null_mut()) };
}

/// Sets what is done about a signal; returns what was done before, where that is a function.
fn handle(signal: c_int, with: extern "C" fn(c_int, *mut siginfo_t, *mut c_void)) -> Option<usize> {
    // SAFETY: a zeroed `sigaction` is a valid one; both point to one for the length of the call.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let mut before: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = with as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        let done = libc::sigaction(signal, &raw const action, &raw mut before) == 0;
        let is_function = before.sa_sigaction != libc::SIG_DFL && before.sa_sigaction != libc::SIG_IGN;
        (done && is_function).then_some(before.sa_sigaction)
    }
}

fn filter_calls() -> bool {
    if ARCHITECTURE == 0 {
        return false;
    }
    let load = |at| step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at, 0, 0);
    let answer = |value| step(libc::BPF_RET | libc::BPF_K, value, 0, 0);
    let equals = |value, yes, no| step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, yes, no);
    let count = CALLS.len() as u8;
    let mut filter = vec![
        load(AT_ARCHITECTURE),
        equals(ARCHITECTURE, 0, count + 1),
        load(AT_NUMBER),
    ];
    for (index, (number, _)) in CALLS.iter().enumerate() {
        // The trap is the last step, one behind "allowed".
        filter.push(equals(*number as u32, count - index as u8, 0));
    }
    filter.extend([answer(libc::SECCOMP_RET_ALLOW), answer(libc::SECCOMP_RET_TRAP)]);
    let mut program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the kernel copies the filter, which lives until the end of this function.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw mut program) == 0
    }
}

fn step(code: u32, value: u32, yes: u8, no: u8) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt: yes,
        jf: no,
        k: value,
    }
}

#[cfg(target_arch = "x86_64")]
fn forbid_counter() -> bool {
    // SAFETY: changes only whether this thread may read the counter.
    unsafe { libc::prctl(libc::PR_SET_TSC, libc::PR_TSC_SIGSEGV) == 0 }
}

#[cfg(not(target_arch = "x86_64"))]
fn forbid_counter() -> bool {
    false
}

/// A system call was trapped.
extern "C" fn on_call(_: c_int, info: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel's description of a trapped call is longer than this.
    let number = unsafe { info.cast::<u8>().add(INFO_NUMBER).cast::<i32>().read_unaligned() };
    let known = CALLS.iter().find(|(known, _)| *known == c_long::from(number));
    leaked(known.map_or("a system call", |(_, name)| name));
}

/// A fault: the counter was read, or it is none of our business.
extern "C" fn on_fault(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    if reads_counter(context) {
        leaked("the processor's counter");
    }
    match FAULTS_BEFORE.load(Ordering::Relaxed) {
        0 => {
            // SAFETY: as before: the fault happens again, and ends the process.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        before => {
            type Handler = extern "C" fn(c_int, *mut siginfo_t, *mut c_void);
            // SAFETY: it was the handler of this signal, set by the standard library, which takes these.
            unsafe { std::mem::transmute::<usize, Handler>(before)(signal, info, context) }
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn reads_counter(context: *mut c_void) -> bool {
    /// `rdtsc` and `rdtscp`.
    const CODES: [&[u8]; 2] = [&[0x0f, 0x31], &[0x0f, 0x01, 0xf9]];
    // SAFETY: the kernel gives the context of the fault. A general protection fault (no address of memory) happened at
    // an instruction that was fetched, so that it can be read.
    unsafe {
        let registers = &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        const GENERAL_PROTECTION: i64 = 13;
        if registers[libc::REG_TRAPNO as usize] != GENERAL_PROTECTION {
            return false;
        }
        let at = registers[libc::REG_RIP as usize] as *const u8;
        CODES
            .iter()
            .any(|code| code.iter().enumerate().all(|(index, byte)| *at.add(index) == *byte))
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn reads_counter(_: *mut c_void) -> bool {
    false
}

/// Says who asked, and ends. Not what a signal's handler should do, but this is the end.
fn leaked(what: &str) -> ! {
    // A second leak on the way says no more.
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as in `forbid_counter`.
    unsafe {
        libc::prctl(libc::PR_SET_TSC, libc::PR_TSC_ENABLE);
    }
    let said = format!(
        "weft-sim: real time or real entropy has leaked into the simulation: {what}, past the C library. The run could not be \
         repeated. It was asked for here:\n"
    );
    // SAFETY: writes bytes that are there.
    unsafe { libc::write(libc::STDERR_FILENO, said.as_ptr().cast(), said.len()) };
    let trace = std::backtrace::Backtrace::force_capture().to_string();
    // SAFETY: the same.
    unsafe {
        libc::write(libc::STDERR_FILENO, trace.as_ptr().cast(), trace.len());
        libc::_exit(101)
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Output};

    use super::*;
    use crate::virtual_os;

    const LEAK: &str = "WEFT_SIM_TEST_LEAK";

    /// Leaks as the variable says, on a closed thread. A process of its own for each.
    #[test]
    #[expect(clippy::print_stdout, reason = "read by the test that starts this one")]
    fn leak() {
        let Ok(how) = std::env::var(LEAK) else { return };
        let leaking = move || {
            let _guard = virtual_os::enter(1);
            let watched = close();
            // What goes through the C library is answered, and no leak.
            let _ = (std::time::Instant::now(), std::time::SystemTime::now());
            let _ = std::collections::HashMap::<u8, u8>::new();
            match how.as_str() {
                "call" if watched.calls => {
                    let mut bytes = [0_u8; 8];
                    // SAFETY: there is room for eight bytes.
                    unsafe { libc::syscall(libc::SYS_getrandom, bytes.as_mut_ptr(), bytes.len(), 0) };
                }
                #[cfg(target_arch = "x86_64")]
                "counter" if watched.counter => {
                    // SAFETY: reads a register; on this thread, a fault.
                    std::hint::black_box(unsafe { core::arch::x86_64::_rdtsc() });
                }
                "clock" if watched.counter || watched.calls => {
                    // The C library's own, which no symbol of ours stands before.
                    let name = c"clock_gettime".as_ptr();
                    // SAFETY: the next symbol of this name is the C library's, of this type; there is room for a time.
                    unsafe {
                        let real = libc::dlsym(libc::RTLD_NEXT, name);
                        type Clock = unsafe extern "C" fn(libc::clockid_t, *mut libc::timespec) -> c_int;
                        let real = std::mem::transmute::<*mut c_void, Clock>(real);
                        real(libc::CLOCK_MONOTONIC, &mut std::mem::zeroed());
                    }
                }
                "none" => {}
                _ => println!("not watched here"),
            }
            println!("nothing has leaked");
        };
        std::thread::spawn(leaking).join().unwrap();
    }

    fn leaking(how: &str) -> (Output, String) {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "closed::tests::leak", "--nocapture"])
            .env(LEAK, how)
            .output()
            .unwrap();
        let said = [&output.stdout[..], &output.stderr[..]].concat();
        (output, String::from_utf8_lossy(&said).into_owned())
    }

    #[test]
    fn a_real_clock_and_real_entropy_end_the_process_by_name() {
        let (output, said) = leaking("none");
        assert!(output.status.success() && said.contains("nothing has leaked"), "{said}");
        for (how, name) in [("call", "getrandom"), ("counter", "counter"), ("clock", "")] {
            let (output, said) = leaking(how);
            if said.contains("not watched here") {
                continue;
            }
            assert_eq!(output.status.code(), Some(101), "{how}: {said}");
            assert!(
                said.contains("has leaked into the simulation") && said.contains(name),
                "{said}"
            );
            assert!(said.contains("closed::tests::leak"), "it says from where: {said}");
        }
    }
}
