//! Layers: any bytes as a blob, into both kinds of target.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aci_storage::fuzzing::layer(bytes));
