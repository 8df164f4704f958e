//! docs/metrics.md, made from the metrics of a running plaque that has every source and a store.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::Stdio,
    time::{Duration, SystemTime},
};

use axum::{
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use plaque::origin::{self, Lookup};
use tokio::{net::TcpStream, task::spawn_blocking, time::timeout};

use crate::{
    program::plaque_serve,
    support::{CHANNEL, Fake, http_get, http_get_with},
};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");

const HEAD: &str = "\
# Metrics

`/metrics` on the admin port (`--admin-listen`) has them in Prometheus' text format, or in OpenMetrics' if the request accepts that.
[operations.md](operations.md#overload) says which of these tell of an overload, and [`deploy/`](../deploy/README.md) has alerts and a dashboard. What a metric's help says is here, too; the types of samples that a histogram has
(`_bucket`, `_sum`, `_count`) are not.

Some metrics exist only with what they are about: a store, other sources than the feed, a key for the YouTube Data API, Linux (`process_…`). A
sample with labels exists once it was counted.

<!-- Generated from a running plaque. To update it: UPDATE_DOCS=1 cargo test --test it metrics_page -->

";

#[derive(Default)]
struct Family {
    help: String,
    kind: String,
    labels: BTreeSet<String>,
}

/// The families of a text in Prometheus' format, by name.
fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families = BTreeMap::<String, Family>::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|line| line.split_once(' ')) {
            families.entry(name.into()).or_default().help = help.trim_end_matches('.').into();
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' '))
        {
            families.entry(name.into()).or_default().kind = kind.into();
        } else if let Some((sample, labels)) = line.split_once('{') {
            let of_histogram = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| sample.strip_suffix(suffix));
            let name = of_histogram
                .filter(|name| families.contains_key(*name))
                .unwrap_or(sample);
            let family = families.get_mut(name).expect("a type before its samples");
            let names = labels
                .split("=\"")
                .filter_map(|part| part.rsplit(['"', ',', '{']).next());
            let names =
                names.filter(|name| name.starts_with(|c: char| c.is_ascii_lowercase()) && *name != "le");
            family.labels.extend(names.map(str::to_owned));
        }
    }
    families
}

fn page(text: &str) -> String {
    let rows = families(text)
        .into_iter()
        .map(|(name, Family { help, kind, labels })| {
            let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
            format!("| `{name}` | {kind} | {} | {help} |\n", labels.join(", "))
        });
    let table = ["| metric | type | labels | what it is |\n| --- | --- | --- | --- |\n".to_owned()];
    format!("{HEAD}{}", table.into_iter().chain(rows).collect::<String>())
}

/// A feed whose newest upload is an hour old: mirrors have none from the future.
fn mirrored(lookup: &Lookup) -> Response {
    let newest = SystemTime::now() - Duration::from_hours(1);
    origin::feed(&lookup.channel, "A channel", &origin::uploads(newest, 15))
}

/// The metrics of a plaque that has looked a channel up: the feed fails, and a mirror answers.
async fn metrics() -> String {
    let failing = Fake::open(|_| StatusCode::SERVICE_UNAVAILABLE.into_response()).await;
    let mirror = Fake::open(mirrored).await;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("metrics-page");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("key"), "a-key").expect("written");
    let mut command = plaque_serve();
    command
        .args(["--canary", "none", "--upstream", failing.origin.url().as_str()])
        .args(["--fallback-upstream", mirror.origin.url().as_str()])
        .args(["--youtube-api", "http://127.0.0.1:9/youtube/v3"])
        .arg("--youtube-api-key-file")
        .arg(folder.join("key"))
        .arg("--store")
        .arg(format!("file:{}", folder.join("store").display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut program = command.spawn().expect("the program starts");
    let out = BufReader::new(program.stdout.take().expect("piped"));
    let lines = spawn_blocking(move || out.lines().take(2).collect::<Result<String, _>>());
    let lines = lines.await.expect("no panic").expect("text");
    let address = |after: &str| {
        let rest = lines.split_once(after).expect(after).1;
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':');
        rest[..end.unwrap_or(rest.len())]
            .trim_end_matches(':')
            .parse()
            .expect("an address")
    };
    let (grpc, admin) = (address("serves gRPC on "), address("http://"));
    let ask = format!("/ask?name={CHANNEL}");
    let (status, _, body) = http_get_with(admin, &ask, "x-plaque-page: 1\r\n").await;
    assert_eq!(status, 200, "{body}");
    drop(TcpStream::connect(grpc).await.expect("accepted"));
    // The closed connection is counted on another thread.
    let counted = async {
        loop {
            let (_, text) = http_get(admin, "/metrics").await;
            if text.contains("plaque_connections_closed_total{") && text.contains("operation=\"save\"") {
                return text;
            }
        }
    };
    let text = timeout(Duration::from_secs(20), counted)
        .await
        .expect("counted in time");
    program.kill().expect("it runs");
    program.wait().expect("it ends");
    text
}

#[tokio::test]
async fn every_metric_is_on_the_page() {
    let made = page(&metrics().await);
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(PAGE, &made).expect("written");
    }
    let page = fs::read_to_string(PAGE).unwrap_or_default();
    assert!(
        page == made,
        "docs/metrics.md is not what the metrics say; run: UPDATE_DOCS=1 cargo test --test it metrics_page\n{made}"
    );
}
