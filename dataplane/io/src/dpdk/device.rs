//! The thread that DPDK runs on, and the device from its first day to its last.
//!
//! `rte_eal_init` takes the thread that calls it for its own: sets its affinity, and means it by "main".
//! It gets one that does nothing else but watch the link and answer questions, until neither the
//! [`Nic`](super::Nic) nor any of its ports is left. Then it closes the device.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use vipdp_core::wire::ethernet::MacAddr;

use super::kernel::{self, Interface};
use super::left;
use super::options::{OpenError, Options};
use super::presence::{Loss, Presence};
use super::registers;
use super::shim::{self, DeviceInfo};
use super::{LinkState, Statistics};

/// Descriptors of the rings that are asked for; a driver may have less. 1,024: a stall of the worker of
/// 100 us at 10 Mpps.
pub(super) const RX_RING: u16 = 1024;
pub(super) const TX_RING: u16 = 1024;

/// Frames in a thread's cache of a pool: four bursts.
const CACHE: u32 = 256;

/// How often the link is looked at. 20 ms is well below what a heartbeat takes to notice, and a look may
/// take a driver 100 us.
const LOOK: Duration = Duration::from_millis(20);

/// How long a link may take to come up before the device is used without one.
const LINK_WAIT: Duration = Duration::from_secs(5);

/// Whether DPDK was started in this process.
static STARTED: AtomicBool = AtomicBool::new(false);

/// Called when the link goes up or down.
pub(super) type Watcher = Box<dyn FnMut(bool) + Send>;

/// Called once, when the device is lost.
pub(super) type Mourner = Box<dyn FnOnce(Loss) + Send>;

/// What the thread is asked to do.
enum Question {
    Statistics(Sender<Statistics>),
    Watch(Watcher),
    WatchLoss(Mourner),
    /// To receive from these addresses too: whether it now receives all frames.
    Receive(Vec<MacAddr>, Sender<io::Result<bool>>),
}

/// What keeps the device open. The last one to go waits until it is closed.
pub(super) struct Handle {
    questions: Option<Sender<Question>>,
    thread: Option<JoinHandle<()>>,
    link: Arc<LinkCell>,
}

/// A device that was opened.
pub(super) struct Device {
    number: u16,
    pub(super) info: DeviceInfo,
    pub(super) is_promiscuous: bool,
    /// One per queue.
    pub(super) pools: Vec<Pool>,
    /// The kernel's interface below it, if there is one.
    below: Option<Interface>,
    /// What the kernel says of it, if it is a PCI device.
    presence: Option<Presence>,
    lost: Option<Loss>,
}

/// The frames of one queue.
#[derive(Clone, Copy)]
pub(super) struct Pool(pub(super) NonNull<c_void>);

// SAFETY: DPDK's pools may be used by any thread.
unsafe impl Send for Pool {}

/// What the caller needs of a device that was opened.
pub(super) struct Opened {
    pub(super) handle: Arc<Handle>,
    pub(super) number: u16,
    pub(super) info: DeviceInfo,
    pub(super) is_promiscuous: bool,
    pub(super) pools: Vec<Pool>,
}

/// Starts DPDK on a thread of its own, in the network namespace of this one, and opens the device.
pub(super) fn start(options: &Options) -> Result<Opened, OpenError> {
    options.check()?;
    if STARTED.swap(true, Ordering::AcqRel) {
        return Err(OpenError::Again);
    }
    let (questions, asked) = mpsc::channel();
    let (tell, told) = mpsc::channel();
    let link = Arc::<LinkCell>::default();
    let thread = thread::Builder::new()
        .name("vipdp-dpdk".to_owned())
        .spawn({
            let (options, link) = (options.clone(), Arc::clone(&link));
            move || run(&options, &tell, &asked, &link)
        })
        .map_err(OpenError::Thread)?;
    let opened = told.recv().unwrap_or_else(|_| {
        Err(OpenError::Thread(io::Error::other("it ended while it opened the device")))
    });
    match opened {
        Ok(Told { number, info, is_promiscuous, pools }) => {
            let handle = Handle { questions: Some(questions), thread: Some(thread), link };
            Ok(Opened { handle: Arc::new(handle), number, info, is_promiscuous, pools })
        }
        Err(error) => {
            drop(questions);
            // What it ended with is what it told.
            let _ = thread.join();
            Err(error)
        }
    }
}

