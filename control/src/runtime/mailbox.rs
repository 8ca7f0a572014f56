//! What other threads ask of the control thread.
//!
//! The control thread sleeps in `poll(2)`; a letter wakes it by an eventfd. It never waits for the
//! other threads, and they wait for it only so long: a control thread that stands still must not
//! take the admin socket with it.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};
#[cfg(feature = "dpdk")]
use vipdp_io::dpdk::Loss;

use super::control::ControlView;
use super::reload::Reload;

/// How long to wait for the control thread's answer: several times its longest sleep.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// What the control thread is asked for.
#[derive(Debug)]
pub enum Letter {
    /// How it sees the cluster.
    View(SyncSender<ControlView>),
    /// Start or end the drain; answered when the order is taken.
    Drain(bool, SyncSender<()>),
    /// Stage a new configuration; answered when it is.
    Reload(Box<Reload>, SyncSender<()>),
    /// Hand everything over, then end.
    Stop,
    /// The NIC that DPDK has is lost: hand over what can be, then end.
    #[cfg(feature = "dpdk")]
    Lost(Loss),
}

/// The control thread stands still, or has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the control thread did not answer within {} s: it stands still, or it is ending", ANSWER_MAX.as_secs())]
pub struct NoAnswer;

/// The end that other threads hold.
#[derive(Clone, Debug)]
pub struct Mailbox {
    letters: Arc<Mutex<Sender<Letter>>>,
    bell: Arc<EventFd>,
}

/// The control thread's end.
#[derive(Debug)]
pub struct Letters {
    letters: Receiver<Letter>,
    bell: Arc<EventFd>,
}

/// Makes both ends.
///
/// # Errors
/// When the kernel has no descriptor left.
pub fn mailbox() -> nix::Result<(Mailbox, Letters)> {
    let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
    let bell = Arc::new(EventFd::from_value_and_flags(0, flags)?);
    let (sender, letters) = channel();
    let mailbox = Mailbox { letters: Arc::new(Mutex::new(sender)), bell: Arc::clone(&bell) };
    Ok((mailbox, Letters { letters, bell }))
}

impl Mailbox {
    /// How the control thread sees the cluster.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub fn view(&self) -> Result<ControlView, NoAnswer> {
        self.ask(Letter::View)
    }

    /// Starts or ends the drain.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub fn drain(&self, on: bool) -> Result<(), NoAnswer> {
        self.ask(|answer| Letter::Drain(on, answer))
    }

    /// Has a new configuration staged.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub fn reload(&self, reload: Reload) -> Result<(), NoAnswer> {
        self.ask(|answer| Letter::Reload(Box::new(reload), answer))
    }

    /// Has the control thread hand everything over and end.
    ///
    /// # Errors
    /// [`NoAnswer`], if it has ended already.
    pub fn stop(&self) -> Result<(), NoAnswer> {
        self.post(Letter::Stop)
    }

    /// Has the control thread hand over what can be, and end: the NIC is lost.
    ///
    /// # Errors
    /// [`NoAnswer`], if it has ended already.
    #[cfg(feature = "dpdk")]
    pub fn lose(&self, loss: Loss) -> Result<(), NoAnswer> {
        self.post(Letter::Lost(loss))
    }

    /// Wakes the control thread: something that it looks at in each turn has changed.
    pub fn wake(&self) {
        // A full counter means that the bell is ringing already.
        let _ = self.bell.write(1);
    }

    fn ask<T>(&self, letter: impl FnOnce(SyncSender<T>) -> Letter) -> Result<T, NoAnswer> {
        let (answer, answered) = sync_channel(1);
        self.post(letter(answer))?;
        answered.recv_timeout(ANSWER_MAX).map_err(|error| match error {
            RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected => NoAnswer,
        })
    }

    fn post(&self, letter: Letter) -> Result<(), NoAnswer> {
        let letters = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
        letters.send(letter).map_err(|_| NoAnswer)?;
        self.wake();
        Ok(())
    }
}

impl Letters {
    /// The next letter, if there is one.
    pub fn take(&self) -> Option<Letter> {
        self.letters.try_recv().ok()
    }

    /// Silences the bell. Before the letters are taken, so that none is overlooked.
    pub fn silence(&self) {
        // Nothing to read means that it was silent.
        let _ = self.bell.read();
    }
}

impl AsFd for Letters {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_is_answered_and_one_to_nobody_is_not() {
        let (mailbox, letters) = mailbox().unwrap();
        let control = std::thread::spawn(move || {
            loop {
                letters.silence();
                match letters.take() {
                    Some(Letter::Drain(on, answer)) => {
                        answer.send(()).unwrap();
                        return on;
                    }
                    Some(letter) => panic!("{letter:?}"),
                    None => std::thread::yield_now(),
                }
            }
        });
        assert_eq!(mailbox.drain(true), Ok(()));
        assert!(control.join().unwrap());
        assert_eq!(mailbox.drain(false), Err(NoAnswer));
    }
}
