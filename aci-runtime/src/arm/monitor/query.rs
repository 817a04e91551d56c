//! What a client of Azure Monitor asks, and the answer.

use std::collections::BTreeMap;
use std::time::Duration;

use aci_core::time::Timestamp;
use serde_json::{Map, Value, json};

use super::super::error::{ArmError, ArmResult};
use super::gauge::{Measured, Metric};
use super::series::{Bucket, Series};

/// The namespace of the metrics.
pub(super) const NAMESPACE: &str = "Microsoft.ContainerInstance/containerGroups";
/// The intervals that Azure knows, with their seconds.
pub(super) const INTERVALS: [(&str, u64); 8] = [
    ("PT1M", 60),
    ("PT5M", 300),
    ("PT15M", 900),
    ("PT30M", 1_800),
    ("PT1H", 3_600),
    ("PT6H", 21_600),
    ("PT12H", 43_200),
    ("P1D", 86_400),
];
/// Points of one series in one answer.
const MOST_POINTS: u64 = 11_000;
/// Series of one metric in one answer where the client says nothing.
const TOP: usize = 10;

/// How measurements of an interval become one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aggregation {
    Average,
    Minimum,
    Maximum,
    Total,
    Count,
}

impl Aggregation {
    const ALL: [(&'static str, Self); 5] = [
        ("average", Self::Average),
        ("minimum", Self::Minimum),
        ("maximum", Self::Maximum),
        ("total", Self::Total),
        ("count", Self::Count),
    ];

    fn of(self, bucket: &Bucket) -> f64 {
        match self {
            Self::Average => bucket.average(),
            Self::Minimum => bucket.minimum,
            Self::Maximum => bucket.maximum,
            Self::Total => bucket.total,
            Self::Count => f64::from(bucket.count),
        }
    }
}

/// Which containers, and whether each has a series of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Filter {
    /// All, together.
    Together,
    /// Each of all.
    Each,
    /// Each of these, in lower case.
    These(Vec<String>),
}

