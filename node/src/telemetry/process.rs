//! What the process itself uses: memory, processor, files. Read from `/proc` when asked; absent where there is none.

use std::fs;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

/// Linux counts processor time for user programs in hundredths of a second, whatever its own clock does.
const TICKS_PER_S: f64 = 100.0;

/// What the process uses now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProcessSample {
    /// Memory that is really in use.
    pub resident_bytes: u64,
    /// Processor time since the start, of user and system together.
    pub cpu_s: f64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// Highest allowed number of open file descriptors.
    pub max_fds: u64,
    /// Threads.
    pub threads: u64,
    /// When the process started, in seconds since 1970.
    pub start_time_s: f64,
}

/// What the process uses now; nothing where there is no `/proc`.
pub fn sample() -> Option<ProcessSample> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let value = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse().ok()
    };
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in brackets and may contain anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let ticks = |index: usize| -> Option<f64> { fields.get(index)?.parse().ok() };
    let boot = fs::read_to_string("/proc/stat").ok()?;
    let boot_s: f64 = boot
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()?;
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let max_fds = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?
        .split_ascii_whitespace()
        .next()?
        .to_owned();
    Some(ProcessSample {
        resident_bytes: value("VmRSS:")? * 1024,
        cpu_s: (ticks(11)? + ticks(12)?) / TICKS_PER_S,
        open_fds: fs::read_dir("/proc/self/fd").ok()?.count() as u64,
        max_fds: max_fds.parse().unwrap_or(u64::MAX),
        threads: value("Threads:")?,
        start_time_s: boot_s + ticks(19)? / TICKS_PER_S,
    })
}

/// Puts a fresh [`ProcessSample`] under the names that every Prometheus client library uses.
#[derive(Debug)]
pub(super) struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(now) = sample() else { return Ok(()) };
        let mut gauge = |name, help, value: f64| {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, prometheus_client::metrics::MetricType::Gauge)?)
        };
        gauge(
            "process_resident_memory_bytes",
            "Memory that is really in use",
            now.resident_bytes as f64,
        )?;
        gauge("process_open_fds", "Open file descriptors", now.open_fds as f64)?;
        gauge(
            "process_max_fds",
            "Highest allowed number of open file descriptors",
            now.max_fds as f64,
        )?;
        gauge("process_threads", "Threads", now.threads as f64)?;
        gauge(
            "process_start_time_seconds",
            "When the process started, in seconds since 1970",
            now.start_time_s,
        )?;
        let cpu = ConstCounter::new(now.cpu_s);
        let kind = prometheus_client::metrics::MetricType::Counter;
        cpu.encode(encoder.encode_descriptor("process_cpu_seconds", "Processor time since the start", None, kind)?)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    #[test]
    fn a_sample_is_plausible() {
        let before = super::sample().unwrap();
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(
            before.resident_bytes > 1 << 20 && before.resident_bytes < 1 << 36,
            "{before:?}"
        );
        assert!(
            before.start_time_s > now_s - 3600.0 && before.start_time_s < now_s + 2.0,
            "{before:?} at {now_s}"
        );
        let files: Vec<_> = (0..10).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        let after = super::sample().unwrap();
        assert!(
            after.cpu_s >= before.cpu_s && after.open_fds >= 10 && after.threads >= 1,
            "{after:?}"
        );
        drop(files);
    }
}
