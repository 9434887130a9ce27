//! The protobuf contracts, by buf: its rules of style, and that peers of the last release still understand us.
//!
//! `proto/buf.yaml` states the rules and each exception with its reason. buf lives in a Python environment.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Finding;
use crate::{process, python};

/// Where the contracts are, their rules and the last release's image with them.
const CONTRACTS: &str = "proto";
/// The contracts as of the last release; `proto/buf.yaml` says how it is made.
const BASELINE: &str = "proto/baseline.binpb";
/// What is installed, from the workspace's root.
const REQUIREMENTS: &str = "xtask/buf-requirements.txt";
/// buf's exit code when it has findings.
const FINDINGS: i32 = 100;

/// buf, ready to run.
#[derive(Debug)]
pub(super) struct Buf {
    home: PathBuf,
}

impl Buf {
    /// Installs it below `target`, unless the same was installed before.
    ///
    /// # Errors
    ///
    /// When it cannot be installed; the message says what to do.
    pub(super) fn ready(root: &Path, target: &Path) -> Result<Self> {
        let buf = Self { home: target.join("buf") };
        python::ready(&buf.home, &root.join(REQUIREMENTS))
            .context("buf checks the contracts and cannot be installed")?;
        Ok(buf)
    }

    /// What is wrong with the contracts below `root`.
    ///
    /// # Errors
    ///
    /// When buf fails for another reason than a finding, or answers in a shape unknown here.
    pub(super) fn check(&self, root: &Path) -> Result<Vec<Finding>> {
        let mut findings = self.run(root, &["lint", CONTRACTS])?;
        findings.extend(self.run(root, &["breaking", CONTRACTS, "--against", BASELINE])?);
        // What does not compile is found by both.
        findings.sort();
        findings.dedup();
        Ok(findings)
    }

    fn run(&self, root: &Path, arguments: &[&str]) -> Result<Vec<Finding>> {
        let mut command = process::clean(self.home.join("bin/buf"));
        command.args(arguments).args(["--error-format", "json"]).current_dir(root);
        command.env("BUF_CACHE_DIR", self.home.join("cache"));
        let output = command.output().context("start buf")?;
        match output.status.code() {
            Some(0) => Ok(Vec::new()),
            Some(FINDINGS) => String::from_utf8(output.stdout)?.lines().map(finding).collect(),
            _ => bail!(
                "`buf {}` ended with {}: {}",
                arguments.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr).trim_end()
            ),
        }
    }
}

/// One line of buf's answer. A file that is gone has neither a path nor a line.
fn finding(line: &str) -> Result<Finding> {
    let answer: Value = serde_json::from_str(line).with_context(|| format!("understand buf's {line:?}"))?;
    let text = |key: &str| answer.get(key).and_then(Value::as_str);
    let (Some(rule), Some(message)) = (text("type"), text("message")) else {
        bail!("buf's {line:?} has no rule or no message")
    };
    let line = answer.get("start_line").and_then(Value::as_u64).and_then(|line| usize::try_from(line).ok());
    Ok(Finding::new(
        text("path").unwrap_or(CONTRACTS),
        line.unwrap_or(1),
        format!("{} ({rule})", message.trim_end_matches('.')),
        remedy(rule),
    ))
}

fn remedy(rule: &str) -> &'static str {
    let breaks = ["_NO_DELETE", "_SAME_"].iter().any(|part| rule.contains(part));
    match rule {
        "COMPILE" => "write what a protobuf compiler reads",
        _ if breaks => "put it back and add what is new: peers of the last release speak the old one",
        _ => "follow the rule, or except it in proto/buf.yaml with a reason",
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A copy of the contracts that a test may spoil, removed at its end.
    struct Copy(PathBuf);

    impl Copy {
        fn of(root: &Path) -> Self {
            let copy = Self(std::env::temp_dir().join(format!("xtask-contracts-{}", std::process::id())));
            for folder in ["egressd/v1", "castai/v1"] {
                let to = copy.0.join(CONTRACTS).join(folder);
                fs::create_dir_all(&to).unwrap();
                for file in fs::read_dir(root.join(CONTRACTS).join(folder)).unwrap() {
                    let file = file.unwrap();
                    fs::copy(file.path(), to.join(file.file_name())).unwrap();
                }
            }
            for file in ["proto/buf.yaml", BASELINE] {
                fs::copy(root.join(file), copy.0.join(file)).unwrap();
            }
            copy
        }
    }

    impl Drop for Copy {
        fn drop(&mut self) {
            let _ignored = fs::remove_dir_all(&self.0);
        }
    }

    /// Goal: the contracts as they are pass, and each kind of harm to them is found where it stands, with a remedy.
    #[test]
    fn a_broken_contract_is_found_where_it_stands() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap();
        let buf = Buf::ready(&root, &root.join("target")).unwrap();
        let copy = Copy::of(&root);
        assert_eq!(buf.check(&copy.0).unwrap(), []);

        let path = "proto/egressd/v1/stream.proto";
        let contract = fs::read_to_string(root.join(path)).unwrap();
        let line_of = |text: &str| 1 + contract.lines().position(|line| line.contains(text)).unwrap();
        let put_back = "put it back and add what is new: peers of the last release speak the old one";
        for (change, to, line, wrong, remedy) in [
            (
                "uint64 taken = 2;",
                "uint64 taken = 9;",
                line_of("message Ack {"),
                "Previously present field \"2\" with name \"taken\" on message \"Ack\" was deleted (FIELD_NO_DELETE)",
                put_back,
            ),
            (
                "bool durable = 2;",
                "uint32 durable = 2;",
                line_of("bool durable = 2;"),
                "Field \"2\" with name \"durable\" on message \"Welcome\" changed type from \"bool\" to \"uint32\" (FIELD_SAME_TYPE)",
                put_back,
            ),
            (
                "uint64 delivered = 3;",
                "uint64 delivered = 3;\n  uint64 Extra = 4;",
                line_of("uint64 delivered = 3;") + 1,
                "Field name \"Extra\" should be lower_snake_case, such as \"extra\" (FIELD_LOWER_SNAKE_CASE)",
                "follow the rule, or except it in proto/buf.yaml with a reason",
            ),
            (
                "uint64 delivered = 3;",
                "uint65 delivered = 3;",
                line_of("uint64 delivered = 3;"),
                "cannot find `uint65` in this scope (COMPILE)",
                "write what a protobuf compiler reads",
            ),
        ] {
            fs::write(copy.0.join(path), contract.replacen(change, to, 1)).unwrap();
            assert_eq!(buf.check(&copy.0).unwrap(), [Finding::new(path, line, wrong, remedy)], "{to}");
        }
    }

    /// Goal: buf that cannot do its work is an error, never a contract with nothing wrong.
    #[test]
    fn a_failure_of_buf_is_no_clean_contract() {
        let error = finding("Failure: no such file").unwrap_err();
        assert_eq!(error.to_string(), "understand buf's \"Failure: no such file\"");
        let error = finding(r#"{"message": "m"}"#).unwrap_err();
        assert_eq!(error.to_string(), r#"buf's "{\"message\": \"m\"}" has no rule or no message"#);
        let absent = Buf { home: PathBuf::from("/nonexistent") };
        assert_eq!(absent.check(Path::new("/")).unwrap_err().to_string(), "start buf");
    }
}
