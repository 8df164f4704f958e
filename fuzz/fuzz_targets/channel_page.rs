#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| plaque::fuzzing::channel_page(bytes));
