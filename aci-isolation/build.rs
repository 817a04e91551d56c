//! Builds the agent, a small static program, and hands its bytes to the library.

#[path = "nested.rs"]
mod nested;

const AGENT: nested::Program<'_> = nested::Program {
    name: "aci-agent",
    main: "agent/main.rs",
    sources: &[
        "agent",
        "src/protocol",
        "src/cgroup",
        "src/devices.rs",
        "src/logfiles.rs",
        "src/procfs.rs",
        "src/rtnl.rs",
        "src/tunnel",
        "src/weak.rs",
    ],
    dependencies: r#"libc = "0.2"
postcard = { version = "1.1", default-features = false, features = ["alloc"] }
rustix = { version = "1.1", features = ["event", "fs", "mount", "net", "param", "pipe", "process", "pty", "system", "termios", "thread", "time"] }
serde = { version = "1", features = ["derive"] }
zeroize = { version = "1.9", default-features = false, features = ["alloc"] }"#,
    features: &[
        // Deliberate holes for the tests of escapes.
        ("weaken", ""),
        ("cgroups-rs", r#"cgroups-rs = "0.5.1""#),
    ],
    profile: r#"opt-level = "s"
lto = true
codegen-units = 1
panic = "abort"
strip = true
debug = false"#,
    prebuilt: "ACI_AGENT",
    bytes: "agent.bin",
};

fn main() {
    if let Err(message) = nested::build(&AGENT) {
        // The last line of a failed build script is what cargo shows.
        eprintln!("aci-isolation: {message}");
        std::process::exit(1);
    }
}
