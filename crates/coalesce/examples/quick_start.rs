//! A thousand impatient callers, one fetch: `cargo run -p coalesce --example quick_start`.

use std::{
    io::{self, Write as _},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use coalesce::Coalescer;
use tokio::time::{sleep, timeout};

/// Slower than most of the callers can wait.
async fn load_profile(id: u64, loads: Arc<AtomicUsize>) -> Arc<str> {
    loads.fetch_add(1, Relaxed);
    sleep(Duration::from_millis(200)).await;
    format!("user {id}").into()
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let profiles = Coalescer::<u64, Arc<str>>::new(10_000);
    let loads = Arc::new(AtomicUsize::new(0));

    let callers: Vec<_> = (0..1000)
        .map(|caller| {
            let (profiles, loads) = (profiles.clone(), Arc::clone(&loads));
            // Every tenth can wait for long; the first, who starts the fetch, cannot.
            let patience = Duration::from_millis(if caller % 10 == 9 { 5000 } else { 50 });
            tokio::spawn(async move {
                let profile = profiles.get_or_fetch(7, || load_profile(7, loads));
                timeout(patience, profile).await
            })
        })
        .collect();

    let (mut answered, mut gave_up) = (0, 0);
    for caller in callers {
        match caller.await? {
            Ok(profile) => {
                assert_eq!(&*profile.map_err(io::Error::other)?, "user 7");
                answered += 1;
            }
            Err(_elapsed) => gave_up += 1,
        }
    }
    let loads = loads.load(Relaxed);
    writeln!(
        io::stdout(),
        "{answered} callers were answered, {gave_up} gave up, {loads} fetch"
    )?;
    assert_eq!(loads, 1);
    assert!(answered >= 100, "all who could wait");
    assert_eq!(
        profiles.get(&7).await.as_deref(),
        Some("user 7"),
        "cached for the next"
    );
    Ok(())
}
