//! Helm's own engine, in a Python environment: what is to be rendered goes in, what came of it comes out.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::chart::cases::Cases;
use crate::{process, python};

/// What is installed, from the workspace's root.
const REQUIREMENTS: &str = "xtask/chart-requirements.txt";
/// The half that speaks to Helm, from the workspace's root.
const PROGRAM: &str = "xtask/src/chart/engine.py";
/// Releases of Kubernetes whose schemas every object must fit: the oldest that the chart takes, the newest known here,
/// and some between them.
const VERSIONS: [&str; 5] = ["1.25", "1.28", "1.31", "1.34", "1.37"];
/// Lint's severities from here on are faults; below are remarks such as that a chart may have an icon.
const WARNING: u64 = 2;

/// Ready to run.
#[derive(Debug)]
pub(super) struct Engine {
    python: PathBuf,
    program: PathBuf,
}

impl Engine {
    /// Installs it below `target`, unless the same was installed before.
    ///
    /// # Errors
    ///
    /// When it cannot be installed; the message says what to do.
    pub(super) fn ready(root: &Path, target: &Path) -> Result<Self> {
        let home = target.join("chart");
        python::ready(&home, &root.join(REQUIREMENTS))
            .context("Helm's engine renders the chart and cannot be installed")?;
        Ok(Self { python: home.join("bin/python"), program: root.join(PROGRAM) })
    }

    /// Renders every case of `chart`, lints it, and holds the objects against the schemas.
    ///
    /// # Errors
    ///
    /// When the engine fails as a whole, such as at a chart that cannot be loaded.
    pub(super) fn ask(&self, chart: &Path, cases: &Cases) -> Result<Answer> {
        let renders: Vec<Value> = cases.all().collect();
        self.speak(&json!({
            "chart": chart, "versions": VERSIONS, "renders": renders, "manifests": cases.captures,
        }))
        .map(Answer)
    }

    /// Packs `chart` into `folder`.
    ///
    /// # Errors
    ///
    /// When Helm refuses to.
    pub(super) fn package(&self, chart: &Path, folder: &Path) -> Result<()> {
        self.speak(&json!({"chart": chart, "package": folder})).map(drop)
    }

    fn speak(&self, request: &Value) -> Result<Value> {
        let mut command = process::clean(&self.python);
        command.arg(&self.program).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("start Helm's engine")?;
        let mut input = child.stdin.take().context("speak to Helm's engine")?;
        input.write_all(request.to_string().as_bytes()).context("speak to Helm's engine")?;
        drop(input);
        let output = child.wait_with_output().context("listen to Helm's engine")?;
        if !output.status.success() {
            bail!("Helm's engine ended with {}", output.status);
        }
        serde_json::from_slice(&output.stdout).context("understand Helm's engine")
    }
}

/// What the engine said.
#[derive(Debug)]
pub(super) struct Answer(Value);

impl Answer {
    /// Warnings of lint, cases that must render and do not, and objects that Kubernetes would refuse.
    pub(super) fn faults(&self) -> Vec<String> {
        let of_cases = self.renders().flat_map(|(_, render)| list(&render["lint"]));
        let lint = list(&self.0["lint"])
            .chain(of_cases)
            .filter(|message| message["severity"].as_u64().is_none_or(|severity| severity >= WARNING))
            .map(|message| format!("lint: {}: {}", text(&message["path"]), text(&message["error"])));
        let broken = self
            .renders()
            .filter(|(name, render)| !Cases::is_refused(name) && render.get("error").is_some())
            .map(|(name, render)| format!("{name}: does not render: {}", text(&render["error"])));
        let invalid = list(&self.0["invalid"]).map(|problem| {
            format!(
                "{}: {} is not of Kubernetes {}: {}",
                text(&problem["render"]),
                text(&problem["object"]),
                text(&problem["version"]),
                text(&problem["problem"])
            )
        });
        let all: BTreeSet<String> = lint.chain(broken).chain(invalid).collect();
        all.into_iter().collect()
    }

    /// Why a case did not render.
    pub(super) fn error(&self, case: &str) -> Option<&str> {
        self.0["renders"][case]["error"].as_str()
    }

    /// Each case with its name.
    pub(super) fn renders(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0["renders"].as_object().into_iter().flatten().map(|(name, render)| (name.as_str(), render))
    }

    /// The rendered files of a case by path, notes and tests among them.
    pub(super) fn files(&self, case: &str) -> impl Iterator<Item = (&str, &str)> {
        let files = self.0["renders"][case]["files"].as_object();
        files.into_iter().flatten().map(|(path, content)| (path.as_str(), text(content)))
    }

    /// The objects of a case.
    pub(super) fn objects(&self, case: &str) -> impl Iterator<Item = &Value> {
        list(&self.0["renders"][case]["objects"])
    }

    /// The objects of a manifest that was given to the engine beside the cases.
    pub(super) fn capture(&self, name: &str) -> impl Iterator<Item = &Value> {
        list(&self.0["manifests"][name])
    }

    /// The chart's values where nobody gives any.
    pub(super) fn defaults(&self) -> &Value {
        &self.0["defaults"]
    }

    /// The version of what the chart installs.
    pub(super) fn app_version(&self) -> &str {
        text(&self.0["appVersion"])
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Goal: a chart with a warning, a field that Kubernetes does not know and a template that fails is found out; so
    /// the silence about ours says something.
    #[test]
    fn faults_of_a_chart_are_found() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap();
        let chart = std::env::temp_dir().join(format!("xtask-chart-{}", std::process::id()));
        fs::create_dir_all(chart.join("templates")).unwrap();
        fs::write(chart.join("Chart.yaml"), "{apiVersion: v2, name: other, version: 1.0.0}").unwrap();
        fs::write(chart.join("values.yaml"), "fails: false").unwrap();
        let service = "{apiVersion: v1, kind: Service, metadata: {name: Not_a_name}, spec: {porst: []}}";
        let fails = "{{ if .Values.fails }}{{ fail \"as asked\" }}{{ end }}";
        fs::write(chart.join("templates/service.yaml"), format!("{fails}{service}")).unwrap();
        let engine = Engine::ready(&root, &root.join("target")).unwrap();
        let cases = Cases::of(&[("plain", ""), ("failing", "fails: true")]);
        let answer = engine.ask(&chart, &cases).unwrap();
        fs::remove_dir_all(&chart).unwrap();

        let faults = answer.faults();
        let finds = |what: &str| faults.iter().any(|fault| fault.contains(what));
        assert!(finds("object name does not conform"), "{faults:?}");
        assert!(finds("failing: does not render") && finds("as asked"), "{faults:?}");
        for version in VERSIONS {
            assert!(
                finds(&format!("plain: Service/Not_a_name is not of Kubernetes {version}")),
                "{faults:?}"
            );
        }
    }
}
