//! What the fuzzer has found, and kept because it leads to other code, once more. Without its instruments: any compiler will do.

use std::{fs, path::Path};

/// Calls `target` with each file of its corpus.
fn replay(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(name);
    let mut count = 0;
    for file in fs::read_dir(&folder).expect("the corpus") {
        let path = file.expect("a file").path();
        target(&fs::read(&path).expect("readable"));
        count += 1;
    }
    assert!(count > 3, "{count} files in {}", folder.display());
}

/// A test of the corpus of each target.
macro_rules! corpus {
    ($($target:ident)*) => {
        $(
            #[test]
            fn $target() {
                replay(stringify!($target), super::$target);
            }
        )*
    };
}

corpus!(channel_name channel_page data_api_answer stored_entry resume_token grpc_timeout traceparent json_query retry_after redis_message);
