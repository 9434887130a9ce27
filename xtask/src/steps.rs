//! Named steps, run in order until one fails, each with its time.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// One step: a name that a reader can search for, and the work.
pub(crate) struct Step<'w> {
    name: &'static str,
    work: Box<dyn Fn() -> Result<()> + 'w>,
}

impl<'w> Step<'w> {
    /// A step of this name that does this work.
    pub(crate) fn new(name: &'static str, work: impl Fn() -> Result<()> + 'w) -> Self {
        Self { name, work: Box::new(work) }
    }
}

/// Runs the steps up to the first that fails, then says on stderr how each ended.
///
/// # Errors
///
/// The first failure, with the step's name.
pub(crate) fn run(steps: &[Step<'_>]) -> Result<()> {
    let (summary, result) = run_each(steps);
    eprint!("\n{summary}");
    result
}

fn run_each(steps: &[Step<'_>]) -> (Summary, Result<()>) {
    let mut summary = Summary(steps.iter().map(|step| (step.name, End::NotRun)).collect());
    for (step, (_, end)) in steps.iter().zip(&mut summary.0) {
        eprintln!("\n==> {}", step.name);
        let (time, result) = timed(&step.work);
        eprintln!("==> {}: {:.1} s", step.name, time.as_secs_f64());
        *end = if result.is_ok() { End::Passed(time) } else { End::Failed(time) };
        if result.is_err() {
            return (summary, result.with_context(|| format!("step `{}` failed", step.name)));
        }
    }
    (summary, Ok(()))
}

#[expect(clippy::disallowed_methods, reason = "a step's time is shown to a person and decides nothing")]
fn timed(work: impl Fn() -> Result<()>) -> (Duration, Result<()>) {
    let start = Instant::now();
    let result = work();
    (start.elapsed(), result)
}

/// How each step ended, in order.
#[derive(Debug)]
struct Summary(Vec<(&'static str, End)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Passed(Duration),
    Failed(Duration),
    NotRun,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        for (name, end) in &self.0 {
            match end {
                End::Passed(time) => writeln!(f, "  {name:width$}  passed  {:7.1} s", time.as_secs_f64())?,
                End::Failed(time) => writeln!(f, "  {name:width$}  FAILED  {:7.1} s", time.as_secs_f64())?,
                End::NotRun => writeln!(f, "  {name:width$}  not run")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: nothing runs after a failure, and the error carries the failing step's name.
    #[test]
    fn the_first_failure_ends_the_run_with_its_name() {
        let steps = [
            Step::new("first", || Ok(())),
            Step::new("second", || anyhow::bail!("three findings")),
            Step::new("third", || panic!("ran after a failure")),
        ];
        let (summary, result) = run_each(&steps);
        assert_eq!(format!("{:#}", result.unwrap_err()), "step `second` failed: three findings");
        assert!(matches!(summary.0[..], [(_, End::Passed(_)), (_, End::Failed(_)), (_, End::NotRun)]));
    }

    /// Goal: the table lines up and tells the three ends apart.
    #[test]
    fn the_summary_lists_every_step_with_its_end() {
        let summary = Summary(vec![
            ("formatting", End::Passed(Duration::from_millis(1260))),
            ("tidy", End::Failed(Duration::from_millis(40))),
            ("tests", End::NotRun),
        ]);
        let expected =
            "  formatting  passed      1.3 s\n  tidy        FAILED      0.0 s\n  tests       not run\n";
        assert_eq!(summary.to_string(), expected);
    }
}