/// What the thread tells of the device.
struct Told {
    number: u16,
    info: DeviceInfo,
    is_promiscuous: bool,
    pools: Vec<Pool>,
}

/// The thread's whole life.
fn run(
    options: &Options,
    tell: &Sender<Result<Told, OpenError>>,
    asked: &Receiver<Question>,
    link: &LinkCell,
) {
    let eal = match Eal::start(options) {
        Ok(eal) => eal,
        Err(error) => return told(tell, Err(error)),
    };
    match Device::open(options) {
        Ok(mut device) => {
            if let Err(error) = kernel::close_on_exec() {
                tracing::warn!(%error, "commands that are started have the NIC's descriptors");
            }
            if let Err(error) = registers::guard() {
                tracing::warn!(%error, "should the NIC be pulled out, this process may end at once");
            }
            device.wait_for_link(link);
            let Device { number, info, is_promiscuous, ref pools, .. } = device;
            told(tell, Ok(Told { number, info, is_promiscuous, pools: pools.clone() }));
            device.serve(asked, link);
        }
        Err(error) => told(tell, Err(error)),
    }
    drop(eal);
}

fn told(tell: &Sender<Result<Told, OpenError>>, result: Result<Told, OpenError>) {
    // Whoever asked has gone away only if it panicked; then the questions end too.
    let _ = tell.send(result);
}

/// DPDK's environment, which ends when dropped.
struct Eal;

impl Eal {
    fn start(options: &Options) -> Result<Self, OpenError> {
        let cores: Vec<_> = core_affinity::get_core_ids()
            .map(|cores| cores.into_iter().map(|core| core.id).collect())
            .unwrap_or_else(|| vec![0]);
        let prefix = left::own_name();
        let log = if tracing::enabled!(tracing::Level::DEBUG) { "debug" } else { "warning" };
        let arguments = options.eal_arguments(&cores, &prefix, log);
        let strings: Vec<_> = arguments
            .iter()
            .map(|argument| CString::new(argument.as_str()).expect("checked: without a NUL"))
            .collect();
        // DPDK keeps the pointers of some arguments, and its getopt reorders the array: both stay.
        let mut pointers: Vec<*mut c_char> =
            strings.iter().map(|string| string.as_ptr().cast_mut()).collect();
        pointers.push(std::ptr::null_mut());
        std::mem::forget(strings);
        let argv = pointers.leak().as_mut_ptr();
        // SAFETY: an argv of NUL-terminated strings with a null pointer behind the last, which lives as
        // long as the process; this is the one call, see STARTED.
        let result = unsafe { shim::vipdp_dpdk_init(arguments.len() as c_int, argv) };
        if result < 0 {
            let arguments = arguments[1..].join(" ");
            return Err(OpenError::Eal { arguments, source: error(result) });
        }
        // SAFETY: a string of DPDK's own that lasts.
        let version = unsafe { CStr::from_ptr(shim::vipdp_dpdk_version()) };
        tracing::debug!(version = %version.to_string_lossy(), ?arguments, "DPDK runs");
        Self::remove_left();
        Ok(Self)
    }

    /// Removes what killed processes left beside this one's directory.
    fn remove_left() {
        if let Some(place) = Self::directory().parent()
            && let Err(error) = left::remove_left_below(place)
        {
            tracing::warn!(place = %place.display(), %error, "what killed processes left stays");
        }
    }

    /// DPDK's directory of this process.
    fn directory() -> PathBuf {
        // SAFETY: the EAL runs, and the string is copied at once.
        unsafe {
            let directory = shim::vipdp_dpdk_runtime_directory();
            PathBuf::from(CStr::from_ptr(directory).to_string_lossy().into_owned())
        }
    }
}

