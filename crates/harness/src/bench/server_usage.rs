//! What processes have used: processor time and memory, from `/proc`.

use std::time::Duration;

use serde::Serialize;

/// Of all processes together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct ServerUsage {
    /// Processor seconds, in user and kernel.
    pub cpu_seconds: f64,
    /// Resident memory of the largest process now, in bytes.
    pub resident_bytes: u64,
    /// The most that any of them ever had.
    pub peak_bytes: u64,
}

impl ServerUsage {
    /// Reads it.
    ///
    /// # Errors
    /// If there is no such process.
    pub fn of(pids: &[u32]) -> Result<ServerUsage, String> {
        let mut usage = ServerUsage::default();
        for pid in pids {
            let read = |file: &str| {
                let path = format!("/proc/{pid}/{file}");
                std::fs::read_to_string(path).map_err(|_| format!("there is no process {pid}"))
            };
            let status = read("status")?;
            let bytes = |name: &str| 1_024 * field(&status, name);
            usage.cpu_seconds += cpu(&read("stat")?).as_secs_f64();
            usage.resident_bytes = usage.resident_bytes.max(bytes("VmRSS:"));
            usage.peak_bytes = usage.peak_bytes.max(bytes("VmHWM:"));
        }
        Ok(usage)
    }

    /// What was used since `before`; memory is as of now.
    #[must_use]
    pub fn since(self, before: &ServerUsage) -> ServerUsage {
        ServerUsage { cpu_seconds: self.cpu_seconds - before.cpu_seconds, ..self }
    }
}

/// User and system time of proc(5)'s `stat`: fields 14 and 15, counted after the name.
fn cpu(stat: &str) -> Duration {
    let after_name = stat.rsplit_once(')').map_or(stat, |(_, rest)| rest);
    let fields = after_name.split_whitespace().skip(11).take(2);
    let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let before = ServerUsage::of(&[std::process::id()]).expect("we run");
        assert!(before.resident_bytes > 100_000 && before.peak_bytes >= before.resident_bytes);
        let sentence = ServerUsage::of(&[u32::MAX]).expect_err("nobody has that number");
        assert_eq!(sentence, format!("there is no process {}", u32::MAX));
    }

    #[test]
    fn a_name_with_brackets_and_blanks_moves_no_field() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 1 0 5 0 0";
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        assert!((cpu(stat).as_secs_f64() - 200.0 / ticks).abs() < 1e-9);
    }
}
