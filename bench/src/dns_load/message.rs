//! Queries as bytes, and what a response says.

use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};

/// What every query asks, and what every answer must repeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The name asked for.
    pub name: Name,
    /// The class: CH for `id.server.` (RFC 4892).
    pub class: DNSClass,
    /// The record type.
    pub record_type: RecordType,
}

/// A query ready to be sent.
#[derive(Debug)]
pub(super) struct Encoded {
    /// The random message id, which the response must repeat.
    pub(super) id: u16,
    /// The message.
    pub(super) bytes: Vec<u8>,
}

/// What a datagram from the server is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Response {
    /// An answer without error to the query; the server's identity when the answer holds a TXT record.
    Answer(Option<String>),
    /// An answer to the query with an error code.
    Failure(ResponseCode),
    /// A DNS message that answers something else: another id, another question, or not a response.
    Foreign,
    /// Not a DNS message.
    Malformed,
}

impl Question {
    /// A query for this question under a fresh random id.
    pub(super) fn encode(&self) -> Encoded {
        let mut query = Query::new();
        query
            .set_name(self.name.clone())
            .set_query_type(self.record_type)
            .set_query_class(self.class);
        let mut message = Message::query();
        message.add_query(query);
        let bytes = message.to_vec().expect("a single question always fits a message");
        Encoded { id: message.metadata.id, bytes }
    }

    /// What `datagram` is to the query with message id `id`.
    pub(super) fn judge(&self, id: u16, datagram: &[u8]) -> Response {
        let Ok(message) = Message::from_vec(datagram) else {
            return Response::Malformed;
        };
        let ours = message.metadata.message_type == MessageType::Response
            && message.metadata.id == id
            && matches!(message.queries.as_slice(), [query] if self.is_asked_by(query));
        if !ours {
            return Response::Foreign;
        }
        if message.metadata.response_code != ResponseCode::NoError {
            return Response::Failure(message.metadata.response_code);
        }
        Response::Answer(message.answers.iter().find_map(|record| match &record.data {
            RData::TXT(txt) => {
                let text = txt.txt_data.concat();
                Some(String::from_utf8_lossy(&text).into_owned())
            }
            _ => None,
        }))
    }

    fn is_asked_by(&self, query: &Query) -> bool {
        query.name == self.name
            && query.query_class == self.class
            && query.query_type == self.record_type
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use hickory_proto::op::OpCode;
    use hickory_proto::rr::Record;
    use hickory_proto::rr::rdata::TXT;

    use super::*;

    fn id_server() -> Question {
        Question {
            name: Name::from_ascii("id.server.").unwrap(),
            class: DNSClass::CH,
            record_type: RecordType::TXT,
        }
    }

    /// A response to `question` as a server would write it.
    fn respond(question: &Question, id: u16, identity: &str, code: ResponseCode) -> Message {
        let mut message = Message::response(id, OpCode::Query);
        message.metadata.response_code = code;
        let mut query = Query::new();
        query
            .set_name(question.name.clone())
            .set_query_type(question.record_type)
            .set_query_class(question.class);
        message.add_query(query);
        let data = RData::TXT(TXT::new(vec![identity.to_owned()]));
        let mut record = Record::from_rdata(question.name.clone(), 0, data);
        record.dns_class = question.class;
        message.add_answer(record);
        message
    }

    #[test]
    fn a_query_is_the_octets_of_rfc_1035() {
        let encoded = id_server().encode();
        let [high, low] = encoded.id.to_be_bytes();
        let question = b"\x02id\x06server\x00\x00\x10\x00\x03";
        let header = [high, low, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        assert_eq!(encoded.bytes, [&header[..], question].concat());
    }

    #[test]
    fn ids_are_random() {
        let ids: HashSet<u16> = (0..100).map(|_| id_server().encode().id).collect();
        assert!(ids.len() > 90, "{} different ids of 100", ids.len());
    }

    #[test]
    fn an_answer_names_its_server() {
        let bytes = respond(&id_server(), 7, "n3", ResponseCode::NoError).to_vec().unwrap();
        assert_eq!(id_server().judge(7, &bytes), Response::Answer(Some("n3".into())));
    }

    #[test]
    fn an_answer_without_txt_has_no_identity() {
        let mut message = respond(&id_server(), 7, "n3", ResponseCode::NoError);
        message.answers.clear();
        assert_eq!(id_server().judge(7, &message.to_vec().unwrap()), Response::Answer(None));
    }

    #[test]
    fn errors_are_told_from_answers() {
        let bytes = respond(&id_server(), 7, "n3", ResponseCode::Refused).to_vec().unwrap();
        assert_eq!(id_server().judge(7, &bytes), Response::Failure(ResponseCode::Refused));
    }

    #[test]
    fn messages_for_others_are_foreign() {
        let question = id_server();
        let answer = respond(&question, 7, "n3", ResponseCode::NoError);
        assert_eq!(question.judge(8, &answer.to_vec().unwrap()), Response::Foreign);

        let mut other = question.clone();
        other.name = Name::from_ascii("version.server.").unwrap();
        let bytes = respond(&other, 7, "n3", ResponseCode::NoError).to_vec().unwrap();
        assert_eq!(question.judge(7, &bytes), Response::Foreign);

        let encoded = question.encode();
        assert_eq!(question.judge(encoded.id, &encoded.bytes), Response::Foreign);
    }

    #[test]
    fn truncated_messages_are_malformed() {
        let bytes = respond(&id_server(), 7, "n3", ResponseCode::NoError).to_vec().unwrap();
        for length in [0, 1, 11, 13, bytes.len() - 1] {
            assert_eq!(id_server().judge(7, &bytes[..length]), Response::Malformed, "{length}");
        }
    }
}
