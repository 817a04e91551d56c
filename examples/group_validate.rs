//! Checks documents: container groups and profiles in YAML or JSON, replies of the service, and
//! deployment templates.
//!
//! ```text
//! cargo run --release --example group_validate -- FILE... [--parameters FILE] [--strict] [--json]
//! ```
//!
//! Prints a line a group, `FILE: NAME: 2 containers, 1.5 CPU, 2 GB`, and every problem as
//! `FILE:LINE:COLUMN: MESSAGE (CODE)`. Exits with 0 if all is well, with 1 on any problem (with
//! `--strict` on any warning too), with 2 on wrong usage.
//!
//! `--json` prints one object instead:
//!
//! ```json
//! { "valid": false,
//!   "documents": [ {
//!     "file": "web.yaml", "valid": false,
//!     "groups": [ { "name": "web", "kind": "group", "containers": 2, "initContainers": 0,
//!                   "cpu": 1.5, "memoryInGB": 2.0, "gpus": 0 } ],
//!     "problems": [ { "code": "InvalidOsType", "message": "...", "path": "properties.osType",
//!                     "line": 4, "column": 11 } ],
//!     "warnings": [] } ] }
//! ```
//!
//! `kind` is `group` or `profile`. A group without sound requests has no `cpu`, `memoryInGB` and `gpus`; a problem whose place is
//! not known has no `line` and `column`.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use aci_core::document::{self, Format, Kind};
use aci_core::error::{Error, Problem};
use aci_core::model::{Container, ContainerGroup, ContainerGroupProfile};
use aci_core::size::GroupSize;
use aci_core::template::{EvaluationContext, Parameters, Template, TemplateError};
use aci_core::validate::{Report, Rules, validate, validate_document, validate_profile};
use clap::Parser;
use serde_json::{Value, json};

/// Checks documents of container groups: YAML, JSON and deployment templates.
#[derive(Debug, Parser)]
#[command(name = "group_validate", version)]
struct Arguments {
    /// The documents.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Values for the parameters of templates, as a JSON file.
    #[arg(long, value_name = "FILE")]
    parameters: Option<PathBuf>,
    /// Count warnings as problems.
    #[arg(long)]
    strict: bool,
    /// Print one JSON object, for programs.
    #[arg(long)]
    json: bool,
}

/// A container group or a profile in short.
struct Summary {
    name: String,
    kind: &'static str,
    containers: usize,
    init_containers: usize,
    size: Option<GroupSize>,
}

impl Summary {
    fn of_group(group: &ContainerGroup) -> Self {
        Self::new(
            "group",
            &group.name,
            &group.properties.containers,
            group.properties.init_containers.len(),
        )
    }

    fn of_profile(profile: &ContainerGroupProfile) -> Self {
        let properties = &profile.properties;
        Self::new(
            "profile",
            &profile.name,
            &properties.containers,
            properties.init_containers.len(),
        )
    }

    fn new(
        kind: &'static str,
        name: &str,
        containers: &[Container],
        init_containers: usize,
    ) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            containers: containers.len(),
            init_containers,
            size: GroupSize::of_containers(containers).ok(),
        }
    }
}

/// What was found in one file.
struct Found {
    file: String,
    groups: Vec<Summary>,
    report: Report,
}

