//! What the commands take and how they end: exit codes, channels from standard input, addresses, colors, health, odd arguments.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use axum::{http::StatusCode, response::IntoResponse as _};

use crate::{
    program::{assert_refused, first_line, plaque, plaque_serve, run},
    support::{CHANNEL, Fake, Server, feed},
};

const GONE: &str = "UCgonegonegonegonegonegA";
const FAILS: &str = "UCfailsfailsfailsfails-A";

async fn server() -> (Fake, Server) {
    let fake = Fake::open(|lookup| match lookup.channel.as_str() {
        GONE => StatusCode::NOT_FOUND.into_response(),
        FAILS => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        _ => feed(lookup),
    })
    .await;
    let server = fake.serve().await;
    (fake, server)
}

/// A command for a server, which it gets by host and port.
fn asks(server: &Server, arguments: &[&str]) -> Command {
    let mut command = plaque();
    command
        .args(arguments)
        .args(["--server", &server.address.to_string()]);
    command
}

#[tokio::test]
async fn exit_codes_say_whether_to_try_again() {
    let (_fake, server) = server().await;
    for (channels, code) in [
        (&[CHANNEL][..], 0),
        (&[GONE], 3),
        (&[CHANNEL, GONE], 3),
        (&[FAILS], 75),
        (&[FAILS, GONE, CHANNEL], 75),
    ] {
        for subcommand in ["get", "list"] {
            let command = asks(&server, &[&[subcommand, "--timeout=2s"], channels].concat());
            let (actual, _, err) = run(command).await;
            assert_eq!(actual, Some(code), "{subcommand} {channels:?}: {err}");
            let asks_again = err.contains("UPSTREAM_ERROR); try again in ") && err.contains(" s\n");
            assert_eq!(asks_again, code == 75, "{subcommand} {channels:?}: {err}");
        }
    }
}

#[tokio::test]
async fn channels_are_read_from_standard_input() {
    let (_fake, server) = server().await;
    let input = |text: &'static str| {
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        writer.write_all(text.as_bytes()).expect("room for it");
        Stdio::from(reader)
    };
    let lines = "# mine\n\n  UC0123456789abcdefghijkA\n";
    for arguments in [&["get", "-"][..], &["list", "-n1", "-"]] {
        let mut command = asks(&server, arguments);
        command.stdin(input(lines));
        let (code, out, err) = run(command).await;
        assert_eq!((code, err.as_str()), (Some(0), ""));
        assert_eq!(out.lines().count(), 1, "{out}");
        assert!(out.contains("UC0123456789abcdefghijkA"), "{out}");
    }
    let mut command = asks(&server, &["get", CHANNEL, "-"]);
    command.stdin(input("@fine\nhttps://vimeo.com/x\u{202e}\n"));
    assert_refused(
        command,
        2,
        &["line 2 of standard input", "vimeo.com/x\\u{202e}", "youtube.com"],
    )
    .await;
    let mut command = asks(&server, &["get", "-"]);
    command.stdin(input(""));
    assert_eq!(run(command).await, (Some(0), String::new(), String::new()));
}

