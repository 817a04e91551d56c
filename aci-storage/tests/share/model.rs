//! Random operations on a share and on a local directory: both have to answer alike.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use aci_storage::CachePolicy;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::samba::{Mounted, Samba, can_mount, volume};

#[derive(Clone, Debug)]
enum Step {
    Write { file: u8, offset: u32, length: u16 },
    Append { file: u8, length: u16 },
    Read { file: u8, offset: u32, length: u16 },
    Cut { file: u8, size: u32 },
    Create { file: u8 },
    Remove { file: u8 },
    Rename { from: u8, to: u8 },
    MakeDirectory { file: u8 },
    RemoveDirectory { file: u8 },
    List,
    Stat { file: u8 },
}

/// Set to the number that a failed run printed, to have the same operations again.
const SEED: &str = "ACI_SHARE_SEED";

/// Set to how many random operations on open files there are to be, for a long run.
const OPERATIONS: &str = "ACI_FSX_OPERATIONS";

fn seed() -> u64 {
    std::env::var(SEED).map_or_else(
        |_| {
            let mut bytes = [0; 8];
            getrandom::fill(&mut bytes).unwrap();
            u64::from_le_bytes(bytes)
        },
        |text| text.parse().expect("a number"),
    )
}

const FILES: u8 = 6;

/// A few names in two directories, so that operations meet.
fn name(file: u8) -> String {
    match file {
        0..3 => format!("f{file}"),
        _ => format!("d/f{}", file - 3),
    }
}

fn step() -> impl Strategy<Value = Step> {
    let file = 0..FILES;
    let offset = 0..200_000_u32;
    let length = 0..50_000_u16;
    prop_oneof![
        4 => (file.clone(), offset.clone(), length.clone()).prop_map(|(file, offset, length)| Step::Write { file, offset, length }),
        2 => (file.clone(), length.clone()).prop_map(|(file, length)| Step::Append { file, length }),
        4 => (file.clone(), offset.clone(), length).prop_map(|(file, offset, length)| Step::Read { file, offset, length }),
        2 => (file.clone(), offset).prop_map(|(file, size)| Step::Cut { file, size }),
        2 => file.clone().prop_map(|file| Step::Create { file }),
        1 => file.clone().prop_map(|file| Step::Remove { file }),
        2 => (file.clone(), file.clone()).prop_map(|(from, to)| Step::Rename { from, to }),
        1 => file.clone().prop_map(|file| Step::MakeDirectory { file }),
        1 => file.clone().prop_map(|file| Step::RemoveDirectory { file }),
        1 => Just(Step::List),
        1 => file.prop_map(|file| Step::Stat { file }),
    ]
}

/// What an operation answered, in a form that does not depend on where it was done.
fn act(base: &Path, step: &Step, round: usize) -> String {
    let at = |file: u8| base.join(name(file));
    let fill = |length: u16| vec![round.to_le_bytes()[0]; usize::from(length)];
    let said = |result: std::io::Result<String>| match result {
        Ok(text) => text,
        Err(error) => format!("{:?}", error.raw_os_error()),
    };
    let done = |result: std::io::Result<()>| said(result.map(|()| "done".to_owned()));
    match *step {
        Step::Write {
            file,
            offset,
            length,
        } => done(
            File::options()
                .write(true)
                .open(at(file))
                .and_then(|f| f.write_all_at(&fill(length), u64::from(offset))),
        ),
        Step::Append { file, length } => done(
            File::options()
                .append(true)
                .open(at(file))
                .and_then(|mut f| std::io::Write::write_all(&mut f, &fill(length))),
        ),
        Step::Read {
            file,
            offset,
            length,
        } => said(File::open(at(file)).and_then(|f| {
            let mut buffer = vec![0; usize::from(length)];
            let read = f.read_at(&mut buffer, u64::from(offset))?;
            Ok(format!("{read} {:x?}", sum(&buffer[..read])))
        })),
        Step::Cut { file, size } => done(
            File::options()
                .write(true)
                .open(at(file))
                .and_then(|f| f.set_len(u64::from(size))),
        ),
        Step::Create { file } => done(File::create_new(at(file)).map(drop)),
        Step::Remove { file } => done(fs::remove_file(at(file))),
        Step::Rename { from, to } => done(fs::rename(at(from), at(to))),
        Step::MakeDirectory { file } => done(fs::create_dir(at(file))),
        Step::RemoveDirectory { file } => done(fs::remove_dir(at(file))),
        Step::List => said(list(base)),
        Step::Stat { file } => said(fs::metadata(at(file)).map(|m| {
            if m.is_dir() {
                "directory".to_owned()
            } else {
                format!("file of {}", m.len())
            }
        })),
    }
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(14_695_981_039_346_656_037, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(1_099_511_628_211)
    })
}

fn list(base: &Path) -> std::io::Result<String> {
    let mut names = Vec::new();
    for directory in [base.to_owned(), base.join("d")] {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            names.push((entry.file_name(), entry.file_type()?.is_dir()));
        }
    }
    names.sort();
    Ok(format!("{names:?}"))
}

#[test]
fn random_operations_answer_as_on_a_local_directory() {
    if !can_mount() {
        return;
    }
    let samba = Samba::start();
    let mounted = samba.mounted();
    let local = tempfile::tempdir().unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    let seed = seed();
    println!("{SEED}={seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        // More than the time allows; each costs time to make up, also when it is over.
        cases: 500,
        max_shrink_iters: 200,
        failure_persistence: None,
        ..Config::default()
    };
    let dice = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, dice);
    let steps = prop::collection::vec(step(), 20..120);
    runner
        .run(&steps, |steps| {
            if Instant::now() > until {
                return Ok(());
            }
            for base in [mounted.path.as_path(), local.path()] {
                for entry in fs::read_dir(base).unwrap().flatten() {
                    if entry.file_type().unwrap().is_dir() {
                        fs::remove_dir_all(entry.path()).unwrap();
                    } else {
                        fs::remove_file(entry.path()).unwrap();
                    }
                }
                fs::create_dir(base.join("d")).unwrap();
            }
            for (round, step) in steps.iter().enumerate() {
                let (there, here) = (
                    act(&mounted.path, step, round),
                    act(local.path(), step, round),
                );
                prop_assert_eq!(there, here, "step {}: {:?}", round, step);
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn random_operations_on_open_files_leave_what_the_same_leave_in_memory() {
    if !can_mount() {
        return;
    }
    let samba = Samba::start();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/share/fsx.py");
    // As it is by default, without a cache, and with names and attributes believed for nothing.
    let mut plain = samba.options();
    plain.cache = CachePolicy::None;
    let mut fresh = samba.options();
    fresh.actimeo = Duration::ZERO;
    let mut through = samba.options();
    through.cache = CachePolicy::Through;
    // So many in each of the four, instead of three seconds.
    let operations = std::env::var(OPERATIONS).ok().map(|text| {
        let all: u64 = text.parse().expect("a number");
        (all / 4).to_string()
    });
    for options in [samba.options(), plain, fresh, through] {
        let mounted = Mounted::with(options, volume());
        let seed = seed().to_string();
        let output = std::process::Command::new("python3")
            .arg(&script)
            .arg(&mounted.path)
            .args([&seed, "3"])
            .args(&operations)
            .output()
            .expect("python3");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        println!("{SEED}={seed}: {said}");
        assert!(output.status.success(), "{said}");
        let status = mounted.wait(mounted.driver.status(&mounted.sandbox, "share"));
        assert_eq!(status.unwrap().connections, 1, "the connection was lost");
    }
}