impl Drop for Eal {
    fn drop(&mut self) {
        let directory = Self::directory();
        // SAFETY: the EAL runs, and nobody uses it any more: the device is closed.
        unsafe { shim::vipdp_dpdk_cleanup() };
        // Empty, since nothing is shared. If it is not, it is left as it is.
        let _ = fs::remove_dir(directory);
    }
}

impl Device {
    fn open(options: &Options) -> Result<Self, OpenError> {
        let devargs = &options.devargs;
        let mut number = 0;
        // SAFETY: the shim writes the number.
        let count = unsafe { shim::vipdp_dpdk_devices(&raw mut number) };
        match count {
            1 => {}
            0 => return Err(OpenError::NoDevice(devargs.clone())),
            _ => {
                let count = count.unsigned_abs();
                return Err(OpenError::SeveralDevices { devargs: devargs.clone(), count });
            }
        }
        // SAFETY: integers and arrays of them, for which zero is a value.
        let mut info: DeviceInfo = unsafe { std::mem::zeroed() };
        // SAFETY: the shim writes the structure, which is declared as its own.
        let result = unsafe { shim::vipdp_dpdk_info(number, &raw mut info) };
        let mut device = Self {
            number,
            info,
            is_promiscuous: false,
            pools: Vec::new(),
            below: Interface::open(info.interface),
            presence: Presence::of(devargs),
            lost: None,
        };
        let set_up = device.try_(result, "asking what it can do").and_then(|()| {
            device.set_up(options)?;
            device.receive_from(&options.macs)
        });
        set_up.map_err(|(step, source)| {
            let driver = driver(&device.info);
            OpenError::Device { devargs: devargs.clone(), driver, step, source }
        })?;
        Ok(device)
    }

    /// Configures the device, gives each queue a pool of frames, and starts it.
    fn set_up(&mut self, options: &Options) -> Result<(), (&'static str, io::Error)> {
        let most = self.info.rx_queues_max.min(self.info.tx_queues_max);
        let queues = most.min(options.queues as u16);
        let (mut rx_ring, mut tx_ring) = (RX_RING, TX_RING);
        let (number, socket) = (self.number, self.info.socket);
        // SAFETY: the device is there, and the shim reads and writes the two sizes.
        let result = unsafe {
            let rings = (&raw mut rx_ring, &raw mut tx_ring);
            shim::vipdp_dpdk_configure(number, queues, options.mtu, rings.0, rings.1)
        };
        self.try_(result, "configuring it, with this MTU and as many queues")?;
        for queue in 0..queues {
            let name = CString::new(format!("vipdp-{queue}")).expect("without a NUL");
            // SAFETY: the name is read during the call.
            let pool = unsafe {
                let (name, frames) = (name.as_ptr(), options.frames_per_queue);
                shim::vipdp_dpdk_pool(name, frames, CACHE, socket, options.is_virtual().into())
            };
            let step = "taking memory for frames";
            let pool = NonNull::new(pool).ok_or((step, io::Error::from_raw_os_error(libc::ENOMEM)));
            self.pools.push(Pool(pool?));
            // SAFETY: the device is configured for as many queues, and the pool lives longer than it.
            let result = unsafe {
                let pool = self.pools[usize::from(queue)].0.as_ptr();
                shim::vipdp_dpdk_queue(number, queue, rx_ring, tx_ring, socket, pool)
            };
            self.try_(result, "setting up a queue")?;
        }
        // SAFETY: all of its queues are set up.
        let result = unsafe { shim::vipdp_dpdk_start(number) };
        self.try_(result, "starting it")?;
        // SAFETY: the device is started.
        let result = unsafe { shim::vipdp_dpdk_all_vlans(number) };
        self.try_(result, "receiving frames of every VLAN")
    }

