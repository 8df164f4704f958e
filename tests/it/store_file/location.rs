//! What can be opened as a store file, and with which permissions.

use std::{
    fs::{self, Permissions},
    os::unix::{fs as unix, fs::PermissionsExt as _, net::UnixListener},
    path::Path,
    process::Command,
};

use plaque::store::{
    Store as _,
    file::{Ages, File, MIN_BYTES, OpenError},
};

use super::{LIMIT, UNKNOWN, filled, folder, open, open_logged, save, set_aside, title};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("a file").permissions().mode() & 0o777
}

#[tokio::test]
async fn a_new_file_is_for_one_user() {
    let path = folder("mode").join("store");
    let store = open(&path);
    assert_eq!(mode(&path), 0o600);
    store.close(LIMIT).await;
}

#[tokio::test]
async fn a_file_that_others_could_read_is_taken_from_them_and_named() {
    let path = folder("open").join("store");
    let store = open(&path);
    save(&store, 1, "One").await;
    store.close(LIMIT).await;
    for open_to in [0o666, 0o640, 0o604] {
        fs::set_permissions(&path, Permissions::from_mode(open_to)).expect("ours");
        for was in [open_to, 0o600] {
            let (store, log) = open_logged(&path);
            assert_eq!(mode(&path), 0o600);
            assert_eq!(log.contains("accessible to other users"), was != 0o600, "{log}");
            assert!(was == 0o600 || log.contains(&format!("{was:04o}")), "{log}");
            assert_eq!(title(&store, 1).await.as_deref(), Some("One"));
            store.close(LIMIT).await;
        }
    }
}

#[tokio::test]
async fn a_path_that_is_not_a_file_is_reported_at_once_and_unchanged() {
    let folder = folder("no-file");
    let at = |name: &str| folder.join(name);
    let made = Command::new("mkfifo").arg(at("fifo")).status().expect("mkfifo");
    assert!(made.success());
    let _listener = UnixListener::bind(at("socket")).expect("a socket");
    fs::create_dir(at("folder")).expect("a folder");
    filled(&at("store")).await;
    fs::write(at("text"), "no store").expect("written");
    for target in ["store", "text", "nothing"] {
        unix::symlink(at(target), at(&format!("link-to-{target}"))).expect("a link");
    }
    for (path, what) in [
        (at("fifo"), "a FIFO"),
        (at("socket"), "a socket"),
        ("/dev/null".into(), "a device"),
        (at("folder"), "is a folder"),
        (at("link-to-store"), "a symbolic link"),
        (at("link-to-text"), "a symbolic link"),
        (at("link-to-nothing"), "a symbolic link"),
    ] {
        let kind = fs::symlink_metadata(&path).expect("it is there").file_type();
        let error = File::open(&path, MIN_BYTES, LIMIT, Ages::new(UNKNOWN));
        let error = error.err().expect("no store");
        assert!(matches!(error, OpenError::NotAFile { .. }), "{error:?}");
        let message = error.to_string();
        assert!(
            message.contains(what) && message.contains(&path.display().to_string()),
            "{message}"
        );
        assert_eq!(
            fs::symlink_metadata(&path).expect("it is there").file_type(),
            kind
        );
        assert!(!set_aside(&path).exists());
    }
    assert_eq!(fs::read_to_string(at("text")).expect("a file"), "no store");
    assert!(!at("nothing").exists());
}

#[tokio::test]
async fn an_incompletely_created_file_is_recreated() {
    let path = folder("unfinished").join("store");
    // As redb leaves it when it is killed then: it has its length, and no header.
    fs::write(&path, vec![0; 73_728]).expect("written");
    let (store, log) = open_logged(&path);
    assert!(!log.contains("WARN"), "{log}");
    assert!(!set_aside(&path).exists());
    save(&store, 1, "One").await;
    assert_eq!(title(&store, 1).await.as_deref(), Some("One"));
    store.close(LIMIT).await;
    // One that is larger was in use, and so was one with anything in it.
    for lost in [
        vec![0; 5 << 20],
        lost_beginning(&path, 8),
        lost_beginning(&path, 4096),
    ] {
        fs::write(&path, &lost).expect("written");
        open(&path).close(LIMIT).await;
        assert_eq!(fs::read(set_aside(&path)).expect("a file"), lost);
        fs::remove_file(set_aside(&path)).expect("it is there");
    }
}

/// A store's bytes, of which the first are zeros.
fn lost_beginning(path: &Path, bytes: usize) -> Vec<u8> {
    let mut lost = fs::read(path).expect("a store");
    lost[..bytes].fill(0);
    lost
}
