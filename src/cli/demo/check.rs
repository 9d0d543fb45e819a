//! Sends the demo's requests itself and compares the answers.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::cli::demo::tour::{STEPS, Step};
use crate::cli::demo::workspace::Workspace;
use crate::cli::output::{Exit, Paint};

const ANSWER_BYTES_MAX: usize = 1 << 20;
const TIMEOUT: Duration = Duration::from_secs(10);

/// One answer.
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: String,
}

/// Sends every request and prints a line for each.
pub(super) fn run(
    gateway: SocketAddr,
    workspace: &Workspace,
    paint: Paint,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut passed = 0;
    for step in &STEPS {
        let fault = runtime.block_on(check(step, gateway, workspace))?;
        let (word, found) = match &fault {
            None => (paint.good("ok  "), String::new()),
            Some(fault) => (paint.bad("FAIL"), format!("   {fault}")),
        };
        passed += usize::from(fault.is_none());
        writeln!(out, "{word}  {:<11}  {}{found}", step.expected(), step.title)?;
    }
    writeln!(out, "{passed} of {} answers are as expected", STEPS.len())?;
    Ok(if passed == STEPS.len() { Exit::Fine } else { Exit::No })
}

/// How the answers differ from what the step says, if they do.
async fn check(step: &Step, gateway: SocketAddr, workspace: &Workspace) -> anyhow::Result<Option<String>> {
    let mut statuses = Vec::new();
    let mut last = None;
    for _ in step.statuses {
        let sent = tokio::time::timeout(TIMEOUT, send(step, gateway, workspace)).await;
        let answer = sent.map_err(|_| anyhow!("no answer within {TIMEOUT:?}")).flatten();
        let answer = answer.with_context(|| format!("`{}` failed", step.command(gateway, workspace)))?;
        statuses.push(answer.status);
        last = Some(answer);
    }
    if statuses != step.statuses {
        let got: Vec<_> = statuses.iter().map(u16::to_string).collect();
        return Ok(Some(format!("got {}", got.join(" "))));
    }
    let Some(answer) = last else { return Ok(None) };
    if !answer.body.contains(step.body) {
        return Ok(Some(format!("without `{}` in the body", step.body)));
    }
    let missing = step.answer_header.filter(|name| !answer.headers.contains_key(*name));
    Ok(missing.map(|name| format!("without the header `{name}`")))
}

async fn send(step: &Step, gateway: SocketAddr, workspace: &Workspace) -> anyhow::Result<Answer> {
    let mut request =
        Request::builder().method(step.method).uri(step.path).header(header::HOST, gateway.to_string());
    if let Some(credential) = step.credential {
        let line = fs::read_to_string(workspace.path(credential))?;
        let (name, value) = line.trim_end().split_once(": ").context("a credential is a header line")?;
        request = request.header(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
    }
    if let Some((name, value)) = step.header {
        request = request.header(name, value);
    }
    let stream = TcpStream::connect(gateway).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let (head, body) = sender.send_request(request.body(Empty::<Bytes>::new())?).await?.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| anyhow!(error))?;
    connection.abort();
    let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
}
