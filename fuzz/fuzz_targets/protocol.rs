//! What hosts and agents say to each other: any bytes as any side.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    aci_isolation::fuzzing::protocol(bytes);
});
