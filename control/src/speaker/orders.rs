//! What the owner of a speaker and its thread share.
//!
//! The owner renews a lease many times a second; that is one store. The bell rings only where the
//! thread has something to do: the announcement changed, or the lease did in a way that the thread
//! would not find when it next looks.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::view::SpeakerPeerView;
use crate::bgp::{Announcement, Shutdown};

/// The longest lease: the two bits above are the announcement's. It ends in 146 years.
const LEASE_MAX_NS: u64 = u64::MAX >> 2;

/// The orders, and the answers.
#[derive(Debug)]
pub(super) struct Orders {
    /// The end of the lease, in nanoseconds, and in the last two bits the announcement. One word,
    /// so that they belong to each other.
    told: AtomicU64,
    /// The thread found that the lease has run out, and waits for the bell to look again.
    is_expired: AtomicBool,
    stop: Mutex<Option<Shutdown>>,
    views: Mutex<Vec<SpeakerPeerView>>,
    bell: EventFd,
}

/// What the thread is to announce, and when to look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    /// `None` before the first order.
    pub announcement: Option<Announcement>,
    /// When it ends, unless it is renewed; `u64::MAX` where it has ended.
    pub until_ns: u64,
}

impl Orders {
    pub(super) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        Ok(Self {
            told: AtomicU64::new(NOTHING_YET),
            is_expired: AtomicBool::new(false),
            stop: Mutex::new(None),
            views: Mutex::new(Vec::new()),
            bell: EventFd::from_value_and_flags(0, flags)?,
        })
    }

    pub(super) fn set(&self, announcement: Announcement, lease_until_ns: u64) {
        let told = lease_until_ns.min(LEASE_MAX_NS) << 2 | code(announcement);
        // The order of this store and the load below against those of `order` is what makes one of
        // the two threads see the other: SeqCst on all four.
        let before = self.told.swap(told, Ordering::SeqCst);
        let is_news = before & 3 != told & 3 || told < before;
        if is_news || self.is_expired.load(Ordering::SeqCst) {
            self.ring();
        }
    }

    /// What is to be announced by now.
    pub(super) fn order(&self, now_ns: u64) -> Order {
        let expired = |told: u64| told != NOTHING_YET && told >> 2 <= now_ns;
        self.is_expired.store(false, Ordering::SeqCst);
        let mut told = self.told.load(Ordering::SeqCst);
        if expired(told) {
            self.is_expired.store(true, Ordering::SeqCst);
            // It may have been renewed by one who did not see yet that it takes the bell.
            told = self.told.load(Ordering::SeqCst);
        }
        match announcement(told) {
            None => Order { announcement: None, until_ns: u64::MAX },
            Some(_) if expired(told) => {
                Order { announcement: Some(Announcement::Nothing), until_ns: u64::MAX }
            }
            announcement => Order { announcement, until_ns: told >> 2 },
        }
    }

    pub(super) fn stop(&self, shutdown: Shutdown) {
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner) = Some(shutdown);
        self.ring();
    }

    pub(super) fn stopped(&self) -> Option<Shutdown> {
        self.stop.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn publish(&self, views: Vec<SpeakerPeerView>) {
        *self.views.lock().unwrap_or_else(PoisonError::into_inner) = views;
    }

    pub(super) fn views(&self) -> Vec<SpeakerPeerView> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Silences the bell. Before the orders are looked at, so that none is overlooked.
    pub(super) fn silence(&self) {
        // Nothing to read means that it was silent.
        let _ = self.bell.read();
    }

    fn ring(&self) {
        // A full counter means that it is ringing already.
        let _ = self.bell.write(1);
    }
}

impl AsFd for Orders {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

/// Before the first order.
const NOTHING_YET: u64 = 3;

fn code(announcement: Announcement) -> u64 {
    match announcement {
        Announcement::Nothing => 0,
        Announcement::Marked => 1,
        Announcement::Announced => 2,
    }
}

fn announcement(told: u64) -> Option<Announcement> {
    match told & 3 {
        0 => Some(Announcement::Nothing),
        1 => Some(Announcement::Marked),
        2 => Some(Announcement::Announced),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Announcement::{Announced, Marked, Nothing};

    fn rings(orders: &Orders) -> bool {
        let rang = orders.bell.read().is_ok();
        orders.silence();
        rang
    }

    fn order(announcement: Announcement, until_ns: u64) -> Order {
        Order { announcement: Some(announcement), until_ns }
    }

    #[test]
    fn a_lease_runs_out_and_rings_when_it_is_renewed() {
        let orders = Orders::new().unwrap();
        assert_eq!(orders.order(0), Order { announcement: None, until_ns: u64::MAX });
        orders.set(Announced, 100);
        assert!(rings(&orders));
        assert_eq!(orders.order(99), order(Announced, 100));
        orders.set(Announced, 200);
        assert!(!rings(&orders), "the thread looks again at 100 anyway");
        assert_eq!(orders.order(100), order(Announced, 200));
        assert_eq!(orders.order(200), order(Nothing, u64::MAX));
        orders.set(Announced, 300);
        assert!(rings(&orders));
        assert_eq!(orders.order(201), order(Announced, 300));
        orders.set(Announced, 400);
        assert!(!rings(&orders));
    }

    #[test]
    fn what_the_thread_would_not_find_in_time_rings() {
        let orders = Orders::new().unwrap();
        orders.set(Announced, 1000);
        assert!(rings(&orders));
        orders.set(Announced, 500);
        assert!(rings(&orders), "a shorter lease");
        orders.set(Marked, 600);
        assert!(rings(&orders), "another announcement");
        assert_eq!(orders.order(0), order(Marked, 600));
        orders.set(Nothing, u64::MAX);
        assert_eq!(orders.order(u64::MAX >> 3), order(Nothing, LEASE_MAX_NS));
    }

    #[test]
    fn an_order_to_stop_is_taken_once() {
        let orders = Orders::new().unwrap();
        assert_eq!(orders.stopped(), None);
        orders.stop(Shutdown::Restart);
        assert!(rings(&orders));
        assert_eq!(orders.stopped(), Some(Shutdown::Restart));
        assert_eq!(orders.stopped(), None);
    }
}
