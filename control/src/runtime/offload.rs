//! Keeps the XDP program's offload in step with the snapshots.
//!
//! ```text
//!   publication     open what the snapshot gives us, renew the lease | publish | pass what it has given us
//!   in between      once a second: is a foreign bucket open?
//!                     wait until every worker goes by the newest snapshot
//!                     read the flow table, a part at a time
//!                     close those buckets of which there is no flow
//! ```
//!
//! The lease is that of the snapshots.

use std::sync::Arc;

use tracing::debug;
use vipdp_core::bucket::{Bucket, BucketSet};
use vipdp_core::decide::Now;
use vipdp_core::flow::{BucketScan, FlowTable};
use vipdp_core::offload::{OffloadMode, OffloadTable};
use vipdp_core::snapshot::{Holding, Holdings};
use vipdp_io::xdp::Offload;

use super::workers::Progress;

/// How often one looks whether foreign buckets are open.
const LOOK_NS: u64 = 1_000_000_000;
/// How soon it is looked again whether the workers go by the newest snapshot: an idle one makes a turn
/// every 20 ms.
const SETTLE_NS: u64 = 50_000_000;
/// Pause between two parts of the flow table.
const PART_NS: u64 = 10_000_000;
/// Lines of the flow table that are read in a row: 1 MiB, a fraction of a millisecond, which is how much
/// later than due a heartbeat may leave for it.
const PART_LINES: usize = 1 << 14;

/// The program's offload, and the way to what it should be.
#[derive(Debug)]
pub struct Offloading {
    maps: Offload,
    mode: OffloadMode,
    flows: Arc<FlowTable>,
    /// What the newest snapshot holds.
    holdings: Holdings,
    closing: Closing,
    due_ns: u64,
}

/// How far one is with closing buckets.
#[derive(Debug)]
enum Closing {
    /// Nothing is being closed.
    Idle,
    /// Foreign buckets are open; a worker may still go by a snapshot in which they are not foreign.
    Settling { ajar: BucketSet, since: Progress },
    /// Their flows are being looked for.
    Scanning { ajar: BucketSet, scan: Box<BucketScan> },
}

impl Closing {
    /// What is held is not closed any more, and has to be looked for anew when it is given away.
    fn retain_foreign(&mut self, holdings: &Holdings) {
        let (Self::Settling { ajar, .. } | Self::Scanning { ajar, .. }) = self else { return };
        let held: BucketSet =
            Bucket::all().filter(|&it| holdings.get(it) != Holding::Foreign).collect();
        ajar.remove_all(&held);
    }
}

impl Offloading {
    /// Starts with everything to user space.
    pub fn new(maps: Offload, mode: OffloadMode, flows: Arc<FlowTable>, now_ns: u64) -> Self {
        let (holdings, closing) = (Holdings::none(), Closing::Idle);
        Self { maps, mode, flows, holdings, closing, due_ns: now_ns }
    }

    /// When [`turn`](Self::turn) has something to do.
    pub const fn due_ns(&self) -> u64 {
        self.due_ns
    }

    /// Prepares the program for a snapshot that is published next.
    pub fn before_publication(&mut self, holdings: &Holdings, lease_until_ns: u64) {
        self.closing.retain_foreign(holdings);
        self.maps.change(|table| table.opened(self.mode, holdings));
        self.maps.set_lease(lease_until_ns);
    }

    /// Follows the snapshot that was published just now.
    pub fn after_publication(&mut self, holdings: Holdings) {
        self.maps.change(|table| table.passing(self.mode, &holdings));
        self.holdings = holdings;
    }

    /// Goes on closing what is foreign. `progress` tells how far the workers are.
    pub fn turn(&mut self, now_ns: u64, progress: impl FnOnce() -> Progress) {
        if now_ns < self.due_ns {
            return;
        }
        let (closing, pause_ns) = self.advance(now_ns, progress);
        (self.closing, self.due_ns) = (closing, now_ns + pause_ns);
    }

    /// The next step, and after which pause another one is due.
    fn advance(&mut self, now_ns: u64, progress: impl FnOnce() -> Progress) -> (Closing, u64) {
        match std::mem::replace(&mut self.closing, Closing::Idle) {
            Closing::Idle => {
                self.maps.change(OffloadTable::heeded);
                let ajar = self.maps.table().ajar(&self.holdings);
                if ajar.is_empty() {
                    return (Closing::Idle, LOOK_NS);
                }
                (Closing::Settling { ajar, since: progress() }, SETTLE_NS)
            }
            Closing::Settling { ajar, since } if !progress().is_round_after(&since) => {
                (Closing::Settling { ajar, since }, SETTLE_NS)
            }
            Closing::Settling { ajar, .. } => (Closing::Scanning { ajar, scan: Box::default() }, 0),
            Closing::Scanning { ajar, mut scan } => {
                if self.flows.scan(&mut scan, PART_LINES, Now::of_ns(now_ns).seconds) {
                    return (Closing::Scanning { ajar, scan }, PART_NS);
                }
                self.maps.change(|table| table.closed(&ajar, scan.found()));
                let kept = ajar.iter().filter(|&bucket| scan.found().contains(bucket)).count();
                debug!(
                    buckets = ajar.len(),
                    kept, "closed foreign buckets, but for those with flows"
                );
                (Closing::Idle, LOOK_NS)
            }
        }
    }
}
