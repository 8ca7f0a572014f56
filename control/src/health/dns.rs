//! The DNS probe: one query, over UDP or TCP (RFC 1035).

use std::io::{Read, Write};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};

use super::error::ProbeError;
use super::patience::Patience;
use super::{DnsProbe, DnsTransport};

/// Room for a datagram, bytes: the largest there is.
const DATAGRAM_MAX: usize = 65_535;
/// How much of wrong answers is told, characters.
const FOUND_MAX: usize = 120;

/// Asks the server.
pub(super) fn probe(config: &DnsProbe, patience: &Patience<'_>) -> Result<(), ProbeError> {
    let response = match config.transport {
        DnsTransport::Udp => {
            let response = over_udp(config, patience)?;
            // RFC 7766, section 5: what was truncated is asked for once more.
            if response.metadata.truncation { over_tcp(config, patience)? } else { response }
        }
        DnsTransport::Tcp => over_tcp(config, patience)?,
    };
    judge(config, &response)
}

/// A query with an id that nobody else knows.
fn query(config: &DnsProbe) -> Result<(Message, Vec<u8>), ProbeError> {
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(config.name.clone(), config.record_type));
    let bytes = query.to_vec().map_err(|error| ProbeError::Dns(error.to_string()))?;
    Ok((query, bytes))
}

/// Whether a message answers the query.
fn answers(query: &Message, message: &Message) -> bool {
    let (asked, told) = (&query.metadata, &message.metadata);
    told.message_type == MessageType::Response
        && told.op_code == OpCode::Query
        && told.id == asked.id
        && message.queries == query.queries
}

fn over_udp(config: &DnsProbe, patience: &Patience<'_>) -> Result<Message, ProbeError> {
    let failed = |doing| move |source| ProbeError::Exchange { doing, source };
    let address = config.server;
    let connect = |source| ProbeError::Connect { address, source };
    let (query, bytes) = query(config)?;
    let socket = patience.datagrams(address).map_err(connect)?;
    socket.send(&bytes).map_err(failed("sending the query"))?;
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let len = socket.receive(&mut buffer).map_err(failed("waiting for the response"))?;
        // Anybody can make the kernel take a datagram for the server's: the right one may follow.
        match Message::from_vec(&buffer[..len]) {
            Ok(message) if answers(&query, &message) => return Ok(message),
            Ok(_) | Err(_) => {}
        }
    }
}

/// Over TCP a message follows its length (RFC 1035, section 4.2.2).
fn over_tcp(config: &DnsProbe, patience: &Patience<'_>) -> Result<Message, ProbeError> {
    let failed = |doing| move |source| ProbeError::Exchange { doing, source };
    let address = config.server;
    let (query, bytes) = query(config)?;
    let mut connection =
        patience.connect(address).map_err(|source| ProbeError::Connect { address, source })?;
    let mut framed = (bytes.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(&bytes);
    connection.write_all(&framed).map_err(failed("sending the query"))?;
    let mut len = [0; 2];
    connection.read_exact(&mut len).map_err(failed("waiting for the response"))?;
    let mut response = vec![0; u16::from_be_bytes(len).into()];
    connection.read_exact(&mut response).map_err(failed("receiving the response"))?;
    let message =
        Message::from_vec(&response).map_err(|error| ProbeError::Dns(error.to_string()))?;
    match answers(&query, &message) {
        true => Ok(message),
        false => Err(ProbeError::Dns("it answers another query".into())),
    }
}

fn judge(config: &DnsProbe, response: &Message) -> Result<(), ProbeError> {
    let rcode = response.metadata.response_code;
    if rcode != config.rcode {
        return Err(ProbeError::Rcode(rcode_label(rcode)));
    }
    let Some(expected) = &config.answer else { return Ok(()) };
    let data: Vec<_> = response.answers.iter().map(|record| record.data.to_string()).collect();
    if data.iter().any(|data| data.contains(expected.as_str())) {
        return Ok(());
    }
    let found = match data.join(", ") {
        none if none.is_empty() => "there are none".to_owned(),
        found => found.chars().take(FOUND_MAX).collect(),
    };
    Err(ProbeError::Answer { expected: expected.clone(), found })
}

/// The response codes that a message without EDNS can have, by their mnemonics (RFC 1035 section 4.1.1,
/// RFC 2136 section 2.2).
pub(crate) const RCODES: [(&str, ResponseCode); 11] = [
    ("NOERROR", ResponseCode::NoError),
    ("FORMERR", ResponseCode::FormErr),
    ("SERVFAIL", ResponseCode::ServFail),
    ("NXDOMAIN", ResponseCode::NXDomain),
    ("NOTIMP", ResponseCode::NotImp),
    ("REFUSED", ResponseCode::Refused),
    ("YXDOMAIN", ResponseCode::YXDomain),
    ("YXRRSET", ResponseCode::YXRRSet),
    ("NXRRSET", ResponseCode::NXRRSet),
    ("NOTAUTH", ResponseCode::NotAuth),
    ("NOTZONE", ResponseCode::NotZone),
];

fn rcode_label(rcode: ResponseCode) -> String {
    let known = RCODES.iter().find(|(_, known)| *known == rcode);
    known.map_or_else(|| u16::from(rcode).to_string(), |(label, _)| (*label).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Message {
        let config = DnsProbe {
            server: "192.0.2.53:53".parse().unwrap(),
            transport: DnsTransport::Udp,
            name: "www.example.".parse().unwrap(),
            record_type: hickory_proto::rr::RecordType::A,
            rcode: ResponseCode::NoError,
            answer: None,
        };
        let (message, bytes) = query(&config).unwrap();
        assert_eq!(Message::from_vec(&bytes).unwrap(), message);
        message
    }

    #[test]
    fn only_a_response_with_the_id_and_the_question_answers() {
        let query = asked();
        let response = || query.clone().into_response();
        assert!(answers(&query, &response()));
        assert!(!answers(&query, &query), "the query itself");
        let mut other = response();
        other.metadata.id ^= 1;
        assert!(!answers(&query, &other), "another id");
        let mut other = response();
        other.queries[0].set_query_type(hickory_proto::rr::RecordType::AAAA);
        assert!(!answers(&query, &other), "another type");
        let mut other = response();
        other.queries[0].set_name("www.example.net.".parse().unwrap());
        assert!(!answers(&query, &other), "another name");
        let mut other = response();
        other.queries.clear();
        assert!(!answers(&query, &other), "no question");
    }

    #[test]
    fn ids_are_not_used_again() {
        let ids: std::collections::BTreeSet<_> = (0..100).map(|_| asked().metadata.id).collect();
        // Of 65,536, by chance: five alike among a hundred come once in a million runs.
        assert!(ids.len() > 95, "{} of 100", ids.len());
    }
}
