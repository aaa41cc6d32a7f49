//! Any bytes as a frame of the PKI stream; what must hold stands in the body.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tram_tests::fuzz::pki_frame(data));
