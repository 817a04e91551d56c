//! Builds the share server, a small static program, and hands its bytes to the library.

#[path = "nested.rs"]
mod nested;

const SHARE: nested::Program<'_> = nested::Program {
    name: "aci-share",
    main: "share/main.rs",
    sources: &["share"],
    dependencies: r#"bytes = "1"
fuser = "0.18"
getrandom = "0.4"
libc = "0.2"
md-5 = "0.11"
ring = "0.17"
rustix = { version = "1.1", features = ["event", "fs", "mount", "net", "process"] }
serde = { version = "1", features = ["derive"] }
serde_json = "1"
smb2 = { version = "0.39", default-features = false, features = ["tokio"] }
tokio = { version = "1", features = ["io-util", "macros", "net", "rt-multi-thread", "signal", "sync", "time"] }
zeroize = "1.9""#,
    features: &[],
    profile: r#"panic = "abort"
strip = true
debug = false"#,
    prebuilt: "ACI_SHARE",
    bytes: "share.bin",
};

fn main() {
    if std::env::var_os("CARGO_FEATURE_AZURE_FILE").is_none() {
        return;
    }
    if let Err(message) = nested::build(&SHARE) {
        // The last line of a failed build script is what cargo shows.
        eprintln!("aci-storage: {message}");
        std::process::exit(1);
    }
}
