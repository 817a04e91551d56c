//! The program that containers run: prints the time of its start in nanoseconds since 1970, and
//! with an argument stays until it is killed.
use std::time::{SystemTime, UNIX_EPOCH};

fn main() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    println!("{}", now.unwrap_or_default().as_nanos());
    if std::env::args().nth(1).is_some() {
        loop {
            std::thread::park();
        }
    }
}