#[tokio::test]
async fn each_answer_is_printed_as_it_comes_whatever_the_others_take() {
    let fake = Fake::gated(feed).await;
    let server = fake.serve().await;
    fake.release();
    server.client().get(CHANNEL).await.expect("an upload");
    let mut command = asks(&server, &["get", CHANNEL, GONE]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
    let line = first_line(&mut child).await;
    assert!(line.contains(CHANNEL), "{line}");
    fake.release();
    let ended = tokio::task::spawn_blocking(move || child.wait()).await;
    assert_eq!(ended.expect("no panic").expect("it ran").code(), Some(0));
}

#[tokio::test]
async fn a_list_says_that_a_key_is_missing_for_older_uploads() {
    let (_fake, server) = server().await;
    for (count, is_short) in [("100", true), ("16", true), ("15", false), ("3", false)] {
        let (code, out, err) = run(asks(&server, &["list", "-n", count, CHANNEL])).await;
        let printed = count.parse().unwrap_or(0).min(15);
        assert_eq!((code, out.lines().count()), (Some(0), printed), "{err}");
        assert_eq!(err.contains("--youtube-api-key-file"), is_short, "{count}: {err}");
        assert_eq!(err.lines().count(), usize::from(is_short), "{count}: {err}");
    }
}

#[tokio::test]
async fn a_server_is_named_by_host_and_port_or_by_url() {
    for (address, shown) in [
        ("127.0.0.1:1", "http://127.0.0.1:1"),
        ("[::1]:1", "http://[::1]:1"),
    ] {
        let mut command = plaque();
        command.args(["get", CHANNEL, "--server", address]);
        assert_refused(command, 75, &["cannot reach", shown]).await;
    }
    for address in ["127.0.0.1", "me@127.0.0.1:1", "127.0.0.1:1/path", ""] {
        let mut command = plaque();
        command.args(["get", CHANNEL, "--server", address]);
        assert_refused(command, 2, &["--server", "127.0.0.1:3779"]).await;
    }
}

#[tokio::test]
async fn color_always_prints_for_people() {
    let (_fake, server) = server().await;
    for (color, has_color) in [("always", true), ("never", false), ("auto", false)] {
        let mut command = asks(&server, &["get", CHANNEL, "--color", color]);
        command.env("NO_COLOR", "1");
        let (code, out, _) = run(command).await;
        assert_eq!(
            (code, out.contains("\u{1b}[1m")),
            (Some(0), has_color),
            "{color}: {out}"
        );
        assert_eq!(out.contains(", 1,234 views"), has_color, "{color}: {out}");
    }
}

#[tokio::test]
async fn health_is_the_exit_code() {
    let (_fake, server) = server().await;
    for service in ["", "plaque.v1.LatestVideo"] {
        let ran = run(asks(&server, &["health", "--service", service])).await;
        assert_eq!(ran, (Some(0), "SERVING\n".into(), String::new()), "{service}");
    }
    let command = asks(&server, &["health", "--service", "no.such.Service"]);
    assert_refused(command, 1, &["there is no service", "no.such.Service"]).await;
    let address = server.address.to_string();
    server.stop().ended().await;
    let mut command = plaque();
    command.args(["health", "--server", &address]);
    assert_refused(command, 1, &["cannot reach", &address]).await;
}

#[tokio::test]
async fn errors_repeat_no_more_of_an_argument_than_a_person_reads_and_nothing_that_steers() {
    let long = "a".repeat(100_000);
    let evil = "a\u{202e}b\u{1b}[31mc\nd";
    for arguments in [
        &["get", evil][..],
        &["get", &long],
        &["serve", "--listen", evil],
        &["serve", "--grpc-web", "--grpc-web-origins", &long],
        &["serve", "--no-such-flag", evil],
        &[evil],
        &["get", CHANNEL, "--server", &long],
    ] {
        let mut command = plaque();
        command.args(arguments);
        let (code, _, err) = run(command).await;
        assert_eq!(code, Some(2), "{err}");
        assert!(err.len() < 5000, "{} bytes", err.len());
        let steers = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!err.contains(steers) && !err.contains("\nd"), "{err:?}");
    }
}

#[tokio::test]
async fn the_short_help_fits_on_a_screen_and_every_flag_of_serve_has_a_heading() {
    let subcommands = [
        "serve",
        "get",
        "list",
        "watch",
        "health",
        "config",
        "demo",
        "man",
        "completions",
    ];
    for subcommand in subcommands {
        let mut command = plaque();
        command.args([subcommand, "-h"]);
        let (code, help, _) = run(command).await;
        assert_eq!(code, Some(0));
        let lines = help.lines().count();
        assert!((5..=60).contains(&lines), "{subcommand}: {lines} lines");
    }
    let mut command = plaque();
    command.args(["serve", "--help"]);
    let (_, help, _) = run(command).await;
    let (_, options) = help.split_once("\nOptions:\n").expect("flags");
    let (without_heading, _) = options.split_once(":\n      --").expect("headings");
    let flags = without_heading
        .lines()
        .filter_map(|line| line.trim().strip_prefix("--"));
    let names: Vec<_> = flags.filter_map(|flag| flag.split(' ').next()).collect();
    assert_eq!(
        names,
        ["config", "color"],
        "the others are in SERVE of src/cli/flags.rs"
    );
    for part in ["Exit status:", "Environment:", "Examples:", "PLAQUE_FRESH_FOR"] {
        assert!(help.contains(part), "no {part}");
    }
}

