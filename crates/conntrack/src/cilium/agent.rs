//! What Cilium's agent says of itself: over its socket, and in the configuration that it leaves on disk.
//!
//! Asked before each read, since the layout of what grows next hangs on it. The agent is asked for its status only when
//! its socket is another one than last time, or after [`ASKED_EVERY`]; in between it is only seen to be there. One that is
//! away is known nothing of: a new one may be about to write. Bound: [`ANSWER_TIMEOUT`] for each of two questions,
//! [`ANSWER_BYTES_MAX`] for each answer.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, sockopt};
use nix::sys::time::TimeVal;
use nix::time::{ClockId, clock_gettime};
use serde_json::Value;

use super::layout::{Accounting, Clock, Release, Tells};

/// A status is asked for again after this long.
const ASKED_EVERY: Duration = Duration::from_secs(60);
/// From the question to the answer's last byte.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// The status of an agent with some hundred endpoints takes some hundred kilobytes.
const ANSWER_BYTES_MAX: u64 = 4 << 20;
/// The configuration takes some ten kilobytes.
const CONFIGURATION_BYTES_MAX: u64 = 1 << 20;
const CONFIGURATION: &str = "agent-runtime-config.json";
/// Came with 1.17.
const ACCOUNTING_SINCE_1_17: &str = "BPFConntrackAccounting";
const ACCOUNTING: &str = "ConntrackAccounting";

/// Where the agent can be found; an empty path is nowhere.
#[derive(Clone, Debug)]
pub struct Places {
    /// The socket of its API.
    pub socket: PathBuf,
    /// The directory of its state.
    pub state_dir: PathBuf,
}

/// Asks the agent.
#[derive(Debug)]
pub struct Agent {
    places: Places,
    /// What the socket that was asked last said, and when.
    answered: Option<(FileId, Duration, Tells)>,
    configured: Option<(FileId, Tells)>,
}

/// What tells a file from its successor: device, inode and time of change.
type FileId = (u64, u64, i64, i64);

impl Agent {
    /// Asks nothing yet.
    #[must_use]
    pub fn new(places: Places) -> Self {
        Self { places, answered: None, configured: None }
    }

    /// What is known now; the agent's own word first.
    pub fn ask(&mut self) -> Tells {
        let (said, configured) = (self.ask_socket(), self.read_configuration());
        Tells {
            release: said.release,
            since_1_17: configured.since_1_17,
            first_grew: false,
            accounting: said.accounting.or(configured.accounting),
            clock: said.clock.or(configured.clock),
        }
    }

    fn ask_socket(&mut self) -> Tells {
        let (socket, now) = (&self.places.socket, monotonic());
        let stream = id(socket).zip(connect(socket).ok());
        let Some((id, stream)) = stream else {
            self.answered = None;
            return Tells::default();
        };
        match self.answered {
            Some((of, at, tells)) if of == id && now.saturating_sub(at) < ASKED_EVERY => tells,
            _ => {
                let tells = status(socket, stream);
                // One that is not ready yet is asked again next time.
                self.answered = tells.release.map(|_| (id, now, tells));
                tells
            }
        }
    }

    fn read_configuration(&mut self) -> Tells {
        let path = self.places.state_dir.join(CONFIGURATION);
        let Some(id) = id(&path) else { return Tells::default() };
        match self.configured {
            Some((of, tells)) if of == id => tells,
            _ => {
                let tells =
                    configuration(&path).map_or_else(|_| Tells::default(), |json| of_configuration(&json));
                self.configured = Some((id, tells));
                tells
            }
        }
    }
}

fn id(path: &Path) -> Option<FileId> {
    let file = fs::metadata(path).ok().filter(|_| !path.as_os_str().is_empty())?;
    Some((file.dev(), file.ino(), file.ctime(), file.ctime_nsec()))
}

fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Into::into)
}

/// What an agent says of itself; what it does not say, or in time, is not known.
fn status(socket: &Path, stream: UnixStream) -> Tells {
    let health = get(stream, "/v1/healthz").unwrap_or(Value::Null);
    let (release, clock) = (release(&health), clock(&health["clock-source"]["mode"]));
    if release.is_none() {
        return Tells::default();
    }
    let config = connect(socket).and_then(|stream| get(stream, "/v1/config"));
    Tells { release, clock, accounting: accounting(&config.unwrap_or(Value::Null)), ..Tells::default() }
}

/// `cilium.msg` begins with the version, such as `1.15.7 (v1.15.7-f0f1e2a3)`, whatever else it says.
fn release(health: &Value) -> Option<Release> {
    let message = health["cilium"]["msg"].as_str()?;
    let mut numbers =
        message.trim_start().trim_start_matches('v').split(|letter: char| !letter.is_ascii_digit());
    Some(Release { major: numbers.next()?.parse().ok()?, minor: numbers.next()?.parse().ok()? })
}

