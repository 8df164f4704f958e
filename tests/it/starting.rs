//! Startup: the time before plaque serves, while it opens its store.

use std::{
    future,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{self, SocketAddr, TcpStream as Connection},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use plaque::admin;
use tokio::{io::AsyncWriteExt as _, net::TcpListener, net::TcpStream, sync::oneshot, time::timeout};

use crate::{program::plaque, support::http_get};

const TOO_LONG: Duration = Duration::from_secs(30);

const STARTING: &str = "starting: the store is being opened\n";

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

async fn assert_starting(admin: SocketAddr) {
    assert_eq!(http_get(admin, "/livez").await, (200, "alive\n".into()));
    for path in ["/readyz", "/metrics", "/", "/v1/channels"] {
        assert_eq!(http_get(admin, path).await, (503, STARTING.into()), "{path}");
    }
}

#[tokio::test]
async fn probes_are_answered_while_a_store_is_opened_and_the_port_stays() {
    let (listener, admin) = listener().await;
    let (open, opened) = oneshot::channel();
    let starting = tokio::spawn(async move {
        let done = admin::while_starting(&listener, opened).await;
        (listener, done)
    });
    assert_starting(admin).await;
    // Neither keeps the start from going on.
    let _silent = TcpStream::connect(admin).await.expect("accepted");
    let mut half = TcpStream::connect(admin).await.expect("accepted");
    half.write_all(b"GET /livez HTTP/1.1\r\n").await.expect("sent");
    assert_starting(admin).await;
    open.send("opened").expect("it waits");
    let (listener, done) = timeout(TOO_LONG, starting)
        .await
        .expect("at once")
        .expect("no panic");
    assert_eq!(done, Ok("opened"));
    // Who comes now is served next.
    let next = tokio::spawn(async move { http_get(admin, "/readyz").await });
    admin::while_starting(&listener, async {
        assert_eq!(next.await.expect("no panic").0, 503);
    })
    .await;
    // A startup that is given up leaves nothing behind.
    let never = admin::while_starting(&listener, future::pending::<()>());
    assert!(timeout(Duration::ZERO, never).await.is_err());
}

/// A program that opens its store for as long as it may.
struct Opening {
    child: Child,
    admin: SocketAddr,
    grpc: SocketAddr,
}

impl Opening {
    async fn start() -> Self {
        // The port is free for a moment: the program says only later where it listens.
        let (listener, grpc) = listener().await;
        drop(listener);
        let mut child = plaque()
            .args(["serve", "--admin-listen", "127.0.0.1:0", "--store-timeout", "10m"])
            .args(["--listen", &grpc.to_string()])
            .args(["--store", &format!("redis://{}", gate())])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let admin = tokio::task::spawn_blocking(move || {
            lines.map_while(Result::ok).find_map(|line| {
                let (_, rest) = line.split_once("opening the store; until then http://")?;
                rest.split_once('/')?.0.parse().ok()
            })
        });
        let admin = timeout(TOO_LONG, admin)
            .await
            .expect("it says so")
            .expect("no panic");
        Self {
            child,
            admin: admin.expect("an address"),
            grpc,
        }
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([name, &self.child.id().to_string()])
            .status();
        assert!(status.expect("kill is there").success());
    }
}

/// A Redis that lets a client in, and then never answers whether it can be used: --store-timeout is the limit of that.
fn gate() -> SocketAddr {
    let listener = net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    // They end with the client, and with the process.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("a client");
            thread::spawn(move || let_in(&stream));
        }
    });
    address
}

fn let_in(stream: &net::TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let number = |reader: &mut BufReader<_>| {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let number = line.get(1..).and_then(|number| number.trim().parse().ok());
        number.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
    };
    let mut writer = stream;
    loop {
        let mut words = Vec::new();
        for _ in 0..number(&mut reader)? {
            let mut word = vec![0; number(&mut reader)? + 2];
            reader.read_exact(&mut word)?;
            word.truncate(word.len() - 2);
            words.push(String::from_utf8_lossy(&word).into_owned());
        }
        match words[0].as_str() {
            "HELLO" => writer.write_all(b"%1\r\n+proto\r\n:3\r\n")?,
            "CLIENT" => writer.write_all(b"+OK\r\n")?,
            "SUBSCRIBE" => {
                for (number, name) in words.iter().enumerate().skip(1) {
                    let length = name.len();
                    write!(
                        writer,
                        ">3\r\n$9\r\nsubscribe\r\n${length}\r\n{name}\r\n:{number}\r\n"
                    )?;
                }
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn while_the_store_opens_the_program_is_live_takes_no_calls_and_can_be_stopped() {
    for signal in ["-TERM", "-INT"] {
        let opening = Opening::start().await;
        assert_starting(opening.admin).await;
        Connection::connect(opening.grpc).expect_err("connections are refused while the store opens");
        opening.signal(signal);
        let ended = tokio::task::spawn_blocking(move || opening.child.wait_with_output());
        let ended = timeout(TOO_LONG, ended)
            .await
            .expect("at once")
            .expect("no panic")
            .expect("it ran");
        assert_eq!(ended.status.code(), Some(0));
        assert_eq!(ended.stdout, b"", "it never served");
    }
}
