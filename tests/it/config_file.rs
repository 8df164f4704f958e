//! Settings: the file of --config, the order of sources, and variables that are none. And the log in JSON, alone on its stream.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{
    program::{assert_refused, plaque, run},
    support::CHANNEL,
};

/// A file with `text`, which is `name`'s alone.
fn file(name: &str, text: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.toml"));
    fs::write(&path, text).expect("written");
    path
}

fn serve(file: &Path) -> Command {
    let mut command = plaque();
    command.args(["serve", "--config"]).arg(file);
    command
}

async fn check(file: &Path) -> (Option<i32>, String, String) {
    let mut command = plaque();
    command.args(["config", "check"]).arg(file);
    run(command).await
}

/// Starts a server that logs JSON, waits until it listens, and stops it. Returns the records of the log, and what was on standard output.
async fn records(mut command: Command) -> (Vec<Value>, String) {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let err = child.stderr.take().expect("piped");
    let id = child.id().to_string();
    let ran = tokio::task::spawn_blocking(move || {
        let mut records = vec![];
        for line in BufReader::new(err).lines() {
            let line = line.expect("text");
            let record: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
            if record["fields"]["message"] == "listening" {
                let sent = Command::new("kill").arg(&id).status();
                assert!(sent.expect("kill is there").success());
            }
            records.push(record);
        }
        let output = child.wait_with_output().expect("it has ended");
        (records, String::from_utf8(output.stdout).expect("text"))
    });
    ran.await.expect("no panic")
}

#[tokio::test]
async fn a_flag_comes_before_the_environment_before_the_file_before_the_default() {
    // Each source gives an address that cannot be bound; the first in the order is named.
    let file = file(
        "order",
        "listen = \"203.0.113.3:1\"\nadmin-listen = \"127.0.0.1:0\"\n",
    );
    let listen = |address: &str| format!("cannot listen on {address}:1");
    assert_refused(serve(&file), 1, &[&listen("203.0.113.3")]).await;
    let mut command = serve(&file);
    command.env("PLAQUE_LISTEN", "198.51.100.2:1");
    assert_refused(command, 1, &[&listen("198.51.100.2")]).await;
    let mut command = serve(&file);
    command
        .env("PLAQUE_LISTEN", "198.51.100.2:1")
        .arg("--listen=192.0.2.1:1");
    assert_refused(command, 1, &[&listen("192.0.2.1")]).await;
    let mut command = plaque();
    command.arg("serve").env("PLAQUE_CONFIG", &file);
    assert_refused(command, 1, &[&listen("203.0.113.3")]).await;
}

#[tokio::test]
async fn a_variable_that_is_empty_is_none() {
    let page = plaque::cli::flags_page();
    let variables: BTreeSet<_> = page
        .split('`')
        .filter(|part| part.starts_with("PLAQUE_") && part.is_ascii() && !part.contains(' '))
        .collect();
    assert!(variables.len() > 70, "{variables:?}");
    let without = |mut command: Command| {
        command.envs(variables.iter().map(|name| (name, "")));
        command
    };
    let file = file("empty", "listen = \"203.0.113.3:1\"\n");
    let listen = "cannot listen on 203.0.113.3:1";
    assert_refused(without(serve(&file)), 1, &[listen]).await;
    for arguments in [["get", "-"], ["list", "-"], ["watch", CHANNEL]] {
        let mut command = plaque();
        command.args(arguments).args(["--server", "127.0.0.1:1"]);
        assert_refused(without(command), 75, &["cannot reach http://127.0.0.1:1"]).await;
    }
    let mut command = plaque();
    command.args(["config", "check"]).arg(&file);
    assert_eq!(run(without(command)).await.0, Some(0));
}

#[tokio::test]
async fn a_wrong_value_is_told_with_the_variable_that_has_it() {
    let named = |arguments: &[&str], name: &str| {
        let mut command = plaque();
        command
            .args(arguments)
            .envs([("PLAQUE_TIMEOUT", "soon"), ("PLAQUE_FRESH_FOR", "soon")]);
        let told = format!("invalid value 'soon' for '{name}'");
        async move { assert_refused(command, 2, &[&told]).await }
    };
    named(&["get", CHANNEL], "--timeout <DURATION>, set by PLAQUE_TIMEOUT").await;
    named(&["get", CHANNEL, "--timeout=soon"], "--timeout <DURATION>").await;
    named(&["get", CHANNEL, "--timeout", "soon"], "--timeout <DURATION>").await;
    named(
        &["serve", "--log", "info"],
        "--fresh-for <DURATION>, set by PLAQUE_FRESH_FOR",
    )
    .await;
}

