//! The suite of [`VolumeDriver`].

use async_trait::async_trait;

use super::{fails, hides, run, skip, works};
use crate::contract::{VolumeDriver, VolumeRequest, VolumeSource};
use crate::error::ErrorKind;
use crate::id::SandboxId;
use crate::model::{EmptyDir, Secret, SecretVolume, Volume};

/// What the suite needs of an implementation.
#[async_trait]
pub trait VolumeHarness: Send + Sync {
    /// The driver.
    fn driver(&self) -> &dyn VolumeDriver;

    /// A volume that the driver provides and that another sandbox may have at the same time.
    fn volume(&self, name: &str) -> Volume;

    /// Another driver over the same state, as a program has it that starts after a crash of the
    /// first; `None` if nothing outlives the program.
    async fn reopen(&self) -> Option<Box<dyn VolumeDriver>>;

    /// Writes a file into a provided volume; false if that cannot be done from here (memory that
    /// only a sandbox can reach).
    async fn write(&self, source: &VolumeSource, name: &str, content: &[u8]) -> bool;

    /// Reads such a file; `None` if it is not there.
    async fn read(&self, source: &VolumeSource, name: &str) -> Option<Vec<u8>>;
}

/// Runs all cases.
pub async fn all(harness: &dyn VolumeHarness) {
    let clean = async || {
        let driver = harness.driver();
        let mut left = Vec::new();
        for volume in works(driver.list().await, "list") {
            let released = driver.release(&volume.sandbox, &volume.name).await;
            works(released, "release");
            left.push(format!("{}/{}", volume.sandbox, volume.name));
        }
        left
    };
    clean().await;
    run("provide_and_release", provide_and_release(harness), clean).await;
    run(
        "provide_again_keeps_content",
        provide_again_keeps_content(harness),
        clean,
    )
    .await;
    run("sandboxes_are_apart", sandboxes_are_apart(harness), clean).await;
    run(
        "release_deletes_content",
        release_deletes_content(harness),
        clean,
    )
    .await;
    run("unknown_volumes", unknown_volumes(harness), clean).await;
    run("secret_files", secret_files(harness), clean).await;
    run("bad_secret_files", bad_secret_files(harness), clean).await;
    run("found_after_a_crash", found_after_a_crash(harness), clean).await;
    run("dropped_provide", dropped_provide(harness), clean).await;
}

fn request(sandbox: &SandboxId, volume: Volume) -> VolumeRequest {
    VolumeRequest::new(sandbox.clone(), volume)
}

/// A volume that is empty when the group starts.
#[must_use]
pub fn empty_dir(name: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDir::default()),
        ..Volume::default()
    }
}

/// A volume of secret files, given by name and base64.
#[must_use]
pub fn secret(name: &str, files: &[(&str, &str)]) -> Volume {
    let files = files
        .iter()
        .map(|(name, content)| ((*name).to_owned(), Secret::new(*content)));
    Volume {
        name: name.to_owned(),
        secret: Some(files.collect::<SecretVolume>()),
        ..Volume::default()
    }
}

async fn keeps(driver: &dyn VolumeDriver, sandbox: &SandboxId) -> usize {
    let list = works(driver.list().await, "list");
    list.iter().filter(|v| &v.sandbox == sandbox).count()
}

/// Whether two answers are of one kind and one place.
fn same(a: &VolumeSource, b: &VolumeSource) -> bool {
    match (a, b) {
        (VolumeSource::Directory(a), VolumeSource::Directory(b)) => a == b,
        (VolumeSource::Memory { size: a }, VolumeSource::Memory { size: b }) => a == b,
        (VolumeSource::Secret(a), VolumeSource::Secret(b)) => {
            let text = |files: &[crate::contract::SecretFile]| -> Vec<_> {
                files
                    .iter()
                    .map(|f| (f.name.clone(), f.base64.expose().to_owned()))
                    .collect()
            };
            text(a) == text(b)
        }
        (VolumeSource::Files(a), VolumeSource::Files(b)) => a == b,
        _ => false,
    }
}

/// A volume can be given up, also twice, and then keeps nothing.
pub async fn provide_and_release(harness: &dyn VolumeHarness) {
    let driver = harness.driver();
    assert!(!driver.name().is_empty());
    let sandbox = SandboxId::generate("vol");
    let volume = harness.volume("data-volume");
    assert!(driver.supports(&volume));
    works(driver.provide(request(&sandbox, volume)).await, "provide");
    works(driver.release(&sandbox, "data-volume").await, "release");
    assert_eq!(keeps(driver, &sandbox).await, 0);
    works(
        driver.release(&sandbox, "data-volume").await,
        "release again",
    );
}

/// Repeating `provide` answers the same volume, with what was written to it.
pub async fn provide_again_keeps_content(harness: &dyn VolumeHarness) {
    let driver = harness.driver();
    let sandbox = SandboxId::generate("vol");
    let volume = harness.volume("data-volume");
    let first = works(
        driver.provide(request(&sandbox, volume.clone())).await,
        "provide",
    );
    let written = harness.write(&first, "file", b"kept").await;
    let again = works(driver.provide(request(&sandbox, volume)).await, "again");
    assert!(same(&first, &again), "another volume: {first:?}, {again:?}");
    if written {
        assert_eq!(
            harness.read(&again, "file").await.as_deref(),
            Some(&b"kept"[..])
        );
    } else {
        skip(
            "provide_again_keeps_content: content",
            "only a sandbox reaches it",
        );
    }
    works(driver.release(&sandbox, "data-volume").await, "release");
}

