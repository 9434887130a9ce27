//! The smallest HTTP client: one GET by HTTP/1.0, which no server answers in chunks, over loopback in a namespace.
//!
//! Bound: 5 s of silence, 64 MiB of answer.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::error::Error;
use crate::namespace::Namespace;

const SILENCE_MAX: Duration = Duration::from_secs(5);
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// An answer, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// The body as text, where bytes that are not UTF-8 do not matter.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body of an answer with status 200.
    ///
    /// # Errors
    /// [`Error::Status`] for any other.
    pub fn ok(self, path: &str) -> Result<Vec<u8>, Error> {
        match self.status {
            200 => Ok(self.body),
            status => Err(Error::Status { path: path.to_owned(), status, body: self.text() }),
        }
    }
}

/// GETs `path` (with its query) from 127.0.0.1:`port` inside `namespace`.
pub(crate) fn get(namespace: &Namespace, port: u16, path: &str) -> Result<Response, Error> {
    let answer = namespace.enter(|| exchange(port, path))?.map_err(Error::os("get", path))?;
    parse(answer)
}

fn exchange(port: u16, path: &str) -> io::Result<Vec<u8>> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, SILENCE_MAX)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost:{port}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(answer)
}

fn parse(mut answer: Vec<u8>) -> Result<Response, Error> {
    let split = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let head = String::from_utf8_lossy(&answer[..split.unwrap_or(answer.len())]).into_owned();
    let malformed = || Error::Malformed { what: "an HTTP answer", found: head.clone() };
    let split = split.ok_or_else(malformed)?;
    let status = head.split_ascii_whitespace().nth(1).and_then(|word| word.parse().ok());
    let status = status.ok_or_else(malformed)?;
    let body = answer.split_off(split + 4);
    let announced = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>())
    });
    match announced {
        Some(Ok(length)) if length == body.len() => Ok(Response { status, body }),
        None => Ok(Response { status, body }),
        Some(_) => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: whole answers are read, and a cut one is never taken for whole.
    #[test]
    fn a_cut_answer_is_an_error() {
        let response = |status, body: &str| Some(Response { status, body: body.as_bytes().to_vec() });
        for (text, expected) in [
            ("HTTP/1.0 200 OK\r\n\r\nbody", response(200, "body")),
            ("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno", response(503, "no")),
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nno", None),
            ("HTTP/1.1 200 OK\r\n", None),
            ("", None),
            ("nonsense\r\n\r\n", None),
        ] {
            assert_eq!(parse(text.as_bytes().to_vec()).ok(), expected, "{text:?}");
        }
    }
}