#[tokio::test]
async fn clients_warn_of_a_variable_that_is_no_setting() {
    for (command, warns) in [
        (["get", CHANNEL], true),
        (["list", CHANNEL], true),
        (["watch", CHANNEL], true),
        (["health", "--timeout=1s"], false),
    ] {
        let mut program = plaque();
        program.args(command).args(["--server", "127.0.0.1:1"]);
        program.env("PLAQUE_TIMEOUTS", "1s");
        let (_, _, err) = run(program).await;
        let warning = "warning: the environment has PLAQUE_TIMEOUTS, which is no setting of plaque; is it PLAQUE_TIMEOUT?\n";
        assert_eq!(err.starts_with(warning), warns, "{err}");
        assert!(err.contains("cannot reach"), "{err}");
    }
}

#[tokio::test]
async fn what_a_flag_requires_may_be_in_the_file_and_the_other_way_round() {
    let key = file("key", "tls-key = \"/no/such/key\"\n");
    let mut command = serve(&key);
    command.args(["--tls-cert", "/no/such/cert"]);
    assert_refused(command, 2, &["--tls-cert", "/no/such/cert", "No such file"]).await;
    assert_refused(serve(&key), 2, &["--tls-cert"]).await;
}

#[tokio::test]
async fn a_mistake_in_the_file_is_named_by_serve_and_by_config_check() {
    let bad = file(
        "bad",
        "fresh-for = \"60s\"\nfreshfor = \"60s\"\nworkers = \"none\"\n",
    );
    let parts = [
        "bad.toml:2: freshfor: no such setting; is it fresh-for?",
        "bad.toml:3: workers: invalid value 'none'",
    ];
    let mut command = serve(&bad);
    assert_refused(command, 2, &parts[..1]).await;
    command = plaque();
    command.args(["config", "check"]).arg(&bad);
    assert_refused(command, 2, &parts).await;
    let (_, _, err) = check(&bad).await;
    assert_eq!(err.lines().count(), 2, "{err}");
    let (code, _, err) = check(&file("long", &"# too long\n".repeat(30_000))).await;
    assert!(code == Some(2) && err.contains("256 KiB"), "{err}");
    command = serve(Path::new("/no/such/file.toml"));
    assert_refused(command, 2, &["/no/such/file.toml", "No such file"]).await;
    // Each is right, and together they are not.
    let (code, _, err) = check(&file("together", "watch-every = \"2h\"\n")).await;
    assert!(code == Some(2) && err.contains("--watch-at-most"), "{err}");
}

#[tokio::test]
async fn config_check_tells_what_differs_and_no_password() {
    let text = "fresh-for = \"30s\"\nlisten = \"127.0.0.1:3779\"\nstore = \"redis://me:secret@cache\"\ngrpc-web = true\n\
                upstream = \"http://me:secret@up/feed?key=secret\"\n";
    let good = file("good", text);
    let mut command = plaque();
    // Another source could hide a mistake.
    command
        .args(["config", "check"])
        .arg(&good)
        .env("PLAQUE_FRESH_FOR", "nonsense");
    let (code, out, err) = run(command).await;
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let name = good.display();
    let expected =
        format!("{name}: ok\n  fresh-for = 30s (default: 60s)\n  store = (not shown)\n  grpc-web = true\n");
    assert!(
        out.starts_with(&expected) && out.contains("upstream = http://…@up/feed?… ("),
        "{out}"
    );
    assert!(!out.contains("secret"), "{out}");
}

#[tokio::test]
async fn a_log_in_json_is_alone_and_says_where_plaque_listens() {
    let file = file(
        "json",
        "listen = \"127.0.0.1:0\"\nadmin-listen = \"127.0.0.1:0\"\nlog-format = \"json\"\n",
    );
    let mut command = serve(&file);
    command
        .args(["--http-listen", "127.0.0.1:0"])
        .env("PLAQUE_FRESHFOR", "1s");
    let (records, out) = records(command).await;
    assert_eq!(out, "");
    let fields = |message: &str| {
        let found = records.iter().map(|record| &record["fields"]);
        let mut found = found.filter(|fields| {
            fields["message"]
                .as_str()
                .is_some_and(|text| text.contains(message))
        });
        found
            .next()
            .unwrap_or_else(|| panic!("no {message} in {records:?}"))
    };
    let listening = fields("listening");
    for port in ["grpc", "admin", "http"] {
        let address = listening[port].as_str().expect("an address");
        assert!(
            address.starts_with("127.0.0.1:") && !address.ends_with(":0"),
            "{listening}"
        );
    }
    assert_eq!(
        (&listening["store"], &listening["tls"]),
        (&false.into(), &false.into())
    );
    fields("PLAQUE_FRESHFOR, which is no setting of plaque; is it PLAQUE_FRESH_FOR?");
    fields("stopped");
}

