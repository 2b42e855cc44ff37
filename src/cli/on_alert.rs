//! The command that the operator wants run for every alert.
//!
//! It gets the alert's JSON, one line, on its standard input; what it prints goes to our standard error, because our
//! standard output is for events. It runs beside the node: nothing waits for it, a few run at a time, and one that takes too
//! long is killed with all that it has started. One that still runs when the node ends is left alone.

use std::{
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use async_std::{
    channel::{self, Receiver, Sender},
    task,
};
use rustix::process::{Pid, Signal, kill_process_group};
use thiserror::Error;
use tracing::warn;

use crate::{cli::alerts, wire::administration::Alert};

/// Runs a command for alerts.
pub(crate) struct OnAlert {
    /// None when there is no command.
    alerts: Option<Sender<String>>,
}

/// Why a command did not do what it was for. The alert is not told again.
#[derive(Debug, Error)]
enum RunError {
    /// It could not be started or waited for.
    #[error("it could not be run: {0}")]
    System(#[from] io::Error),
    /// It says so itself.
    #[error("it ended with {0}")]
    Failed(ExitStatus),
    /// It was killed.
    #[error("it was killed: it had not ended after {waited:?}")]
    TimedOut {
        /// How long it had.
        waited: Duration,
    },
}

impl OnAlert {
    /// Runs `command` by `sh`; without one, nothing.
    pub(crate) fn new(command: Option<&str>) -> OnAlert {
        let Some(command) = command else { return OnAlert { alerts: None } };
        let (sender, receiver) = channel::bounded(WAITING_MAX);
        for _ in 0..AT_A_TIME {
            task::spawn(attend(command.to_owned(), receiver.clone()));
        }
        OnAlert { alerts: Some(sender) }
    }

    /// Runs it for `alert`, as soon as there is a place for it. Returns at once.
    pub(crate) fn tell(&self, alert: &Alert) {
        let Some(alerts) = &self.alerts else { return };
        if alerts.try_send(format!("{}\n", alerts::to_json(alert))).is_err() {
            warn!(alert = alert.kind.name(), WAITING_MAX, "on_alert was not run: too many alerts wait for it");
        }
    }
}

/// Commands that run at a time.
const AT_A_TIME: usize = 3;

/// Alerts that wait for one to end: more than twice as many as a node can have at a time.
const WAITING_MAX: usize = 2_048;

/// Time for one command.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often it is asked whether it has ended. The system tells that only to signal handlers and to threads that wait.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

async fn attend(command: String, alerts: Receiver<String>) {
    while let Ok(alert) = alerts.recv().await {
        if let Err(error) = run(&command, &alert, PATIENCE).await {
            warn!(%command, %error, "on_alert failed");
        }
    }
}

async fn run(command: &str, alert: &str, patience: Duration) -> Result<(), RunError> {
    let mut child = start(command)?;
    if let Some(mut input) = child.stdin.take() {
        // A line of a few hundred bytes fits any pipe, so this does not wait; and a command need not read it.
        let _ = input.write_all(alert.as_bytes());
    }
    let deadline = Instant::now() + patience;
    let mut is_late = false;
    loop {
        match child.try_wait()? {
            Some(_) if is_late => return Err(RunError::TimedOut { waited: patience }),
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(RunError::Failed(status)),
            None => {}
        }
        if Instant::now() >= deadline {
            is_late = true;
            kill_all_of(&child)?;
        }
        task::sleep(LOOK_INTERVAL).await;
    }
}

/// At the head of a process group, so that it can be killed with all that it starts.
fn start(command: &str) -> io::Result<Child> {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command).process_group(0);
    shell.stdin(Stdio::piped()).stdout(io::stderr()).spawn()
}

fn kill_all_of(child: &Child) -> io::Result<()> {
    // It has not been waited for, so its number is still its own.
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    group.map_or(Ok(()), |group| Ok(kill_process_group(group, Signal::KILL)?))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::OpenOptionsExt as _, path::Path};

    use super::*;
    use crate::{clock::WallTime, wire::administration::AlertKind};

    fn run_now(command: &str, patience: Duration) -> Result<(), RunError> {
        task::block_on(run(command, "{\"alert\":\"isolated\"}\n", patience))
    }

    fn word(path: &Path) -> String {
        crate::cli::text::to_word(path.to_str().unwrap())
    }

    fn comes_true(is_so: impl Fn() -> bool) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if is_so() {
                return true;
            }
            std::thread::yield_now();
        }
        false
    }

    #[test]
    fn a_command_gets_the_alert_on_its_standard_input() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a file");
        run_now(&format!("cat >> {}", word(&path)), PATIENCE).unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), "{\"alert\":\"isolated\"}\n");
    }

    #[test]
    fn a_command_that_reads_nothing_has_done_its_work_and_one_that_fails_has_not() {
        run_now("exec true", PATIENCE).unwrap();
        let error = run_now("exit 3", PATIENCE).unwrap_err();
        assert!(error.to_string().contains("exit status: 3"), "{error}");
    }

    #[test]
    fn a_command_that_does_not_end_is_killed_with_what_it_has_started() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let command = format!("sleep 600 & echo $! > {}; wait", word(&path));
        let begun = Instant::now();
        let error = run_now(&command, Duration::from_millis(300)).unwrap_err();
        assert!(matches!(error, RunError::TimedOut { .. }), "{error}");
        assert!(begun.elapsed() < PATIENCE);
        let pid: i32 = fs::read_to_string(path).unwrap().trim().parse().unwrap();
        let pid = Pid::from_raw(pid).unwrap();
        // Whoever adopts it may leave it as a corpse for a while; a corpse has an empty command line.
        let command_line = || fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero()));
        assert!(comes_true(|| {
            rustix::process::test_kill_process(pid).is_err() || command_line().is_ok_and(|line| line.is_empty())
        }));
    }

    #[test]
    fn every_alert_is_told_once_and_nobody_waits_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let (path, gate) = (dir.path().join("file"), dir.path().join("gate"));
        assert!(Command::new("mkfifo").arg(&gate).status().unwrap().success());
        let on_alert = OnAlert::new(Some(&format!("cat {} > /dev/null; cat >> {}", word(&gate), word(&path))));
        let alert = Alert { kind: AlertKind::Isolated, since: WallTime(0), detail: "alone".to_owned() };
        on_alert.tell(&alert);
        assert!(!path.exists());
        // It can be opened once the command reads it; closed, it lets the command go on.
        let mut options = fs::File::options();
        options.write(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
        assert!(comes_true(|| options.open(&gate).is_ok()));
        assert!(comes_true(|| fs::read_to_string(&path).is_ok_and(|text| text.ends_with('\n'))));
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", alerts::to_json(&alert)));
    }

    #[test]
    fn without_a_command_nothing_is_run() {
        let alert = Alert { kind: AlertKind::Isolated, since: WallTime(0), detail: "alone".to_owned() };
        OnAlert::new(None).tell(&alert);
    }
}
