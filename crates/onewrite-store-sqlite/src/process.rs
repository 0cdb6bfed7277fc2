//! Whether a lease's owner has died: all who share the file share the machine, so the system knows.
//!
//! A dead owner's leases are taken over at once instead of when they expire. It is a shortcut, never a
//! promise: a process that cannot be judged (another container, another system than Linux) is taken
//! for alive, and its leases expire by themselves.

use std::{fs, sync::OnceLock};

/// What names this process for as long as the machine runs: the namespace its pid belongs to, the pid,
/// and when it started. Empty where the system does not say.
pub(crate) fn this() -> &'static str {
    static THIS: OnceLock<String> = OnceLock::new();
    THIS.get_or_init(|| {
        let pid = std::process::id();
        match (namespace(), started(pid)) {
            (Some(namespace), Some(started)) => format!("{namespace} {pid} {started}"),
            _ => String::new(),
        }
    })
}

/// Whether the process called `name` by [`this`] has certainly ended.
pub(crate) fn has_ended(name: &str) -> bool {
    let mut words = name.split(' ');
    let (Some(found), Some(pid), Some(start)) = (words.next(), words.next(), words.next()) else {
        return false;
    };
    let Ok(pid) = pid.parse::<u32>() else { return false };
    // Where the first process is hidden, others may be hidden too: then nothing can be judged.
    if namespace().as_deref() != Some(found) || started(1).is_none() {
        return false;
    }
    started(pid).is_none_or(|now| now != start)
}

fn namespace() -> Option<String> {
    fs::read_link("/proc/self/ns/pid").ok().map(|link| link.to_string_lossy().into_owned())
}

/// When a living process started, in ticks since the machine did (proc(5), `stat`).
fn started(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, so count from its end: state is next, start 19 later.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let ended = matches!(fields.next()?, "Z" | "X");
    fields.nth(18).filter(|_| !ended).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_a_child_that_ended_does_not() {
        assert!(!this().is_empty() && !has_ended(this()));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let name =
            format!("{} {} {}", namespace().unwrap(), child.id(), started(child.id()).unwrap());
        assert!(!has_ended(&name));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(has_ended(&name));
    }

    #[test]
    fn what_cannot_be_judged_is_taken_for_alive() {
        let reused = this().rsplit_once(' ').map(|(rest, _)| format!("{rest} 1")).unwrap();
        assert!(has_ended(&reused), "the pid belongs to another process now");
        for name in ["", "nonsense", "pid:[1] 999999 5", "pid:[1] x 5"] {
            assert!(!has_ended(name), "{name}");
        }
    }
}
