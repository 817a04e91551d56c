//! An OCI runtime: the command line that podman and containerd call, over `aci-isolation`. See
//! README.md beside this file.
#![forbid(unsafe_code)]

mod attend;
mod config;
mod home;
mod terminal;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant, SystemTime};

use aci_core::contract::{ContainerSpec, Isolation as _, Sandbox, SandboxSpec, Signal};
use aci_core::id::SandboxId;
use aci_core::time::Timestamp;
use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use oci_spec::runtime::{
    CgroupBuilder, ContainerState, FeaturesBuilder, LinuxFeatureBuilder, LinuxNamespaceType,
    Process, SeccompBuilder, StateBuilder,
};

use crate::home::{CONTAINER, Home, OCI_VERSION, Record, Status};

#[derive(Parser)]
#[command(version, about = "Runs OCI bundles in sandboxes of aci-isolation")]
struct Cli {
    /// Where containers are recorded.
    #[arg(long, global = true, default_value = "/run/aci-oci")]
    root: PathBuf,
    /// A file for errors, besides standard error.
    #[arg(long, global = true)]
    log: Option<PathBuf>,
    #[arg(long, global = true, default_value = "text")]
    log_format: LogFormat,
    /// Taken and not used: there is no more to say.
    #[arg(long, global = true, hide = true)]
    debug: bool,
    /// Refused: cgroups are made directly.
    #[arg(long, global = true, hide = true)]
    systemd_cgroup: bool,
    #[command(subcommand)]
    call: Call,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Subcommand)]
enum Call {
    /// Makes a container, which waits.
    Create(Bundle),
    /// Starts the program of a container that waits.
    Start { id: String },
    /// Makes a container, starts it, waits for its end and removes it.
    Run {
        #[command(flatten)]
        bundle: Bundle,
        /// Does not wait, and removes nothing.
        #[arg(short, long)]
        detach: bool,
    },
    /// Says what a container does.
    State { id: String },
    /// Sends a signal to a container's program.
    Kill {
        /// To all its processes.
        #[arg(short, long)]
        all: bool,
        id: String,
        #[arg(default_value = "TERM")]
        signal: String,
    },
    /// Removes a container that has ended.
    Delete {
        /// Whatever it does.
        #[arg(short, long)]
        force: bool,
        id: String,
    },
    /// Stops all processes of a container in their course.
    Pause { id: String },
    /// Lets the processes of a paused container go on.
    Resume { id: String },
    /// Runs a further process in a container.
    Exec(Exec),
    /// Says what this runtime can do.
    Features,
    #[command(hide = true)]
    Attend { id: String },
    #[command(hide = true)]
    AttendExec { id: String, name: String },
}

#[derive(Args)]
struct Bundle {
    /// The directory with config.json.
    #[arg(short, long, default_value = ".")]
    bundle: PathBuf,
    /// Takes the pid of the process that stands for the container.
    #[arg(long)]
    pid_file: Option<PathBuf>,
    /// A socket that takes the terminal.
    #[arg(long)]
    console_socket: Option<PathBuf>,
    /// Taken and not used: there are no keyrings to share.
    #[arg(long, hide = true)]
    no_new_keyring: bool,
    /// Refused: the root is always changed by pivot_root.
    #[arg(long, hide = true)]
    no_pivot: bool,
    id: String,
}

#[derive(Args)]
struct Exec {
    /// A file with a process as in config.json; without it that of the container with the
    /// arguments given here.
    #[arg(short, long)]
    process: Option<PathBuf>,
    #[arg(long)]
    pid_file: Option<PathBuf>,
    #[arg(long)]
    console_socket: Option<PathBuf>,
    /// With a terminal.
    #[arg(short, long)]
    tty: bool,
    /// Does not wait for the end.
    #[arg(short, long)]
    detach: bool,
    #[arg(long)]
    cwd: Option<PathBuf>,
    /// NAME=VALUE.
    #[arg(short, long)]
    env: Vec<String>,
    id: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match call(&cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let text = format!("{error:#}");
            eprintln!("{text}");
            if let Some(log) = &cli.log {
                note(log, cli.log_format, &text);
            }
            ExitCode::FAILURE
        }
    }
}

/// Adds an error to the log, as runc does.
fn note(log: &Path, format: LogFormat, text: &str) {
    let time = Timestamp::from(SystemTime::now()).to_string();
    let line = match format {
        LogFormat::Json => {
            serde_json::json!({"level": "error", "msg": text, "time": time}).to_string()
        }
        LogFormat::Text => format!("time={time:?} level=error msg={text:?}"),
    };
    let file = std::fs::File::options().create(true).append(true).open(log);
    let written = file
        .and_then(|mut file| std::io::Write::write_all(&mut file, format!("{line}\n").as_bytes()));
    if let Err(error) = written {
        eprintln!("{}: {error}", log.display());
    }
}

fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

fn call(cli: &Cli) -> Result<u8> {
    ensure!(
        !cli.systemd_cgroup,
        "--systemd-cgroup: cgroups are made directly (podman: --cgroup-manager=cgroupfs)"
    );
    std::fs::create_dir_all(&cli.root).with_context(|| format!("--root {}", cli.root.display()))?;
    let home = Home(cli.root.canonicalize()?);
    match &cli.call {
        Call::Create(bundle) => create(&home, bundle).map(|_| 0),
        Call::Start { id } => start(&home, id).map(|()| 0),
        Call::Run { bundle, detach } => run(&home, bundle, *detach),
        Call::State { id } => state(&home, id).map(|()| 0),
        Call::Kill { all, id, signal } => kill(&home, id, signal, *all).map(|()| 0),
        Call::Delete { force, id } => delete(&home, id, *force).map(|()| 0),
        Call::Pause { id } => pause(&home, id).map(|()| 0),
        Call::Resume { id } => resume(&home, id).map(|()| 0),
        Call::Exec(exec) => self::exec(&home, exec),
        Call::Features => features().map(|()| 0),
        Call::Attend { id } => attend::container(&home, id),
        Call::AttendExec { id, name } => attend::exec(&home, id, name),
    }
}

fn create(home: &Home, bundle: &Bundle) -> Result<Child> {
    ensure!(!bundle.no_pivot, "--no-pivot cannot be met");
    let path = bundle.bundle.canonicalize().context("--bundle")?;
    let spec = config::load(&path.join("config.json"))?;
    let plan = config::plan(&spec, &path)?;
    let size = plan.process.terminal;
    ensure!(
        size.is_some() == bundle.console_socket.is_some(),
        "--console-socket and 'process.terminal' need each other"
    );
    let directory = home.make(&bundle.id)?;
    let sandbox = SandboxId::generate("oci");
    let outcome = (|| -> Result<Child> {
        let process = serde_json::to_vec(spec.process())?;
        home::save(&directory.join("process.json"), &process)?;
        block_on(make(home, &sandbox, plan))?;
        let streams = match (size, &bundle.console_socket) {
            (Some(size), Some(console)) => Some(terminal::three(terminal::make(console, size)?)?),
            _ => None,
        };
        let child = attendant(home, &["attend", &bundle.id], streams)?;
        let pid = i32::try_from(child.id())?;
        let record = Record::new(sandbox.clone(), path, spec.annotations().clone(), pid);
        home.write(&bundle.id, &record)?;
        pid_file(bundle.pid_file.as_deref(), pid)?;
        Ok(child)
    })();
    if outcome.is_err() {
        // Nothing half-made stays; what went wrong first is what counts.
        if let Ok(record) = home.record(&bundle.id) {
            record.dismiss();
        }
        let _ = block_on(async { Ok(home.isolation()?.remove(&sandbox).await?) });
        let _ = std::fs::remove_dir_all(&directory);
    }
    outcome
}

/// Makes the sandbox and in it the container, which waits for its program.
async fn make(home: &Home, id: &SandboxId, plan: config::Plan) -> Result<()> {
    let isolation = home.isolation()?;
    let sandbox = SandboxSpec {
        id: id.clone(),
        hostname: plan.hostname,
        limits: plan.limits,
        volumes: plan.volumes,
    };
    let sandbox = isolation.create(sandbox).await?;
    let mut process = plan.process;
    process.argv.clear();
    process.terminal = None;
    let container = ContainerSpec {
        name: CONTAINER.to_owned(),
        attempt: 0,
        rootfs: plan.rootfs,
        process,
        mounts: plan.mounts,
        files: plan.files,
        limits: plan.limits,
        security: plan.security,
        log_bytes: 0,
        gpus: 0,
    };
    Ok(sandbox.start(container).await?)
}

/// Starts this program once more, to stand for a process.
fn attendant(
    home: &Home,
    arguments: &[&str],
    streams: Option<[std::fs::File; 3]>,
) -> Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command.arg("--root").arg(&home.0).args(arguments);
    if let Some([input, output, errors]) = streams {
        command
            .stdin(Stdio::from(input))
            .stdout(Stdio::from(output))
            .stderr(Stdio::from(errors));
    }
    command
        .spawn()
        .context("starting the process that attends to the container")
}

/// Writes a pid in one piece: who waits for the file reads it at once.
fn pid_file(path: Option<&Path>, pid: i32) -> Result<()> {
    let Some(path) = path else {
        return Ok(());
    };
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    std::fs::write(&new, pid.to_string())
        .and_then(|()| std::fs::rename(&new, path))
        .with_context(|| format!("--pid-file {}", path.display()))
}

