//! The measured process as its parent sees it: an order a line in, an answer a line out.
//!
//! It ends when its standard input does, so it never outlives its parent.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A measured process.
pub(crate) struct Child {
    process: std::process::Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Child {
    /// Starts this program with these arguments, in the namespace of the calling thread.
    pub(crate) fn start(arguments: &[&str]) -> anyhow::Result<Self> {
        let mut process = Command::new(std::env::current_exe().context("this program has no path")?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the measured process")?;
        let (Some(orders), Some(answers)) = (process.stdin.take(), process.stdout.take()) else {
            bail!("the measured process has no pipes");
        };
        Ok(Self { process, orders, answers: BufReader::new(answers) })
    }

    /// Gives an order and waits for its answer.
    pub(crate) fn ask<T: DeserializeOwned>(&mut self, order: &impl Serialize) -> anyhow::Result<T> {
        writeln!(self.orders, "{}", serde_json::to_string(order)?).context("the measured process is gone")?;
        self.answer()
    }

    /// Waits for what it says unasked.
    pub(crate) fn answer<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        let mut line = String::new();
        self.answers.read_line(&mut line).context("the measured process is gone")?;
        serde_json::from_str(&line).with_context(|| format!("the measured process says {line:?}"))
    }

    /// Lets it end.
    pub(crate) fn finish(self) -> anyhow::Result<()> {
        let Self { mut process, orders, .. } = self;
        drop(orders);
        let status = process.wait().context("the measured process is lost")?;
        if !status.success() {
            bail!("the measured process ended with {status}");
        }
        Ok(())
    }
}

/// The other side: answers each order until there are no more.
pub(crate) fn serve<O: DeserializeOwned, A: Serialize>(
    mut answer: impl FnMut(O) -> anyhow::Result<A>,
) -> anyhow::Result<()> {
    for line in io::stdin().lines() {
        let order = serde_json::from_str(&line.context("the orders broke off")?)?;
        crate::say(serde_json::to_string(&answer(order)?)?).context("nobody hears the answers")?;
    }
    Ok(())
}