fn clock(mode: &Value) -> Option<Clock> {
    match mode.as_str()? {
        "ktime" => Some(Clock::Ktime),
        "jiffies" => Some(Clock::Jiffies),
        _ => None,
    }
}

/// The option is in force where it is `realized`; releases differ in where else they say it.
fn accounting(config: &Value) -> Option<Accounting> {
    let realized = &config["status"]["realized"]["options"][ACCOUNTING];
    is_on(realized).or_else(|| find(config, &[ACCOUNTING, ACCOUNTING_SINCE_1_17])).map(on_or_off)
}

fn of_configuration(json: &Value) -> Tells {
    let accounting = find(json, &[ACCOUNTING_SINCE_1_17]);
    Tells {
        since_1_17: accounting.is_some(),
        accounting: accounting.map(on_or_off),
        // The number of a constant, 0 being ktime (`models.ClockSource`, `option.ClockSourceKtime`).
        clock: match &json["ClockSource"] {
            Value::Number(number) if number.as_u64() == Some(0) => Some(Clock::Ktime),
            Value::Number(number) if number.as_u64() == Some(1) => Some(Clock::Jiffies),
            mode => clock(mode),
        },
        ..Tells::default()
    }
}

fn on_or_off(is_on: bool) -> Accounting {
    if is_on { Accounting::On } else { Accounting::Off }
}

/// The first value by one of these keys that is a switch, at any depth. serde_json goes no deeper than 128.
fn find(json: &Value, keys: &[&str]) -> Option<bool> {
    match json {
        Value::Object(fields) => fields.iter().find_map(|(key, value)| {
            let own = if keys.contains(&key.as_str()) { is_on(value) } else { None };
            own.or_else(|| find(value, keys))
        }),
        Value::Array(items) => items.iter().find_map(|item| find(item, keys)),
        _ => None,
    }
}

fn is_on(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(on) => Some(*on),
        Value::String(text) if text.eq_ignore_ascii_case("enabled") || text == "true" => Some(true),
        Value::String(text) if text.eq_ignore_ascii_case("disabled") || text == "false" => Some(false),
        _ => None,
    }
}

fn configuration(path: &Path) -> io::Result<Value> {
    let mut text = Vec::new();
    File::open(path)?.take(CONFIGURATION_BYTES_MAX).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// An agent that hangs accepts nobody, and then a connection waits for as long as the socket may send.
fn connect(socket: &Path) -> io::Result<UnixStream> {
    let descriptor = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let patience = TimeVal::new(ANSWER_TIMEOUT.as_secs().cast_signed(), 0);
    socket::setsockopt(&descriptor, sockopt::SendTimeout, &patience)?;
    socket::connect(descriptor.as_raw_fd(), &UnixAddr::new(socket)?)?;
    Ok(UnixStream::from(descriptor))
}

/// Asks by HTTP/1.0, which ends an answer by its length or by hanging up.
fn get(mut stream: UnixStream, path: &str) -> io::Result<Value> {
    let deadline = monotonic() + ANSWER_TIMEOUT;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    // At once: a server may take what comes first for the whole question.
    let question = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\nAccept: application/json\r\n\r\n");
    stream.write_all(question.as_bytes())?;
    let mut answer = Vec::new();
    let mut chunk = [0; 1 << 14];
    while !is_whole(&answer) {
        let left = deadline.saturating_sub(monotonic());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk)? {
            0 => break,
            read => answer.extend_from_slice(&chunk[..read]),
        }
        if answer.len() as u64 > ANSWER_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
    }
    json(&answer).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Head and body of an answer that has come as far as its body.
fn parts(answer: &[u8]) -> Option<(&str, &[u8])> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some((str::from_utf8(&answer[..end]).ok()?, &answer[end + 4..]))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

fn is_whole(answer: &[u8]) -> bool {
    let Some((head, body)) = parts(answer) else { return false };
    if is_chunked(head) {
        return body.ends_with(b"0\r\n\r\n");
    }
    let length = header(head, "content-length").and_then(|length| length.parse().ok());
    length.is_some_and(|length: usize| body.len() >= length)
}

fn is_chunked(head: &str) -> bool {
    header(head, "transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
}

fn json(answer: &[u8]) -> Option<Value> {
    let (head, body) = parts(answer)?;
    if head.split(' ').nth(1)? != "200" {
        return None;
    }
    if is_chunked(head) {
        serde_json::from_slice(&joined(body)?).ok()
    } else {
        serde_json::from_slice(body).ok()
    }
}

/// The body of an answer in chunks.
fn joined(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let line = body.windows(2).position(|two| two == b"\r\n")?;
        let length = str::from_utf8(&body[..line]).ok()?.split(';').next()?.trim();
        let length = usize::from_str_radix(length, 16).ok()?;
        if length == 0 {
            return Some(whole);
        }
        body = &body[line + 2..];
        whole.extend_from_slice(body.get(..length)?);
        body = body.get(length..)?.strip_prefix(b"\r\n")?;
    }
}

#[cfg(test)]
mod tests;
