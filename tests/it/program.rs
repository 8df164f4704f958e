//! The program: its output and its error messages.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use plaque::server::Drained;

use crate::support::{CHANNEL, Fake, feed};

pub fn plaque() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plaque"));
    command.stdin(Stdio::null());
    // Without settings from the environment of the tests.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PLAQUE_")) {
        command.env_remove(name);
    }
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OTEL_")) {
        command.env_remove(name);
    }
    command.env_remove("RUST_LOG");
    command
}

/// A server on free ports.
pub fn plaque_serve() -> Command {
    let mut command = plaque();
    command.args([
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
    ]);
    command
}

/// Waits for the first line of a program whose output is a pipe, and returns it with its end.
pub async fn first_line(child: &mut Child) -> String {
    let out = child.stdout.take().expect("piped");
    let first = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line).map(|_| line)
    });
    first.await.expect("no panic").expect("a line")
}

/// Runs to the end and returns the exit code, stdout and stderr.
pub async fn run(mut command: Command) -> (Option<i32>, String, String) {
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    let Output {
        status,
        stdout,
        stderr,
    } = output.expect("no panic").expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code(), text(stdout), text(stderr))
}

/// Asserts that `args` end with `code` and a message that has all of `parts`, and no panic or backtrace.
pub async fn assert_refused(command: Command, code: i32, parts: &[&str]) {
    let shown = format!("{command:?}");
    let (actual, _, stderr) = run(command).await;
    assert_eq!(actual, Some(code), "{shown}: {stderr}");
    for part in parts {
        assert!(stderr.contains(part), "{shown}: {stderr:?} has no {part:?}");
    }
    for unwanted in ["panicked", "backtrace", "Err("] {
        assert!(!stderr.contains(unwanted), "{shown}: {stderr}");
    }
}

#[tokio::test]
async fn a_bad_flag_names_the_flag_the_value_and_what_is_expected() {
    for (flag, value, expected) in [
        ("--listen", "localhost", "an IP address and a port"),
        ("--upstream", "youtube.com", "an http or https address"),
        ("--upstream-timeout", "0s", "more than 0"),
        ("--upstream-concurrency", "0", "at least 1"),
        ("--upstream-user-agent", "ünicode", "visible ASCII characters"),
        ("--upstream-user-agent", " plaque", "visible ASCII characters"),
        ("--upstream-user-agent", "", "visible ASCII characters"),
        ("--upstream-ip", "5", "any, 4, 6"),
        ("--max-queue-wait", "0s", "more than 0"),
        ("--caller-header", "two words", "the name of a header"),
        ("--fresh-for", "60", "a duration with its unit"),
        ("--negative-for", "1000d", "at most 365d"),
        ("--cache-bytes", "lots", "a size with its unit"),
        ("--workers", "-1", "from 1 to 1024"),
        ("--workers", "1025", "from 1 to 1024"),
        ("--stale-while-revalidate", "x", "a duration with its unit"),
        ("--stale-if-error", "x", "a duration with its unit"),
        ("--max-waiters", "0", "at least 1"),
        ("--store", "memcached://cache", "redis://, rediss:// (TLS)"),
        ("--store", "/var/lib/plaque", "file:PATH"),
        ("--store", "file:", "a path after file:"),
        ("--store-bytes", "lots", "a size with its unit"),
        ("--store-prefix", "{plaque}", "1 to 64 characters"),
        ("--store-timeout", "0s", "more than 0"),
        ("--watch-every", "0s", "more than 0"),
        ("--watch-at-most", "0s", "more than 0"),
        ("--drain-timeout", "soon", "a duration with its unit"),
        ("--log-format", "xml", "pretty, tree, json"),
        ("--log", "plaque=loud", "a level such as info"),
        ("--log", "warning", "off, error, warn, info, debug or trace"),
        ("--log", "plaque=debug, inof", "inof is not a level"),
        (
            "--otlp-endpoint",
            "127.0.0.1:4317",
            "such as http://127.0.0.1:4317",
        ),
        (
            "--otlp-endpoint",
            "https://traces.example",
            "https is left to a collector",
        ),
    ] {
        let mut command = plaque();
        command.args(["serve", &format!("{flag}={value}")]);
        assert_refused(command, 2, &[flag, value, expected]).await;

        // An empty variable is none.
        if value.is_empty() {
            continue;
        }
        let mut command = plaque();
        let variable = format!("PLAQUE_{}", flag[2..].to_uppercase().replace('-', "_"));
        command.arg("serve").env(variable, value);
        assert_refused(command, 2, &[flag, value, expected]).await;
    }
}

#[tokio::test]
async fn polls_cannot_be_at_most_as_far_apart_as_less_than_they_are_at_least() {
    for (flags, shown) in [
        (&["--watch-every=2h"][..], ["2h", "1h"]),
        (&["--watch-every=5m", "--watch-at-most=1m"], ["5m", "1m"]),
    ] {
        let mut command = plaque();
        command.arg("serve").args(flags);
        let parts = ["--watch-every", "--watch-at-most", shown[0], shown[1]];
        assert_refused(command, 2, &parts).await;
    }
}

