//! Runs programs and looks at what they hold in memory meanwhile.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// Resident memory of a process and those below it, in KiB.
fn held(pid: u32) -> u64 {
    let read = |name: String| fs::read_to_string(format!("/proc/{pid}/{name}"));
    let own = read("status".to_owned())
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("VmRSS:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        })
        .unwrap_or(0);
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let below: u64 = tasks
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|text| {
            let pids: Vec<u32> = text
                .split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect();
            pids
        })
        .map(held)
        .sum();
    own + below
}

/// Runs commands one after the other; the time of all in milliseconds, and the most memory that
/// they and the process `also` held at once, in MiB.
pub(crate) fn run(commands: Vec<Command>, also: Option<u32>) -> anyhow::Result<(f64, f64)> {
    let (pid, peak) = (AtomicU64::new(0), AtomicU64::new(0));
    let done = AtomicBool::new(false);
    let took = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let pid = u32::try_from(pid.load(Ordering::Relaxed)).unwrap_or(0);
                let now = [Some(pid), also].into_iter().flatten();
                let now = now.filter(|pid| *pid != 0).map(held).sum();
                peak.fetch_max(now, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let begin = Instant::now();
        let outcome = commands.into_iter().try_for_each(|mut command| {
            let name = command.get_program().display().to_string();
            let child = command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .with_context(|| name.clone())?;
            pid.store(child.id().into(), Ordering::Relaxed);
            let output = child.wait_with_output()?;
            pid.store(0, Ordering::Relaxed);
            anyhow::ensure!(
                output.status.success(),
                "{name}: {} {}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
            Ok(())
        });
        let took = begin.elapsed();
        done.store(true, Ordering::Relaxed);
        outcome.map(|()| took)
    })?;
    let kib = u32::try_from(peak.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
    Ok((took.as_secs_f64() * 1e3, f64::from(kib) / 1024.0))
}
