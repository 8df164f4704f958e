//! `get` and `list` with `--direct`: without a server the same answers, errors and exit codes.

use std::{
    fs,
    future::pending,
    path::Path,
    process::{Command, Stdio},
};

use axum::{http::StatusCode, response::IntoResponse as _};
use plaque::origin::{Lookup, Origin};
use serde_json::Value;

use crate::{
    program::{assert_refused, first_line, plaque, run},
    support::{CHANNEL, Fake, channel, feed},
};

const GONE: &str = "UCgonegonegonegonegonegA";

/// An upstream without the channel [`GONE`].
async fn origin() -> Fake {
    Fake::open(|lookup| match lookup.channel.as_str() {
        GONE => StatusCode::NOT_FOUND.into_response(),
        _ => feed(lookup),
    })
    .await
}

/// The exit code and the two outputs of a command, by a server and by itself.
async fn both(fake: &Fake, arguments: &[&str]) -> [(Option<i32>, String, String); 2] {
    let server = fake.serve().await;
    let mut by_server = plaque();
    by_server
        .args(arguments)
        .args(["--server", &format!("http://{}", server.address)]);
    let mut direct = plaque();
    direct.args(arguments).args([
        "--direct",
        "--canary",
        "none",
        "--upstream",
        fake.origin.url().as_str(),
    ]);
    [run(by_server).await, run(direct).await]
}

#[tokio::test]
async fn without_a_server_the_output_and_the_exit_code_are_the_same() {
    let fake = origin().await;
    for (arguments, code) in [
        (&["get", CHANNEL][..], 0),
        (&["get", GONE, CHANNEL, "--kind", "short"], 3),
        (&["list", CHANNEL], 0),
        (&["list", GONE, CHANNEL, "-n", "3"], 3),
        (&["list", CHANNEL, "--json"], 0),
    ] {
        let [served, direct] = both(&fake, arguments).await;
        assert_eq!(served.0, Some(code), "{arguments:?}: {served:?}");
        assert_eq!(served, direct, "{arguments:?}");
    }
    let json = both(&fake, &["get", GONE, CHANNEL, "--json"]).await;
    let [served, direct] = json.map(|(code, out, err)| {
        assert_eq!((code, err.as_str()), (Some(3), ""));
        let mut lines: Vec<Value> = out
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        lines[1]["found"]["freshness"]["fetchTime"].take();
        lines[0]["failure"]["retryAfter"].take();
        lines
    });
    assert_eq!(served, direct);
    assert_eq!(served[0]["failure"]["reason"], "CHANNEL_NOT_FOUND");
}

#[tokio::test]
async fn after_the_time_limit_it_says_what_to_do_without_a_server() {
    let origin = Origin::start(async |_: Lookup| pending().await);
    let origin = origin.await.expect("a free port");
    for arguments in [&["get"][..], &["get", "--json"], &["list"]] {
        let mut command = plaque();
        command
            .args(arguments)
            .args([CHANNEL, "--direct", "--timeout=100ms", "--canary=none"]);
        command.args(["--upstream", origin.url().as_str()]);
        let (code, out, err) = run(command).await;
        let said = out + &err;
        assert_eq!(code, Some(75), "{said}");
        assert!(
            said.contains("no answer within 100ms; ask again, or with a longer --timeout"),
            "{said}"
        );
        assert!(!said.contains("a server completes it"), "{said}");
    }
}

#[tokio::test]
async fn a_switch_is_set_by_the_usual_words_in_the_environment() {
    for (value, code) in [
        ("1", 0),
        ("Yes", 0),
        ("on", 0),
        ("true", 0),
        ("0", 75),
        ("no", 75),
        ("off", 75),
        ("false", 75),
        ("maybe", 2),
    ] {
        let mut command = plaque();
        command.args(["get", "-"]).stdin(Stdio::null());
        // Without --direct, there is no server.
        command
            .env("PLAQUE_DIRECT", value)
            .env("PLAQUE_SERVER", "http://127.0.0.1:1");
        let (actual, _, err) = run(command).await;
        assert_eq!(actual, Some(code), "{value}: {err}");
    }
}

#[tokio::test]
async fn list_prints_as_many_as_wanted_newest_first() {
    let fake = origin().await;
    for (count, expected) in [("1", 1), ("3", 3), ("15", 15), ("1000", 15)] {
        for (_, out, _) in both(&fake, &["list", CHANNEL, "--count", count]).await {
            let ids: Vec<_> = out.lines().filter_map(|line| line.split('\t').next()).collect();
            let newest = (0..expected).map(|older| format!("upload{:04}A", 15 - older));
            assert_eq!(ids, newest.collect::<Vec<_>>(), "{count}");
        }
    }
}

#[tokio::test]
async fn flags_for_a_server_and_for_direct_are_not_mixed() {
    for subcommand in ["get", "list"] {
        for (arguments, named) in [
            (["--direct", "--server=http://127.0.0.1:1"], "--server"),
            (["--direct", "--tls-ca=ca.pem"], "--tls-ca"),
            (["--store=file:store", "--server=http://127.0.0.1:1"], "--store"),
            (["--upstream=http://127.0.0.1:1", "--json"], "--upstream"),
        ] {
            let mut command = plaque();
            command.args([subcommand, CHANNEL]).args(arguments);
            assert_refused(command, 2, &[named, "--direct"]).await;
        }
    }
}

#[tokio::test]
async fn the_environment_may_have_settings_for_both() {
    let fake = origin().await;
    let server = fake.serve().await;
    for direct in [None, Some("--direct")] {
        let mut command = plaque();
        command.args(["get", CHANNEL]).args(direct);
        command
            .env("PLAQUE_SERVER", format!("http://{}", server.address))
            .env("PLAQUE_UPSTREAM", fake.origin.url().as_str());
        let (code, out, err) = run(command).await;
        assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    }
    assert_eq!(fake.lookups(CHANNEL), 2, "one by the server, and one without");
}

#[cfg(unix)]
#[tokio::test]
async fn a_signal_ends_it_after_what_it_has_found_is_saved() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("direct-signal");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder");
    let [list, get] = [&["list", "--count=1"][..], &["get"]];
    for (signal, code, subcommand) in [("-INT", 130, list), ("-TERM", 143, list), ("-INT", 130, get)] {
        // The other channel's lookup hangs.
        let origin = Origin::start(async |lookup: Lookup| match lookup.channel.as_str() {
            CHANNEL => feed(&lookup),
            _ => pending().await,
        });
        let origin = origin.await.expect("a free port");
        let direct = |channels: &[&str]| {
            let mut command = plaque();
            command.args(subcommand).args(["--direct", "--canary=none"]);
            let store = folder.join(format!("{}{signal}", subcommand[0]));
            command.arg(format!("--store=file:{}", store.display()));
            command.args(["--upstream", origin.url().as_str()]).args(channels);
            command
        };
        let mut child = direct(&[CHANNEL, GONE])
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let line = first_line(&mut child).await;
        let killed = Command::new("kill")
            .args([signal, &child.id().to_string()])
            .status();
        assert!(killed.expect("kill is there").success());
        let ended = tokio::task::spawn_blocking(move || child.wait()).await;
        assert_eq!(ended.expect("no panic").expect("it ran").code(), Some(code));
        assert_eq!(run(direct(&[CHANNEL])).await, (Some(0), line, String::new()));
        assert_eq!(
            origin.lookups(channel(CHANNEL)),
            1,
            "the second run has it from the store"
        );
    }
}
