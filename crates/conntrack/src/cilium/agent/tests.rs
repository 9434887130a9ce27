//! An agent that answers, one that does not, and what it leaves on disk.

use std::os::unix::net::UnixListener;
use std::thread::{self, JoinHandle};

use super::*;

/// Answers so many questions, each by what `answer` makes of its path; the questions' paths.
fn agent(
    socket: &Path,
    questions: usize,
    answer: impl Fn(&str) -> String + Send + 'static,
) -> JoinHandle<Vec<String>> {
    let listener = UnixListener::bind(socket).unwrap();
    thread::spawn(move || {
        let mut asked = Vec::new();
        while asked.len() < questions {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = [0; 512];
            let read = stream.read(&mut question).unwrap();
            let Some(path) = str::from_utf8(&question[..read]).unwrap().split(' ').nth(1) else { continue };
            // Who has hung up has heard enough.
            let _unheard = stream.write_all(answer(path).as_bytes());
            asked.push(path.to_owned());
        }
        asked
    })
}

fn ok(body: &str) -> String {
    format!("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{body}")
}

fn healthy(version: &str) -> String {
    format!(
        r#"{{"cilium":{{"state":"Ok","msg":"{version}"}},"clock-source":{{"mode":"ktime","hertz":250}}}}"#
    )
}

fn places(directory: &Path) -> Places {
    Places { socket: directory.join("cilium.sock"), state_dir: directory.to_owned() }
}

/// Goal: release, clock and accounting are read as each release says them; an agent that answers is not asked again at
/// once, and one that is gone is known nothing of.
#[test]
fn an_agent_says_who_it_is() {
    let realized =
        |on: &str| format!(r#"{{"status":{{"realized":{{"options":{{"ConntrackAccounting":"{on}"}}}}}}}}"#);
    for (version, config, release, accounting) in [
        ("1.11.20 (v1.11.20-abc)", realized("Enabled"), Some((1, 11)), Some(Accounting::On)),
        (
            "1.15.7 (v1.15.7-abc)    Stale status data: x",
            realized("Disabled"),
            Some((1, 15)),
            Some(Accounting::Off),
        ),
        (
            "v1.20.0-dev",
            r#"{"status":{"daemonConfigurationMap":{"BPFConntrackAccounting":true}}}"#.to_owned(),
            Some((1, 20)),
            Some(Accounting::On),
        ),
        ("1.18.3", "{}".to_owned(), Some((1, 18)), None),
        ("starting", "{}".to_owned(), None, None),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let places = places(directory.path());
        let health = healthy(version);
        let asked = agent(&places.socket, 1 + usize::from(release.is_some()), move |path| {
            ok(if path == "/v1/healthz" { &health } else { &config })
        });
        let mut agent = Agent::new(places.clone());
        let told = agent.ask();
        let release = release.map(|(major, minor)| Release { major, minor });
        let clock = release.map(|_| Clock::Ktime);
        assert_eq!(told, Tells { release, accounting, clock, ..Tells::default() }, "{version}");
        assert_eq!(asked.join().unwrap()[0], "/v1/healthz");
        assert_eq!(agent.ask(), Tells::default(), "it is gone");
    }
}

/// Goal: while the same socket is there, its answer stands; another socket is asked anew.
#[test]
fn a_new_agent_is_asked_anew() {
    let directory = tempfile::tempdir().unwrap();
    let places = places(directory.path());
    let mut agent = Agent::new(places.clone());
    for (version, minor) in [("1.15.7", 15), ("1.19.0", 19)] {
        let listener = UnixListener::bind(&places.socket).unwrap();
        let answering = thread::spawn(move || {
            for answer in [healthy(version), "{}".to_owned()] {
                let (mut stream, _) = listener.accept().unwrap();
                let _read = stream.read(&mut [0; 512]).unwrap();
                stream.write_all(ok(&answer).as_bytes()).unwrap();
            }
            listener
        });
        let release = Some(Release { major: 1, minor });
        assert_eq!(agent.ask().release, release);
        // Nobody accepts any more: the socket alone says that it is there.
        let listener = answering.join().unwrap();
        assert_eq!(agent.ask().release, release);
        drop(listener);
        std::fs::remove_file(&places.socket).unwrap();
    }
}

/// Goal: an answer in chunks, with a length, or that ends with the stream is read; one that is too large, too slow, no
/// JSON, a refusal or a lie is none, within its time.
#[test]
fn answers_are_bounded() {
    let body = healthy("1.16.2");
    let (head, tail) = body.split_at(20);
    let chunked = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{head}\r\n{:x};x=y\r\n{tail}\r\n0\r\n\r\n",
        head.len(),
        tail.len()
    );
    let with_length = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    for (answer, is_read) in [
        (chunked.clone(), true),
        (with_length, true),
        (ok(&body), true),
        (format!("HTTP/1.1 404 Not Found\r\n\r\n{body}"), false),
        (ok("{"), false),
        ("HTTP/1.1 200 OK\r\n".to_owned(), false),
        (chunked.replace("0\r\n\r\n", "ffffffffffffffff\r\n"), false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n0\r\n\r\n".to_owned(), false),
        (ok(&format!("{}{body}", " ".repeat(5 << 20))), false),
        (String::new(), false),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let places = places(directory.path());
        let shown: String = answer.chars().take(80).collect();
        let answering = agent(&places.socket, 1 + usize::from(is_read), move |_| answer.clone());
        assert_eq!(Agent::new(places).ask().release.is_some(), is_read, "{shown}");
        answering.join().unwrap();
    }
}

/// Goal: an agent that accepts and says nothing holds nobody up for longer than its time.
#[test]
fn a_silent_agent_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let places = places(directory.path());
    let listener = UnixListener::bind(&places.socket).unwrap();
    let began = monotonic();
    assert_eq!(Agent::new(places).ask(), Tells::default());
    assert!(monotonic() - began < ANSWER_TIMEOUT * 2);
    drop(listener);
}

/// Goal: the configuration on disk says that it is of 1.17 or later, what is counted, and the clock; its successor is
/// read again, and what is none says nothing.
#[test]
fn the_configuration_says_what_it_can() {
    let directory = tempfile::tempdir().unwrap();
    let mut agent = Agent::new(Places { socket: PathBuf::new(), state_dir: directory.path().to_owned() });
    assert_eq!(agent.ask(), Tells::default());
    let (on, off) = (Some(Accounting::On), Some(Accounting::Off));
    for (text, since_1_17, accounting, clock) in [
        (r#"{"ClockSource":1,"KernelHz":250}"#, false, None, Some(Clock::Jiffies)),
        (r#"{"BPFConntrackAccounting":false,"ClockSource":0}"#, true, off, Some(Clock::Ktime)),
        (r#"{"BPFConntrackAccounting":true}"#, true, on, None),
        ("{", false, None, None),
    ] {
        let new = directory.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, directory.path().join(CONFIGURATION)).unwrap();
        assert_eq!(agent.ask(), Tells { since_1_17, accounting, clock, ..Tells::default() }, "{text}");
    }
}
