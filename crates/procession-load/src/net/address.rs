use super::Failure;
use crate::result::ErrorKind;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

/// Where a socket connects to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// IPv4 or IPv6.
    Ip(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// A server, and the addresses it was found under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// As the tester wrote it.
    pub host: String,
    /// Its port.
    pub port: u16,
    addresses: Vec<Address>,
    /// Which of them to try: the first, until it turns out that nobody is there.
    chosen: usize,
    proven: bool,
    /// Whether the host is a name, which may mean something else the next time.
    is_name: bool,
}

impl Endpoint {
    /// Looks the host up, which may take as long as the system's resolver does.
    ///
    /// # Errors
    ///
    /// A failure of kind `dns`.
    pub fn resolve(host: &str, port: u16) -> Result<Endpoint, Failure> {
        let mut endpoint = Endpoint {
            host: host.to_owned(),
            port,
            addresses: Vec::new(),
            chosen: 0,
            proven: false,
            is_name: host.parse::<IpAddr>().is_err(),
        };
        endpoint.look_up()?;
        Ok(endpoint)
    }

    /// One at a Unix socket.
    pub fn unix(path: PathBuf) -> Endpoint {
        Endpoint {
            host: path.display().to_string(),
            port: 0,
            addresses: vec![Address::Unix(path)],
            chosen: 0,
            proven: true,
            is_name: false,
        }
    }

    /// Looks the host up anew, if it is a name.
    ///
    /// # Errors
    ///
    /// A failure of kind `dns`.
    pub fn look_up(&mut self) -> Result<(), Failure> {
        if !self.is_name && !self.addresses.is_empty() {
            return Ok(());
        }
        let failure =
            |why: String| Failure::new(ErrorKind::Dns, format!("cannot look up {}: {why}", self.host));
        let found = (self.host.as_str(), self.port)
            .to_socket_addrs()
            .map_err(|error| failure(error.to_string()))?;
        let mut addresses = Vec::new();
        for address in found.map(Address::Ip) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() {
            return Err(failure("it has no address".to_owned()));
        }
        if self.addresses != addresses {
            (self.addresses, self.chosen, self.proven) = (addresses, 0, false);
        }
        Ok(())
    }

    /// The address to connect to.
    pub fn address(&self) -> &Address {
        &self.addresses[self.chosen]
    }

    /// Somebody is there.
    pub fn prove(&mut self) {
        self.proven = true;
    }

    /// Nobody is at the address of this number: whether there is another one to try instead.
    pub fn try_next(&mut self, tried: usize) -> bool {
        if self.proven {
            return false;
        }
        if self.chosen == tried && self.chosen + 1 < self.addresses.len() {
            self.chosen += 1;
        }
        self.chosen != tried
    }

    /// The number of [`address`](Endpoint::address).
    pub fn chosen(&self) -> usize {
        self.chosen
    }
}
