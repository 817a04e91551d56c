//! Random archives against a model of a file system in memory.

use std::collections::{BTreeMap, VecDeque};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    File(String, u8),
    Dir(String),
    Symlink(String, String),
    HardLink(String, String),
    Whiteout(String),
    Opaque(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    /// Number of the file and its content; hard links share them.
    File(usize, u8),
    Dir {
        opaque: bool,
    },
    Symlink(String),
    Whiteout,
}

type Path_ = Vec<String>;

/// What the documented rules say.
#[derive(Debug, Default)]
struct Model {
    nodes: BTreeMap<Path_, Node>,
    files: usize,
}

#[derive(Debug)]
struct Refused;

impl Model {
    fn get(&self, path: &Path_) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// Follows links of the layer; makes directories if told to.
    fn resolve(&mut self, path: &[String], make: bool) -> Result<Option<Path_>, Refused> {
        let mut todo: VecDeque<String> = path.iter().cloned().collect();
        let mut done: Path_ = Vec::new();
        let mut links = 0;
        while let Some(part) = todo.pop_front() {
            if part.is_empty() || part == "." {
                continue;
            }
            if part == ".." {
                done.pop();
                continue;
            }
            done.push(part);
            match self.get(&done).cloned() {
                Some(Node::Dir { .. }) => {}
                None | Some(Node::Whiteout) if !make => return Ok(None),
                before @ (None | Some(Node::Whiteout)) => {
                    let opaque = before.is_some();
                    self.nodes.insert(done.clone(), Node::Dir { opaque });
                }
                Some(Node::Symlink(target)) => {
                    links += 1;
                    if links > 40 {
                        return Err(Refused);
                    }
                    done.pop();
                    if target.starts_with('/') {
                        done.clear();
                    }
                    for piece in target.split('/').rev() {
                        todo.push_front(piece.to_owned());
                    }
                }
                Some(Node::File(..)) => return Err(Refused),
            }
        }
        Ok(Some(done))
    }

    fn remove(&mut self, path: &Path_) {
        self.nodes.retain(|other, _| !other.starts_with(path));
    }

    fn apply(&mut self, step: &Step) -> Result<(), Refused> {
        let (Step::File(name, _)
        | Step::Dir(name)
        | Step::Symlink(name, _)
        | Step::HardLink(name, _)
        | Step::Whiteout(name)
        | Step::Opaque(name)) = step;
        let parts: Path_ = name.split('/').map(str::to_owned).collect();
        if let Step::Opaque(_) = step {
            let dir = self.resolve(&parts, true)?.unwrap_or_default();
            self.nodes.insert(dir, Node::Dir { opaque: true });
            return Ok(());
        }
        let (last, above) = parts.split_last().unwrap();
        let mut path = self.resolve(above, true)?.unwrap_or_default();
        path.push(last.clone());
        let before = self.get(&path).cloned();
        let node = match step {
            Step::Whiteout(_) => match before.clone() {
                None | Some(Node::Whiteout) => Node::Whiteout,
                Some(Node::Dir { .. }) => Node::Dir { opaque: true },
                Some(other) => other,
            },
            Step::Dir(_) => match before {
                Some(Node::Dir { opaque }) => Node::Dir { opaque },
                Some(Node::Whiteout) => Node::Dir { opaque: true },
                _ => Node::Dir { opaque: false },
            },
            Step::HardLink(_, target) => {
                let parts: Path_ = target.split('/').map(str::to_owned).collect();
                let (last, above) = parts.split_last().unwrap();
                // A bad parent of the target means that there is no target.
                let found = self.resolve(above, false).ok().flatten();
                let mut from = found.ok_or(Refused)?;
                from.push(last.clone());
                match self.get(&from) {
                    Some(node @ (Node::File(..) | Node::Symlink(_))) => node.clone(),
                    _ => return Err(Refused),
                }
            }
            Step::File(_, content) => {
                self.remove(&path);
                self.files += 1;
                Node::File(self.files, *content)
            }
            Step::Symlink(_, target) => {
                self.remove(&path);
                Node::Symlink(target.clone())
            }
            Step::Opaque(_) => return Ok(()),
        };
        if !matches!(node, Node::Dir { .. }) && matches!(before, Some(Node::Dir { .. })) {
            self.remove(&path);
        }
        self.nodes.insert(path, node);
        Ok(())
    }
}