#[tokio::test]
async fn a_wrong_flag_is_told_as_the_file_after_it_says() {
    let file = file("json-after", "log-format = \"json\"\n");
    for by_variable in [false, true] {
        let mut command = plaque();
        command.args(["serve", "--no-such-flag"]);
        if by_variable {
            command.env("PLAQUE_CONFIG", &file);
        } else {
            command.arg("--config").arg(&file);
        }
        let (code, _, err) = run(command).await;
        let record: Value = serde_json::from_str(&err).expect(&err);
        let message = record["fields"]["message"].as_str().unwrap_or_default();
        assert!(
            code == Some(2) && message.contains("unexpected argument"),
            "{err}"
        );
    }
}

#[tokio::test]
async fn errors_of_a_start_are_json_as_well() {
    for (arguments, code, part) in [
        (&["--listen=192.0.2.1:1"][..], 1, "cannot listen on 192.0.2.1:1"),
        (&["--fresh-for=60"], 2, "invalid value '60'"),
        (&["--no-such-flag"], 2, "unexpected argument"),
        (&["--store=file:/no/such/folder/store"], 2, "--store"),
        (&["--config=/no/such/file"], 2, "cannot read /no/such/file"),
    ] {
        let mut command = plaque();
        command.args(["serve", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"]);
        if arguments[0].starts_with("--listen") {
            command = plaque();
            command.args(["serve", "--admin-listen=127.0.0.1:0"]);
        }
        command.args(arguments).env("PLAQUE_LOG_FORMAT", "json");
        let (actual, out, err) = run(command).await;
        assert_eq!((actual, out.as_str()), (Some(code), ""), "{arguments:?}: {err}");
        let records: Vec<Value> = err
            .lines()
            .map(|line| serde_json::from_str(line).expect(line))
            .collect();
        let last = records.last().expect("an error");
        let message = last["fields"]["message"].as_str().unwrap_or_default();
        assert!(
            last["level"] == "ERROR" && message.contains(part),
            "{arguments:?}: {err}"
        );
    }
}

#[tokio::test]
async fn a_file_that_asks_for_json_gets_its_mistakes_in_json_one_a_record() {
    let mistakes = "freshfor = \"60s\"\nworkers = \"none\"\n";
    let messages = |err: &str| {
        let records = err
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect(line));
        let texts = records.map(|record| record["fields"]["message"].as_str().map(str::to_owned));
        texts.map(Option::unwrap_or_default).collect::<Vec<_>>()
    };
    let twice = file("twice", &format!("log-format = \"json\"\n{mistakes}"));
    let (code, out, err) = run(serve(&twice)).await;
    assert_eq!((code, out.as_str()), (Some(2), ""));
    let told = messages(&err);
    assert!(
        told.len() == 2 && told[0].contains(":2: freshfor") && told[1].contains(":3: workers"),
        "{err}"
    );
    // A mistake in the syntax, before and behind; a flag that goes with the file.
    for (text, flag) in [
        ("fresh-for = 60s\nlog-format = \"json\"\n", None),
        ("log-format = \"json\"\nfresh-for = \"60s\n", None),
        ("log-format = \"json\"\n", Some("--no-such-flag")),
    ] {
        let mut command = serve(&file("syntax", text));
        command.args(flag);
        let (code, _, err) = run(command).await;
        assert_eq!((code, messages(&err).len()), (Some(2), 1), "{err}");
    }
    // What is said elsewhere comes first.
    let mut command = serve(&twice);
    command.env("PLAQUE_LOG_FORMAT", "pretty");
    assert_refused(command, 2, &["error: ", "\n"]).await;
}

#[tokio::test]
async fn a_start_says_what_it_keeps() {
    for (flags, kept) in [(&[][..], true), (&["--store", "file:STORE"], false)] {
        let store = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kept-{}", std::process::id()));
        let mut command = plaque();
        command.args(["serve", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"]);
        command.args(
            flags
                .iter()
                .map(|flag| flag.replace("STORE", &store.to_string_lossy())),
        );
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let out = child.stdout.take().expect("piped");
        let lines = tokio::task::spawn_blocking(move || {
            let mut lines = vec![];
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                lines.push(line);
                if lines.last().is_some_and(|line| line.starts_with("try: ")) {
                    break;
                }
            }
            lines
        });
        let lines = lines.await.expect("no panic");
        child.kill().expect("it runs still");
        child.wait().expect("it has ended");
        let _ = fs::remove_file(&store);
        let says = lines
            .iter()
            .any(|line| line.contains("in memory, up to 256.0 MiB; a restart forgets them"));
        assert_eq!(says, kept, "{lines:?}");
    }
}