/// With PLAQUE_WRITE_FLAGS=1 it writes the page.
#[test]
fn the_flags_page_is_that_of_the_program() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/flags.md");
    let page = plaque::cli::flags_page();
    if std::env::var_os("PLAQUE_WRITE_FLAGS").is_some() {
        fs::write(&path, &page).expect("written");
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    let same = kept
        .lines()
        .zip(page.lines())
        .take_while(|(kept, made)| kept == made);
    let line = same.count() + 1;
    assert!(
        kept == page,
        "docs/flags.md differs from line {line} on; PLAQUE_WRITE_FLAGS=1 cargo test --test it flags_page writes it"
    );
}

#[test]
fn the_chart_takes_the_flags_of_serve_and_no_others() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/helm/plaque/values.schema.json");
    let schema = fs::read_to_string(path).expect("a schema");
    let schema: serde_json::Value = serde_json::from_str(&schema).expect("JSON");
    let names = schema["properties"]["flags"]["properties"]
        .as_object()
        .expect("names");
    let names: BTreeSet<_> = names.keys().map(String::as_str).collect();
    let page = plaque::cli::flags_page();
    let (_, serve) = page.split_once("\n## plaque serve\n").expect("a command");
    let (serve, _) = serve.split_once("\n## ").expect("another");
    let rows = serve.lines().filter_map(|line| line.strip_prefix("| `--"));
    let flags: BTreeSet<_> = rows.filter_map(|row| row.split(['`', ' ']).next()).collect();
    let differ: Vec<_> = names.symmetric_difference(&flags).collect();
    assert!(
        differ.is_empty() && flags.len() > 50,
        "values.schema.json or the flags lack {differ:?}"
    );
}

/// Each option has a text, also those that -h leaves out.
fn assert_no_option_without_text(page: &str) {
    let options = page.split(".TP\n").skip(1);
    let without = options.filter(|option| option.starts_with("\\fB") && option.lines().nth(1) == Some(""));
    assert_eq!(without.collect::<Vec<_>>(), Vec::<&str>::new());
    assert!(page.contains("tls\\-ca"));
}

#[tokio::test]
async fn manual_pages_tell_exit_codes_environment_and_examples() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("man-sections");
    fs::create_dir_all(&folder).expect("a folder");
    let mut command = plaque();
    command.arg("man").arg(&folder);
    assert_eq!(run(command).await.0, Some(0));
    for subcommand in ["get", "list", "watch"] {
        let page = fs::read_to_string(folder.join(format!("plaque-{subcommand}.1"))).expect("a page");
        assert_no_option_without_text(&page);
        for part in [
            ".SH \"EXIT STATUS\"",
            ".SH ENVIRONMENT",
            ".SH EXAMPLES",
            "75",
            "NO_COLOR",
        ] {
            assert!(page.contains(part), "{subcommand}: no {part}");
        }
    }
}

#[tokio::test]
async fn a_key_file_that_is_a_fifo_is_told_before_it_is_waited_for() {
    let fifo = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("key-{}", std::process::id()));
    let made = Command::new("mkfifo").arg(&fifo).status();
    assert!(made.expect("mkfifo").success());
    let mut command = plaque_serve();
    command.arg("--youtube-api-key-file").arg(&fifo);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let err = child.stderr.take().expect("piped");
    let told = tokio::task::spawn_blocking(move || {
        use std::io::{BufRead as _, BufReader};
        let lines = BufReader::new(err).lines().map_while(Result::ok);
        lines.into_iter().find(|line| line.contains("no regular file"))
    });
    let told = told.await.expect("no panic").expect("a line");
    assert!(told.contains("waiting until it has the key"), "{told}");
    child.kill().expect("it waits");
    child.wait().expect("it has ended");
    fs::remove_file(&fifo).expect("removed");
}

#[tokio::test]
async fn a_name_that_cannot_be_resolved_has_the_status_of_its_call_as_a_channel_has() {
    let (_fake, server) = server().await;
    let (_, out, err) = run(asks(&server, &["get", "@name", GONE, "--json", "--timeout=2s"])).await;
    assert_eq!(out.lines().count(), 2, "{out}{err}");
    for line in out.lines() {
        let result: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let (failure, status) = (&result["failure"], &result["failure"]["status"]);
        assert!(status["code"].is_u64(), "{line}");
        for field in ["code", "message"] {
            assert_eq!(status[field], failure[field], "{line}");
        }
        let details = status["details"].as_array().expect("as of a call");
        let has_reason = details.iter().any(|detail| detail["reason"] == failure["reason"]);
        assert!(has_reason, "{line}");
    }
}
