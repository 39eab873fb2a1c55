#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| flumen_fuzz_targets::plugin_answer(bytes));
