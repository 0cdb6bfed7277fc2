//! How a parent process arms failpoints in this one, for tests and the demo.
//!
//! With `ONEWRITE_CONTROL=stdin` each line `arm NAME HITS` on standard input arms one failpoint: at its
//! HITS-th passing this process ends by SIGKILL, at that very line. The end of the input ends the
//! process gracefully, so that no child outlives its parent.

use std::io::BufRead;

use onewrite_core::failpoint;
use rustix::process::{Signal, getpid, kill_process};

use crate::Shutdown;

/// The environment variable that makes this process listen to its parent.
pub const CONTROL_ENV: &str = "ONEWRITE_CONTROL";

/// Listens to the parent process, if it said that it would speak.
pub fn listen(shutdown: &Shutdown) {
    if std::env::var_os(CONTROL_ENV).is_none_or(|value| value != "stdin") {
        return;
    }
    failpoint::on_hit(|_| {
        // Not an exit: nothing of this process may run after this line.
        let _ = kill_process(getpid(), Signal::KILL);
        loop {
            std::thread::park();
        }
    });
    let shutdown = shutdown.clone();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let mut words = line.split_whitespace();
            if let (Some("arm"), Some(name), Some(hits)) =
                (words.next(), words.next(), words.next())
            {
                failpoint::arm(name, hits.parse().unwrap_or(1));
            }
        }
        shutdown.begin();
    });
}