fn start(home: &Home, id: &str) -> Result<()> {
    let record = home.record(id)?;
    let directory = home.of(id)?;
    loop {
        let started = directory.join("started").exists();
        ensure!(!started, "cannot start a container that has been started");
        match attend::connect(&directory, attend::START) {
            Ok(stream) => return attend::hear(stream),
            // It takes a moment until it listens.
            Err(_) if record.attended() => std::thread::sleep(Duration::from_millis(1)),
            Err(_) => bail!("cannot start a container in the state stopped"),
        }
    }
}

fn run(home: &Home, bundle: &Bundle, detach: bool) -> Result<u8> {
    let mut child = create(home, bundle)?;
    let started = start(home, &bundle.id);
    if detach && started.is_ok() {
        return Ok(0);
    }
    let ended = started.and_then(|()| Ok(child.wait()?));
    delete(home, &bundle.id, true)?;
    let _ = child.wait();
    Ok(u8::try_from(ended?.code().unwrap_or(255)).unwrap_or(u8::MAX))
}

fn state(home: &Home, id: &str) -> Result<()> {
    let record = home.record(id)?;
    let (status, _) = block_on(async { home.look(&home.isolation()?, id, &record).await })?;
    // The specification's states are the ones that its types know.
    let (known, pid) = match status {
        Status::Stopped => (ContainerState::Stopped, 0),
        Status::Created => (ContainerState::Created, record.pid),
        Status::Running | Status::Paused => (ContainerState::Running, record.pid),
    };
    let mut state = StateBuilder::default()
        .version(OCI_VERSION)
        .id(id)
        .status(known)
        .pid(pid)
        .bundle(record.bundle);
    if let Some(annotations) = record.annotations {
        state = state.annotations(annotations);
    }
    let mut state = serde_json::to_value(state.build()?)?;
    state["status"] = status.to_string().into();
    println!("{}", serde_json::to_string_pretty(&state)?);
    Ok(())
}

/// Freezes the container's cgroup.
fn pause(home: &Home, id: &str) -> Result<()> {
    let record = home.record(id)?;
    block_on(async {
        match home.look(&home.isolation()?, id, &record).await? {
            (Status::Created | Status::Running, Some(sandbox)) => {
                // Noted first: what is frozen and not known to be would hang who asks for an exec.
                home.mark_paused(id, true)?;
                let frozen = sandbox.freeze(true).await;
                if frozen.is_err() {
                    let _ = sandbox.freeze(false).await;
                    home.mark_paused(id, false)?;
                }
                Ok(frozen?)
            }
            (status, _) => bail!("cannot pause a container in the state {status}"),
        }
    })
}

fn resume(home: &Home, id: &str) -> Result<()> {
    let record = home.record(id)?;
    block_on(async {
        match home.look(&home.isolation()?, id, &record).await? {
            (Status::Paused, Some(sandbox)) => thaw(home, id, &*sandbox).await,
            (status, _) => bail!("container not paused: {status}"),
        }
    })
}

async fn thaw(home: &Home, id: &str, sandbox: &dyn Sandbox) -> Result<()> {
    sandbox.freeze(false).await?;
    home.mark_paused(id, false)
}

fn kill(home: &Home, id: &str, signal: &str, all: bool) -> Result<()> {
    let signal: Signal = signal.parse()?;
    let record = home.record(id)?;
    block_on(async {
        let isolation = home.isolation()?;
        match home.look(&isolation, id, &record).await? {
            (Status::Running, Some(sandbox)) => Ok(sandbox.signal(CONTAINER, signal, all).await?),
            (Status::Paused, Some(sandbox)) => {
                sandbox.signal(CONTAINER, signal, all).await?;
                // On cgroup v1 what is frozen does not even die; other signals wait.
                if signal == Signal::KILL {
                    thaw(home, id, &*sandbox).await?;
                }
                Ok(())
            }
            (Status::Created, Some(sandbox)) => {
                // The program that it was meant for does not exist yet: the deadly ones end what
                // waits for it.
                if matches!(signal.number(), 1 | 2 | 3 | 9 | 15) {
                    sandbox.signal(CONTAINER, Signal::KILL, true).await?;
                    record.dismiss();
                }
                Ok(())
            }
            // containerd looks for these words.
            _ => bail!("container not running"),
        }
    })
}

