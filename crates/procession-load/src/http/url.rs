//! As much of a URL as a request needs.

/// Whether it is absolute. What a query names may have a scheme in its middle.
pub(crate) fn has_scheme(text: &str) -> bool {
    text.split_once("://")
        .is_some_and(|(scheme, _)| scheme.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// An absolute `http` or `https` URL in its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// Whether it is `https`.
    pub tls: bool,
    /// Without the brackets of an IPv6 address.
    pub host: String,
    /// As given, or the scheme's own.
    pub port: u16,
    /// As the `Host` header has it: the port only if it is not the scheme's own.
    pub authority: String,
    /// Path and query, beginning with `/`; fragments are not sent.
    pub path: String,
    /// `user:password`, if there is one.
    pub credentials: Option<String>,
}

impl Url {
    /// Takes it apart.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Url, String> {
        let wrong = |why: &str| format!("{text:?} is not a URL to test: {why}");
        if let Some(bad) = text.chars().find(|c| c.is_whitespace() || c.is_control()) {
            return Err(wrong(&format!(
                "{bad:?} must be written as %{:02X}",
                u32::from(bad)
            )));
        }
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| wrong("write it as http://HOST:PORT/PATH"))?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(wrong("only http and https are known")),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let path = path.split('#').next().unwrap_or("");
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        };
        // Outside of ASCII, bytes are percent-encoded as browsers do.
        let path = path.bytes().fold(String::new(), |mut encoded, byte| {
            if byte.is_ascii() {
                encoded.push(byte as char);
            } else {
                encoded.push_str(&format!("%{byte:02X}"));
            }
            encoded
        });
        let (credentials, address) = match authority.rsplit_once('@') {
            Some((credentials, address)) => (Some(credentials.to_owned()), address),
            None => (None, authority),
        };
        let (host, port) = match address.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest
                    .split_once(']')
                    .ok_or_else(|| wrong("the bracket of the address is not closed"))?;
                host.parse::<std::net::Ipv6Addr>()
                    .map_err(|_| wrong("what stands in brackets is not an IPv6 address"))?;
                (host, port.strip_prefix(':').or(port.is_empty().then_some("")))
            }
            None => match address.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (address, Some("")),
            },
        };
        if host.is_empty() || !host.is_ascii() {
            return Err(wrong("it names no host"));
        }
        let default_port = if tls { 443 } else { 80 };
        let port = match port {
            Some("") => default_port,
            Some(port) => match port.parse::<u16>() {
                Ok(port) if port > 0 => port,
                _ => return Err(wrong(&format!("{port:?} is not a port"))),
            },
            None => return Err(wrong("the port does not follow the host")),
        };
        let bracketed = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        let authority = if port == default_port {
            bracketed
        } else {
            format!("{bracketed}:{port}")
        };
        Ok(Url {
            tls,
            host: host.to_owned(),
            port,
            authority,
            path,
            credentials,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (bool, String, u16, String, String) {
        let url = Url::parse(text).unwrap();
        (url.tls, url.host, url.port, url.authority, url.path)
    }

    #[test]
    fn urls_are_taken_apart() {
        let plain = parts("http://localhost:8080/a?b=c#d");
        assert_eq!(
            plain,
            (
                false,
                "localhost".into(),
                8080,
                "localhost:8080".into(),
                "/a?b=c".into()
            )
        );
        assert_eq!(
            parts("HTTPS://example.org"),
            (true, "example.org".into(), 443, "example.org".into(), "/".into())
        );
        assert_eq!(
            parts("http://[::1]:80?x"),
            (false, "::1".into(), 80, "[::1]".into(), "/?x".into())
        );
        assert_eq!(parts("http://h/ü").4, "/%C3%BC");
        assert_eq!(
            Url::parse("http://me:pw@h/").unwrap().credentials.unwrap(),
            "me:pw"
        );
    }

    #[test]
    fn what_is_no_url_is_refused_with_the_reason() {
        for (text, why) in [
            ("localhost", "write it as"),
            ("ftp://h/", "only http"),
            ("http:///x", "names no host"),
            ("http://h:x/", "not a port"),
            ("http://h:0/", "not a port"),
            ("http://h:70000/", "not a port"),
            ("http://[::1", "bracket"),
            ("http://[no]/", "not an IPv6"),
            ("http://h/a b", "%20"),
        ] {
            let error = Url::parse(text).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
