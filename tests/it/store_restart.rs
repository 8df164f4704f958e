//! plaque over a store in a file, closed and opened again.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use plaque::{
    store::{
        Store,
        file::{File, MIN_BYTES},
    },
    upstream::Feed,
};
use redb::{Database, ReadableTable as _, TableDefinition};

use crate::stores::{Kind, LONG, every_store};

every_store!(InFile);

/// A file in a folder of its own, which ends with this.
struct InFile(PathBuf);

impl InFile {
    fn path(&self) -> PathBuf {
        self.0.join("store")
    }
}

impl Kind for InFile {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("store-restart-{}-{}", process::id(), NEXT.fetch_add(1, SeqCst));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir(&folder).expect("a folder");
        Self(folder)
    }

    async fn open(&self) -> Arc<dyn Store> {
        let file = File::open(&self.path(), MIN_BYTES).expect("a store");
        // A machine may be busy.
        Arc::new(file.patient(LONG))
    }

    async fn garble(&self, _feed: Feed) {
        const KEPT: TableDefinition<&[u8; 25], (u64, &[u8])> = TableDefinition::new("kept");
        let database = Database::open(self.path()).expect("a database");
        let write = database.begin_write().expect("a transaction");
        {
            let mut kept = write.open_table(KEPT).expect("a table");
            let (key, saved) = {
                let (key, entry) = kept.first().expect("readable").expect("the only entry");
                (*key.value(), entry.value().0)
            };
            kept.insert(&key, (saved, &b"\xff\xff"[..])).expect("written");
        }
        write.commit().expect("written");
    }
}

impl Drop for InFile {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
