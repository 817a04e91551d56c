//! Judges what was read from a text, with lines and columns.

use std::collections::BTreeSet;

use crate::document::Reading;
use crate::error::Problem;

use super::{Report, Rules, validate};

impl Report {
    /// Puts what was found while reading in front, and drops what only follows from it: where a
    /// property could not be read, a default stands in for it, and judging that would mislead.
    ///
    /// Paths on both sides must be of the same document.
    #[must_use]
    pub fn after(mut self, problems: Vec<Problem>, warnings: Vec<Problem>) -> Self {
        let unread: BTreeSet<&str> = problems.iter().map(|p| p.path.as_str()).collect();
        let told: BTreeSet<(&str, &str)> = warnings
            .iter()
            .map(|w| (w.path.as_str(), w.message.as_str()))
            .collect();
        let follows = |problem: &Problem| around(&problem.path).any(|path| unread.contains(path));
        self.problems.retain(|problem| !follows(problem));
        self.warnings
            .retain(|w| !follows(w) && !told.contains(&(w.path.as_str(), w.message.as_str())));
        self.problems.splice(..0, problems);
        self.warnings.splice(..0, warnings);
        self
    }

    /// Adds what another report says.
    pub fn append(&mut self, mut other: Self) {
        self.problems.append(&mut other.problems);
        self.warnings.append(&mut other.warnings);
    }
}

/// A path and every path that it goes on from, up to the whole document.
fn around(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| {
        let end = path.rfind(['.', '[']).unwrap_or(0);
        path.get(..end).filter(|_| !path.is_empty())
    })
}

/// Judges every container group of a document: what is wrong with the text and with the groups,
/// all with line and column.
///
/// ```
/// use aci_core::document::{self, Format};
/// use aci_core::validate::{Rules, validate_document};
///
/// let text = "properties:\n  osType: Linux\n  containers:\n  - name: Web\n    properties: {image: nginx}\n";
/// # if cfg!(feature = "yaml") {
/// let report = validate_document(&document::inspect(text, Format::Yaml), &Rules::default());
/// let lines: Vec<_> = report.problems.iter().map(|p| (p.line, p.code.as_str())).collect();
/// assert_eq!(lines, [(Some(4), "InvalidContainerName"), (Some(5), "ResourceRequestsNotSpecified")]);
/// # }
/// ```
#[must_use]
pub fn validate_document(reading: &Reading, rules: &Rules) -> Report {
    let document = &reading.document;
    let mut found = Report::default();
    // The groups of a list have the list in front of their paths; a list has no profiles beside them.
    let is_list = document.places.place("value[0]").is_some() && document.profiles.is_empty();
    for (i, group) in document.groups.iter().enumerate() {
        let mut report = validate(group, rules);
        for problem in report.problems.iter_mut().chain(&mut report.warnings) {
            if is_list {
                problem.path = format!("value[{i}].{}", problem.path);
            }
        }
        document.places.locate(&mut report.problems);
        document.places.locate(&mut report.warnings);
        found.append(report);
    }
    found.after(reading.problems.clone(), document.warnings.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{Format, inspect};

    fn judge(text: &str) -> Vec<String> {
        let report = validate_document(&inspect(text, Format::Json), &Rules::default());
        report.problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn problems_have_their_places() {
        let text = r#"{"properties": {
            "osType": "Linux",
            "containers": [
                {"name": "web", "properties": {"image": "nginx", "resources": {"requests": {"cpu": 1, "memoryInGB": 0.25}}}}
            ]}}"#;
        assert_eq!(
            judge(text),
            [
                "4:117: properties.containers[0].properties.resources.requests.memoryInGB: The memory requirement is \
                 '0.25' in container 'web' of container group '<null>'. The memory requirement should be in increments \
                 of 0.1 GB. (MemoryRequirementNotTimesOfOneTenthGB)"
            ]
        );
    }

    #[test]
    fn what_could_not_be_read_is_not_judged_again() {
        let text = r#"{"properties": {"osType": "Linux", "containers": [
            {"name": [], "properties": {"image": "nginx", "ports": [{"port": 70000}],
             "resources": {"requests": {"cpu": "one", "memoryInGB": 1}}}}]}}"#;
        let problems = judge(text);
        assert_eq!(problems.len(), 3, "{problems:#?}");
        assert!(
            problems
                .iter()
                .all(|p| p.ends_with("(InvalidRequestContent)")),
            "{problems:#?}"
        );
    }

    #[test]
    fn the_groups_of_a_list_are_judged_one_by_one() {
        let text = r#"{"value": [
            {"properties": {"osType": "Linux", "containers": []}},
            {"properties": {"osType": "OS/2", "containers": []}}]}"#;
        let paths: Vec<_> = validate_document(&inspect(text, Format::Json), &Rules::default())
            .problems
            .into_iter()
            .map(|p| (p.line, p.path))
            .collect();
        let path = |path: &str| path.to_owned();
        assert_eq!(
            paths,
            [
                (Some(2), path("value[0].properties.containers")),
                (Some(3), path("value[1].properties.osType")),
                (Some(3), path("value[1].properties.containers")),
            ]
        );
    }

    #[test]
    fn a_path_goes_on_from_others() {
        let paths: Vec<&str> = around("a.b[0].c").collect();
        assert_eq!(paths, ["a.b[0].c", "a.b[0]", "a.b", "a", ""]);
    }

    /// Time in proportion to the document: a quadratic step takes minutes here.
    #[test]
    fn many_problems_are_no_trouble() {
        let containers = vec![r#"{"name":"a"}"#; 20_000].join(",");
        let text = format!(r#"{{"properties":{{"osType":"Linux","containers":[{containers}]}}}}"#);
        let problems = judge(&text);
        // Every container lacks its properties, all but the first have a name that is taken.
        assert_eq!(problems.len(), 20_000 + 1 + 19_999, "{:#?}", &problems[..4]);
    }
}
