//! Tables for people and files for programs.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::stats::Summary;

/// The load averages of 1, 5 and 15 minutes as the kernel has them now.
#[must_use]
pub fn load() -> [f64; 3] {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut words = text.split(' ').map(|word| word.parse().unwrap_or(0.0));
    std::array::from_fn(|_| words.next().unwrap_or(0.0))
}

/// The machine in one line: cores, memory, kernel.
#[must_use]
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = read("/proc/meminfo");
    let kib: u64 = memory
        .split_whitespace()
        .nth(1)
        .and_then(|word| word.parse().ok())
        .unwrap_or(0);
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown CPU", |rest| {
            rest.trim_start_matches([' ', '\t', ':'])
        });
    format!(
        "{cores} cores ({model}), {} GiB, Linux {}",
        kib.div_ceil(1 << 20),
        read("/proc/sys/kernel/osrelease").trim()
    )
}

/// A table with aligned columns; the first column is text, the others are set to the right.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column heads.
    #[must_use]
    pub fn new(heads: &[&str]) -> Self {
        let mut table = Self::default();
        table.row(heads);
        table
    }

    /// Adds a row.
    pub fn row(&mut self, cells: &[impl ToString]) {
        self.rows
            .push(cells.iter().map(ToString::to_string).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (index, row) in self.rows.iter().enumerate() {
            for (column, width) in widths.iter().copied().enumerate() {
                let cell = row.get(column).map_or("", String::as_str);
                if column == 0 {
                    write!(f, "{cell:<width$}")?;
                } else {
                    write!(f, "  {cell:>width$}")?;
                }
            }
            writeln!(f)?;
            if index == 0 {
                let all = widths.iter().sum::<usize>() + 2 * columns.saturating_sub(1);
                writeln!(f, "{}", "-".repeat(all))?;
            }
        }
        Ok(())
    }
}

/// One comparison, to be written as `<name>.json`.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The name, also of the file.
    pub name: String,
    /// What was measured, in words.
    pub what: String,
    /// Our side.
    pub ours: Summary,
    /// The other side's name and version.
    pub peer_name: String,
    /// The other side.
    pub peer: Summary,
    /// The unit of both sides' values.
    pub unit: &'static str,
    /// The load averages before and after all runs.
    pub load: [[f64; 3]; 2],
}

impl Comparison {
    /// Our median divided by the peer's; below 1 ours is smaller, which is better.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.ours.median / self.peer.median
    }

    /// The comparison as a JSON object: `ours` and `peer` are medians.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "name": self.name,
            "what": self.what,
            "ours": self.ours.median,
            "ours_p10_p90": [self.ours.p10, self.ours.p90],
            "peer": self.peer.median,
            "peer_p10_p90": [self.peer.p10, self.peer.p90],
            "peer_name": self.peer_name,
            "unit": self.unit,
            "ratio": self.ratio(),
            "runs": self.ours.runs.min(self.peer.runs),
            "load": {"before": self.load[0], "after": self.load[1]},
            "machine": machine(),
        })
    }

    /// Writes the file into a directory, which is made if missing, and says where it is.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, directory: &Path) -> anyhow::Result<PathBuf> {
        let path = directory.join(format!("{}.json", self.name));
        std::fs::create_dir_all(directory)
            .and_then(|()| std::fs::write(&path, format!("{:#}\n", self.json())))
            .with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }
}

/// Where comparisons are written: `target/comparisons` of this workspace.
#[must_use]
pub fn directory() -> PathBuf {
    target().join("comparisons")
}

/// The build directory of this workspace.
#[must_use]
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
        PathBuf::from,
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp)]
mod tests {
    use super::*;

    fn summary(median: f64) -> Summary {
        Summary {
            runs: 30,
            median,
            p10: median - 1.0,
            p90: median + 1.0,
        }
    }

    #[test]
    fn a_table_aligns_its_columns() {
        let mut table = Table::new(&["who", "ms"]);
        table.row(&["somebody", "1.5"]);
        table.row(&["x"]);
        let text = table.to_string();
        assert_eq!(
            text,
            "who        ms\n-------------\nsomebody  1.5\nx            \n"
        );
    }

    #[test]
    fn a_comparison_is_written_with_its_ratio() {
        let directory = tempfile::tempdir().unwrap();
        let comparison = Comparison {
            name: "start-other".to_owned(),
            what: "a start".to_owned(),
            ours: summary(2.0),
            peer_name: "other 1".to_owned(),
            peer: summary(8.0),
            unit: "ms",
            load: [[0.0; 3]; 2],
        };
        let path = comparison.write(&directory.path().join("new")).unwrap();
        assert!(path.ends_with("start-other.json"));
        let value: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(value["ratio"], 0.25);
        assert_eq!((&value["ours"], &value["peer"]), (&2.0.into(), &8.0.into()));
        assert_eq!(value["runs"], 30);
        assert_eq!(value["unit"], "ms");
    }
}
