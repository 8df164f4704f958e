//! Counts the instructions and system calls of a hit: a cache lookup, encoding the answer, a whole call over an in-memory pipe, and calls
//! over TCP with answers of several sizes.
//!
//! `cargo run --profile dist -p call` prints the counts next to those recorded in `costs.txt` by the last intended change; with `-- --save` it
//! records them. Unlike times, they hardly depend on the machine and the run, so that a small cost added to every call shows. It fails if a
//! part takes a tenth more than recorded, or if an answer costs much more than the next smaller one. Needs strace, and perf or, where perf
//! cannot count, valgrind.
//!
//! It also fails if a store makes hits more expensive. The store is a file, since the connection to Redis is probed once a second, which
//! takes instructions independently of hits.
//!
//! A separate package, so that it is built with the dependencies of a release and no others.

#[path = "../../common/instructions.rs"]
mod instructions;
mod pipe;
#[path = "../../common/syscalls.rs"]
mod syscalls;

use std::{
    env,
    error::Error,
    fmt::Write as _,
    fs,
    hint::black_box,
    io::{self, Write as _},
    process,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use mimalloc::MiMalloc;
use plaque::{
    config::Connections,
    grpc,
    grpc::lifecycle::Stage,
    latest::{Latest, Policy, Query, Settings},
    resolver::Resolver,
    server,
    store::{
        Store,
        file::{Ages, File, MIN_BYTES},
    },
    upstream::{Failure, Feed, LookupRequest, Upstream},
    video::{Channel, ChannelId, Kind, Thumbnail, Upload, VideoId},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::watch,
};

use self::instructions::difference;

/// The same as in the program.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The parts that are counted, each in a child process.
const PARTS: [Part; 11] = [
    Part::of("known"),
    Part::of("encode"),
    Part::of("call"),
    Part::over_tcp("title-1", 1),
    Part::over_tcp("title-55", 1),
    Part::over_tcp("title-100", 1),
    Part::over_tcp("title-400", 1),
    Part::over_tcp("title-1000", 1),
    Part::over_tcp("batch-1", 1),
    Part::over_tcp("batch-10", 10),
    Part::over_tcp("batch-100", 100),
];

/// The parts that are also counted with a store, which may add a hundredth: more than the variation between runs.
const WITH_STORE: [&str; 2] = ["known", "call"];
const MAX_STORE_SHARE: u64 = 100;

/// By how many percent a part may exceed its record. Compilers differ by a few percent.
const MAX_GROWTH: u64 = 10;

/// By how many percent a call may exceed that with the next smaller answer, since a byte costs next to nothing.
const MAX_STEP: u64 = 30;

/// Tolerance for the system calls of a hundred calls, since the system decides how much one read returns. A separate write for each answer
/// would add 90.
const SYSCALL_TOLERANCE: u64 = 50;

/// The repetitions in a child process; the longer run has ten times as many.
const TIMES: u64 = 2_000;

const RECORD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/costs.txt");

/// The title in all parts except `title-*`.
const TITLE: &str = "An upload, with a title of as many bytes as is common!!";

struct Part {
    name: &'static str,
    /// Whether system calls are counted, too.
    socket: bool,
    /// The hits in each call.
    hits: u64,
}

impl Part {
    const fn of(name: &'static str) -> Self {
        Self {
            name,
            socket: false,
            hits: 1,
        }
    }

    const fn over_tcp(name: &'static str, hits: u64) -> Self {
        Self {
            name,
            socket: true,
            hits,
        }
    }

    /// The repetitions in the shorter run.
    fn times(&self) -> u64 {
        (TIMES / self.hits).max(pipe::AT_ONCE)
    }

    /// Whether the previous part differs only in the size of the answer.
    fn is_longer(&self) -> bool {
        self.name.starts_with("title") && self.name != "title-1"
    }
}

/// The cost of a part: instructions of a call, and system calls of a hundred calls.
#[derive(Clone, Copy, Default)]
struct Cost {
    instructions: u64,
    syscalls: u64,
}

impl Cost {
    /// Describes the limit if this cost exceeds `other` by more than `percent`.
    fn excess(self, other: Self, percent: u64) -> Option<String> {
        let most = |other: u64| other + other * percent / 100;
        let (instructions, syscalls) = (most(other.instructions), most(other.syscalls) + SYSCALL_TOLERANCE);
        (self.instructions > instructions || self.syscalls > syscalls)
            .then(|| format!("more than {instructions} instructions or {syscalls} system calls of a hundred"))
    }
}

const CHANNEL: &str = "UC0123456789abcdefghijkA";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let [child, part, stored @ .., times] = arguments.as_slice()
        && child == "child"
    {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let path = env::temp_dir().join(format!("plaque-call-{}", process::id()));
        let store = (!stored.is_empty()).then(|| {
            File::open(
                &path,
                MIN_BYTES,
                Duration::from_secs(1),
                Ages::new(Duration::ZERO),
            )
        });
        runtime.block_on(run(part, store.transpose()?.map(Arc::new), times.parse()?));
        if !stored.is_empty() {
            fs::remove_file(path)?;
        }
        return Ok(());
    }
    let recorded = fs::read_to_string(RECORD).unwrap_or_default();
    let save = arguments.iter().any(|argument| argument == "--save");
    let mut record = String::new();
    let mut shorter = Cost::default();
    let mut out = io::stdout().lock();
    for part in PARTS {
        let name = part.name;
        let count =
            |child: &[&str]| difference(child, part.times()).ok_or("neither perf nor valgrind counts here");
        let (instructions, tool) = count(&["child", name])?;
        let mut cost = Cost {
            instructions,
            syscalls: 0,
        };
        if part.socket {
            cost.syscalls =
                syscalls::of_a_hundred(&["child", name], part.times()).ok_or("strace does not count here")?;
        }
        writeln!(record, "{name} {instructions} {}", cost.syscalls)?;
        let before = recorded.lines().find_map(|line| before(line, name));
        let beside = before.map_or("none recorded".into(), |before| {
            format!(
                "{} of the {} recorded",
                ratio(instructions, before.instructions),
                before.instructions
            )
        });
        write!(out, "{name}: {instructions} instructions, by {tool}; {beside}")?;
        if part.socket {
            let a_hit = instructions / part.hits;
            write!(
                out,
                "; {a_hit} a hit; {} system calls of a hundred calls",
                cost.syscalls
            )?;
        }
        writeln!(out)?;
        if let Some(before) = before
            && !save
            && let Some(why) = cost.excess(before, MAX_GROWTH)
        {
            return Err(format!("{name} takes {why}: `--save` records what is meant to cost more").into());
        }
        if part.is_longer()
            && let Some(why) = cost.excess(shorter, MAX_STEP)
        {
            return Err(format!("{name} takes {why}, and the next shorter answer does not").into());
        }
        shorter = cost;
        if WITH_STORE.contains(&name) {
            let may_be = instructions + instructions / MAX_STORE_SHARE;
            let (mut with, _tool) = count(&["child", name, "stored"])?;
            // The store's thread works by the clock, and is counted too: on a slow machine it does more meanwhile.
            for _ in 0..2 {
                if with > may_be {
                    with = with.min(count(&["child", name, "stored"])?.0);
                }
            }
            let beside = ratio(with, instructions);
            writeln!(
                out,
                "{name}, with a store: {with} instructions; {beside} of those without"
            )?;
            if with > may_be {
                return Err("a hit has to do with the store, which is for misses".into());
            }
        }
    }
    if save {
        fs::write(RECORD, record)?;
    }
    Ok(())
}

