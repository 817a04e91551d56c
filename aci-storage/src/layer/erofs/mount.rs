//! Mounts images from their files, without a loop device.

use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use super::ErofsTree;
use crate::layer::limits::UnpackLimits;
use crate::layer::target::Target as _;

/// Mounts an image where only the returned descriptor leads to it.
pub(crate) fn mount(image: &File) -> Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let source = format!("/proc/self/fd/{}", image.as_raw_fd());
    rustix::mount::fsconfig_set_string(&context, "source", source)?;
    rustix::mount::fsconfig_create(&context)?;
    rustix::mount::fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV,
    )
}

/// Whether images below a directory can be mounted; if not, why, and what would help.
pub(crate) fn probe(dir: &Path) -> Result<(), String> {
    let path = dir.join("probe.erofs");
    let result = (|| {
        let _ = std::fs::remove_file(&path);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|e| format!("an image for a trial cannot be made: {e}"))?;
        let again = file.try_clone().map_err(|e| e.to_string())?;
        ErofsTree::new(again, [0; 16], &UnpackLimits::default())
            .and_then(ErofsTree::finish)
            .map_err(|_| "an image for a trial cannot be written".to_owned())?;
        mount(&file).map(drop).map_err(why)
    })();
    let _ = std::fs::remove_file(&path);
    result
}

/// What a failed mount means.
fn why(errno: Errno) -> String {
    match errno {
        Errno::PERM | Errno::ACCESS => {
            "the kernel lets only root of the initial user namespace mount EROFS".to_owned()
        }
        Errno::NODEV => {
            "the kernel has no EROFS; load it with: modprobe erofs (CONFIG_EROFS_FS)".to_owned()
        }
        Errno::NOTBLK => {
            "the kernel mounts EROFS from block devices only; from files it does since \
                          Linux 6.12 (CONFIG_EROFS_FS_BACKED_BY_FILE)"
                .to_owned()
        }
        Errno::NOSYS => "the kernel lacks fsopen(2) (Linux 5.2)".to_owned(),
        other => format!("the kernel does not mount an EROFS image from a file here: {other}"),
    }
}
