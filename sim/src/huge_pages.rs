//! Memory in pages of 2 MiB: a run of a thousand nodes walks through a gigabyte of small things, and spends a third of its time on finding
//! out where a page of 4 KiB is.
//!
//! glibc's allocator takes huge pages only where `GLIBC_TUNABLES` asks for them before a program starts, and only in its first arena (runs
//! have a process each and one busy thread, so one is enough). Elsewhere nothing happens.

use std::process::Command;

const NAME: &str = "GLIBC_TUNABLES";
const TUNABLES: &str = "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1";

/// Starts this program over, asking for huge pages, unless somebody has set the allocator's tunables. The second start goes on.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn ask_for() {
    use std::{env, os::unix::process::CommandExt as _};

    let Ok(program) = env::current_exe() else {
        return;
    };
    if env::var_os(NAME).is_none() {
        let mut arguments = env::args_os();
        let mut again = Command::new(program);
        again.env(NAME, TUNABLES);
        if let Some(name) = arguments.next() {
            again.arg0(name);
        }
        // It returns only when the start failed; then it goes without.
        let _ = again.args(arguments).exec();
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn ask_for() {}

/// Nodes that are processes run as their users run them: what this program has set for itself is not for them.
pub(crate) fn not_for(node: &mut Command) {
    if std::env::var(NAME).is_ok_and(|set| set == TUNABLES) {
        node.env_remove(NAME);
    }
}
