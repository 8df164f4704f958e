//! Real servers, each a process of its own in a folder of its own.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
};

use redis::FromRedisValue;

/// A redis-server. Stops when it is dropped.
pub struct Server {
    pub port: u16,
    process: Child,
    folder: PathBuf,
    options: Vec<String>,
}

/// A free port.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}

fn run(port: u16, folder: &PathBuf, options: &[String]) -> Child {
    let program = env::var("PLAQUE_TEST_REDIS").unwrap_or_else(|_| "redis-server".into());
    let mut process = Command::new(&program)
        .args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ])
        .arg("--dir")
        .arg(folder)
        .args(options)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program} (or what PLAQUE_TEST_REDIS names) cannot be run: {error}"));
    let mut lines = BufReader::new(process.stdout.take().expect("its output")).lines();
    let ready = lines.find(|line| {
        line.as_ref()
            .is_ok_and(|line| line.contains("Ready to accept connections"))
    });
    assert!(ready.is_some(), "{program} has ended");
    // It would block on a full pipe.
    thread::spawn(move || lines.for_each(drop));
    process
}

impl Server {
    pub fn start(options: &[&str]) -> Self {
        let port = free_port();
        let folder = env::temp_dir().join(format!("plaque-test-redis-{}-{port}", std::process::id()));
        fs::create_dir(&folder).expect("a folder");
        let options: Vec<_> = options.iter().map(ToString::to_string).collect();
        Self {
            port,
            process: run(port, &folder, &options),
            folder,
            options,
        }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Kills the process.
    pub fn kill(&mut self) {
        self.process.kill().expect("killed");
        self.process.wait().expect("ended");
    }

    /// Starts an empty one in its place.
    pub fn restart(&mut self) {
        self.process = run(self.port, &self.folder, &self.options);
    }

    /// Sends `STOP` or `CONT`.
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args(["-s", signal, &self.process.id().to_string()])
            .status();
        assert!(status.expect("kill").success());
    }

    /// Runs a command on a connection of its own.
    pub fn command<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let mut connection = redis::Client::open(self.url())
            .and_then(|client| client.get_connection())
            .expect("a connection");
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query(&mut connection).expect("an answer")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A cluster of three nodes.
pub fn cluster() -> [Server; 3] {
    let nodes = [(); 3].map(|()| {
        // By default it takes the port 10,000 above, which may not exist.
        let bus = free_port().to_string();
        let options = [
            "--cluster-enabled",
            "yes",
            "--cluster-port",
            &bus,
            "--cluster-node-timeout",
            "500",
        ];
        Server::start(&options)
    });
    let output = Command::new("redis-cli")
        .args(["--cluster-yes", "--cluster", "create"])
        .args(nodes.each_ref().map(|node| format!("127.0.0.1:{}", node.port)))
        .output()
        .expect("redis-cli");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    for node in &nodes {
        // The nodes agree, but may not all know it yet.
        while !node
            .command::<String>(&["CLUSTER", "INFO"])
            .contains("cluster_state:ok")
        {}
    }
    nodes
}

/// The address of the cluster.
pub fn cluster_url(nodes: &[Server; 3]) -> String {
    let nodes = nodes.each_ref().map(|node| format!("127.0.0.1:{}", node.port));
    format!("redis-cluster://{}", nodes.join(","))
}
