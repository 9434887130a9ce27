//! `cargo xtask chart`: renders the chart by Helm's own engine, writes what is made of it, and holds it against what it
//! must be.
//!
//! Written are the manifests of `deploy/`, the rules for Prometheus and the chart's list of values; with `--check` a
//! file that would change is a finding. In either case the chart is linted, every object is held against Kubernetes'
//! schemas, values that must be refused are tried, values of the original's chart must give its names and selectors,
//! every flag that a manifest passes must be one that the daemons know, and roles must allow what the exporter asks for.

mod arguments;
mod cases;
mod engine;
mod queries;
mod roles;
mod upgrade;
mod values;
mod written;

use std::path::Path;

use anyhow::{Result, bail};

use crate::chart::cases::Cases;
use crate::chart::engine::{Answer, Engine};
use crate::workspace::Workspace;

/// The chart's folder, from the workspace's root.
const CHART: &str = "charts/egressd";

/// How the chart is tried.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write nothing; what is out of date is a finding
    #[arg(long)]
    check: bool,
}

/// As `cargo xtask test` tries it.
pub(crate) const CHECK: Args = Args { check: true };

/// Renders, writes and checks.
///
/// # Errors
///
/// When there is a finding, each of which is printed, or something cannot be read, written or run.
pub(crate) fn run(args: &Args, workspace: &Workspace) -> Result<()> {
    let root = &workspace.root;
    let engine = Engine::ready(root, &workspace.target)?;
    let cases = Cases::read(root)?;
    let answer = engine.ask(&root.join(CHART), &cases)?;
    let mut findings = answer.faults();
    if findings.is_empty() {
        findings.extend(written::bring_up_to_date(root, &cases, &answer, args.check)?);
        findings.extend(upgrade::check(&cases, &answer));
        findings.extend(arguments::check(root, &answer)?);
        findings.extend(roles::check(root, &answer)?);
        findings.extend(version(workspace, &answer)?);
        findings.extend(queries::check(root, &workspace.target)?);
    }
    findings.extend(refusals(&cases, &answer));
    findings.extend(unsaid(&cases, &answer));
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => Ok(()),
        count => bail!("the chart has {count} findings"),
    }
}

/// Values that must be refused, each with a message that names the key.
fn refusals(cases: &Cases, answer: &Answer) -> Vec<String> {
    let mut findings = Vec::new();
    for refused in &cases.refused {
        match answer.error(&refused.name) {
            Some(error) if error.contains(&refused.says) => {}
            Some(error) => findings.push(format!(
                "{}: refused without saying {:?}: {}",
                refused.values,
                refused.says,
                error.replace('\n', " ")
            )),
            None => findings.push(format!("{}: accepted, and should not be", refused.values)),
        }
    }
    findings
}

/// What is rendered of values must say this, and not that: what is worked out of several values, and warnings.
fn unsaid(cases: &Cases, answer: &Answer) -> Vec<String> {
    let mut findings = Vec::new();
    for said in &cases.said {
        let rendered: String = answer.files(&said.name).map(|(_, content)| content).collect();
        let missing = said.says.iter().filter(|words| !rendered.contains(*words));
        findings.extend(missing.map(|words| format!("{}: not rendered: {words}", said.values)));
        let unwanted = said.says_not.iter().filter(|words| rendered.contains(*words));
        findings
            .extend(unwanted.map(|words| format!("{}: rendered, and should not be: {words}", said.values)));
    }
    findings
}

/// The tag of the images unless values say otherwise is the daemons' version.
fn version(workspace: &Workspace, answer: &Answer) -> Result<Option<String>> {
    let (chart, version) = (answer.app_version(), workspace.version()?);
    Ok((chart != version)
        .then(|| format!("{CHART}/Chart.yaml: appVersion is {chart}, and the workspace's version {version}")))
}

/// Packs the chart into `folder`, as `helm install` takes it.
///
/// # Errors
///
/// When the engine cannot be installed or does not pack it.
pub(crate) fn package(workspace: &Workspace, folder: &Path) -> Result<()> {
    Engine::ready(&workspace.root, &workspace.target)?.package(&workspace.root.join(CHART), folder)
}
