//! Random operations on a share and on a local directory: both have to answer alike.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::samba::{Samba, can_mount};

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
    let until = Instant::now() + Duration::from_secs(20);
    let mut runner = TestRunner::new(Config {
        cases: 10_000,
        max_shrink_iters: 200,
        failure_persistence: None,
        ..Config::default()
    });
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
