use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::symlink;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use vipdp_core::bucket::Bucket;
use vipdp_core::flow::{FlowKey, FlowState, Seconds};
use vipdp_core::hash::HashInput;

use super::*;

const SECRET: [u64; 2] = [3, 4];
/// The second that the dead process last worked in.
const NOW: u64 = 1000;

fn client_hash() -> ClientHash {
    ClientHash::new(*b"a cluster's key!", HashInput::Address)
}

fn at(s: u64) -> Seconds {
    Seconds::of_ns(s * 1_000_000_000)
}

fn key(table: &FlowTable, n: u64) -> FlowKey {
    let vip = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53));
    table.key(n.wrapping_mul(0x9e37_79b9_7f4a_7c15), n as u16, vip, 53, 6)
}

/// A directory with a file that a dead process left 100 flows in.
struct Left {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

impl Left {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nic0.flows");
        let left = Self { _directory: directory, path };
        let file = left.open([1, 2]).unwrap();
        assert_eq!(file.found, Found::Nothing);
        let table = file.table();
        assert_eq!((table.capacity(), table.census(at(NOW)).flows()), (4096, 0));
        for n in 0..100 {
            table.insert(key(&table, n), Bucket::of_hash(n), FlowState::Established, at(NOW));
        }
        assert_eq!(left.flows(), None, "it is locked");
        left
    }

    fn open(&self, secret: [u64; 2]) -> Result<FlowFile, FlowFileError> {
        self.open_at(secret, NOW + 1)
    }

    fn open_at(&self, secret: [u64; 2], now: u64) -> Result<FlowFile, FlowFileError> {
        FlowFile::open(&self.path, 4096, &client_hash(), secret, now * 1_000_000_000)
    }

    /// How many flows the next process finds; `None` if it is refused.
    fn flows(&self) -> Option<usize> {
        let file = self.open(SECRET).ok()?;
        let table = file.table();
        let census = table.census(at(NOW + 1));
        let found = (0..100).filter(|&n| table.lookup(key(&table, n), at(NOW + 1)).is_some());
        assert_eq!(found.count(), census.flows());
        Some(census.flows())
    }

    /// Writes over a part of the header.
    fn change(&self, at: usize, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(&self.path).unwrap();
        file.write_all_at(bytes, at as u64).unwrap();
    }

    /// Asserts that the next process begins anew, says why, and leaves a table for the one after.
    fn assert_unfit(&self, unfit: Unfit) {
        let file = self.open(SECRET).unwrap();
        assert_eq!(file.found, Found::Unfit(unfit));
        let table = file.table();
        assert_eq!(table.census(at(NOW)).flows(), 0, "{unfit}");
        table.insert(key(&table, 7), Bucket::of_hash(7), FlowState::Established, at(NOW));
        drop(file);
        assert_eq!(self.flows(), Some(1), "{unfit}");
        assert_eq!(fs::metadata(&self.path).unwrap().mode() & 0o777, 0o600);
    }
}

#[test]
fn the_next_process_has_the_flows_of_the_last() {
    let left = Left::new();
    assert_eq!(left.open(SECRET).unwrap().found, Found::Table);
    assert_eq!(left.flows(), Some(100));
    let metadata = fs::metadata(&left.path).unwrap();
    assert_eq!((metadata.len(), metadata.mode() & 0o777), (4096 + 8 * 4096, 0o600));
    assert!(metadata.blocks() * 512 >= metadata.len(), "all of it is allocated");
}

#[test]
fn two_processes_never_share_a_table() {
    let left = Left::new();
    let first = left.open(SECRET).unwrap();
    let second = left.open(SECRET).unwrap_err();
    assert!(matches!(&second, FlowFileError::Locked { path } if *path == left.path));
    assert!(second.to_string().contains("another process"), "{second}");
    drop(first);
    assert_eq!(left.flows(), Some(100));
}

