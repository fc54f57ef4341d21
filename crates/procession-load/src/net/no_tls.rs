//! In the place of TLS, in a build without it.

use super::Failure;
use crate::plan::TlsOptions;

/// There is none.
#[derive(Debug, Clone)]
pub enum TlsClient {}

impl TlsClient {
    /// Says that there is none.
    ///
    /// # Errors
    ///
    /// Always.
    pub fn new(_: &TlsOptions, _: &str, _: Option<&[u8]>) -> Result<TlsClient, String> {
        Err("this build has no TLS: build it with the feature tls".to_owned())
    }

    /// Cannot be called.
    ///
    /// # Errors
    ///
    /// Never.
    pub fn connect(&self) -> Result<TlsSession, Failure> {
        match *self {}
    }
}

/// There is none.
#[derive(Debug)]
pub enum TlsSession {}

#[expect(missing_docs, reason = "nobody can call them")]
impl TlsSession {
    pub fn is_handshaking(&self) -> bool {
        match *self {}
    }

    pub fn take(&mut self, _: &[u8]) -> Result<usize, Failure> {
        match *self {}
    }

    pub fn read(&mut self, _: &mut [u8]) -> Option<usize> {
        match *self {}
    }

    pub fn write(&mut self, _: &[u8]) {
        match *self {}
    }

    pub fn emit(&mut self, _: &mut Vec<u8>) {
        match *self {}
    }

    pub fn protocol(&self) -> Option<&[u8]> {
        match *self {}
    }
}