/// What is on disk, in the model's words; a file's number is its inode's rank.
fn read(dir: &Path, at: &mut Path_, form: Form, into: &mut BTreeMap<Path_, (String, u64)>) {
    let opaque = if form.trusted {
        "trusted.overlay.opaque"
    } else {
        "user.overlay.opaque"
    };
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let path = entry.path();
        let meta = path.symlink_metadata().unwrap();
        at.push(entry.file_name().into_string().unwrap());
        let what = if meta.is_dir() {
            read(&path, at, form, into);
            let marked = rustix::fs::lgetxattr(&path, opaque, &mut [0; 8][..]).is_ok();
            (format!("dir {marked}"), 0)
        } else if meta.is_symlink() {
            (
                format!("link {}", std::fs::read_link(&path).unwrap().display()),
                0,
            )
        } else if meta.file_type().is_char_device() {
            ("whiteout".to_owned(), 0)
        } else {
            (
                format!("file {}", std::fs::read(&path).unwrap()[0]),
                meta.ino(),
            )
        };
        into.insert(at.clone(), what);
        at.pop();
    }
}

fn name() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4).prop_map(|p| p.join("/"))
}

fn step() -> impl Strategy<Value = Step> {
    let target = prop::sample::select(vec![
        "a",
        "b",
        "/a",
        "/b/c",
        "../b",
        "a/b",
        "../../../c",
        "c/",
        "/",
        ".",
        "/outside",
    ]);
    prop_oneof![
        4 => (name(), any::<u8>()).prop_map(|(n, c)| Step::File(n, c)),
        3 => name().prop_map(Step::Dir),
        3 => (name(), target).prop_map(|(n, t)| Step::Symlink(n, t.to_owned())),
        2 => (name(), name()).prop_map(|(n, t)| Step::HardLink(n, t)),
        2 => name().prop_map(Step::Whiteout),
        1 => name().prop_map(Step::Opaque),
    ]
}

fn archive(steps: &[Step]) -> Archive {
    let hidden = |name: &str| match name.rsplit_once('/') {
        Some((above, last)) => format!("{above}/.wh.{last}"),
        None => format!(".wh.{name}"),
    };
    steps
        .iter()
        .fold(Archive::new(), |archive, step| match step {
            Step::File(name, content) => archive.file(name, &[*content]),
            Step::Dir(name) => archive.dir(name, 0o755),
            Step::Symlink(name, target) => archive.symlink(name, target),
            Step::HardLink(name, target) => archive.hard_link(name, target),
            Step::Whiteout(name) => archive.file(hidden(name), b""),
            Step::Opaque(name) => archive.file(format!("{name}/.wh..wh..opq"), b""),
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn unpacking_agrees_with_the_model(steps in prop::collection::vec(step(), 1..14)) {
        agree(Format::Directory, &steps)?;
        if Format::Image.is_usable() {
            agree(Format::Image, &steps)?;
        }
    }
}

fn agree(format: Format, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut model = Model::default();
    let allowed = steps.iter().all(|step| model.apply(step).is_ok());
    let ground = Ground::new(format);
    let result = ground.unpack(archive(steps));
    prop_assert_eq!(allowed, result.is_ok(), "{:?}", result);
    if !allowed {
        return Ok(());
    }
    let mut found = BTreeMap::new();
    read(&ground.fs(), &mut Vec::new(), ground.form(), &mut found);
    model.nodes.remove(&Vec::new());
    // Files that are one in the model are one on disk, and no others.
    let mut numbers = BTreeMap::new();
    for (path, node) in &model.nodes {
        let Some((what, inode)) = found.get(path) else {
            return Err(TestCaseError::fail(format!("{path:?} is missing")));
        };
        let expected = match node {
            Node::File(number, content) => {
                prop_assert_eq!(*numbers.entry(*number).or_insert(*inode), *inode);
                format!("file {content}")
            }
            Node::Dir { opaque } => format!("dir {opaque}"),
            Node::Symlink(target) => format!("link {target}"),
            Node::Whiteout => "whiteout".to_owned(),
        };
        prop_assert_eq!(what, &expected, "{:?}", path);
    }
    let inodes: std::collections::BTreeSet<_> = numbers.values().collect();
    prop_assert_eq!(inodes.len(), numbers.len());
    prop_assert_eq!(found.len(), model.nodes.len());
    Ok(())
}