#[test]
fn a_table_that_is_not_like_ours_is_not_taken_over() {
    let foreign = BYTE_ORDER.swap_bytes().to_ne_bytes();
    let boot = b"11111111-2222-3333-4444-555555555555";
    let word = |number: u64| number.to_ne_bytes();
    let changes: [(usize, &[u8], Unfit); 9] = [
        (0, &[0; Header::LEN], Unfit::Unfinished),
        (8, &foreign, Unfit::Machine),
        (16, &word(VERSION + 1), Unfit::Version(VERSION + 1)),
        (24, &word(4), Unfit::Machine),
        (32, &word(256), Unfit::Capacity(2048)),
        (32, &word(u64::MAX), Unfit::Capacity(u64::MAX)),
        (Header::BOOT_AT, boot, Unfit::Boot),
        (Header::SECRET_AT, &word(3), Unfit::Form),
        (Header::FORM_AT, &word(3), Unfit::Form),
    ];
    for (at, bytes, unfit) in changes {
        let left = Left::new();
        left.change(at, bytes);
        left.assert_unfit(unfit);
    }
}

#[test]
fn what_names_the_flows_must_be_the_same() {
    let other_key = ClientHash::new(*b"another cluster!", HashInput::Address);
    let other_input = ClientHash::new(*b"a cluster's key!", HashInput::AddressAndPort);
    for other in [other_key, other_input] {
        let left = Left::new();
        let file = FlowFile::open(&left.path, 4096, &other, SECRET, NOW).unwrap();
        assert_eq!(file.found, Found::Unfit(Unfit::Form));
    }
    let left = Left::new();
    let file = FlowFile::open(&left.path, 8192, &client_hash(), SECRET, NOW).unwrap();
    assert_eq!(file.found, Found::Unfit(Unfit::Capacity(4096)));
    assert_eq!(file.table().capacity(), 8192);
}

#[test]
fn flows_that_nobody_had_for_long_are_not_taken_over() {
    let left = Left::new();
    let file = left.open_at(SECRET, NOW + 100).unwrap();
    assert_eq!(file.found, Found::Table, "100 s after");
    file.stamp((NOW + 500) * 1_000_000_000);
    drop(file);
    assert_eq!(left.open_at(SECRET, NOW + 620).unwrap().found, Found::Table, "120 s after");
    let found = left.open_at(SECRET, NOW + 741).unwrap().found;
    assert_eq!(found, Found::Unfit(Unfit::Gone(Duration::from_secs(121))));
    let earlier = left.open_at(SECRET, NOW).unwrap();
    assert_eq!(earlier.found, Found::Unfit(Unfit::Boot), "the clock has gone back");
}

#[test]
fn a_file_that_somebody_has_touched_begins_anew() {
    for length in [Header::LEN as u64, 4096 + 8 * 4095, 4096 + 8 * 4097] {
        let left = Left::new();
        OpenOptions::new().write(true).open(&left.path).unwrap().set_len(length).unwrap();
        left.assert_unfit(Unfit::Length);
    }
    let left = Left::new();
    fs::set_permissions(&left.path, Permissions::from_mode(0o640)).unwrap();
    left.assert_unfit(Unfit::Exposed);
}

