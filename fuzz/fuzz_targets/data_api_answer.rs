#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| plaque::fuzzing::data_api_answer(bytes));
