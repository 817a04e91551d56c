//! Layers that are EROFS images.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::path::PathBuf;
use std::process::Command;

use aci_core::contract::*;
use aci_isolation::NamespacesOptions;
use common::*;

/// An image of a directory, made by Debian's erofs-utils.
fn image(bench: &Bench, name: &str, tree: PathBuf) -> Layer {
    let file = bench.root().join(name);
    let output = Command::new("mkfs.erofs")
        .arg(&file)
        .arg(tree)
        .output()
        .expect("mkfs.erofs of the package erofs-utils");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Layer::Erofs(file)
}

fn can_mount(layer: &Layer) -> bool {
    use rustix::mount::{FsOpenFlags, fsconfig_create, fsconfig_set_string, fsopen};
    let Layer::Erofs(file) = layer else {
        return false;
    };
    let mounted = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).and_then(|context| {
        fsconfig_set_string(&context, "source", file)?;
        fsconfig_create(&context)
    });
    if let Err(errno) = mounted {
        println!("SKIPPED: the kernel does not mount EROFS images from files here: {errno}");
    }
    mounted.is_ok()
}

/// With a user namespace and without; the ids of files are the image's either way.
#[tokio::test]
async fn containers_run_on_images() {
    for ids in [true, false] {
        let change = |options: NamespacesOptions| match ids {
            true => options,
            false => options.user_ids(None),
        };
        let Some(bench) = bench_with(change) else {
            return;
        };
        let above = bench.root().join("above");
        std::fs::create_dir_all(above.join("etc")).unwrap();
        std::fs::write(above.join("etc/motd"), "from above\n").unwrap();
        let layers = vec![
            image(&bench, "above.erofs", above),
            image(&bench, "below.erofs", bench.layer()),
        ];
        if !can_mount(&layers[0]) {
            return;
        }
        let script = "cat /etc/motd; stat -c '%u:%g %a' /etc/passwd /tmp; \
                      echo more >> /etc/motd; rm /etc/group; mv /etc/passwd /etc/moved; \
                      tail -n 1 /etc/motd; ls /etc; grep -c erofs /proc/mounts";
        let mut container = bench.shell("app", script);
        container.rootfs.layers = layers;
        let (exit, said) = bench.run(container).await.unwrap();
        assert_eq!(
            said, "from above\n0:0 644\n0:0 1777\nmore\nmotd\nmoved\nnoexec\nscript\n0\n",
            "{exit:?}"
        );
        bench.assert_clean();
    }
}

#[tokio::test]
async fn a_damaged_image_is_named() {
    let Some(bench) = bench() else { return };
    let file = bench.root().join("damaged.erofs");
    std::fs::write(&file, [7; 8192]).unwrap();
    let mut container = bench.container("app", &["/bin/true"]);
    container.rootfs.layers = vec![Layer::Erofs(file)];
    let error = bench.run(container).await.unwrap_err();
    assert!(error.chain().contains("damaged.erofs"), "{}", error.chain());
    bench.assert_clean();
}
