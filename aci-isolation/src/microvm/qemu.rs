//! QEMU's machine `microvm` (QEMU's `docs/system/i386/microvm.rst`): no firmware, no PCI.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aci_core::error::{Error, ErrorKind, Result};
use async_trait::async_trait;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::vmm::{Accelerator, Launch, Machine, Vmm};

const PROBE: &str = "microvm.new";
const CONTROL: &str = "microvm.control";
/// QEMU's own memory: code, tables, and under emulation translated instructions.
const OVERHEAD: u64 = 256 << 20;
/// The size of the cache of translated instructions, in MiB.
const TRANSLATED: u32 = 96;
/// How long it may take to answer a command.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest line that is read of it.
const LINE: u64 = 64 * 1024;

/// QEMU.
#[derive(Clone, Debug)]
pub struct Qemu {
    program: PathBuf,
}

impl Default for Qemu {
    fn default() -> Self {
        Self::new("/usr/bin/qemu-system-x86_64")
    }
}

impl Qemu {
    /// With another program than `/usr/bin/qemu-system-x86_64`. What it needs besides is taken
    /// from `/usr`.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
        }
    }
}

#[async_trait]
impl Vmm for Qemu {
    fn name(&self) -> &str {
        "qemu"
    }

    fn probe(&self, accelerator: Accelerator) -> Result<()> {
        match accelerator {
            Accelerator::Emulation => {}
        }
        if self.program.is_file() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::NotFound,
            PROBE,
            format!("there is no {}", self.program.display()),
        )
        .hint("install the package qemu-system-x86 (Debian), or name QEMU's program by Qemu::new"))
    }

    fn launch(&self, machine: &Machine) -> Launch {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mut append: Vec<String> = [
            "console=ttyS0",
            "quiet",
            // A guest that panics ends, and its monitor with it.
            "panic=-1",
            "reboot=t",
        ]
        .map(str::to_owned)
        .into();
        let (accelerator, cpu) = match machine.accelerator {
            Accelerator::Emulation => {
                // Calibration against an emulated timer hangs; and where instructions are
                // translated, there is nothing that mitigations would mitigate.
                append.push(format!("tsc_early_khz={}", host_khz()));
                append.extend(["mitigations=off", "cryptomgr.notests"].map(str::to_owned));
                (format!("tcg,thread=multi,tb-size={TRANSLATED}"), "max")
            }
        };
        append.extend(machine.arguments.iter().cloned());
        let memory = machine.memory_mib;
        let (share, tag) = &machine.sockets.share;
        let network = machine.tap.iter().flat_map(|tap| {
            [
                "-netdev".to_owned(),
                format!("tap,id=net,ifname={tap},script=no,downscript=no"),
                "-device".to_owned(),
                "virtio-net-device,netdev=net".to_owned(),
            ]
        });
        let argv: Vec<String> = [
            text(&self.program).as_str(),
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
            "-machine",
            "microvm,acpi=on,rtc=on,memory-backend=memory",
            "-accel",
            &accelerator,
            "-cpu",
            cpu,
            "-smp",
            &machine.cpus.to_string(),
            "-m",
            &format!("{memory}M"),
            "-object",
            &format!("memory-backend-memfd,id=memory,size={memory}M,share=on"),
            "-global",
            "virtio-mmio.force-legacy=false",
            "-kernel",
            &text(&machine.kernel),
            "-initrd",
            &text(&machine.initramfs),
            "-append",
            &append.join(" "),
            "-chardev",
            "stdio,id=console,signal=off",
            "-serial",
            "chardev:console",
            "-device",
            "virtio-serial-device",
            "-chardev",
            &format!(
                "socket,id=line,path={},server=on,wait=off",
                text(&machine.sockets.line)
            ),
            "-device",
            "virtserialport,chardev=line,name=aci",
            "-chardev",
            &format!("socket,id=share,path={}", text(share)),
            "-device",
            &format!("vhost-user-fs-device,chardev=share,tag={tag}"),
            "-qmp",
            &format!("unix:{},server=on,wait=off", text(&machine.sockets.control)),
        ]
        .into_iter()
        .map(str::to_owned)
        .chain(network)
        .collect();
        let needs = ["/usr", "/lib", "/lib64", "/etc/ld.so.cache"].map(PathBuf::from);
        Launch {
            argv,
            needs: needs
                .into_iter()
                .chain([machine.kernel.clone(), machine.initramfs.clone()])
                .collect(),
            overhead: OVERHEAD,
        }
    }

    async fn pause(&self, control: &Path, stopped: bool) -> Result<()> {
        let command = if stopped { "stop" } else { "cont" };
        let lost = |why: String| Error::new(ErrorKind::Lost, CONTROL, why);
        match tokio::time::timeout(PATIENCE, qmp(control, command)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(lost(format!("QEMU does not take '{command}'")).because(error)),
            Err(_) => Err(lost(format!("QEMU does not answer '{command}'"))),
        }
    }
}

/// One command without arguments (QEMU's `docs/interop/qmp-spec.rst`).
async fn qmp(control: &Path, command: &str) -> std::io::Result<()> {
    let (read, mut write) = UnixStream::connect(control).await?.into_split();
    let mut lines = BufReader::new(read);
    for command in ["qmp_capabilities", command] {
        let text = serde_json::json!({ "execute": command }).to_string() + "\n";
        write.write_all(text.as_bytes()).await?;
        loop {
            let mut line = String::new();
            let read = (&mut lines).take(LINE).read_line(&mut line).await?;
            if read == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let value: serde_json::Value = serde_json::from_str(&line)?;
            if value.get("return").is_some() {
                break;
            }
            if let Some(error) = value.get("error") {
                let text = error.get("desc").and_then(|desc| desc.as_str());
                return Err(std::io::Error::other(text.unwrap_or("an error").to_owned()));
            }
        }
    }
    Ok(())
}

/// The host's processor clock in kHz, 1 GHz if it does not say.
fn host_khz() -> u64 {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("cpu MHz"))
        .and_then(|rest| rest.split_once(':'))
        .and_then(|(_, mhz)| mhz.trim().split('.').next()?.parse::<u64>().ok())
        .map_or(1_000_000, |mhz| mhz.max(1) * 1000)
}