#[tokio::test]
async fn a_bad_filter_in_rust_log_is_named() {
    let mut command = plaque();
    command.arg("serve").env("RUST_LOG", "plaque=loud");
    assert_refused(command, 2, &["RUST_LOG", "plaque=loud"]).await;
}

#[tokio::test]
async fn an_error_for_a_port_in_use_says_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let mut command = plaque();
    command.args(["serve", "--listen", &address]);
    assert_refused(command, 1, &[&address, "another program", "--listen"]).await;
}

#[tokio::test]
async fn an_error_for_an_address_of_another_machine_says_what_to_do() {
    let mut command = plaque();
    // TEST-NET-1: no machine has it.
    command.args(["serve", "--listen", "192.0.2.1:3779"]);
    assert_refused(command, 1, &["192.0.2.1:3779", "no such address", "--listen"]).await;
}

#[tokio::test]
async fn an_error_for_a_missing_server_says_what_to_do() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = format!("http://{}", free.local_addr().expect("bound"));
    drop(free);
    for subcommand in ["get", "watch"] {
        let mut command = plaque();
        command.args([subcommand, CHANNEL, "--server", &address]);
        assert_refused(command, 75, &[&address, "plaque serve", "--server"]).await;
    }
}

#[tokio::test]
async fn a_key_that_cannot_be_read_is_named_before_the_store_is_opened() {
    let mut command = plaque_serve();
    command.args([
        "--youtube-api-key-file",
        "/no/such/key",
        "--store",
        "file:/no/such/folder/store",
    ]);
    assert_refused(
        command,
        2,
        &["--youtube-api-key-file", "/no/such/key", "No such file"],
    )
    .await;
}

#[tokio::test]
async fn a_file_that_is_missing_is_exit_code_2_whatever_flag_names_it() {
    let serve = ["serve", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"];
    let remote = [CHANNEL, "--server=https://127.0.0.1:1"];
    for (command, flags) in [
        (&serve[..], "--config=/no/file"),
        (&serve, "--tls-cert=/no/file --tls-key=/no/file"),
        (&serve, "--youtube-api-key-file=/no/file"),
        (&serve, "--store=redis://127.0.0.1:1 --store-ca=/no/file"),
        (&serve, "--upstream-ca=/no/file"),
        (&serve, "--trace-chrome=/no/file"),
        (&serve, "--store=file:/no/file"),
        (&["get", remote[0], remote[1]], "--tls-ca=/no/file"),
        (
            &["list", remote[0], remote[1]],
            "--tls-client-cert=/no/file --tls-client-key=/no/file",
        ),
        (&["watch", remote[0], remote[1]], "--tls-ca=/no/file"),
        (&["health", remote[1]], "--tls-ca=/no/file"),
        (&["get", CHANNEL, "--direct"], "--youtube-api-key-file=/no/file"),
        (&["config", "check"], "/no/file"),
    ] {
        let mut program = plaque();
        program.args(command).args(flags.split(' '));
        assert_refused(program, 2, &["/no/file: No such file"]).await;
    }
}

#[tokio::test]
async fn get_refuses_an_invalid_channel_and_an_invalid_server() {
    let mut command = plaque();
    command.args(["get", "https://vimeo.com/kurzgesagt"]);
    assert_refused(command, 2, &["vimeo.com", "youtube.com or youtu.be"]).await;
    for server in [
        "ftp://127.0.0.1:3779",
        "http://:3779",
        ":3779",
        "http://127.0.0.1:3779/path",
        "http://127.0.0.1:3779/?query",
        "http://127.0.0.1:3779#fragment",
    ] {
        let mut command = plaque();
        command.args(["get", CHANNEL, "--server", server]);
        assert_refused(command, 2, &["--server", server, "such as 127.0.0.1:3779"]).await;
    }
    let mut command = plaque();
    command.args(["get", CHANNEL, "--server", "http://me:secret@127.0.0.1:3779"]);
    let (code, _, err) = run(command).await;
    assert!(code == Some(2) && err.contains("without a user"), "{err}");
    assert!(!err.contains("secret"), "{err}");
}

#[tokio::test]
async fn get_prints_lines_of_fields_and_json_into_a_pipe() {
    const GONE: &str = "UCgonegonegonegonegonegA";
    let fake = Fake::open(|lookup| {
        use axum::response::IntoResponse as _;
        match lookup.channel.as_str() {
            GONE => axum::http::StatusCode::NOT_FOUND.into_response(),
            _ => feed(lookup),
        }
    })
    .await;
    let server = fake.serve().await;
    let address = format!("http://{}", server.address);

    let mut command = plaque();
    command.args(["get", GONE, CHANNEL, "--server", &address, "--kind", "short"]);
    let (code, out, err) = run(command).await;
    assert_eq!(code, Some(3), "one of them was not found");
    assert_eq!(
        out,
        format!(
            "upload0013A\t{CHANNEL}\t2027-01-15T06:00:00Z\tshort\thttps://www.youtube.com/shorts/upload0013A\t\
             Upload <13> & more\n"
        )
    );
    assert_eq!(
        err,
        format!("{GONE}: channel {GONE} was not found (CHANNEL_NOT_FOUND)\n")
    );

    let mut command = plaque();
    command.args(["get", GONE, CHANNEL, "--server", &address, "--json"]);
    let (code, out, err) = run(command).await;
    assert_eq!((code, err.as_str()), (Some(3), ""));
    let lines: Vec<serde_json::Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["channelId"], GONE);
    assert_eq!(lines[0]["failure"]["reason"], "CHANNEL_NOT_FOUND");
    assert_eq!(lines[1]["found"]["video"]["videoId"], "upload0015A");
    assert_eq!(lines[1]["found"]["video"]["publishTime"], "2027-01-15T08:00:00Z");
    assert_eq!(lines[1]["found"]["video"]["viewCount"], "1234");
}

