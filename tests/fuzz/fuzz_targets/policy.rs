//! Any bytes as a chain of certificates; what must hold stands in the body.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tram_tests::fuzz::policy(data));
