//! Debian's Samba, started on loopback with a directory of its own, as Azure Files would be: SMB
//! 3.1.1, encryption required, one account.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aci_core::contract::{VolumeDriver, VolumeRequest, VolumeSource};
use aci_core::error::Result;
use aci_core::id::SandboxId;
use aci_core::model::{AzureFileVolume, Secret, Volume};
use aci_storage::{AzureFiles, AzureFilesOptions, FileServer, ShareDriver};

pub(crate) const ACCOUNT: &str = "storage4tests";
pub(crate) const KEY: &str = "aVeryL0ng+Key/of==";
pub(crate) const SHARE: &str = "files";
/// Set where the kernel's driver is to be tested.
pub(crate) const DRIVER: &str = "ACI_TEST_SHARE_DRIVER";

pub(crate) struct Samba {
    dir: tempfile::TempDir,
    pub(crate) port: u16,
    server: Option<Child>,
}

/// Whether this machine can mount; says why not.
pub(crate) fn can_mount() -> bool {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: smbd needs root to change users");
        return false;
    }
    if !Path::new("/dev/fuse").exists() {
        println!("SKIPPED: this kernel has no FUSE");
        return false;
    }
    true
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

impl Samba {
    pub(crate) fn start() -> Self {
        Self::with(
            "server smb encrypt = required\nserver min protocol = SMB3_11\n",
            "",
        )
    }