impl Found {
    fn is_valid(&self, strict: bool) -> bool {
        self.report.is_valid() && (!strict || self.report.warnings.is_empty())
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let parameters = match arguments.parameters.as_deref().map(read_parameters) {
        None => Parameters::new(),
        Some(Ok(parameters)) => parameters,
        Some(Err(found)) => return finish(&arguments, &[found]),
    };
    let found: Vec<Found> = arguments
        .files
        .iter()
        .map(|file| check(file, &parameters))
        .collect();
    finish(&arguments, &found)
}

/// Prints what was found and says how it went.
fn finish(arguments: &Arguments, found: &[Found]) -> ExitCode {
    let valid = found.iter().all(|found| found.is_valid(arguments.strict));
    let text = if arguments.json {
        let documents: Vec<Value> = found.iter().map(|f| as_json(f, arguments.strict)).collect();
        format!("{:#}\n", json!({ "valid": valid, "documents": documents }))
    } else {
        found.iter().map(as_text).collect()
    };
    // A reader that has seen enough, such as `head`, is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::from(u8::from(!valid))
}

fn read_parameters(file: &Path) -> Result<Parameters, Found> {
    let failed = |report| Found {
        file: file.display().to_string(),
        groups: Vec::new(),
        report,
    };
    let text = read(file).map_err(&failed)?;
    Parameters::from_json(&text).map_err(|error| failed(template_failed(&error)))
}

/// The text of a file.
fn read(file: &Path) -> Result<String, Report> {
    let bytes = std::fs::read(file).map_err(|error| {
        let message = format!("The file cannot be read: {error}.");
        refused(vec![Problem::new("CannotRead", "", message)])
    })?;
    document::decode(&bytes).map_err(|error| failed(&error))
}

fn refused(problems: Vec<Problem>) -> Report {
    Report {
        problems,
        ..Report::default()
    }
}

fn failed(error: &Error) -> Report {
    match error.problems() {
        [] => refused(vec![Problem::new(
            error.aci_code().unwrap_or("InvalidRequestContent"),
            "",
            error.message(),
        )]),
        problems => refused(problems.to_vec()),
    }
}

fn template_failed(error: &TemplateError) -> Report {
    refused(vec![Problem::from(error)])
}

fn check(file: &Path, parameters: &Parameters) -> Found {
    let (groups, mut report) = match read(file) {
        Ok(text) => check_text(&text, Format::of_path(file), parameters),
        Err(report) => (Vec::new(), report),
    };
    // In the order of the text.
    report
        .problems
        .sort_by_key(|problem| (problem.line, problem.column));
    report
        .warnings
        .sort_by_key(|warning| (warning.line, warning.column));
    Found {
        file: file.display().to_string(),
        groups,
        report,
    }
}

fn check_text(
    text: &str,
    format: Option<Format>,
    parameters: &Parameters,
) -> (Vec<Summary>, Report) {
    let format = format.unwrap_or_else(|| Format::of_text(text));
    // Templates may have comments and strings over several lines, which JSON does not.
    let template = Template::parse(text);
    let node = match (document::parse(text, format), &template) {
        (Ok(node), _) => Some(node),
        (Err(_), Ok(_)) => None,
        (Err(error), Err(_)) => return (Vec::new(), failed(&error)),
    };
    match node.as_ref().map_or(Kind::Template, Kind::of) {
        Kind::Template => match template {
            Ok(template) => check_template(&template, parameters),
            Err(error) => (Vec::new(), template_failed(&error)),
        },
        _ => {
            let reading = document::inspect(text, format);
            let rules = Rules::default();
            let mut report = validate_document(&reading, &rules);
            if reading.problems.is_empty() {
                for profile in &reading.document.profiles {
                    let mut found = validate_profile(profile, &rules);
                    reading.document.places.locate(&mut found.problems);
                    reading.document.places.locate(&mut found.warnings);
                    report.append(found);
                }
            }
            let document = &reading.document;
            let groups = document.groups.iter().map(Summary::of_group);
            let profiles = document.profiles.iter().map(Summary::of_profile);
            (groups.chain(profiles).collect(), report)
        }
    }
}

fn check_template(template: &Template, parameters: &Parameters) -> (Vec<Summary>, Report) {
    let context = EvaluationContext::new(SystemTime::now())
        .resource_group("local", "local")
        .parameters(parameters.clone());
    let evaluated = match template.evaluate(&context) {
        Ok(evaluated) => evaluated,
        Err(error) => return (Vec::new(), template_failed(&error)),
    };
    let (mut groups, mut report) = (Vec::new(), Report::default());
    for resource in evaluated.of_type(ContainerGroup::RESOURCE_TYPE) {
        let reading = evaluated.read(resource);
        // A value that only the running deployment knows, such as a storage account's key, is no
        // mistake of the template.
        let waits = |problem: &Problem| resource.pending.iter().any(|p| p.path == problem.path);
        let (waiting, problems) = reading.problems.into_iter().partition::<Vec<_>, _>(waits);
        let mut of_resource = Report::default();
        for group in reading.document.groups {
            of_resource.append(validate(&group, &Rules::default()));
            groups.push(Summary::of_group(&group));
        }
        evaluated.locate(resource, &mut of_resource.problems);
        evaluated.locate(resource, &mut of_resource.warnings);
        let unknown = |p: &Problem| resource.pending.iter().any(|w| p.path.starts_with(&w.path));
        of_resource.problems.retain(|problem| !unknown(problem));
        let warnings = waiting
            .into_iter()
            .chain(reading.document.warnings)
            .collect();
        report.append(of_resource.after(problems, warnings));
    }
    (groups, report)
}

fn as_text(found: &Found) -> String {
    let mut text = String::new();
    let file = &found.file;
    let report = &found.report;
    let all = report.problems.iter().map(|p| ("", p));
    let all = all.chain(report.warnings.iter().map(|p| ("warning: ", p)));
    for (kind, problem) in all {
        let place = match (problem.line, problem.column) {
            (Some(line), column) => format!("{line}:{}: ", column.unwrap_or(1)),
            (None, _) if problem.path.is_empty() => " ".to_owned(),
            (None, _) => format!(" {}: ", problem.path),
        };
        let _ = writeln!(
            text,
            "{file}:{place}{kind}{} ({})",
            problem.message, problem.code
        );
    }
    if report.is_valid() {
        for group in &found.groups {
            let _ = writeln!(text, "{file}: {}", in_one_line(group));
        }
        if found.groups.is_empty() {
            let _ = writeln!(text, "{file}: valid, without container groups");
        }
    }
    text
}

/// A group in one line.
fn in_one_line(group: &Summary) -> String {
    let name = if group.name.is_empty() {
        "(no name)"
    } else {
        &group.name
    };
    let kind = if group.kind == "profile" {
        " (profile)"
    } else {
        ""
    };
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let mut line = format!("{name}{kind}: {}", count(group.containers, "container"));
    if group.init_containers > 0 {
        let _ = write!(line, ", {}", count(group.init_containers, "init container"));
    }
    if let Some(size) = &group.size {
        let _ = write!(line, ", {} CPU, {} GB", size.total.cpu, size.total.memory);
        if size.total.gpu_count() > 0 {
            let _ = write!(line, ", {}", count(size.total.gpu_count() as usize, "GPU"));
        }
    }
    line
}

fn as_json(found: &Found, strict: bool) -> Value {
    let groups = found.groups.iter().map(|group| {
        let mut value = json!({
            "name": group.name,
            "kind": group.kind,
            "containers": group.containers,
            "initContainers": group.init_containers,
        });
        if let Some(size) = &group.size {
            value["cpu"] = json!(size.total.cpu.cores());
            value["memoryInGB"] = json!(size.total.memory.gb());
            value["gpus"] = json!(size.total.gpu_count());
        }
        value
    });
    json!({
        "file": found.file,
        "valid": found.is_valid(strict),
        "groups": groups.collect::<Vec<_>>(),
        "problems": found.report.problems,
        "warnings": found.report.warnings,
    })
}