#[tokio::test]
async fn watch_prints_uploads_as_they_arrive() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let address = format!("http://{}", server.address);
    for json in [false, true] {
        let mut command = plaque();
        command.args(["watch", CHANNEL, "--server", &address]);
        command.args(json.then_some("--json"));
        let mut watch = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let first = first_line(&mut watch).await;
        watch.kill().expect("it runs still");
        watch.wait().expect("it has ended");
        if json {
            let event: serde_json::Value = serde_json::from_str(&first).expect("JSON");
            assert_eq!(event["video"]["videoId"], "upload0015A");
            assert_eq!(event["initial"], true);
        } else {
            assert!(first.starts_with("upload0015A\t"), "{first}");
            assert!(first.ends_with("\tUpload <15> & more\n"), "{first}");
        }
    }

    let mut command = plaque();
    command.args(["watch", CHANNEL, "--server", &address]);
    command.args(["--published-after", "2026-01-01T00:00:00Z"]);
    let mut watch = command
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let out = watch.stdout.take().expect("piped");
    let uploads = tokio::task::spawn_blocking(move || {
        let lines = BufReader::new(out).lines().map_while(Result::ok);
        let ids = lines.map(|line| line.split('\t').next().map(str::to_owned));
        ids.take(15).collect::<BTreeSet<_>>().len()
    });
    let uploads = uploads.await.expect("no panic");
    watch.kill().expect("it runs still");
    watch.wait().expect("it has ended");
    assert_eq!(uploads, 15, "all that the feed has");
    assert_eq!(server.stop().ended().await, Drained { cut_off: 0 });
}

#[tokio::test]
async fn completions_know_subcommands_and_flags() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let mut command = plaque();
        command.args(["completions", shell]);
        let (code, out, err) = run(command).await;
        assert_eq!((code, err.as_str()), (Some(0), ""), "{shell}");
        for part in ["serve", "fresh-for", "completions"] {
            assert!(out.contains(part), "{shell}: no {part}");
        }
    }
    let mut command = plaque();
    command.args(["completions", "tcsh"]);
    assert_refused(command, 2, &["tcsh", "bash, elvish, fish, powershell, zsh"]).await;
    command = plaque();
    command.args(["completions", "-h"]);
    let (_, help, _) = run(command).await;
    assert!(help.contains("powershell"), "{help}");
}

#[tokio::test]
async fn a_completion_script_that_is_not_read_to_its_end_is_not_an_error() {
    let mut command = plaque();
    command.args(["completions", "bash"]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    command.stdout(writer).stderr(Stdio::piped());
    let ended = tokio::task::spawn_blocking(move || command.spawn()?.wait_with_output()).await;
    let Output { status, stderr, .. } = ended.expect("no panic").expect("the program starts");
    assert_eq!(
        (status.code(), String::from_utf8_lossy(&stderr).as_ref()),
        (Some(0), "")
    );
}

#[tokio::test]
async fn there_is_a_manual_page_for_each_subcommand() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("man");
    let _ = fs::remove_dir_all(&folder);
    let mut command = plaque();
    command.arg("man").arg(&folder);
    assert_refused(command, 2, &["cannot write", "man", "No such file"]).await;

    fs::create_dir_all(&folder).expect("a folder");
    let mut command = plaque();
    command.arg("man").arg(&folder);
    assert_eq!(run(command).await, (Some(0), String::new(), String::new()));
    let files = fs::read_dir(&folder).expect("a folder");
    let pages: BTreeSet<_> = files.map(|file| file.expect("a file").file_name()).collect();
    let subcommands = [
        "-completions",
        "-config",
        "-config-check",
        "-demo",
        "-get",
        "-health",
        "-list",
        "-man",
        "-serve",
        "-watch",
        "",
    ];
    let expected = subcommands.map(|subcommand| format!("plaque{subcommand}.1").into());
    assert_eq!(pages, expected.into());
    let page = |name| fs::read_to_string(folder.join(name)).expect("a page");
    assert!(page("plaque-serve.1").contains("PLAQUE_FRESH_FOR"));

    let mut command = plaque();
    command.arg("man");
    assert_eq!(run(command).await, (Some(0), page("plaque.1"), String::new()));
}