    /// With lines of its own for the server and for the share.
    pub(crate) fn with(global: &str, share: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("samba-").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let at = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(&path).unwrap();
            path.display().to_string()
        };
        let (state, log, files) = (at("state"), at("log"), at("files"));
        let port = free_port();
        let users = dir.path().join("users");
        fs::write(&users, format!("nobody = {ACCOUNT}\n")).unwrap();
        let conf = format!(
            "[global]\nserver role = standalone server\nsmb ports = {port}\ninterfaces = lo\n\
             bind interfaces only = yes\ndisable netbios = yes\nserver signing = mandatory\n\
             passdb backend = tdbsam:{state}/passdb.tdb\nprivate dir = {state}\n\
             state directory = {state}\ncache directory = {state}\nlock directory = {state}\n\
             pid directory = {state}\nncalrpc dir = {state}/ncalrpc\nlog file = {log}/log\n\
             load printers = no\nusername map = {users}\nlog level = 1\n{global}\
             [{SHARE}]\npath = {files}\nread only = no\nforce user = root\nkernel oplocks = no\n\
             kernel share modes = no\nposix locking = no\nstore dos attributes = yes\n\
             map archive = no\n{share}",
            users = users.display(),
        );
        fs::write(dir.path().join("smb.conf"), conf).unwrap();
        let mut samba = Self {
            dir,
            port,
            server: None,
        };
        samba.set_key(KEY);
        samba.up();
        samba
    }

    pub(crate) fn conf(&self) -> PathBuf {
        self.dir.path().join("smb.conf")
    }

    /// A file by which `smbclient` logs in: in its arguments the key would be seen by the tests that
    /// look for it.
    pub(crate) fn credentials(&self) -> PathBuf {
        let path = self.dir.path().join("credentials");
        let text = format!("username = {ACCOUNT}\npassword = {KEY}\n");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// The share's directory on the server.
    pub(crate) fn files(&self) -> PathBuf {
        self.dir.path().join("files")
    }

    pub(crate) fn set_key(&self, key: &str) {
        let mut child = Command::new("smbpasswd")
            .arg("-c")
            .arg(self.conf())
            .args(["-s", "-a", "nobody"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("smbpasswd of the package samba");
        let text = format!("{key}\n{key}\n");
        child
            .stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        assert!(child.wait().unwrap().success(), "smbpasswd failed");
    }

    pub(crate) fn up(&mut self) {
        let server = Command::new("smbd")
            .args(["-F", "--no-process-group", "-s"])
            .arg(self.conf())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.dir.path().join("said")).unwrap())
            .spawn()
            .expect("smbd of the package samba");
        let server = self.server.insert(server);
        let until = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = server.try_wait().unwrap();
            assert!(
                Instant::now() < until && ended.is_none(),
                "smbd did not come up ({ended:?}): {}{}",
                fs::read_to_string(self.dir.path().join("said")).unwrap_or_default(),
                fs::read_to_string(self.dir.path().join("log/log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Kills the server and all that it forked, as a power cut would.
    pub(crate) fn down(&mut self) {
        let Some(mut server) = self.server.take() else {
            return;
        };
        // Its children have the same command line.
        let conf = self.conf().display().to_string();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let ours = String::from_utf8_lossy(&line).contains(&conf);
            let pid = entry.file_name().to_string_lossy().parse::<i32>();
            if let (true, Ok(pid)) = (ours, pid)
                && let Some(pid) = rustix::process::Pid::from_raw(pid)
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        let _ = server.wait();
    }

    /// What Samba's own client says to a command.
    pub(crate) fn client(&self, command: &str) -> String {
        let output = Command::new("smbclient")
            .arg(format!("//127.0.0.1/{SHARE}"))
            .args(["-p", &self.port.to_string(), "--client-protection=encrypt"])
            .arg("-s")
            .arg(self.conf())
            .arg("-A")
            .arg(self.credentials())
            .args(["-c", command])
            .output()
            .expect("smbclient of the package smbclient");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    pub(crate) fn options(&self) -> AzureFilesOptions {
        let server = FileServer::new("127.0.0.1").port(self.port);
        let mut options = AzureFilesOptions {
            servers: [(ACCOUNT.to_owned(), server)].into(),
            ..AzureFilesOptions::default()
        };
        if std::env::var_os(DRIVER).is_some() {
            options.driver = ShareDriver::Kernel;
        }
        options
    }

    pub(crate) fn mounted(&self) -> Mounted {
        Mounted::with(self.options(), volume())
    }
}

impl Drop for Samba {
    fn drop(&mut self) {
        self.down();
    }
}

/// The volume of a document.
pub(crate) fn volume() -> Volume {
    Volume {
        name: "share".into(),
        azure_file: Some(AzureFileVolume {
            share_name: SHARE.into(),
            storage_account_name: ACCOUNT.into(),
            storage_account_key: Some(Secret::new(KEY)),
            ..AzureFileVolume::default()
        }),
        ..Volume::default()
    }
}

/// A share that is mounted for a group, until it is dropped.
pub(crate) struct Mounted {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) driver: AzureFiles,
    pub(crate) sandbox: SandboxId,
    pub(crate) path: PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl Mounted {
    pub(crate) fn with(options: AzureFilesOptions, volume: Volume) -> Self {
        Self::attempt(options, volume).unwrap()
    }

    pub(crate) fn attempt(options: AzureFilesOptions, volume: Volume) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("shares-")
            .tempdir()
            .unwrap();
        let driver = AzureFiles::open(dir.path().join("v"), options)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let sandbox: SandboxId = "s1".parse().unwrap();
        let request = VolumeRequest::new(sandbox.clone(), volume);
        let source = match runtime.block_on(driver.provide(request)) {
            Ok(source) => source,
            Err(error) => {
                let left = runtime.block_on(driver.list()).unwrap();
                assert!(left.is_empty(), "left behind: {left:?}");
                return Err(error);
            }
        };
        let VolumeSource::Directory(path) = source else {
            panic!("not a directory")
        };
        Ok(Self {
            dir,
            driver,
            sandbox,
            path,
            runtime,
        })
    }

    pub(crate) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The process id of the share server.
    pub(crate) fn share_server(&self) -> Option<u32> {
        let control = UnixStream::connect(self.path.with_file_name("control")).ok()?;
        let peer = rustix::net::sockopt::socket_peercred(&control).ok()?;
        u32::try_from(peer.pid.as_raw_nonzero().get()).ok()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let released = self.wait(self.driver.release(&self.sandbox, "share"));
        if !std::thread::panicking() {
            released.unwrap();
            assert!(!self.path.exists(), "still there");
        }
    }
}

/// A line of Python that runs with `sys.argv[1:]`, for what std does not have; its output.
pub(crate) fn python(script: &str, arguments: &[&Path]) -> String {
    let output = Command::new("python3")
        .args(["-c", script])
        .args(arguments)
        .output()
        .expect("python3");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
    said
}