/// Parses a line of the record, `name instructions syscalls`, if it is for the part `name`.
fn before(line: &str, name: &str) -> Option<Cost> {
    let mut words = line.split_whitespace();
    (words.next()? == name).then_some(())?;
    Some(Cost {
        instructions: words.next()?.parse().ok()?,
        syscalls: words.next()?.parse().ok()?,
    })
}

/// In thousandths.
fn ratio(count: u64, other: u64) -> String {
    let thousandths = count * 1000 / other.max(1);
    format!("{}.{:03}", thousandths / 1000, thousandths % 1000)
}

async fn run(part: &str, file: Option<Arc<File>>, times: u64) {
    let (kind, number) = part.split_once('-').unwrap_or((part, ""));
    let number = number.parse().unwrap_or(1);
    let title = if kind == "title" {
        "t".repeat(number)
    } else {
        TITLE.into()
    };
    let latest = Arc::new(Latest::new(
        Arc::new(OneChannel(title)),
        file.clone().map(|file| file as Arc<dyn Store>),
        settings(),
        Handle::current(),
    ));
    let query = Query {
        channel: CHANNEL.parse().expect("a channel ID"),
        kind: None,
        max_age: None,
    };
    let first = latest.get(query).await.outcome.expect("an answer");
    if let Some(file) = &file {
        // Otherwise it would be written while hits are counted.
        file.written().await;
    }
    match kind {
        "known" => {
            for _ in 0..times {
                black_box(latest.get(black_box(query)).await);
            }
        }
        "encode" => {
            let mut buffer = Vec::with_capacity(1024);
            for _ in 0..times {
                grpc::encode(black_box(&first), &mut buffer);
                black_box(&buffer);
                buffer.clear();
            }
        }
        "call" => {
            let (client, server) = tokio::io::duplex(64 << 10);
            serve(latest, server);
            pipe::call(client, GET, &request(1), times).await;
        }
        "title" => {
            let answer = pipe::call(over_tcp(latest).await, GET, &request(1), times).await;
            assert!(answer > number, "the title is in no answer");
        }
        "batch" => {
            let answer = pipe::call(over_tcp(latest).await, BATCH_GET, &request(number), times).await;
            assert!(answer > number * TITLE.len(), "some channels are in no answer");
        }
        other => panic!("{other} is no part"),
    }
}

