//! What a guest may send to its host.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    aci_isolation::fuzzing::line(bytes);
});
