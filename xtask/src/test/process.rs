//! One test as a process: its output in a file, its time taken, its whole process group killed when
//! it takes too long.
//!
//! The output goes through a file and not through a pipe, because a process that a test left behind
//! would hold a pipe open for ever.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

/// How a test ended.
#[derive(Debug)]
pub(crate) struct Ending {
    /// How long it took.
    pub(crate) took: Duration,
    /// Nothing when it passed; else how it failed, and its output.
    pub(crate) failure: Option<String>,
}

/// Runs one test; it and what it started get `limit`.
pub(crate) fn run(command: &mut Command, limit: Duration, output: &Path) -> Result<Ending> {
    let file =
        File::create(output).with_context(|| format!("cannot write {}", output.display()))?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0);
    let start = Instant::now();
    let mut child = command.spawn().context("cannot start a test")?;
    let group = child.id();
    let (status, in_time) = thread::scope(|scope| {
        let (sender, ended) = mpsc::channel();
        scope.spawn(move || sender.send(child.wait()));
        match ended.recv_timeout(limit) {
            Ok(status) => (Ok(status), true),
            Err(_) => {
                kill(group);
                (ended.recv(), false)
            }
        }
    });
    let (status, took) = (status??, start.elapsed());
    if status.success() && in_time {
        return Ok(Ending { took, failure: None });
    }
    // A test that panicked did not get to end the processes it had started.
    kill(group);
    let said = String::from_utf8_lossy(&fs::read(output)?).into_owned();
    let how = if in_time {
        format!("{status}")
    } else {
        format!("killed with its process group after {} s", limit.as_secs())
    };
    Ok(Ending { took, failure: Some(format!("{said}\n{how}")) })
}

/// Kills a process group. That nothing of it is left is no failure.
fn kill(group: u32) {
    let _ = Command::new("sh")
        .args(["-c", &format!("kill -s KILL -- -{group}")])
        .stderr(Stdio::null())
        .status();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ending(name: &str, script: &str, limit: Duration) -> Result<Ending> {
        let output = std::env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()));
        let ending = run(Command::new("sh").args(["-c", script]), limit, &output);
        fs::remove_file(output)?;
        ending
    }

    #[test]
    fn shows_what_a_failing_test_said() -> Result<()> {
        let ending = ending("fails", "echo said; exit 3", Duration::from_secs(60))?;
        let failure = ending.failure.unwrap_or_default();
        assert!(failure.contains("said") && failure.contains('3'), "{failure}");
        Ok(())
    }

    #[test]
    fn kills_what_takes_too_long_with_its_children() -> Result<()> {
        let script = "sleep 987 & echo child $!; wait";
        let ending = ending("hangs", script, Duration::from_millis(300))?;
        let failure = ending.failure.unwrap_or_default();
        assert!(failure.contains("killed with its process group"), "{failure}");
        let child = failure.lines().find_map(|line| line.strip_prefix("child "));
        let child = child.context("the script names its child")?;
        for _ in 0..200 {
            let state = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            if state.is_empty() || state.contains(") Z ") {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(10));
        }
        anyhow::bail!("process {child} is still there")
    }

    #[test]
    fn does_not_wait_for_what_a_passing_test_left_behind() -> Result<()> {
        let ending = ending("leaves", "sleep 5 & exit 0", Duration::from_secs(60))?;
        assert!(ending.failure.is_none() && ending.took < Duration::from_secs(4));
        Ok(())
    }
}
