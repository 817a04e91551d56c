//! Many starts, many at once, and many alive, from a program as embedders have them: large, with
//! threads that allocate all the time.
//!
//! A host that forks hangs here: the child of a fork has one thread and whatever locks the others
//! held, and copying 512 MiB takes 15 ms each time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aci_core::contract::{Isolation, RunState, Sandbox};
use common::*;
use futures_util::StreamExt;

/// How long the whole of a test may take before it counts as hanging.
const HANGS: Duration = Duration::from_secs(170);

/// Threads that allocate and free until they are dropped, beside touched memory.
struct Busy {
    over: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<u64>>,
    heap: Vec<u8>,
}

impl Busy {
    fn new(threads: usize, bytes: usize) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let work = |over: Arc<AtomicBool>| {
            let mut sum = 0;
            while !over.load(Ordering::Relaxed) {
                let pieces: Vec<Vec<u8>> = (1..64).map(|size| vec![1; size * 97]).collect();
                sum += pieces.iter().map(|piece| u64::from(piece[0])).sum::<u64>();
                // They are to be in the middle of it at any moment, not to take the machine away
                // from other tests.
                std::thread::sleep(Duration::from_micros(500));
            }
            sum
        };
        Self {
            threads: (0..threads)
                .map(|_| {
                    let over = Arc::clone(&over);
                    std::thread::spawn(move || work(over))
                })
                .collect(),
            over,
            heap: vec![1; bytes],
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            assert!(thread.join().unwrap() > 0);
        }
        assert_eq!(self.heap.last(), Some(&1));
    }
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANGS, work).await.expect("it hangs")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_starts_of_a_large_program_with_many_threads() {
    let Some(bench) = bench() else { return };
    let busy = Busy::new(16, 512 << 20);
    in_time(async {
        // 25 new sandboxes with 40 processes each: a container and what is executed in it.
        for _ in 0..25 {
            let sandbox = bench.sandbox().await;
            sandbox
                .start(bench.container("stays", &["sleep", "1000"]))
                .await
                .unwrap();
            let starts = (0..39).map(|index| {
                let (sandbox, bench) = (&sandbox, &bench);
                async move {
                    if index % 3 == 0 {
                        let name = format!("c{index}");
                        sandbox
                            .start(bench.container(&name, &["true"]))
                            .await
                            .unwrap();
                        assert_eq!(ended(&**sandbox, &name).await.code, 0);
                    } else {
                        let said = exec(&**sandbox, "stays", &["echo", "here"]).await.unwrap();
                        assert_eq!(said, (0, "here\n".to_owned()));
                    }
                }
            });
            futures_util::stream::iter(starts)
                .buffer_unordered(4)
                .collect::<()>()
                .await;
            sandbox.destroy().await.unwrap();
        }
    })
    .await;
    drop(busy);
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixty_four_groups_start_at_once() {
    let Some(bench) = bench() else { return };
    in_time(async {
        let starts = (0..64).map(|index| {
            let bench = &bench;
            async move {
                let sandbox = bench.sandbox().await;
                let text = index.to_string();
                sandbox
                    .start(bench.container("web", &["echo", &text]))
                    .await
                    .unwrap();
                assert_eq!(ended(&*sandbox, "web").await.code, 0);
                assert_eq!(log(&*sandbox, "web").await, format!("{text}\n"));
                sandbox.destroy().await.unwrap();
            }
        });
        futures_util::future::join_all(starts).await;
    })
    .await;
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_hundred_and_fifty_groups_live_side_by_side() {
    let Some(bench) = bench() else { return };
    in_time(async {
        let make = |_| async {
            let sandbox = bench.sandbox().await;
            sandbox
                .start(bench.container("web", &["sleep", "1000"]))
                .await
                .unwrap();
            sandbox
        };
        let all: Vec<Arc<dyn Sandbox>> = futures_util::stream::iter(0..250)
            .map(make)
            .buffer_unordered(8)
            .collect()
            .await;
        assert_eq!(bench.isolation.list().await.unwrap().len(), 250);
        for sandbox in &all {
            assert!(matches!(
                state(&**sandbox, "web").await,
                RunState::Running { .. }
            ));
            let stats = sandbox.stats().await.unwrap();
            assert!(stats.containers[0].memory_bytes > 0 || !stats.containers[0].exact);
        }
        // The last one is as good as the first.
        let said = exec(&*all[249], "web", &["echo", "here"]).await.unwrap();
        assert_eq!(said, (0, "here\n".to_owned()));
        let ends = all.iter().map(|sandbox| sandbox.destroy());
        for end in futures_util::future::join_all(ends).await {
            end.unwrap();
        }
    })
    .await;
    bench.assert_clean();
}
