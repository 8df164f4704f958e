use std::{
    fs,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use super::*;

/// A folder that is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "plaque-key-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a folder of its own");
        Self(path)
    }

    fn key(&self, content: &str) -> PathBuf {
        let path = self.0.join("key");
        fs::write(&path, content).expect("written");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_key_is_one_word_and_shows_nothing() {
    let key = ApiKey::new(b"\n AIza-secret_1 \r\n").expect("a key");
    assert_eq!(key.header().as_bytes(), b"AIza-secret_1");
    for shown in [
        format!("{key:?}"),
        format!("{:?}", key.header()),
        format!("{:#?}", Some(&key)),
    ] {
        assert!(!shown.contains("AIza"), "{shown}");
    }
    for bad in [
        &b""[..],
        b" \n",
        b"two words",
        b"a\nb",
        b"\xffabc",
        "schlüssel".as_bytes(),
        &[b'a'; MAX_KEY],
    ] {
        assert_eq!(ApiKey::new(bad), None);
    }
}

#[test]
fn a_fingerprint_is_that_of_one_key_in_all_versions() {
    let fingerprint = |key: &str| ApiKey::new(key.as_bytes()).expect("a key").fingerprint();
    assert_eq!(fingerprint("AIza-secret_1"), 9365);
    assert_eq!(fingerprint("AIza-secret_1\n"), fingerprint("AIza-secret_1"));
    assert_ne!(fingerprint("AIza-secret_2"), fingerprint("AIza-secret_1"));
}

#[test]
fn a_replaced_file_is_read_again() {
    let folder = Folder::new();
    let path = folder.key("first");
    let mut file = KeyFile::open(path.clone()).expect("a key");
    assert!(!format!("{file:?}").contains("first"));
    let mut current = || {
        let (key, id) = file.current();
        assert_eq!(id.fingerprint, key.fingerprint());
        (String::from_utf8_lossy(&key.0).into_owned(), id.generation)
    };
    assert_eq!(current(), ("first".into(), 1));
    assert_eq!(current(), ("first".into(), 1));

    // Another file of the same length in its place, as orchestrators do it.
    fs::write(folder.0.join("new"), "secnd").expect("written");
    fs::rename(folder.0.join("new"), &path).expect("renamed");
    assert_eq!(current(), ("secnd".into(), 2));
    assert_eq!(current(), ("secnd".into(), 2));
    fs::write(folder.0.join("new"), "secnd\n").expect("written");
    fs::rename(folder.0.join("new"), &path).expect("renamed");
    assert_eq!(current(), ("secnd".into(), 2), "the same key");

    folder.key("two words");
    assert_eq!(current(), ("secnd".into(), 2), "the last key that was one");
    fs::remove_file(&path).expect("removed");
    assert_eq!(current(), ("secnd".into(), 2));
    folder.key("third");
    assert_eq!(current(), ("third".into(), 3));
}

#[test]
fn a_file_without_a_key_is_an_error_without_its_content() {
    let folder = Folder::new();
    assert!(KeyFile::open(folder.0.join("none")).is_err());
    let error = KeyFile::open(folder.key("two secrets")).expect_err("no key");
    assert!(
        !error.to_string().contains("secrets") && error.to_string().contains("one word"),
        "{error}"
    );
}

#[test]
fn a_file_that_becomes_a_fifo_is_not_waited_for() {
    let folder = Folder::new();
    let path = folder.key("first");
    let mut file = KeyFile::open(path.clone()).expect("a key");
    fs::remove_file(&path).expect("removed");
    let made = Command::new("mkfifo").arg(&path).status().expect("mkfifo");
    assert!(made.success());

    let (key, id) = file.current();

    assert_eq!((key.header().as_bytes(), id.generation), (&b"first"[..], 1));
}
