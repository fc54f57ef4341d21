//! A template for stress tests of a web server: named processes, each with a function and an address of its own. Put your
//! own functions in: for other interfaces, for other protocols.
//!
//! The server that it asks is one of its processes, too, and a daemon: it ends with the program.
//!
//! ```text
//! cargo run --example stress_template        each process thinks for 2 seconds after its request
//! cargo run --example stress_template 0.1
//! ```

use procession::Process;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;
use std::{env, thread};

fn serve(listener: &TcpListener) -> io::Result<()> {
    for connection in listener.incoming() {
        let mut connection = BufReader::new(connection?);
        let mut request = String::new();
        connection.read_line(&mut request)?;
        let mut header = String::new();
        while connection.read_line(&mut header)? > 2 {
            header.clear();
        }
        let path = request.split(' ').nth(1).unwrap_or("/");
        let body = format!("<!DOCTYPE html><html><title>{path}</title></html>\n");
        let length = body.len();
        write!(
            connection.get_mut(),
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )?;
    }
    Ok(())
}

fn get(server: SocketAddr, path: &str) -> io::Result<String> {
    let mut connection = TcpStream::connect(server)?;
    write!(
        connection,
        "GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n"
    )?;
    let mut response = String::new();
    connection.read_to_string(&mut response)?;
    let body = response
        .split_once("\r\n\r\n")
        .map(|(_head, body)| body.to_owned());
    body.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is no HTTP"))
}

fn search(server: SocketAddr, think: Duration) -> io::Result<()> {
    let html = get(server, "/search")?;
    println!("{}", html.chars().take(20).collect::<String>());
    thread::sleep(think);
    Ok(())
}

fn buy(server: SocketAddr, think: Duration) -> io::Result<()> {
    let html = get(server, "/buy")?;
    println!("{}", html.chars().skip(20).take(20).collect::<String>());
    thread::sleep(think);
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let think = Duration::from_secs_f64(env::args().nth(1).map_or(Ok(2.0), |text| text.parse())?);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    Process::builder()
        .name("server")
        .daemon(true)
        .target(move || serve(&listener))
        .start()?;

    let first = Process::builder()
        .name("gloryroad1")
        .target(move || search(address, think));
    let second = Process::builder()
        .name("gloryroad2")
        .target(move || buy(address, think));
    first.start()?;
    second.start()?;
    for process in [first, second] {
        println!("{} {}", process.name(), process.join()?);
    }
    println!("done!");
    Ok(())
}