fn delete(home: &Home, id: &str, force: bool) -> Result<()> {
    let record = match home.record(id) {
        Ok(record) => record,
        // As runc does: what is not there is deleted.
        Err(_) if force => {
            let _ = std::fs::remove_dir_all(home.of(id)?);
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    block_on(async {
        let isolation = home.isolation()?;
        let (status, _) = home.look(&isolation, id, &record).await?;
        ensure!(
            force || status == Status::Stopped,
            "cannot delete container {id} that is not stopped: {status}"
        );
        isolation.remove(&record.sandbox).await?;
        Ok(())
    })?;
    // It ends by itself with its program, unless that was never started.
    let begun = Instant::now();
    let started = home.of(id)?.join("started").exists();
    while started && record.attended() && begun.elapsed() < Duration::from_secs(1) {
        std::thread::sleep(Duration::from_millis(2));
    }
    record.dismiss();
    let directory = home.of(id)?;
    std::fs::remove_dir_all(&directory).with_context(|| directory.display().to_string())
}

fn exec(home: &Home, exec: &Exec) -> Result<u8> {
    let directory = home.of(&exec.id)?;
    let record = home.record(&exec.id)?;
    let (status, _) = block_on(async { home.look(&home.isolation()?, &exec.id, &record).await })?;
    // It would stop before its first instruction.
    ensure!(
        status != Status::Paused,
        "cannot exec in a paused container"
    );
    let from = match &exec.process {
        Some(path) => path.clone(),
        None => directory.join("process.json"),
    };
    let text = std::fs::read(&from).with_context(|| from.display().to_string())?;
    let mut process: Process = serde_json::from_slice(&text)?;
    if exec.process.is_none() {
        ensure!(
            !exec.args.is_empty(),
            "what to run is missing: --process FILE or arguments"
        );
        process.set_args(Some(exec.args.clone()));
        process.set_terminal(Some(exec.tty));
        if let Some(cwd) = &exec.cwd {
            process.set_cwd(cwd.clone());
        }
        let env = process.env_mut().get_or_insert_default();
        env.extend(exec.env.iter().cloned());
    } else if exec.tty {
        process.set_terminal(Some(true));
    }
    let size = config::process(&process)?.terminal;
    ensure!(
        size.is_some() == exec.console_socket.is_some(),
        "--console-socket and a terminal need each other"
    );
    let name = format!("exec-{}", std::process::id());
    home::save(
        &directory.join(format!("{name}.json")),
        &serde_json::to_vec(&process)?,
    )?;
    let socket = format!("{name}.sock");
    let listener = attend::listen(&directory, &socket)?;
    let outcome = begin_exec(home, exec, size, &name, &listener);
    for left in [socket, format!("{name}.json")] {
        let _ = std::fs::remove_file(directory.join(left));
    }
    let mut child = outcome?;
    pid_file(exec.pid_file.as_deref(), i32::try_from(child.id())?)?;
    if exec.detach {
        return Ok(0);
    }
    Ok(u8::try_from(child.wait()?.code().unwrap_or(255)).unwrap_or(u8::MAX))
}

/// Starts the process that stands for an exec and waits until it has started the program.
fn begin_exec(
    home: &Home,
    exec: &Exec,
    size: Option<aci_core::contract::TerminalSize>,
    name: &str,
    listener: &std::os::unix::net::UnixListener,
) -> Result<Child> {
    let streams = match (size, &exec.console_socket) {
        (Some(size), Some(console)) => Some(terminal::three(terminal::make(console, size)?)?),
        _ => None,
    };
    let mut child = attendant(home, &["attend-exec", &exec.id, name], streams)?;
    listener.set_nonblocking(true)?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                attend::hear(stream)?;
                return Ok(child);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if let Some(status) = child.try_wait()? {
                    bail!("the process that attends to the exec has ended: {status}");
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn features() -> Result<()> {
    let linux = LinuxFeatureBuilder::default()
        .namespaces(vec![
            LinuxNamespaceType::Cgroup,
            LinuxNamespaceType::Ipc,
            LinuxNamespaceType::Mount,
            LinuxNamespaceType::Network,
            LinuxNamespaceType::Pid,
            LinuxNamespaceType::Uts,
        ])
        .cgroup(
            CgroupBuilder::default()
                .v1(true)
                .v2(true)
                .systemd(false)
                .systemd_user(false)
                .build()?,
        )
        .seccomp(SeccompBuilder::default().enabled(true).build()?)
        .build()?;
    let names = ["bind", "rbind", "ro", "rw", "size"];
    let features = FeaturesBuilder::default()
        .oci_version_min("1.0.0")
        .oci_version_max(OCI_VERSION)
        .hooks(Vec::<String>::new())
        .mount_options(names.map(str::to_owned).to_vec())
        .linux(linux)
        .build()?;
    println!("{}", serde_json::to_string_pretty(&features)?);
    Ok(())
}