/// Volumes of one name in two sandboxes have nothing in common, if they belong to the sandbox.
pub async fn sandboxes_are_apart(harness: &dyn VolumeHarness) {
    let driver = harness.driver();
    if !driver.supports(&empty_dir("data-volume")) {
        return skip("sandboxes_are_apart", "the driver has no emptyDir");
    }
    let (a, b) = (SandboxId::generate("a"), SandboxId::generate("b"));
    let provide = async |id: &SandboxId| {
        let asked = driver.provide(request(id, empty_dir("data-volume"))).await;
        works(asked, "provide")
    };
    let (first, second) = (provide(&a).await, provide(&b).await);
    if harness.write(&first, "file", b"of a").await {
        assert_eq!(harness.read(&second, "file").await, None);
    } else {
        assert!(
            !matches!(first, VolumeSource::Directory(_)) || !same(&first, &second),
            "one directory for two sandboxes"
        );
    }
    works(driver.release(&a, "data-volume").await, "release");
    assert_eq!(keeps(driver, &a).await, 0);
    works(driver.release(&b, "data-volume").await, "release");
}

/// An emptyDir that is provided after its release is empty.
pub async fn release_deletes_content(harness: &dyn VolumeHarness) {
    let driver = harness.driver();
    let volume = empty_dir("data-volume");
    if !driver.supports(&volume) {
        return skip("release_deletes_content", "the driver has no emptyDir");
    }
    let sandbox = SandboxId::generate("vol");
    let first = works(
        driver.provide(request(&sandbox, volume.clone())).await,
        "provide",
    );
    if !harness.write(&first, "file", b"old").await {
        skip(
            "release_deletes_content: content",
            "only a sandbox reaches it",
        );
    }
    works(driver.release(&sandbox, "data-volume").await, "release");
    let second = works(driver.provide(request(&sandbox, volume)).await, "provide");
    assert_eq!(harness.read(&second, "file").await, None);
    works(driver.release(&sandbox, "data-volume").await, "release");
}

/// Releasing what was never provided is no error.
pub async fn unknown_volumes(harness: &dyn VolumeHarness) {
    let driver = harness.driver();
    let sandbox = SandboxId::generate("unknown");
    works(driver.release(&sandbox, "data-volume").await, "release");
}

/// A secret volume has the files of the document and does not show them.
pub async fn secret_files(harness: &dyn VolumeHarness) {
    let driver = harness.driver();
    // "conformance" in base64.
    let volume = secret("secret-volume", &[("one", "Y29uZm9ybWFuY2U="), ("two", "")]);
    if !driver.supports(&volume) {
        return skip("secret_files", "the driver has no secret volumes");
    }
    let sandbox = SandboxId::generate("vol");
    let source = works(driver.provide(request(&sandbox, volume)).await, "provide");
    hides(&source, "Y29uZm9ybWFuY2U");
    hides(&driver, "Y29uZm9ybWFuY2U");
    match source {
        VolumeSource::Secret(files) => {
            let mut names: Vec<_> = files.iter().map(|f| f.name.as_str()).collect();
            names.sort_unstable();
            assert_eq!(names, ["one", "two"]);
        }
        other => panic!("secrets must not lie in {other:?}"),
    }
    works(driver.release(&sandbox, "secret-volume").await, "release");
}

/// File names that lead elsewhere and contents that are no base64 are refused without showing them.
pub async fn bad_secret_files(harness: &dyn VolumeHarness) {
    let driver = harness.driver();
    if !driver.supports(&secret("secret-volume", &[])) {
        return skip("bad_secret_files", "the driver has no secret volumes");
    }
    let sandbox = SandboxId::generate("vol");
    for (name, content) in [
        ("../escape", "eA=="),
        ("a/b", "eA=="),
        ("..", "eA=="),
        ("..data", "eA=="),
        ("", "eA=="),
        ("file", "not base64, but secret!"),
    ] {
        let volume = secret("secret-volume", &[(name, content)]);
        let error = fails(
            driver.provide(request(&sandbox, volume)).await,
            ErrorKind::Invalid,
            name,
        );
        assert!(!error.chain().contains("but secret"), "{}", error.chain());
        hides(&error, "but secret");
        assert_eq!(keeps(driver, &sandbox).await, 0, "{name}");
    }
}

/// A later program sees what keeps something on the host and can release it.
pub async fn found_after_a_crash(harness: &dyn VolumeHarness) {
    let driver = harness.driver();
    let sandbox = SandboxId::generate("vol");
    let volume = harness.volume("data-volume");
    let first = works(
        driver.provide(request(&sandbox, volume.clone())).await,
        "provide",
    );
    match harness.reopen().await {
        None => skip("found_after_a_crash", "nothing outlives the program"),
        Some(second) => {
            assert_eq!(
                keeps(&*second, &sandbox).await,
                keeps(driver, &sandbox).await,
                "what the second program sees"
            );
            let again = works(second.provide(request(&sandbox, volume)).await, "provide");
            assert!(same(&first, &again), "another volume: {first:?}, {again:?}");
            works(second.release(&sandbox, "data-volume").await, "release");
            assert_eq!(keeps(&*second, &sandbox).await, 0);
        }
    }
    works(driver.release(&sandbox, "data-volume").await, "release");
}

/// A dropped `provide` is undone by `release`.
pub async fn dropped_provide(harness: &dyn VolumeHarness) {
    let driver = harness.driver();
    for cut in super::CUTS {
        let sandbox = SandboxId::generate("vol");
        let volume = harness.volume("data-volume");
        let _ = super::cut_short(cut, driver.provide(request(&sandbox, volume.clone()))).await;
        works(
            driver.provide(request(&sandbox, volume)).await,
            "provide after it",
        );
        works(driver.release(&sandbox, "data-volume").await, "release");
        assert_eq!(keeps(driver, &sandbox).await, 0);
    }
}
