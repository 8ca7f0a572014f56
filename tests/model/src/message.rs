//! What nodes say to each other, and the links that carry it.

use crate::Set;

/// What one node says to another: of `wire::Message`, what the rules look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Message {
    /// The sender's session.
    pub session: u8,
    /// What it is for.
    pub body: Body,
    /// Whether the sender owns nothing yet: LISTEN, or FENCED.
    pub listens: bool,
    /// Whether it takes its share.
    pub share: bool,
    /// Whether it is candidate.
    pub candidate: bool,
    /// Whom it hears.
    pub hears: Set,
    /// The receiver's session, as far as the sender knows it; 0 for none.
    pub tag: u8,
    /// Whether the sender has heard the receiver's mark, which stands for the comparison of the
    /// acknowledged sequence number with that of the mark.
    pub acks: bool,
    /// Whether it was sent since the sender's own mark.
    pub marked: bool,
    /// Whether it was sent since the sender challenged the receiver.
    pub challenges: bool,
    /// The last batch that the sender has accepted from the receiver.
    pub accepted: u8,
}

/// What a message is for: `wire::Body`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Body {
    /// It tells what is claimed.
    Heartbeat {
        /// Whether the sender answers for the bucket.
        claims: bool,
        /// Whether it is handing it over.
        hands_over: bool,
    },
    /// The sender is candidate.
    Candidate,
    /// The bucket is the receiver's.
    Transfer {
        /// The number of the batch.
        number: u8,
    },
    /// It proves that the sender's session is a present one.
    Join {
        /// The receiver's session.
        names: u8,
        /// Whether the sender has heard a message that the receiver sent since its challenge, which
        /// stands for the comparison of the sequence number in `wire::proof` with the challenge.
        answers: bool,
    },
}

/// What is on its way from one node to another. A message that is overtaken is refused by the
/// receiver, so that to deliver a message is to lose those before it; to send into a full link is
/// to lose the oldest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Link {
    /// Oldest first.
    pub queue: [Option<Message>; 2],
    /// A copy of a message that has arrived already.
    pub copy: Option<Message>,
}

impl Link {
    /// Puts `message` on its way, where `capacity` of them may be.
    pub fn send(&mut self, message: Message, capacity: usize) {
        let length = self.queue.iter().flatten().count();
        if self.queue[..length].last() == Some(&Some(message)) {
            return;
        }
        if length == capacity {
            self.queue.rotate_left(1);
            self.queue[capacity.min(length) - 1] = Some(message);
            self.queue[capacity..].fill(None);
        } else {
            self.queue[length] = Some(message);
        }
    }

    /// Takes out the message at `place`, and loses those before it.
    pub fn take(&mut self, place: usize) -> Option<Message> {
        let message = self.queue[place];
        self.queue.rotate_left(place + 1);
        let left = self.queue.len() - place - 1;
        self.queue[left..].fill(None);
        message
    }

    /// All messages on their way.
    pub fn messages(&mut self) -> impl Iterator<Item = &mut Message> {
        self.queue.iter_mut().chain([&mut self.copy]).flatten()
    }
}