    /// Has the NIC receive frames to these addresses, and to all groups: of solicitations, heartbeats and
    /// what else the host hears.
    fn receive_from(&mut self, macs: &[MacAddr]) -> Result<(), (&'static str, io::Error)> {
        let number = self.number;
        // SAFETY: the device is started; the address is read during the call.
        let refused =
            |mac: &MacAddr| unsafe { shim::vipdp_dpdk_add_mac(number, mac.0.as_ptr()) < 0 };
        let single = |mac: &&MacAddr| !mac.is_group() && mac.0 != self.info.mac;
        let too_few = macs.iter().filter(single).any(refused);
        // SAFETY: the device is started.
        let no_groups = unsafe { shim::vipdp_dpdk_all_groups(number) } < 0;
        if !too_few && !no_groups {
            return Ok(());
        }
        let result = self.receive_all();
        self.is_promiscuous = result.is_ok();
        match result {
            Err(source) if too_few => Err(("receiving frames to further MAC addresses", source)),
            Err(error) => {
                // A device that knows of no filter at all has none.
                tracing::debug!(%error, "the device has no filter of MAC addresses");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn receive_all(&self) -> io::Result<()> {
        if let Some(below) = &self.below {
            return below.receive_all();
        }
        // SAFETY: the device is started.
        let result = unsafe { shim::vipdp_dpdk_promiscuous(self.number) };
        if result < 0 { Err(error(result)) } else { Ok(()) }
    }

    fn try_(&self, result: c_int, step: &'static str) -> Result<(), (&'static str, io::Error)> {
        if result < 0 { Err((step, error(result))) } else { Ok(()) }
    }

    /// The link's state now. A device that is gone has none.
    fn link(&mut self) -> LinkState {
        self.look_for_loss();
        if self.lost == Some(Loss::Gone) {
            return LinkState::default();
        }
        let mut link = shim::Link::default();
        // SAFETY: the device is started, and the shim writes the structure.
        let result = unsafe { shim::vipdp_dpdk_link(self.number, &raw mut link) };
        let is_up = result == 0
            && link.is_up != 0
            && self.below.as_ref().is_none_or(Interface::has_carrier);
        LinkState { is_up, speed_mbps: (link.speed_mbps != u32::MAX).then_some(link.speed_mbps) }
    }

    /// Sees whether the device is there. From one that is gone everything is kept away: another driver may have it.
    fn look_for_loss(&mut self) {
        if self.lost == Some(Loss::Gone) {
            return;
        }
        let is_below = self.below.as_ref().is_none_or(Interface::is_there);
        // SAFETY: the device is open.
        let is_removed = unsafe { shim::vipdp_dpdk_is_removed(self.number) } != 0;
        self.lost = match self.presence.as_ref().and_then(Presence::loss) {
            _ if is_removed || !is_below => Some(Loss::Gone),
            loss => loss,
        };
        if self.lost == Some(Loss::Gone) {
            registers::detach();
        }
    }

    fn wait_for_link(&mut self, cell: &LinkCell) {
        let start = Instant::now();
        loop {
            let state = self.link();
            cell.set(state);
            if state.is_up {
                return;
            }
            if start.elapsed() >= LINK_WAIT {
                tracing::warn!(driver = driver(&self.info), "the NIC has no link yet");
                return;
            }
            thread::sleep(LOOK);
        }
    }

    /// Watches the link and answers, until nobody is left to ask.
    fn serve(&mut self, asked: &Receiver<Question>, cell: &LinkCell) {
        let mut watcher: Option<Watcher> = None;
        let mut mourner: Option<Mourner> = None;
        let mut was_up = cell.get().is_up;
        loop {
            match asked.recv_timeout(LOOK) {
                Ok(Question::Statistics(answer)) => {
                    // Whoever asked may have gone away.
                    let _ = answer.send(self.statistics());
                }
                Ok(Question::Watch(new)) => watcher = Some(new),
                Ok(Question::WatchLoss(new)) => mourner = Some(new),
                Ok(Question::Receive(macs, answer)) => {
                    let received = self.receive_from(&macs).map(|()| self.is_promiscuous);
                    let _ = answer.send(received.map_err(|(_, error)| error));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let state = self.link();
            cell.set(state);
            if let Some(watcher) = &mut watcher
                && state.is_up != was_up
            {
                watcher(state.is_up);
                was_up = state.is_up;
            }
            if let Some(loss) = self.lost
                && let Some(mourner) = mourner.take()
            {
                mourner(loss);
            }
        }
    }

    fn statistics(&self) -> Statistics {
        let mut all = shim::DeviceStatistics::default();
        // SAFETY: the device is there, and the shim writes the structure.
        let result = unsafe { shim::vipdp_dpdk_statistics(self.number, &raw mut all) };
        if result < 0 {
            tracing::debug!(error = %error(result), "the device does not tell its counts");
        }
        let shim::DeviceStatistics { received, transmitted, missed, errors, no_mbuf, tx_errors } =
            all;
        Statistics { received, transmitted, missed, errors, no_frame: no_mbuf, tx_errors }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: no port is left that uses the device or its pools: the thread ends after the last
        // handle, or before there was one.
        unsafe {
            shim::vipdp_dpdk_close(self.number);
            for pool in &self.pools {
                shim::vipdp_dpdk_free_pool(pool.0.as_ptr());
            }
        }
    }
}

impl Handle {
    /// The link's state, at most [`LOOK`] old.
    pub(super) fn link(&self) -> LinkState {
        self.link.get()
    }

    pub(super) fn watch(&self, watcher: Watcher) {
        self.ask(Question::Watch(watcher));
    }

    pub(super) fn watch_loss(&self, mourner: Mourner) {
        self.ask(Question::WatchLoss(mourner));
    }

    pub(super) fn statistics(&self) -> Statistics {
        let (answer, answered) = mpsc::channel();
        self.ask(Question::Statistics(answer));
        answered.recv().unwrap_or_default()
    }

    /// Receives frames to these addresses too. Returns whether all frames are received now.
    pub(super) fn receive_from(&self, macs: &[MacAddr]) -> io::Result<bool> {
        let (answer, answered) = mpsc::channel();
        self.ask(Question::Receive(macs.to_vec(), answer));
        answered.recv().unwrap_or_else(|_| Err(io::Error::other("the thread of DPDK has ended")))
    }

    fn ask(&self, question: Question) {
        // It listens until the handle is gone, unless it panicked, which is told then.
        let _ = self.questions.as_ref().expect("until it is dropped").send(question);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        drop(self.questions.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of DPDK ended in a panic");
        }
    }
}

/// A link's state that one thread writes and others read.
#[derive(Debug, Default)]
pub(super) struct LinkCell(AtomicU64);

impl LinkCell {
    fn set(&self, LinkState { is_up, speed_mbps }: LinkState) {
        let speed = speed_mbps.unwrap_or(u32::MAX);
        self.0.store(u64::from(is_up) << 32 | u64::from(speed), Ordering::Relaxed);
    }

    fn get(&self) -> LinkState {
        let packed = self.0.load(Ordering::Relaxed);
        let speed = packed as u32;
        LinkState { is_up: packed >> 32 == 1, speed_mbps: (speed != u32::MAX).then_some(speed) }
    }
}

/// The driver's name.
pub(super) fn driver(info: &DeviceInfo) -> String {
    let bytes: Vec<u8> =
        info.driver.iter().map(|&c| c as u8).take_while(|&byte| byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What DPDK calls an error of the shim's: a negative errno.
fn error(result: c_int) -> io::Error {
    /// DPDK has one buffer for the errors that the C library does not know.
    static BUFFER: Mutex<()> = Mutex::new(());
    let errno = -result;
    // DPDK's own begin here (`RTE_MIN_ERRNO`).
    if errno < 1000 {
        return io::Error::from_raw_os_error(errno);
    }
    let _guard = BUFFER.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: a NUL-terminated string, which is copied before another error is asked for.
    let text = unsafe { CStr::from_ptr(shim::vipdp_dpdk_error(errno)) };
    io::Error::other(text.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_read_as_it_was_written() {
        let cell = LinkCell::default();
        for is_up in [false, true] {
            for speed_mbps in [None, Some(0), Some(100_000)] {
                let state = LinkState { is_up, speed_mbps };
                cell.set(state);
                assert_eq!(cell.get(), state);
            }
        }
    }
}
