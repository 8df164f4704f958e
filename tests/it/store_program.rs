//! The program and its store: invalid settings, and passwords that must not be shown.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use plaque::store::{
    Store as _,
    file::{Ages, File, MIN_BYTES},
};

use crate::{
    program::{assert_refused, plaque, plaque_serve, run},
    stores::LONG,
};

/// What must not be shown.
const PASSWORD: &str = "hunter2";

/// A path in a folder of a test's own, where nothing is.
fn path(test: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("store-program-{test}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder");
    folder.join("store")
}

fn serve_with(store: &str) -> Command {
    let mut command = plaque_serve();
    command.args(["--store", store]);
    command
}

#[tokio::test]
async fn a_file_that_cannot_be_is_named_before_anything_is_served() {
    let folder = path("nowhere").join("store");
    for path in [folder.as_path(), Path::new(env!("CARGO_TARGET_TMPDIR"))] {
        let shown = path.display().to_string();
        let command = || serve_with(&format!("file:{shown}"));
        let expected = [
            "--store",
            &shown,
            "a file that plaque may write",
            "a folder that is there",
        ];
        assert_refused(command(), 2, &expected).await;
        assert_eq!(run(command()).await.1, "", "it never served");
    }
}

#[tokio::test]
async fn an_error_for_a_file_in_use_says_what_to_do() {
    let path = path("locked");
    let other = File::open(&path, MIN_BYTES, LONG, Ages::new(LONG)).expect("a store");
    let shown = path.display().to_string();
    let expected = ["--store", &shown, "another plaque", "a file of its own"];
    assert_refused(serve_with(&format!("file:{shown}")), 2, &expected).await;
    other.close(LONG).await;
}

#[tokio::test]
async fn authorities_that_are_none_are_named() {
    let path = path("authorities");
    for (content, why) in [
        (None, "cannot read"),
        (Some("nothing"), "it has none"),
        (
            Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            "no authority in PEM format",
        ),
    ] {
        if let Some(content) = content {
            fs::write(&path, content).expect("written");
        }
        let mut command = serve_with("rediss://127.0.0.1:1");
        command.arg("--store-ca").arg(&path);
        assert_refused(command, 2, &["--store-ca", &path.display().to_string(), why]).await;
    }
}

#[tokio::test]
async fn settings_of_a_store_need_a_store() {
    for (flag, value) in [
        ("--store-bytes", "1GiB"),
        ("--store-prefix", "plaque"),
        ("--store-timeout", "1s"),
        ("--store-ca", "ca.pem"),
    ] {
        let mut command = plaque();
        command.args(["serve", flag, value]);
        assert_refused(command, 2, &["required", "--store <ADDRESS>"]).await;
    }
}

#[tokio::test]
async fn a_password_is_in_no_error_and_no_help() {
    for (address, shown) in [
        ("redsi://me:hunter2@cache", "redsi://…@cache"),
        ("redis://me:hunter2@cache:port", "redis://…@cache:port"),
        ("me:hunter2@cache", "…@cache"),
        ("redis-cluster://:hunter2@one,,two", "redis-cluster://…@one,,two"),
        ("redis://:hunter2@cache/one", "redis://…@cache/one"),
    ] {
        let by_flag = serve_with(address);
        let mut by_environment = plaque();
        by_environment.arg("serve").env("PLAQUE_STORE", address);
        for command in [by_flag, by_environment] {
            let (code, out, err) = run(command).await;
            assert_eq!(code, Some(2), "{err}");
            assert!(err.contains("--store") && err.contains(shown), "{err}");
            assert!(!err.contains(PASSWORD) && !out.contains(PASSWORD), "{err}{out}");
        }
    }
    let address = format!("redis://:{PASSWORD}@cache");
    let mut misplaced = plaque();
    misplaced.args(["serve", &address]);
    let (code, _, err) = run(misplaced).await;
    assert_eq!(code, Some(2));
    assert!(
        err.contains("redis://…@cache") && !err.contains(PASSWORD),
        "{err}"
    );
    let mut help = plaque();
    help.args(["serve", "--help"]).env("PLAQUE_STORE", &address);
    let (code, out, _) = run(help).await;
    assert_eq!(code, Some(0));
    assert!(out.contains("PLAQUE_STORE") && !out.contains(PASSWORD), "{out}");
}

#[tokio::test]
async fn a_password_is_not_logged() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let mut child = serve_with(&format!("redis://me:{PASSWORD}@{address}"))
        .args(["--log", "trace"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let logged = tokio::task::spawn_blocking(move || {
        let mut logged = Vec::new();
        for line in lines.map_while(Result::ok) {
            let is_told = line.contains("the store is in trouble");
            logged.push(line);
            if is_told {
                break;
            }
        }
        logged
    });
    let logged = logged.await.expect("no panic");
    child.kill().expect("it runs still");
    let output = child.wait_with_output().expect("it has ended");
    assert!(
        logged.last().expect("a line").contains(&address.to_string()),
        "{logged:?}"
    );
    assert!(!logged.iter().any(|line| line.contains(PASSWORD)), "{logged:?}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains(PASSWORD));
}
