//! Asking the admin endpoint of a running gateway: where it is, one request, one answer.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::base::net::is_loopback;
use crate::config;
use crate::config::interpolate::process_environment;

/// Largest answer.
const ANSWER_MAX: u64 = 64 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A reload or an explanation compiles; the endpoint itself gives up after two minutes.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(2);

/// Which gateway is asked.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
pub struct AdminArgs {
    /// Where the admin endpoint of the running gateway listens.
    #[arg(long, value_name = "ADDRESS")]
    pub admin: Option<SocketAddr>,
    /// The configuration of the running gateway, which tells. Default: gateway.yaml.
    #[arg(long, value_name = "PATH")]
    pub config: Option<PathBuf>,
}

/// What the gateway answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

impl AdminArgs {
    /// Where to ask.
    pub(super) fn address(&self) -> anyhow::Result<SocketAddr> {
        let address = match self.admin {
            Some(address) => address,
            None => self.configured()?,
        };
        if !is_loopback(address.ip()) {
            bail!("the admin endpoint listens on this machine only, and `{address}` is elsewhere");
        }
        Ok(address)
    }

    fn configured(&self) -> anyhow::Result<SocketAddr> {
        let path = self.config.clone().unwrap_or_else(|| PathBuf::from("gateway.yaml"));
        let shown = path.display();
        let loaded = config::load(&path, &process_environment)?;
        let admin = loaded.config.admin.as_ref();
        let admin =
            admin.with_context(|| format!("`{shown}` has no admin endpoint; configure `admin.address`"))?;
        if admin.address.port() == 0 {
            bail!("`{shown}` leaves the admin endpoint's port open; give it with `--admin`");
        }
        Ok(admin.address)
    }
}

/// Sends one request without a body.
pub(super) fn ask(address: SocketAddr, method: &str, target: &str) -> anyhow::Result<Answer> {
    let unreachable = || {
        format!(
            "cannot ask the gateway at `{address}`; is it running, and is `{address}` its `admin.address`?"
        )
    };
    let exchange = || -> anyhow::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(CONNECT_TIMEOUT))?;
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.take(ANSWER_MAX).read_to_end(&mut answer)?;
        Ok(answer)
    };
    let answer = exchange().with_context(unreachable)?;
    parse(&answer)
        .with_context(|| format!("what answers at `{address}` is no admin endpoint of this gateway"))
}

/// The answer's status and body. The endpoint sends a length, and closes the connection.
fn parse(answer: &[u8]) -> Option<Answer> {
    let end = memchr::memmem::find(answer, b"\r\n\r\n")?;
    let head = std::str::from_utf8(answer.get(..end)?).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok()).flatten()
    })?;
    let start = end + 4;
    let body = answer.get(start..start.checked_add(length)?)?;
    Some(Answer { status, body: String::from_utf8(body.to_vec()).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_or_none() {
        let whole = parse(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{}\n").unwrap();
        assert_eq!((whole.status, whole.body.as_str()), (200, "{}\n"));
        for bad in [
            &b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n{}\n"[..],
            b"HTTP/1.1 200 OK\r\n\r\n{}\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
            b"SSH-2.0-x\r\n\r\n",
            b"",
        ] {
            assert!(parse(bad).is_none(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
