//! Servers that take one connection after the other, or one thread for each: what the server on loopback does not speak.

use procession::Process;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Ends its process when it is dropped.
pub struct Server {
    process: Process,
    pub address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.join();
    }
}

pub fn fixture(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "fixtures", name]
        .iter()
        .collect()
}

fn start(address: SocketAddr, serve: impl FnOnce() + Send + 'static) -> Server {
    let process = Process::builder().daemon(true).target(serve);
    process.start().unwrap();
    Server { process, address }
}

/// Serves each connection in a thread of its own.
pub fn tcp(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    start(address, move || {
        let serve = Arc::new(serve);
        for stream in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(stream));
        }
    })
}

/// HTTP/1 at a Unix socket, one connection at a time.
pub fn unix(path: &Path) -> Server {
    let listener = UnixListener::bind(path).unwrap();
    start(SocketAddr::from(([127, 0, 0, 1], 0)), move || {
        for stream in listener.incoming().flatten() {
            answer_http1(stream, Duration::ZERO);
        }
    })
}

/// Sends back what it gets, but not each `lost`-th datagram, and each `doubled`-th twice.
pub fn udp_echo(lost: u64, doubled: u64) -> Server {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    start(address, move || {
        let mut buffer = [0; 2048];
        let mut count = 0u64;
        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
            count += 1;
            if !count.is_multiple_of(lost) {
                let _ = socket.send_to(&buffer[..n], from);
            }
            if count.is_multiple_of(doubled) {
                let _ = socket.send_to(&buffer[..n], from);
            }
        }
    })
}

/// Answers each request after this time.
pub fn answer_http1(mut stream: impl Read + Write, answer_time: Duration) {
    let mut held = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        held.extend_from_slice(&buffer[..n]);
        while let Some(at) = held.windows(4).position(|window| window == b"\r\n\r\n") {
            held.drain(..at + 4);
            std::thread::sleep(answer_time);
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            if stream.write_all(answer).and_then(|()| stream.flush()).is_err() {
                return;
            }
        }
    }
}

/// Closes each connection on which nothing comes for this time after an answer, and does not say so before.
pub fn closes_when_idle(idle: Duration) -> Server {
    tcp(move |mut stream| {
        let mut buffer = [0; 4096];
        while let Ok(1..) = stream.read(&mut buffer) {
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            if stream.write_all(answer).is_err() || stream.set_nonblocking(true).is_err() {
                return;
            }
            // Limits of sockets are too coarse.
            std::thread::sleep(idle);
            if stream.peek(&mut buffer).is_err() || stream.set_nonblocking(false).is_err() {
                return;
            }
        }
    })
}

fn tls_config(client_certificates: bool, protocol: &[u8]) -> Arc<ServerConfig> {
    let chain = vec![CertificateDer::from_pem_file(fixture("server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(fixture("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = if client_certificates {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(fixture("ca.pem")).unwrap())
            .unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        builder.with_client_cert_verifier(verifier.build().unwrap())
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder.with_single_cert(chain, key).unwrap();
    if !protocol.is_empty() {
        config.alpn_protocols = vec![protocol.to_vec()];
    }
    Arc::new(config)
}

/// HTTP/1 over TLS.
pub fn https(client_certificates: bool) -> Server {
    let config = tls_config(client_certificates, b"");
    tcp(move |stream| {
        let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
        answer_http1(StreamOwned::new(connection, stream), Duration::ZERO);
    })
}

/// HTTP/2 without TLS. After `goaway` requests it says that it takes no more on this connection; each `reset`-th stream is
/// reset; each tenth answer has status 503.
pub fn http2(goaway: u64, reset: u64) -> Server {
    tcp(move |stream| answer_http2(stream, goaway, reset))
}

/// HTTP/2 over TLS.
pub fn http2_tls() -> Server {
    let config = tls_config(false, b"h2");
    tcp(move |stream| {
        let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
        answer_http2(StreamOwned::new(connection, stream), u64::MAX, u64::MAX);
    })
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

fn answer_http2(mut stream: impl Read + Write, goaway: u64, reset: u64) {
    let mut preface = [0; 24];
    if stream.read_exact(&mut preface).is_err() {
        return;
    }
    assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    // At most five streams at a time.
    let settings = frame(4, 0, 0, &[0, 3, 0, 0, 0, 5]);
    let _ = stream.write_all(&settings).and_then(|()| stream.flush());
    let mut count = 0u64;
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).is_err() {
            return;
        }
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        if stream.read_exact(&mut payload).is_err() {
            return;
        }
        let (kind, flags, id) = (
            head[3],
            head[4],
            u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
        );
        let mut answer = Vec::new();
        if kind == 0 && length > 0 {
            // There is room for as much again, on the connection and on the stream.
            let room = (length as u32).to_be_bytes();
            let room = [frame(8, 0, 0, &room), frame(8, 0, id, &room)].concat();
            let _ = stream.write_all(&room);
        }
        if kind == 4 && flags & 1 == 0 {
            answer = frame(4, 1, 0, &[]);
        } else if (kind == 0 || kind == 1) && flags & 1 != 0 {
            if count >= goaway {
                continue;
            }
            count += 1;
            if count.is_multiple_of(reset) {
                answer = frame(3, 0, id, &[0, 0, 0, 2]);
            } else if count.is_multiple_of(10) {
                answer = frame(1, 5, id, b"\x08\x03503");
            } else {
                answer = frame(1, 4, id, &[0x88]);
                answer.extend(frame(0, 0, id, b"half "));
                answer.extend(frame(0, 1, id, b"and half"));
            }
            if count == goaway {
                let mut last = id.to_be_bytes().to_vec();
                last.extend_from_slice(&[0; 4]);
                answer.extend(frame(7, 0, 0, &last));
            }
        }
        if stream.write_all(&answer).and_then(|()| stream.flush()).is_err() {
            return;
        }
    }
}