const GET: &str = "/plaque.v1.LatestVideo/GetLatestVideo";
const BATCH_GET: &str = "/plaque.v1.LatestVideo/BatchGetLatestVideos";

/// A request for this number of channels.
fn request(channels: usize) -> Vec<u8> {
    let ids = (0..channels).map(|number| format!("UC{number:010}abcdefghijkA"));
    ids.flat_map(|id| [&[0x0a, 24], id.as_bytes()].concat()).collect()
}

fn serve(latest: Arc<Latest>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let calls = grpc::Limits::default();
    let (stage, stages) = watch::channel(Stage::Serving);
    let callers = Arc::new(grpc::Callers::new(None));
    let resolver = Resolver::new(
        vec![],
        None,
        plaque::youtube::Pace::default(),
        1,
        Handle::current(),
    );
    let service =
        grpc::service(latest, resolver, calls, callers, stages, Arc::default()).expect("descriptors");
    tokio::spawn(async move {
        server::serve_connection(stream, service, calls, Connections::default()).await;
        drop(stage);
    });
}

/// A TCP connection to a new server.
async fn over_tcp(latest: Arc<Latest>) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let client = TcpStream::connect(address).await.expect("a connection");
    let (server, _peer) = listener.accept().await.expect("the same connection");
    for end in [&client, &server] {
        end.set_nodelay(true).expect("a socket");
    }
    serve(latest, server);
    client
}

fn settings() -> Settings {
    let long = Duration::from_hours(1);
    Settings {
        policy: Policy {
            fresh_for: long,
            stale_while_revalidate: long,
            stale_if_error: long,
            negative_for: long,
            min_refetch: Duration::ZERO,
        },
        cache_bytes: 1 << 20,
        max_waiters: 1000,
        watch_every: long,
        watch_at_most: long,
        max_watched: 100_000,
        canary: None,
    }
}

/// An upstream where every channel has one upload, with this title.
struct OneChannel(String);

impl Upstream for OneChannel {
    fn look_up(&self, feed: Feed, _request: LookupRequest) -> BoxFuture<'_, Result<Channel, Failure>> {
        Box::pin(async move { Ok(channel(feed.channel, self.0.clone())) })
    }

    fn time_limit(&self) -> Duration {
        Duration::from_secs(10)
    }
}

fn channel(id: ChannelId, title: String) -> Channel {
    let video: VideoId = "0123456789A".parse().expect("a video ID");
    let published = SystemTime::UNIX_EPOCH + Duration::from_hours(500_000);
    let upload = Upload {
        id: video,
        kind: Kind::Video,
        title,
        published: Some(published),
        updated: Some(published + Duration::from_hours(1)),
        thumbnail: Some(Thumbnail {
            url: format!("https://i3.ytimg.com/vi/{video}/hqdefault.jpg"),
            width: 480,
            height: 360,
        }),
        views: Some(1_234_567),
    };
    Channel::new(id, "A channel's title", vec![upload])
}
