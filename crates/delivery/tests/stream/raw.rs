//! Peers that put bytes of the test's choice on the wire, where no conversion of ours takes part.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use bytes::{Buf as _, BufMut as _, Bytes};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{NamedService, StreamingService};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

const PATH: &str = "/egressd.v1.Collection/Stream";

/// Messages stay the bytes that they are.
#[derive(Clone, Copy)]
pub(crate) struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// A connection on which the test opens streams, with room for little that is not read.
pub(crate) async fn connect(exporter: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{exporter}")).unwrap();
    endpoint.initial_stream_window_size(16_384).connect().await.unwrap()
}

/// A stream of messages up, and the one of those down.
pub(crate) async fn open(channel: Channel) -> (mpsc::Sender<Bytes>, Streaming<Bytes>) {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let (up, messages) = mpsc::channel(4);
    let path = http::uri::PathAndQuery::from_static(PATH);
    let answer = client.streaming(Request::new(ReceiverStream::new(messages)), path, Raw).await.unwrap();
    (up, answer.into_inner())
}

/// A call whose whole body is this text, gRPC's framing included, and the stream of answers to it.
pub(crate) async fn call(mut channel: Channel, body: &str) -> Streaming<Bytes> {
    let request = http::Request::post(PATH)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(body.to_owned()))
        .unwrap();
    poll_fn(|context| channel.poll_ready(context)).await.unwrap();
    let response = channel.call(request).await.unwrap();
    let status = response.status();
    Streaming::new_response(Raw, response.into_body(), status, None, None)
}

/// A collector's stream as an exporter sees it.
pub(crate) struct Call {
    pub(crate) up: Streaming<Bytes>,
    pub(crate) down: mpsc::Sender<Result<Bytes, Status>>,
}

/// An exporter that leaves every stream to the test.
#[derive(Clone)]
struct Server {
    calls: mpsc::Sender<Call>,
}

/// Starts one; its streams come out of the channel.
pub(crate) async fn exporter() -> (SocketAddr, mpsc::Receiver<Call>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (calls, incoming) = mpsc::channel(4);
    let serving = tonic::transport::Server::builder().add_service(Server { calls });
    tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
    (address, incoming)
}

impl NamedService for Server {
    const NAME: &'static str = "egressd.v1.Collection";
}

impl Service<http::Request<tonic::body::Body>> for Server {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move { Ok(tonic::server::Grpc::new(Raw).streaming(server, request).await) })
    }
}

impl StreamingService<Bytes> for Server {
    type Response = Bytes;
    type ResponseStream = ReceiverStream<Result<Bytes, Status>>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let calls = self.calls.clone();
        Box::pin(async move {
            let (down, answers) = mpsc::channel(64);
            let gone = |_| Status::unavailable("the test is over");
            calls.send(Call { up: request.into_inner(), down }).await.map_err(gone)?;
            Ok(Response::new(ReceiverStream::new(answers)))
        })
    }
}