#[test]
fn words_that_nobody_has_written_do_no_harm() {
    let left = Left::new();
    let noise: Vec<u8> =
        (0..8 * 4096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    left.change(HEADER_LEN, &noise);
    let file = left.open(SECRET).unwrap();
    assert_eq!(file.found, Found::Table);
    let table = file.table();
    table.census(at(NOW));
    for n in 0..10_000 {
        let key = key(&table, n);
        table.refresh(key, at(NOW), FlowState::Closing);
        table.insert(key, Bucket::of_hash(n), FlowState::Established, at(NOW));
    }
}

#[test]
fn what_is_no_flow_file_stays_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let open = |name: &str| {
        let path = directory.path().join(name);
        FlowFile::open(&path, 4096, &client_hash(), SECRET, NOW).map(drop).unwrap_err()
    };
    let long = "somebody's notes. ".repeat(100);
    for notes in ["", "notes", &long] {
        let path = directory.path().join("notes");
        fs::write(&path, notes).unwrap();
        if notes.is_empty() {
            // As mktemp makes it.
            assert!(FlowFile::open(&path, 4096, &client_hash(), SECRET, NOW).is_ok());
        } else {
            let error = open("notes");
            assert!(matches!(error, FlowFileError::NotOurs { .. }), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), notes);
        }
    }
    symlink(directory.path().join("notes"), directory.path().join("link")).unwrap();
    nix::unistd::mkfifo(&directory.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::create_dir(directory.path().join("directory")).unwrap();
    for (name, kernel_refuses) in
        [("link", true), ("directory", true), ("missing/nic0.flows", true), ("pipe", false)]
    {
        let error = open(name);
        let is_io = matches!(error, FlowFileError::Io { .. });
        assert_eq!(is_io, kernel_refuses, "{name}: {error}");
        assert!(error.to_string().contains(name) && error.to_string().contains("flows_file"));
    }
}

/// What `check` returns of a file on a file system in memory that holds so much, which only this sees.
fn on_tmpfs<T: Send + 'static>(size: &str, check: impl FnOnce(&Path) -> T + Send + 'static) -> T {
    let directory = tempfile::tempdir().unwrap();
    let (path, size) = (directory.path().to_owned(), format!("size={size}"));
    // A thread of its own has a mount namespace of its own, which ends with it.
    let outcome = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(none, &path, Some("tmpfs"), MsFlags::empty(), Some(&*size)).unwrap();
        check(&path.join("nic0.flows"))
    });
    outcome.join().unwrap()
}

#[test]
fn memory_that_is_not_there_is_an_error_and_no_fault_later() {
    let refused = on_tmpfs("64k", |path| {
        let refused = FlowFile::open(path, 16_384, &client_hash(), SECRET, NOW).unwrap_err();
        assert_eq!(fs::metadata(path).unwrap().blocks(), 0, "it holds on to memory");
        let file = FlowFile::open(path, 4096, &client_hash(), SECRET, NOW).unwrap();
        assert_eq!(file.found, Found::Nothing);
        refused
    });
    let message = refused.to_string();
    assert!(matches!(refused, FlowFileError::Io { what: "cannot be allocated", .. }), "{message}");
    assert!(message.contains("takes 135168 bytes"), "{message}");
}

#[test]
fn a_file_system_in_memory_is_known_before_there_is_a_file() {
    on_tmpfs("64k", |path| {
        assert!(is_in_memory(path).unwrap());
        assert!(is_in_memory(&path.with_file_name("none").join("nic0.flows")).unwrap());
        fs::write(path, "").unwrap();
        assert!(is_in_memory(path).unwrap());
    });
    assert!(!is_in_memory(Path::new("/proc/none/nic0.flows")).unwrap());
    is_in_memory(Path::new("none/nic0.flows")).unwrap_err();
}

#[test]
fn a_table_in_memory_is_gathered_into_huge_pages_and_keeps_its_flows() {
    on_tmpfs("64m", |path| {
        // 16 MiB, and the header, which is in the first huge page.
        let flows_max = 2 << 20;
        let open = || FlowFile::open(path, flows_max, &client_hash(), SECRET, NOW).unwrap();
        let huge = |table: &FlowTable| huge_pages::gathered(table.lines()).unwrap();
        let file = open();
        let table = file.table();
        for n in 0..1000 {
            table.insert(key(&table, n), Bucket::of_hash(n), FlowState::Established, at(NOW));
        }
        file.gather().unwrap();
        assert_eq!(huge(&table), (16 << 20) - HEADER_LEN);
        assert_eq!(table.census(at(NOW)).flows(), 1000);
        drop(file);
        let next = open();
        assert_eq!(next.found, Found::Table);
        assert_eq!(next.table().census(at(NOW)).flows(), 1000);
        assert!(huge(&next.table()) >= (16 << 20) - HEADER_LEN, "the next process has small pages");
    });
}
