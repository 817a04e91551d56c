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
mod guest;
mod init;
mod landlock;
mod log;
#[path = "../src/logfiles.rs"]
#[allow(dead_code)]
mod logfiles;
mod ownership;
mod process;
#[path = "../src/procfs.rs"]
mod procfs;
#[path = "../src/protocol/mod.rs"]
mod protocol;
mod root;
#[path = "../src/rtnl.rs"]
#[allow(dead_code)]
mod rtnl;
mod server;
mod sys;
#[path = "../src/tunnel/mod.rs"]
#[allow(dead_code)]
mod tunnel;
mod user;
mod users;
mod weak;

fn main() {
    // On a host it is never the first process: that one would have started it.
    if rustix::process::getpid().is_init() {
        guest::main()
    }
    boot::main()
}
