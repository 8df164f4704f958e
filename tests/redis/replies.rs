//! Whatever Redis replies, plaque continues, logs the outage once, and recovers.

use super::{
    proxy::Proxy,
    trouble::{BACK, TROUBLE, goes_on_alone, in_trouble, is_back, log, logged},
    *,
};

/// With this reply to everything the store fails; without it, it recovers.
async fn outlives(answer: &[u8]) {
    log();
    let shown = String::from_utf8_lossy(&answer[..answer.len().min(40)]).into_owned();
    let server = Server::start(&[]);
    let proxy = Proxy::to(server.port).await;
    let store = store(&proxy.url()).await;
    store
        .save(feed(), &found("before", Duration::ZERO), Lease::Uncoordinated)
        .await;
    let held = acquire_lease(&store).await;
    proxy.answer(Some(answer));
    let began = Instant::now();
    assert_eq!(loaded(&store).await, None, "{shown}");
    assert!(began.elapsed() < BUDGET * 2, "{shown}: {:?}", began.elapsed());
    in_trouble(&store).await;
    goes_on_alone(&store).await;
    drop(held);
    assert_eq!((logged(TROUBLE), logged(BACK)), (1, 0), "{shown}");
    proxy.answer(None);
    is_back(&store).await;
    assert_eq!((logged(TROUBLE), logged(BACK)), (1, 1), "{shown}");
}

macro_rules! answers {
    ($($name:ident: $answer:expr;)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                soon(Box::pin(outlives(&$answer))).await;
            }
        )*
    };
}

answers! {
    a_server_that_loads_its_data: *b"-LOADING Redis is loading the dataset in memory\r\n";
    a_server_that_runs_somebodys_script: *b"-BUSY Redis is busy running a script.\r\n";
    a_node_that_does_not_have_the_slot: *b"-MOVED 1 127.0.0.1:1\r\n";
    a_cluster_that_is_down: *b"-CLUSTERDOWN The cluster is down\r\n";
    a_replica_without_its_primary: *b"-MASTERDOWN Link with MASTER is down\r\n";
    a_server_that_misses_its_replicas: *b"-NOREPLICAS Not enough good replicas to write.\r\n";
    a_server_whose_disk_fails: *b"-MISCONF Errors writing to the disk\r\n";
    a_server_that_wants_to_know_who_we_are: *b"-NOAUTH Authentication required.\r\n";
    a_server_that_allows_nothing: *b"-NOPERM this user has no permissions\r\n";
    a_server_that_knows_no_command: *b"-ERR unknown command\r\n";
    a_server_that_never_remembers_a_script: *b"-NOSCRIPT No matching script.\r\n";
    an_error_of_no_kind: *b"-\r\n";
    an_answer_of_another_type: *b"$4\r\ntext\r\n";
    no_answer: *b"";
    an_answer_that_never_ends: *b"$99999999\r\nand so on";
    an_answer_of_impossible_length: *b"$99999999999999999999\r\n";
    an_array_of_more_than_there_is_memory: *b"*9223372036854775807\r\n";
    arrays_in_arrays: b"*1\r\n".repeat(1 << 16);
    messages_of_nobody: *b">3\r\n$7\r\nmessage\r\n$1\r\nx\r\n$1\r\ny\r\n";
    what_is_no_redis: *b"HTTP/1.1 400 Bad Request\r\n\r\n";
    bytes_of_nothing: *b"\xff\x00\xfe\r\n\r\n";
}

#[tokio::test]
async fn what_is_no_redis_from_the_beginning() {
    for answer in [
        &b"-ERR unknown command\r\n"[..],
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"+OK\r\n",
        b"",
    ] {
        log();
        let before = (logged(TROUBLE), logged(BACK));
        let server = Server::start(&[]);
        let proxy = Proxy::to(server.port).await;
        proxy.answer(Some(answer));
        let store = soon(Redis::start(settings(&proxy.url()))).await;
        goes_on_alone(&store).await;
        proxy.answer(None);
        is_back(&store).await;
        assert_eq!((logged(TROUBLE), logged(BACK)), (before.0 + 1, before.1 + 1));
    }
}

#[tokio::test]
async fn a_failover_to_a_replica() {
    log();
    // Sends to replicas without waiting for more of them.
    let options = ["--repl-diskless-sync-delay", "0"];
    let (primary, replica) = (Server::start(&options), Server::start(&options));
    let of = |server: &Server| ["127.0.0.1".to_owned(), server.port.to_string()];
    let follow = |follower: &Server, [host, port]: [String; 2]| {
        let () = follower.command(&["REPLICAOF", &host, &port]);
    };
    follow(&replica, of(&primary));
    let proxy = Proxy::to(primary.port).await;
    let store = store(&proxy.url()).await;
    let held = acquire_lease(&store).await;
    store
        .save(feed(), &found("before", Duration::ZERO), Lease::Uncoordinated)
        .await;
    soon(async {
        while replica.command::<Vec<String>>(&["HKEYS", KEY]).len() < 4 {
            tokio::task::yield_now().await;
        }
    })
    .await;

    let () = replica.command(&["REPLICAOF", "NO", "ONE"]);
    follow(&primary, of(&replica));
    proxy.lead_to(replica.port);
    // Connections still lead to the old primary, which accepts no writes.
    in_trouble(&store).await;
    soon(store.up()).await;
    assert_eq!(loaded(&store).await.as_deref(), Some("before"));
    // The lease may have survived this.
    let token = held.token;
    drop(held);
    let next = soon(stores::acquire_lease(&store, feed())).await;
    assert!(next.token > token);
    drop(next);
    is_back(&store).await;
    assert_eq!((logged(TROUBLE), logged(BACK)), (1, 1));
}
