//! The N-th call kills the process, or fails: strace injects it. It counts each kind of call on each thread by itself.

use std::path::Path;

/// The arguments that inject `what` into a kind of call, as `pwrite64`, `error=EIO:when=3`; what it saw goes to a file. What the
/// loader of programs calls too is looked at on the store's files alone; beside syncs, what is said on the standard output.
pub fn inject(seen: &Path, store: &Path, call: &str, what: &str) -> Vec<String> {
    let mut arguments = vec!["strace", "-f", "-qq", "-y", "-s", "12", "-o", seen.to_str().unwrap()];
    let store = store.to_str().unwrap();
    let files = ["", "-wal", "-journal", "-highest"].map(|end| format!("{store}{end}"));
    let loader = ["openat", "pread64"].contains(&call);
    files.iter().filter(|_| loader).for_each(|file| arguments.extend(["-P", file]));
    let trace = format!("trace={call}{}", if call == "fdatasync" { ",write" } else { "" });
    let inject = format!("inject={call}:{what}");
    // Not with `--seccomp-bpf`: strace 6.1 then injects no signal after the first.
    arguments.extend(["-e", &trace, "-e", &inject]);
    arguments.into_iter().map(str::to_owned).collect()
}
