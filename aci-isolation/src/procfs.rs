//! Reading of proc(5), the same in the host library and in the agent.

/// The fields of `/proc/<pid>/stat` after the name, which may itself contain blanks and brackets;
/// the first is field 3.
fn fields(stat: &str) -> Option<Vec<&str>> {
    let (_, rest) = stat.rsplit_once(')')?;
    Some(rest.split_whitespace().collect())
}

/// When a process started, in clock ticks since the system's start (field 22): with the pid it
/// names a process for ever.
pub(crate) fn start_time(stat: &str) -> Option<u64> {
    fields(stat)?.get(19)?.parse().ok()
}

/// User and system time of a process and its waited-for children in clock ticks (fields 14-17),
/// its threads (20) and its resident pages (24).
pub(crate) fn usage(stat: &str) -> Option<(u64, u64, u64)> {
    let fields = fields(stat)?;
    let number = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok());
    let ticks = (11..15).filter_map(number).sum();
    Some((ticks, number(17)?, number(21)?))
}

/// Received and transmitted bytes of all interfaces but loopback, from `/proc/net/dev`.
pub(crate) fn network(text: &str) -> (u64, u64) {
    let mut sum = (0u64, 0u64);
    for line in text.lines() {
        let Some((name, numbers)) = line.split_once(':') else {
            continue;
        };
        if name.trim() == "lo" {
            continue;
        }
        let mut numbers = numbers
            .split_whitespace()
            .map(|text| text.parse().unwrap_or(0));
        sum.0 = sum.0.saturating_add(numbers.next().unwrap_or(0));
        sum.1 = sum.1.saturating_add(numbers.nth(7).unwrap_or(0));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_survives_odd_names() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 100 0 0 0 7 5 3 1 20 0 4 0 987654 1000 250 18446744073709551615";
        assert_eq!(start_time(stat), Some(987_654));
        assert_eq!(usage(stat), Some((16, 4, 250)));
        assert_eq!(start_time("garbage"), None);
    }

    #[test]
    fn loopback_does_not_count() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets\n    lo: 10 1 0 0 0 0 0 0 10 1 0 0 0 0 0 0\n  eth0: 100 2 0 0 0 0 0 0 200 3 0 0 0 0 0 0\n eth1:5 2 0 0 0 0 0 0 6 3 0 0 0 0 0 0\n";
        assert_eq!(network(text), (105, 206));
    }
}
