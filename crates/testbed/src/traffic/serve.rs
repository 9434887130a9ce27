//! The server: answers every request on TCP and UDP, IPv4 and IPv6, one port.
//!
//! Bounds: 256 connections, 2 minutes of silence on one, 16 MiB a request or reply.

use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use crate::acceptor::Acceptor;
use crate::traffic::{TCP_PAYLOAD_BYTES_MAX, UDP_PAYLOAD_BYTES_MAX};

const CONNECTIONS_MAX: usize = 256;
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// Serves until the process ends. TCP listens last, so who reaches TCP finds UDP open as well.
///
/// # Errors
/// When the port is taken or the UDP socket breaks.
pub fn serve(port: u16) -> io::Result<Infallible> {
    let datagrams = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))?;
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
    // A connection that breaks is the sender's to report.
    let _acceptor = Acceptor::start(listener, CONNECTIONS_MAX, |stream| drop(serve_stream(stream)))?;
    loop {
        serve_datagram(&datagrams)?;
    }
}

fn serve_stream(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    stream.set_nodelay(true)?;
    let mut header = [0; 8];
    // The end of the stream ends the conversation, be it here or inside a request.
    while stream.read_exact(&mut header).is_ok() {
        let (request_bytes, reply_bytes) = super::split_header(header);
        if request_bytes.max(reply_bytes) > TCP_PAYLOAD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        super::read_payload(&mut stream, request_bytes)?;
        super::write_payload(&mut stream, reply_bytes)?;
        stream.flush()?;
    }
    Ok(())
}

/// What is no request is not answered. An error for one datagram (such as a peer that is gone) is not the socket's.
fn serve_datagram(socket: &UdpSocket) -> io::Result<()> {
    let mut buffer = [0; UDP_PAYLOAD_BYTES_MAX as usize];
    let (length, from) = match socket.recv_from(&mut buffer) {
        Ok(received) => received,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(()),
        Err(error) => return Err(error),
    };
    let Some(header) = buffer[..length].first_chunk::<8>() else { return Ok(()) };
    let (_sequence, reply_bytes) = super::split_header(*header);
    let Some(reply) = usize::try_from(reply_bytes).ok().and_then(|length| buffer.get(..length)) else {
        return Ok(());
    };
    if !reply.is_empty() {
        // The sender waits for the reply with a bound of its own and reports the loss.
        drop(socket.send_to(reply, from));
    }
    Ok(())
}
