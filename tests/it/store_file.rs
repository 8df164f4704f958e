//! The file store across restarts, crashes, full disks and damaged files.

mod dates;
mod failures;
#[cfg(unix)]
mod location;

use std::{
    env, fs,
    io::{self, BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use plaque::{
    cache_entry::CacheEntry,
    clock,
    latest::FeedEntry,
    store::{
        Lease, Store as _,
        file::{Ages, FORMAT, File, MIN_BYTES, OpenError, SPACE_FACTOR},
    },
    upstream::Feed,
    video::{Channel, ChannelId, Kind, MAX_TEXT, Upload},
};
use prometheus_client::registry::Registry;
use redb::{
    Database, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _, TableDefinition,
};

const LIMIT: Duration = Duration::from_mins(1);

/// The age of what is dated in the future.
const UNKNOWN: Duration = Duration::from_hours(24);

/// Where the child of a test finds its file.
const CHILD: &str = "PLAQUE_TEST_STORE";

/// The tables, as any version of this format has them.
const KEPT: TableDefinition<&[u8; 25], (u64, &[u8])> = TableDefinition::new("kept");
const BY_TIME: TableDefinition<(u64, &[u8; 25]), ()> = TableDefinition::new("by_time");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// A folder of a test's own, empty.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("store-file-{name}"));
    if folder.exists() {
        fs::remove_dir_all(&folder).expect("removable");
    }
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

fn open(path: &Path) -> File {
    // A machine may be busy.
    File::open(path, 64 << 20, LIMIT, Ages::new(UNKNOWN)).expect("a store")
}

fn feed(number: usize) -> Feed {
    id(number).into()
}

/// IDs that are no neighbours, as those of channels are not.
fn id(number: usize) -> ChannelId {
    let scattered = number * 2_654_435_761 % 1_000_000_007;
    format!("UC{scattered:021}A").parse().expect("an ID")
}

fn known(number: usize, title: &str) -> FeedEntry {
    known_since(number, title, clock::now())
}

fn known_since(number: usize, title: &str, at: Instant) -> FeedEntry {
    // What no title has room for is in those of uploads.
    let (title, rest) = title.split_at(title.len().min(MAX_TEXT));
    let rest = rest
        .as_bytes()
        .chunks(MAX_TEXT)
        .map(|text| String::from_utf8_lossy(text).into());
    let uploads = ["A title".into()]
        .into_iter()
        .chain(rest)
        .enumerate()
        .map(|(place, title)| Upload {
            id: format!("01234567{place:02}A").parse().expect("an ID"),
            kind: Kind::Video,
            title,
            published: None,
            updated: None,
            thumbnail: None,
            views: None,
        });
    let channel = Channel::new(id(number), title, uploads.collect());
    CacheEntry::succeeded(Arc::new(channel), at, SystemTime::now())
}

async fn save(store: &File, number: usize, title: &str) {
    store
        .save(feed(number), &known(number, title), Lease::Uncoordinated)
        .await;
}

async fn title(store: &File, number: usize) -> Option<String> {
    let known = store.load(feed(number)).await?;
    Some(known.success?.value.title().into())
}

/// Some bytes of text, which nothing packs.
fn text(length: usize) -> String {
    std::iter::repeat_with(fastrand::alphanumeric)
        .take(length)
        .collect()
}

fn set_aside(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}.bad-1", path.display()))
}

/// Opens the store at `path`, and returns what is logged meanwhile.
fn open_logged(path: &Path) -> (File, String) {
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let store = tracing::subscriber::with_default(subscriber, || open(path));
    let log = String::from_utf8(log.0.lock().clone()).expect("UTF-8");
    (store, log)
}

/// Opens what should be set aside for a reason that has `why` in it.
async fn assert_set_aside(path: &Path, why: &str) {
    let was = fs::read(path).expect("a file");
    let (store, log) = open_logged(path);
    let aside = set_aside(path);
    assert!(aside.exists(), "{log:?}");
    for part in [
        "WARN",
        &path.display().to_string(),
        &aside.display().to_string(),
        why,
    ] {
        assert!(log.contains(part), "{log:?} has no {part:?}");
    }
    assert_eq!(fs::read(&aside).expect("a file").len(), was.len());
    assert_eq!(title(&store, 1).await, None);
    save(&store, 1, "new").await;
    store.close(LIMIT).await;
    let store = open(path);
    assert_eq!(title(&store, 1).await.as_deref(), Some("new"));
    store.close(LIMIT).await;
}

/// A file of some entries, which no plaque has open.
async fn filled(path: &Path) {
    let store = open(path);
    for number in 0..200 {
        save(&store, number, &text(1000)).await;
    }
    store.close(LIMIT).await;
}

#[tokio::test]
async fn saved_entries_survive_a_restart_with_their_age() {
    let path = folder("restart").join("store");
    let began = Instant::now();
    let hour = Duration::from_hours(1);
    let videos = Feed {
        channel: id(1),
        kind: Some(Kind::Video),
    };
    let store = open(&path);
    let old = known_since(1, "One", began.checked_sub(hour).expect("an earlier time"));
    store.save(feed(1), &old, Lease::Uncoordinated).await;
    store
        .save(videos, &known(1, "Videos of one"), Lease::Uncoordinated)
        .await;
    store.close(LIMIT).await;

    let store = open(&path);
    let back = store.load(feed(1)).await.expect("kept").success.expect("good");
    let was = old.success.expect("good");
    assert_eq!((&back.value, back.time), (&was.value, was.time));
    let age = back.age(clock::now());
    // The wall clock, in which it is reckoned, may not run like the other.
    let off = Duration::from_secs(5);
    assert!(age + off > hour && age < hour + began.elapsed() + off, "{age:?}");
    let found = store.load(videos).await.expect("kept").success.expect("good");
    assert_eq!(found.value.title(), "Videos of one");
    assert!(store.load(feed(2)).await.is_none());
    store.close(LIMIT).await;
}

#[tokio::test]
async fn the_last_save_is_visible_at_once_and_durable() {
    let path = folder("last").join("store");
    let store = open(&path);
    for round in 0..100 {
        save(&store, 1, &format!("{round}")).await;
        assert_eq!(title(&store, 1).await, Some(format!("{round}")));
    }
    store.close(LIMIT).await;
    save(&store, 1, "too late").await;
    let store = open(&path);
    assert_eq!(title(&store, 1).await.as_deref(), Some("99"));
    store.close(LIMIT).await;
}

#[tokio::test]
async fn the_file_stays_within_its_bound_and_evicts_the_oldest_first() {
    let path = folder("bound").join("store");
    let store = File::open(&path, MIN_BYTES, LIMIT, Ages::new(UNKNOWN)).expect("a store");
    let mut longest = 0;
    for batch in 0..40 {
        for number in 0..60 {
            let length = fastrand::usize(100..6000);
            save(&store, batch * 60 + number, &text(length)).await;
        }
        store.written().await;
        longest = longest.max(fs::metadata(&path).expect("a file").len());
    }
    assert!(longest <= MIN_BYTES, "{longest}");
    let mut there = Vec::new();
    for number in 0..2400 {
        there.push(title(&store, number).await.is_some());
    }
    let first = there.iter().position(|there| *there).expect("some");
    // Within a batch the order is that of the clock, which two saves may share.
    assert!(
        there[first + 1..].iter().all(|there| *there),
        "a newer one went before an older one"
    );
    let kept = there.len() - first;
    let fit = usize::try_from(MIN_BYTES / SPACE_FACTOR / 3200).expect("few");
    assert!(kept > fit * 3 / 4 && kept < fit * 3 / 2, "{kept} of about {fit}");
    store.close(LIMIT).await;
}

#[tokio::test]
async fn a_lower_limit_shortens_the_file() {
    let path = folder("lower").join("store");
    let store = open(&path);
    for number in 0..3000 {
        save(&store, number, &text(3000)).await;
        if number % 100 == 0 {
            store.written().await;
        }
    }
    store.close(LIMIT).await;
    assert!(fs::metadata(&path).expect("a file").len() > 2 * MIN_BYTES);
    let store = File::open(&path, MIN_BYTES, LIMIT, Ages::new(UNKNOWN)).expect("a store");
    assert!(fs::metadata(&path).expect("a file").len() <= MIN_BYTES);
    assert!(title(&store, 2999).await.is_some());
    assert!(title(&store, 0).await.is_none());
    store.close(LIMIT).await;
}

#[tokio::test]
async fn a_file_that_is_not_a_store_is_renamed_and_logged() {
    let path = folder("garbage").join("store");
    fs::write(&path, text(100_000)).expect("written");
    assert_set_aside(&path, "cannot be read").await;
    // A second one does not take the first one's place.
    fs::write(&path, "more of it").expect("written");
    open(&path).close(LIMIT).await;
    assert_eq!(fs::metadata(set_aside(&path)).expect("a file").len(), 100_000);
    let second = path.with_file_name("store.bad-2");
    assert_eq!(fs::read(second).expect("a file"), b"more of it");
}

#[tokio::test]
async fn a_truncated_store_is_set_aside() {
    for (name, part) in [("half", 2), ("almost-all", 10)] {
        let path = folder(name).join("store");
        filled(&path).await;
        let length = fs::metadata(&path).expect("a file").len();
        let file = fs::File::options().write(true).open(&path).expect("a file");
        file.set_len(length / part).expect("truncated");
        assert_set_aside(&path, "cannot be read").await;
    }
}

#[tokio::test]
async fn a_damaged_store_is_set_aside() {
    let path = folder("damaged").join("store");
    filled(&path).await;
    let mut bytes = fs::read(&path).expect("a file");
    // One letter of every title, also of those that are no longer in use.
    let titles = |letters: &&mut [u8]| letters.iter().all(u8::is_ascii_alphanumeric);
    let damaged = bytes.chunks_mut(100).filter(titles).map(|title| title[50] ^= 1);
    assert!(damaged.count() > 200);
    fs::write(&path, &bytes).expect("written");
    assert_set_aside(&path, "cannot be read").await;
}

#[tokio::test]
async fn a_store_of_another_format_or_program_is_set_aside() {
    let path = folder("format").join("store");
    filled(&path).await;
    let database = Database::open(&path).expect("a database");
    let write = database.begin_write().expect("a transaction");
    let mut meta = write.open_table(META).expect("a table");
    meta.insert("format", FORMAT + 1).expect("written");
    drop(meta);
    write.commit().expect("written");
    drop(database);
    assert_set_aside(&path, &format!("its format is {}", FORMAT + 1)).await;

    let path = folder("another").join("store");
    let database = Database::create(&path).expect("a database");
    let write = database.begin_write().expect("a transaction");
    drop(
        write
            .open_table(TableDefinition::<u64, u64>::new("something"))
            .expect("a table"),
    );
    write.commit().expect("written");
    drop(database);
    assert_set_aside(&path, "a database of something else").await;
}

#[tokio::test]
async fn one_file_is_for_one_plaque() {
    let path = folder("locked").join("store");
    let first = open(&path);
    save(&first, 1, "One").await;
    let second = File::open(&path, MIN_BYTES, LIMIT, Ages::new(UNKNOWN))
        .err()
        .expect("locked");
    assert!(matches!(second, OpenError::Locked(_)), "{second:?}");
    for part in [&path.display().to_string(), "another plaque", "a file of its own"] {
        assert!(second.to_string().contains(part), "{second}");
    }
    assert!(!set_aside(&path).exists());
    assert_eq!(title(&first, 1).await.as_deref(), Some("One"));
    first.close(LIMIT).await;
    open(&path).close(LIMIT).await;
}

#[test]
fn a_file_that_cannot_be_is_an_error() {
    let folder = folder("nowhere");
    let too_long = folder.join("a".repeat(256));
    for path in [folder.clone(), folder.join("nothing").join("store"), too_long] {
        let error = File::open(&path, MIN_BYTES, LIMIT, Ages::new(UNKNOWN))
            .err()
            .expect("no file");
        assert!(
            matches!(error, OpenError::Io { .. } | OpenError::NotAFile { .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains("in a folder that is there"), "{error}");
    }
}

#[tokio::test]
async fn an_entry_that_cannot_be_read_is_absent_and_removed() {
    is_removed("entry", |_| b"\xff\xff".to_vec()).await;
}

#[tokio::test]
async fn an_entry_of_another_channel_is_absent_and_removed() {
    is_removed("another", |other| other).await;
}

/// Replaces the entry of one channel by what `spoil` makes of another's.
async fn is_removed(name: &str, spoil: fn(Vec<u8>) -> Vec<u8>) {
    let path = folder(name).join("store");
    filled(&path).await;
    let key = |number| {
        let mut key = [b'-'; 25];
        key[..24].copy_from_slice(id(number).as_ref());
        key
    };
    let (key, other) = (key(3), key(4));
    let database = Database::open(&path).expect("a database");
    let write = database.begin_write().expect("a transaction");
    {
        let mut kept = write.open_table(KEPT).expect("a table");
        let saved = kept.get(&key).expect("readable").expect("an entry").value().0;
        let bytes = spoil(
            kept.get(&other)
                .expect("readable")
                .expect("an entry")
                .value()
                .1
                .to_vec(),
        );
        kept.insert(&key, (saved, &bytes[..])).expect("written");
    }
    write.commit().expect("written");
    drop(database);

    let store = open(&path);
    assert_eq!(title(&store, 3).await, None);
    assert!(title(&store, 4).await.is_some());
    store.close(LIMIT).await;
    assert!(!set_aside(&path).exists());
    let database = Database::open(&path).expect("a database");
    let read = database.begin_read().expect("a transaction");
    let kept = read.open_table(KEPT).expect("a table");
    assert!(kept.get(&key).expect("readable").is_none());
    assert_eq!(kept.len().expect("readable"), 199);
    assert_eq!(
        read.open_table(BY_TIME)
            .expect("a table")
            .len()
            .expect("readable"),
        199
    );
}

/// A test of this file, in a process of its own, with the store at `path`.
fn child(test: &str, path: &Path) -> Command {
    // The signal of a file that is too long would end it, where it should be an error.
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]);
    command.arg(env::current_exe().expect("this program"));
    command.args([
        &format!("store_file::{test}"),
        "--exact",
        "--ignored",
        "--nocapture",
    ]);
    command.env(CHILD, path).stdin(Stdio::null());
    command
}

#[tokio::test]
async fn a_process_that_is_killed_loses_nothing_that_was_written() {
    let path = folder("killed").join("store");
    let mut promised = 0;
    for _ in 0..8 {
        let mut child = child("saves_until_it_is_killed", &path)
            .env("PLAQUE_TEST_FROM", promised.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let written = lines.map_while(Result::ok).filter_map(|line| {
            let (_, number) = line.split_once("written ")?;
            number.parse::<usize>().ok()
        });
        promised = written.take(fastrand::usize(1..20)).last().expect("it writes");
        child.kill().expect("it runs");
        child.wait().expect("it ended");

        let (store, log) = open_logged(&path);
        assert!(!log.contains("WARN"), "{log}");
        for number in (0..=promised).rev().take(50) {
            let kept = title(&store, number % 50).await.expect("kept");
            let kept: usize = kept[..8].parse().expect("a number");
            assert!(kept >= number, "{kept} and not {number}");
        }
        store.close(LIMIT).await;
    }
}

#[tokio::test]
#[ignore = "it is the child of another"]
async fn saves_until_it_is_killed() {
    let Some(path) = env::var_os(CHILD) else { return };
    let from = env::var("PLAQUE_TEST_FROM").expect("a number");
    let store = open(Path::new(&path));
    for number in from.parse::<usize>().expect("a number").. {
        save(&store, number % 50, &format!("{number:08} {}", text(5000))).await;
        // Others are killed before they are asked for.
        if number % 7 == 0 {
            store.written().await;
            writeln!(io::stdout(), "\nwritten {number}").expect("a reader");
        }
    }
}

#[test]
fn a_full_disk_loses_only_what_cannot_be_written() {
    let path = folder("full").join("store");
    let output = child("goes_on_with_a_full_disk", &path)
        .output()
        .expect("a process");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{stdout}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(stdout.contains("1 passed"), "{stdout}");
}

#[tokio::test]
#[ignore = "it is the child of another"]
async fn goes_on_with_a_full_disk() {
    let Some(path) = env::var_os(CHILD) else { return };
    let path = Path::new(&path);
    let (_, most) = rlimit::Resource::FSIZE.get().expect("a limit");
    let store = open(path);
    let mut registry = Registry::default();
    store.register(&mut registry);
    let up = |state: u8| {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
        text.contains(&format!("store_up {state}\n"))
    };
    save(&store, 1, "One").await;
    store.written().await;
    assert!(up(1));

    let length = fs::metadata(path).expect("a file").len();
    rlimit::Resource::FSIZE.set(length, most).expect("a limit");
    for number in 2..500 {
        save(&store, number, &text(3000)).await;
    }
    while !up(0) {
        tokio::task::yield_now().await;
    }
    // It is read from the queue.
    assert!(title(&store, 400).await.is_some());

    rlimit::Resource::FSIZE.set(most, most).expect("a limit");
    store.written().await;
    assert!(up(1));
    store.close(LIMIT).await;
    let store = open(path);
    for number in 1..500 {
        assert!(title(&store, number).await.is_some(), "{number}");
    }
    assert!(!set_aside(path).exists());
    store.close(LIMIT).await;
}
