//! The supervisor of one sandbox: a small single-threaded program that the host library embeds.
//!
//! It is started from a sealed memory file with a socket as its standard input. See `boot` for
//! how it becomes a sandbox, `server` for its loop, `init` and `root` for how a container's file
//! system is built, and `process` for how a program is started in it.

mod boot;
#[path = "../src/cgroup/mod.rs"]
#[allow(dead_code)]
mod cgroup;
mod container;
#[path = "../src/devices.rs"]
#[allow(dead_code)]
mod devices;
#[path = "../src/weak.rs"]
#[allow(dead_code)]
mod holes;
mod files;
mod init;
mod landlock;
mod log;
mod ownership;
mod process;
#[path = "../src/procfs.rs"]
mod procfs;
#[path = "../src/protocol/mod.rs"]
mod protocol;
mod root;
mod server;
mod sys;
mod user;
mod users;
mod weak;

fn main() {
    boot::main()
}