/// A question.
#[derive(Clone, Debug)]
pub(super) struct Query {
    metrics: Vec<Metric>,
    aggregations: Vec<(&'static str, Aggregation)>,
    from: Timestamp,
    to: Timestamp,
    interval: (&'static str, u64),
    filter: Filter,
    top: usize,
    /// By which number series are ordered, and whether the smallest comes first.
    order: Option<(Aggregation, bool)>,
    /// Only which series there are.
    metadata_only: bool,
}

fn bad(message: impl Into<String>) -> ArmError {
    ArmError::bad_request("BadRequest", message)
}

fn duration(text: &str) -> Option<Duration> {
    let span: jiff::SignedDuration = text.parse().ok().or_else(|| {
        // Days are not exact for jiff, and are 24 hours here.
        let days: i64 = text.strip_prefix('P')?.strip_suffix('D')?.parse().ok()?;
        Some(jiff::SignedDuration::from_hours(days.checked_mul(24)?))
    })?;
    Duration::try_from(span).ok()
}

/// `start/end`, `start/duration`, `duration/end` or a duration until now.
fn timespan(text: &str, now: Timestamp) -> ArmResult<(Timestamp, Timestamp)> {
    let invalid = || {
        bad(format!(
            "The timespan '{}' is invalid: write two times in ISO 8601 with a slash between, or a duration.",
            text.chars().take(80).collect::<String>()
        ))
    };
    // The Azure CLI encodes it twice.
    let twice = percent_encoding::percent_decode_str(text).decode_utf8();
    let text = twice.as_deref().unwrap_or(text);
    let time = |text: &str| -> Option<Timestamp> {
        let text = text.trim();
        // Without an offset it is UTC.
        text.parse().or_else(|_| format!("{text}Z").parse()).ok()
    };
    let span = match text.split_once('/') {
        None => duration(text).map(|back| (now - back, now)),
        Some((start, end)) => match (time(start), time(end)) {
            (Some(start), Some(end)) => Some((start, end)),
            (Some(start), None) => duration(end).map(|long| (start, start + long)),
            (None, Some(end)) => duration(start).map(|long| (end - long, end)),
            (None, None) => None,
        },
    };
    let (from, to) = span.ok_or_else(invalid)?;
    if from >= to {
        return Err(bad(
            "The start time of the timespan has to be before its end time.",
        ));
    }
    Ok((from, to))
}

/// `containerName eq 'a' or containerName eq 'b'`, or `containerName eq '*'`.
fn filter(text: &str) -> ArmResult<Filter> {
    let invalid = || {
        bad(format!(
            "The filter '{}' is invalid: write containerName eq 'NAME', or containerName eq '*', with 'or' between \
             several.",
            text.chars().take(200).collect::<String>()
        ))
    };
    let mut names = Vec::new();
    let mut rest = text.trim();
    loop {
        let (dimension, after) = rest.split_once(' ').ok_or_else(invalid)?;
        if !dimension.eq_ignore_ascii_case("containerName") {
            return Err(invalid());
        }
        let after = after.trim_start();
        let after = after
            .get(..2)
            .filter(|op| op.eq_ignore_ascii_case("eq"))
            .and_then(|_| after.get(2..))
            .ok_or_else(invalid)?;
        let value = after.trim_start().strip_prefix('\'').ok_or_else(invalid)?;
        let (name, after) = value.split_once('\'').ok_or_else(invalid)?;
        names.push(name.to_lowercase());
        let after = after.trim();
        if after.is_empty() {
            break;
        }
        rest = after
            .get(..3)
            .filter(|or| or.eq_ignore_ascii_case("or "))
            .and_then(|_| after.get(3..))
            .ok_or_else(invalid)?
            .trim_start();
    }
    Ok(if names.iter().any(|name| name == "*") {
        Filter::Each
    } else {
        Filter::These(names)
    })
}

impl Query {
    /// Reads a question; the names of parameters are in lower case.
    ///
    /// # Errors
    /// 400 with the parameter and what it may be.
    pub(super) fn read(given: &BTreeMap<String, String>, now: Timestamp) -> ArmResult<Self> {
        let get = |name: &str| given.get(name).map(|v| v.trim()).filter(|v| !v.is_empty());
        let listed = |text: &str| -> Vec<String> {
            let parts = text.split(',').map(str::trim);
            parts.filter(|p| !p.is_empty()).map(str::to_owned).collect()
        };
        if let Some(namespace) = get("metricnamespace")
            && !namespace.eq_ignore_ascii_case(NAMESPACE)
        {
            return Err(bad(format!(
                "The metric namespace is unknown; it is '{NAMESPACE}'."
            )));
        }
        let mut metrics = Vec::new();
        for name in listed(get("metricnames").unwrap_or(Metric::CpuUsage.name())) {
            let metric = Metric::ALL
                .into_iter()
                .find(|m| m.name().eq_ignore_ascii_case(&name));
            let metric = metric.ok_or_else(|| {
                let valid: Vec<_> = Metric::ALL.iter().map(|m| m.name()).collect();
                let shown: String = name.chars().take(80).collect();
                bad(format!(
                    "Failed to find metric configuration for provider: Microsoft.ContainerInstance, resource Type: \
                     containerGroups, metric: {shown}, Valid metrics: {}",
                    valid.join(",")
                ))
            })?;
            if !metrics.contains(&metric) {
                metrics.push(metric);
            }
        }
        let aggregation = |name: &str| {
            let known = Aggregation::ALL.into_iter();
            let mut known = known.filter(|(own, _)| own.eq_ignore_ascii_case(name));
            known.next().ok_or_else(|| {
                bad("The aggregation is invalid; it is one of Average, Minimum, Maximum, Total and Count.")
            })
        };
        let mut aggregations = Vec::new();
        for name in listed(get("aggregation").unwrap_or("average")) {
            let found = aggregation(&name)?;
            if !aggregations.contains(&found) {
                aggregations.push(found);
            }
        }
        let (from, to) = timespan(get("timespan").unwrap_or("PT1H"), now)?;
        let mut interval = ("PT1M", 60);
        let mut whole = false;
        if let Some(text) = get("interval") {
            if text.eq_ignore_ascii_case("FULL") {
                whole = true;
            } else {
                let wanted = duration(&text.to_uppercase()).map(|d| d.as_secs());
                interval = INTERVALS
                    .into_iter()
                    .find(|(_, seconds)| Some(*seconds) == wanted)
                    .ok_or_else(|| {
                        let names: Vec<_> = INTERVALS.iter().map(|(name, _)| *name).collect();
                        bad(format!(
                            "Detected invalid time grain input: {}. Valid time grains are: {},FULL.",
                            text.chars().take(40).collect::<String>(),
                            names.join(",")
                        ))
                    })?;
            }
        }
        if whole {
            interval = ("FULL", to.since(from).as_secs().div_ceil(60).max(1) * 60);
        }
        if to.since(from).as_secs() / interval.1 > MOST_POINTS {
            return Err(bad(format!(
                "The timespan has more than {MOST_POINTS} intervals; ask for a longer interval."
            )));
        }
        let top = match get("top") {
            None => TOP,
            Some(text) => match text.parse() {
                Ok(number) if number > 0 => number,
                _ => return Err(bad("'top' has to be a whole number from 1 on.")),
            },
        };
        let order = match get("orderby") {
            None => None,
            Some(text) => {
                let (name, direction) = text.split_once(' ').unwrap_or((text, "desc"));
                let direction = direction.trim();
                if !["asc", "desc"]
                    .iter()
                    .any(|d| d.eq_ignore_ascii_case(direction))
                {
                    return Err(bad("'orderby' has to end with 'asc' or 'desc'."));
                }
                Some((aggregation(name)?.1, direction.eq_ignore_ascii_case("asc")))
            }
        };
        let metadata_only = get("resulttype").is_some_and(|r| r.eq_ignore_ascii_case("metadata"));
        Ok(Self {
            metrics,
            aggregations,
            from,
            to,
            interval,
            filter: get("$filter").map_or(Ok(Filter::Together), filter)?,
            top,
            order,
            metadata_only,
        })
    }

    /// Answers it for a resource.
    pub(super) fn answer(&self, measured: &Measured, resource: &str, region: &str) -> Value {
        // Buckets begin at whole minutes, long ones at whole hours.
        let grain = if self.interval.1.is_multiple_of(3_600) {
            3_600
        } else {
            60
        };
        let floor = |time: Timestamp| {
            let seconds = time.since(Timestamp::EPOCH).as_secs();
            Timestamp::from_secs(seconds - seconds % grain)
        };
        let (from, to) = (floor(self.from), self.to);
        let value: Vec<Value> = self
            .metrics
            .iter()
            .map(|metric| {
                json!({
                    "id": format!("{resource}/providers/Microsoft.Insights/metrics/{}", metric.name()),
                    "type": "Microsoft.Insights/metrics",
                    "name": {"value": metric.name(), "localizedValue": metric.title()},
                    "displayDescription": metric.description(),
                    "unit": metric.unit(),
                    "timeseries": self.timeseries(measured, *metric, from, to),
                    "errorCode": "Success",
                })
            })
            .collect();
        let points = to.since(from).as_secs().div_ceil(self.interval.1);
        json!({
            "cost": points.saturating_mul(u64::try_from(self.metrics.len()).unwrap_or(1)),
            "timespan": format!("{}/{}", shown(from), shown(to)),
            "interval": self.interval.0,
            "namespace": NAMESPACE,
            "resourceregion": region,
            "value": value,
        })
    }

    fn timeseries(
        &self,
        measured: &Measured,
        metric: Metric,
        from: Timestamp,
        to: Timestamp,
    ) -> Vec<Value> {
        let all = measured.series(metric);
        let mut chosen: Vec<(Option<&str>, Vec<&Series>)> = match &self.filter {
            _ if !metric.of_containers() => vec![(None, all.into_iter().map(|(_, s)| s).collect())],
            Filter::Together => vec![(None, all.into_iter().map(|(_, s)| s).collect())],
            Filter::Each => all.into_iter().map(|(name, s)| (name, vec![s])).collect(),
            Filter::These(names) => all
                .into_iter()
                .filter(|(name, _)| {
                    name.is_some_and(|n| names.iter().any(|own| own.eq_ignore_ascii_case(n)))
                })
                .map(|(name, s)| (name, vec![s]))
                .collect(),
        };
        if let Some((aggregation, ascending)) = self.order {
            let key = |series: &[&Series]| {
                let whole = merged(series, from, to);
                whole.map_or(f64::NEG_INFINITY, |b| aggregation.of(&b))
            };
            chosen.sort_by(|(_, a), (_, b)| {
                let order = key(a).total_cmp(&key(b));
                if ascending { order } else { order.reverse() }
            });
        }
        chosen.truncate(self.top);
        chosen
            .into_iter()
            .map(|(container, series)| {
                let metadata: Vec<Value> = container
                    .map(|name| {
                        json!({"name": {"value": "containername", "localizedValue": "containername"}, "value": name})
                    })
                    .into_iter()
                    .collect();
                let mut one = json!({"metadatavalues": metadata});
                if !self.metadata_only {
                    one["data"] = self.points(&series, from, to);
                }
                one
            })
            .collect()
    }

    fn points(&self, series: &[&Series], from: Timestamp, to: Timestamp) -> Value {
        let step = Duration::from_secs(self.interval.1);
        let mut points = Vec::new();
        let mut at = from;
        while at < to {
            let mut point = Map::new();
            point.insert("timeStamp".to_owned(), json!(shown(at)));
            // An interval without measurements has its time only.
            if let Some(bucket) = merged(series, at, at + step) {
                for (name, aggregation) in &self.aggregations {
                    point.insert((*name).to_owned(), json!(aggregation.of(&bucket)));
                }
            }
            points.push(Value::Object(point));
            at = at + step;
        }
        Value::Array(points)
    }
}

fn merged(series: &[&Series], from: Timestamp, to: Timestamp) -> Option<Bucket> {
    series
        .iter()
        .filter_map(|s| s.between(from, to))
        .reduce(Bucket::merge)
}

/// A time to the second.
fn shown(time: Timestamp) -> String {
    Timestamp::from_secs(time.since(Timestamp::EPOCH).as_secs()).to_string()
}

/// What can be asked for.
pub(super) fn definitions(resource: &str) -> Value {
    let value: Vec<Value> = Metric::ALL
        .into_iter()
        .map(|metric| {
            let availabilities: Vec<Value> = INTERVALS
                .iter()
                .map(|(grain, _)| json!({"timeGrain": grain, "retention": "P30D"}))
                .collect();
            let mut definition = json!({
                "id": format!("{resource}/providers/Microsoft.Insights/metricdefinitions/{}", metric.name()),
                "resourceId": resource,
                "namespace": NAMESPACE,
                "category": "",
                "name": {"value": metric.name(), "localizedValue": metric.title()},
                "displayDescription": metric.description(),
                "isDimensionRequired": false,
                "unit": metric.unit(),
                "primaryAggregationType": "Average",
                "supportedAggregationTypes": ["Average", "Minimum", "Maximum", "Total", "Count"],
                "metricAvailabilities": availabilities,
            });
            if metric.of_containers() {
                definition["dimensions"] =
                    json!([{"value": "containerName", "localizedValue": "containerName"}]);
            }
            definition
        })
        .collect();
    json!({ "value": value })
}

#[cfg(test)]
mod tests {
    use aci_core::contract::{ContainerStats, SandboxStats};
    use aci_core::id::SandboxId;
    use proptest::prelude::*;

    use super::*;

    /// A whole hour.
    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn read(parameters: &[(&str, &str)]) -> ArmResult<Query> {
        let own = |(n, v): &(&str, &str)| ((*n).to_owned(), (*v).to_owned());
        Query::read(&parameters.iter().map(own).collect(), NOW)
    }

    /// Two containers over ten minutes, a measurement a minute: 100 and 300 bytes.
    fn measured() -> Measured {
        let mut measured = Measured::default();
        let sandbox = SandboxId::generate("g");
        for minute in 0..10 {
            let container = |name: &str, memory_bytes| ContainerStats {
                name: name.to_owned(),
                cpu: Duration::from_secs(minute * 30),
                memory_bytes,
                ..Default::default()
            };
            let stats = SandboxStats {
                at: NOW - Duration::from_secs(600 - minute * 60),
                containers: vec![container("a", 100), container("b", 300)],
                network: None,
            };
            measured.take(&sandbox, stats);
        }
        measured
    }

    fn series(parameters: &[(&str, &str)]) -> Value {
        let answer = read(parameters).unwrap().answer(&measured(), "/r", "local");
        answer["value"][0]["timeseries"].clone()
    }

    #[test]
    fn the_defaults_are_azures() {
        let query = read(&[]).unwrap();
        let answer = query.answer(&measured(), "/r", "local");
        assert_eq!(
            answer["timespan"],
            "2027-01-15T07:00:00Z/2027-01-15T08:00:00Z"
        );
        assert_eq!(answer["interval"], "PT1M");
        let metric = &answer["value"][0];
        assert_eq!(metric["name"]["value"], "CpuUsage");
        assert_eq!(
            metric["id"],
            "/r/providers/Microsoft.Insights/metrics/CpuUsage"
        );
        let data = metric["timeseries"][0]["data"].as_array().unwrap();
        assert_eq!(data.len(), 60);
        assert_eq!(data[0], json!({"timeStamp": "2027-01-15T07:00:00Z"}));
        assert_eq!(
            data[59],
            json!({"timeStamp": "2027-01-15T07:59:00Z", "average": 500.0})
        );
    }

    #[test]
    fn containers_are_together_or_apart() {
        let asked = [
            ("metricnames", "memoryusage"),
            ("timespan", "PT10M"),
            ("interval", "PT5M"),
        ];
        let together = series(
            &[
                &asked[..],
                &[("aggregation", "Average,Maximum,total,Count")],
            ]
            .concat(),
        );
        let point = json!({"timeStamp": "2027-01-15T07:50:00Z", "average": 200.0, "maximum": 300.0,
                           "total": 2000.0, "count": 10.0});
        assert_eq!(together[0]["data"][0], point);
        assert_eq!(together.as_array().unwrap().len(), 1);
        let apart = series(
            &[
                &asked[..],
                &[
                    ("$filter", "ContainerName eq '*'"),
                    ("orderby", "average desc"),
                ],
            ]
            .concat(),
        );
        let names: Vec<_> = apart
            .as_array()
            .unwrap()
            .iter()
            .map(|s| &s["metadatavalues"][0]["value"])
            .collect();
        assert_eq!(names, ["b", "a"]);
        assert_eq!(apart[1]["data"][0]["average"], 100.0);
        let one = series(
            &[
                &asked[..],
                &[("$filter", "containername eq 'A' or containerName eq 'x'")],
            ]
            .concat(),
        );
        assert_eq!(one.as_array().unwrap().len(), 1);
        assert_eq!(
            one[0]["metadatavalues"][0]["name"]["value"],
            "containername"
        );
        let first = series(
            &[
                &asked[..],
                &[("$filter", "containerName eq '*'"), ("top", "1")],
            ]
            .concat(),
        );
        assert_eq!(first.as_array().unwrap().len(), 1);
        let names_only = series(&[&asked[..], &[("resultType", "Metadata")]].concat());
        assert!(
            names_only[0].get("data").is_some(),
            "names are looked up in lower case"
        );
        let names_only = series(&[&asked[..], &[("resulttype", "Metadata")]].concat());
        assert!(names_only[0].get("data").is_none());
    }

    #[test]
    fn times_are_read_as_clients_write_them() {
        for (text, from, to) in [
            ("2027-01-15T07:00:00Z/2027-01-15T08:00:00Z", 3_600, 0),
            ("2027-01-15T07:00:00/2027-01-15T08:00:00", 3_600, 0),
            ("2027-01-15T07:00:00.123Z/PT30M", 3_600, 1_800),
            ("PT2H/2027-01-15T08:00:00Z", 7_200, 0),
            ("P1D", 86_400, 0),
            // The Azure CLI encodes it once too often.
            (
                "2027-01-15T07%3A00%3A00%2F2027-01-15T08%3A00%3A00",
                3_600,
                0,
            ),
        ] {
            let query = read(&[("timespan", text)]).unwrap();
            let ago = |time: Timestamp| (NOW.since(time).as_secs_f64()).round();
            assert_eq!(
                (ago(query.from), ago(query.to)),
                (f64::from(from), f64::from(to)),
                "{text}"
            );
        }
        let whole = series(&[
            ("interval", "FULL"),
            ("timespan", "PT10M"),
            ("metricnames", "MemoryUsage"),
        ]);
        assert_eq!(whole[0]["data"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (name, value) in [
            ("metricnames", "DiskUsage"),
            ("aggregation", "median"),
            ("timespan", "yesterday"),
            ("timespan", "2027-01-15T08:00:00Z/2027-01-15T07:00:00Z"),
            ("timespan", "1971-01-01T00:00:00Z/2027-01-15T07:00:00Z"),
            ("interval", "PT2M"),
            ("top", "0"),
            ("orderby", "average sideways"),
            ("$filter", "containerName ne 'a'"),
            ("$filter", "containerName eq 'a"),
            ("$filter", "other eq 'a'"),
            ("metricnamespace", "Microsoft.Compute"),
        ] {
            let error = read(&[(name, value)]).unwrap_err();
            assert_eq!(
                (error.status().as_u16(), error.code()),
                (400, "BadRequest"),
                "{name}={value}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(name in 0usize..8, value in ".{0,60}") {
            let name = ["metricnames", "aggregation", "timespan", "interval", "top", "orderby", "$filter",
                        "metricnamespace"][name];
            if let Ok(query) = read(&[(name, &value)]) {
                let answer = query.answer(&measured(), "/r", "local");
                prop_assert!(answer["value"].is_array());
            }
        }
    }
}
