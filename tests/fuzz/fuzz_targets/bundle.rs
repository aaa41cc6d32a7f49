//! Any bytes as the objects of a bundle; what must hold stands in the body.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tram_tests::fuzz::bundle(data));
