//! `plaque serve` as a process of its own: a process has one subscriber.

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use tokio::time::timeout;

use super::collector::{Collector, HANG_LIMIT};
use crate::{
    program::{first_line, plaque_serve},
    support::{Client, Fake},
};

/// `plaque serve` over a fake upstream.
pub struct Program {
    child: Child,
    address: SocketAddr,
}

impl Program {
    pub async fn start(fake: &Fake, adjust: impl FnOnce(&mut Command)) -> Self {
        let mut command = plaque_serve();
        command.args(["--upstream", fake.origin.url().as_str()]);
        adjust(&mut command);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let first = first_line(&mut child).await;
        let address = first.trim().rsplit(' ').next().expect("the address comes last");
        Self {
            child,
            address: address.parse().expect("an address"),
        }
    }

    pub(super) async fn traced(fake: &Fake, collector: &Collector) -> Self {
        Self::start(fake, |command| {
            command.args(["--otlp-endpoint", &collector.address]);
        })
        .await
    }

    pub fn client(&self) -> Client {
        Client::of(self.address)
    }

    /// Stops the program, asserts that it succeeded, and returns its log.
    pub async fn stop(self) -> String {
        let (code, log) = self.stop_with_code().await;
        assert_eq!(code, Some(0), "{log}");
        log
    }

    /// Stops the program. Returns its exit code and its log.
    pub(super) async fn stop_with_code(self) -> (Option<i32>, String) {
        let pid = self.child.id().to_string();
        let signaled = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(signaled.expect("kill is there").success());
        let ended = tokio::task::spawn_blocking(move || self.child.wait_with_output());
        let ended = timeout(HANG_LIMIT, ended).await.expect("it ends");
        let output = ended.expect("no panic").expect("it ran");
        let log = String::from_utf8(output.stderr).expect("UTF-8");
        (output.status.code(), log)
    }
}
