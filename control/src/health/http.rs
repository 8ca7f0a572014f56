//! The HTTP probe: one GET over a connection of its own, by HTTP/1.1 (RFC 9112).

use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use ureq_proto::client::state::{RecvBody, RecvResponse};
use ureq_proto::client::{Call, RecvResponseResult, SendRequestResult};
use ureq_proto::http::uri::Authority;
use ureq_proto::http::{Request, header};

use super::HttpProbe;
use super::error::ProbeError;
use super::patience::Patience;

/// Room for the head of a response, bytes: as much as common servers let theirs have.
const HEAD_MAX: usize = 32 * 1024;
/// How much of a body is looked at, bytes.
const BODY_MAX: usize = 1024 * 1024;
/// Room for the request, bytes: the configuration's texts are far shorter.
const REQUEST_MAX: usize = 8 * 1024;
/// How much is read at once, bytes.
const CHUNK: usize = 4096;

/// Asks the server.
pub(super) fn probe(
    config: &HttpProbe,
    tls: Option<&Arc<ClientConfig>>,
    patience: &Patience<'_>,
) -> Result<(), ProbeError> {
    let address = config.address;
    let connection =
        patience.connect(address).map_err(|source| ProbeError::Connect { address, source })?;
    match tls {
        None => exchange(config, connection),
        Some(tls) => {
            let session = ClientConnection::new(Arc::clone(tls), server_name(config)?)?;
            exchange(config, StreamOwned::new(session, connection))
        }
    }
}

/// The name that the server's certificate is for: that of the host, or its address.
fn server_name(config: &HttpProbe) -> Result<ServerName<'static>, ProbeError> {
    let authority: Option<Authority> = config.host.parse().ok();
    let host = authority.as_ref().map_or(config.host.as_str(), |authority| authority.host());
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let invalid = |error| rustls::Error::General(format!("\"{name}\": {error}"));
    Ok(ServerName::try_from(name.to_owned()).map_err(invalid)?)
}

/// Sends the request and judges the response.
fn exchange(config: &HttpProbe, mut stream: impl Read + Write) -> Result<(), ProbeError> {
    let call = send(config, &mut stream)?;
    let mut head = Vec::new();
    let (call, status) = receive_head(call, &mut stream, &mut head)?;
    if !config.statuses.contains(&status) {
        return Err(ProbeError::Status { found: status });
    }
    let Some(body) = &config.body else { return Ok(()) };
    let absent = || ProbeError::Body(body.clone());
    match call.proceed().ok_or(ProbeError::Incomplete("has no end of its head"))? {
        RecvResponseResult::RecvBody(call) => holds(body, call, &mut stream, head)?,
        // A redirection's body is not read, and other responses have none.
        RecvResponseResult::Redirect(_) | RecvResponseResult::Cleanup(_) => false,
    }
    .then_some(())
    .ok_or_else(absent)
}

fn send(config: &HttpProbe, stream: &mut impl Write) -> Result<Call<RecvResponse>, ProbeError> {
    let scheme = if config.secure { "https" } else { "http" };
    let request = Request::get(format!("{scheme}://{}{}", config.host, config.path))
        .header(header::HOST, &config.host)
        .header(header::USER_AGENT, concat!("vipdp/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(())
        .map_err(|error| ProbeError::Request(error.to_string()))?;
    let mut call = Call::new(request).map_err(ProbeError::Http)?.proceed();
    let mut bytes = [0; REQUEST_MAX];
    while !call.can_proceed() {
        let len = call.write(&mut bytes).map_err(ProbeError::Http)?;
        let sending = |source| ProbeError::Exchange { doing: "sending the request", source };
        stream.write_all(&bytes[..len]).and_then(|()| stream.flush()).map_err(sending)?;
    }
    match call.proceed().map_err(ProbeError::Http)? {
        Some(SendRequestResult::RecvResponse(call)) => Ok(call),
        _ => unreachable!("a GET has no body"),
    }
}

/// Receives the head; leaves what came after it in `received`. Returns the status.
fn receive_head(
    mut call: Call<RecvResponse>,
    stream: &mut impl Read,
    received: &mut Vec<u8>,
) -> Result<(Call<RecvResponse>, u16), ProbeError> {
    loop {
        let (used, response) = call.try_response(received, false).map_err(ProbeError::Http)?;
        received.drain(..used);
        if let Some(response) = response {
            return Ok((call, response.status().as_u16()));
        }
        // An interim response, which something may follow already.
        if used > 0 {
            continue;
        }
        if received.len() > HEAD_MAX {
            return Err(ProbeError::Incomplete("has a head that is longer than any"));
        }
        if !receive(stream, received)? {
            return Err(ProbeError::Incomplete("ends within its head"));
        }
    }
}

/// Whether the body holds `text`. `received` is what of it has come.
fn holds(
    text: &str,
    mut call: Call<RecvBody>,
    stream: &mut impl Read,
    mut received: Vec<u8>,
) -> Result<bool, ProbeError> {
    let mut body = Vec::new();
    let mut decoded = [0; CHUNK];
    loop {
        let (used, len) = call.read(&received, &mut decoded).map_err(ProbeError::Http)?;
        received.drain(..used);
        // Where what is new may end or complete it.
        let from = body.len().saturating_sub(text.len());
        body.extend_from_slice(&decoded[..len]);
        if body[from..].windows(text.len()).any(|window| window == text.as_bytes()) {
            return Ok(true);
        }
        if used > 0 || len > 0 {
            if body.len() > BODY_MAX {
                return Ok(false);
            }
            continue;
        }
        let is_whole = call.can_proceed();
        // One that ends with the connection is whole at any time.
        let ends_with_connection =
            is_whole && call.body_mode() == ureq_proto::BodyMode::CloseDelimited;
        if is_whole && !ends_with_connection {
            return Ok(false);
        }
        if !receive(stream, &mut received)? {
            return Ok(false);
        }
    }
}

/// Receives more; returns whether there was any.
fn receive(stream: &mut impl Read, received: &mut Vec<u8>) -> Result<bool, ProbeError> {
    let mut chunk = [0; CHUNK];
    match stream.read(&mut chunk) {
        Ok(len) => {
            received.extend_from_slice(&chunk[..len]);
            Ok(len > 0)
        }
        // Many servers end TLS without saying so.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(source) => Err(ProbeError::Exchange { doing: "receiving the response", source }),
    }
}
