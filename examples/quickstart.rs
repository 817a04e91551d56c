//! Runs a container group from an ordinary ACI document and shows what it does:
//! `cargo run --release --example quickstart [-- DOCUMENT]`.
//!
//! It needs no container software, and for its own document no registry and no network; it works
//! as root and as an ordinary user. Images that a document names are pulled from their registries.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use aci_core::contract::{Image, Signal};
use aci_core::document::{self, Format};
use aci_core::model::{ContainerGroup, Event};
use aci_examples::bars::Bars;
use aci_examples::{hello, host, leftovers};
use aci_isolation::{Namespaces, NamespacesOptions};
use aci_runtime::{Engine, ExecOptions, Group, LogOptions, Notice, Notices, RedbStore, Shutdown};
use aci_storage::{
    AzureFiles, AzureFilesOptions, EmptyDirs, HostImage, OciImages, OciImagesOptions, Secrets,
};
use anyhow::{Context, Result, bail};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Runs a container group from an ACI document (YAML or JSON) and shows what it does.
#[derive(Parser)]
struct Arguments {
    /// The document; without it examples/groups/hello.yaml.
    document: Option<PathBuf>,
    /// Imports an image from a tar file or an OCI layout: NAME=PATH; may be repeated.
    #[arg(long, value_name = "NAME=PATH")]
    image: Vec<String>,
    /// A registry that is spoken to by plain HTTP, such as 127.0.0.1:5000; may be repeated.
    #[arg(long, value_name = "HOST")]
    insecure: Vec<String>,
    /// Where images and the journal are kept; without it a directory that is removed at the end.
    #[arg(long)]
    dir: Option<PathBuf>,
}

fn main() -> ExitCode {
    // Inside the containers of hello.yaml this very program is the web server.
    if let Some(outcome) = hello::run_if_called() {
        return exit_code(outcome);
    }
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return exit_code(Err(error.into())),
    };
    exit_code(runtime.block_on(run(Arguments::parse())))
}

fn exit_code(outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = error
                .chain()
                .filter_map(|cause| cause.downcast_ref::<aci_core::error::Error>())
                .find_map(|error| error.aci_code());
            match code {
                Some(code) => eprintln!("error: {error:#} [{code}]"),
                None => eprintln!("error: {error:#}"),
            }
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    let document = read(arguments.document.as_deref())?;
    let scratch = match &arguments.dir {
        Some(_) => None,
        None => Some(
            tempfile::Builder::new()
                .prefix("aci-quickstart-")
                .tempdir()?,
        ),
    };
    let dir = match (&arguments.dir, &scratch) {
        (Some(dir), _) => dir.clone(),
        (None, Some(scratch)) => scratch.path().to_owned(),
        (None, None) => bail!("no directory"),
    };

    // A state directory of its own, so that several of these can run beside each other.
    let options = NamespacesOptions::default().state_dir(dir.join("run"));
    let isolation = Namespaces::new(options)?;
    let state_dir = isolation.state_dir().to_owned();
    let mut options = OciImagesOptions::default();
    options.registries.insecure = arguments.insecure;
    let images = OciImages::open_with(dir.join("images"), options)?;
    provide_images(&images, &arguments.image).await?;
    let builder = Engine::builder()
        .isolation(isolation)
        .images(images)
        .volumes(EmptyDirs::open(dir.join("volumes"))?)
        .volumes(Secrets)
        .volumes(AzureFiles::open(
            dir.join("volumes"),
            AzureFilesOptions::default(),
        )?)
        .store(RedbStore::open(dir.join("journal"))?);
    let engine = host::with_network(builder, &dir).await?.build().await?;
    for missing in engine
        .isolation_capability()
        .missing
        .iter()
        .chain(&engine.network_capability().missing)
    {
        println!("note: {missing}");
    }

    let printing = tokio::spawn(print_events(engine.watch()));
    let group = engine.create_or_update(document).await?;
    let shown = tokio::select! {
        shown = show(&group) => shown,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };

    // Whatever happened: the group is taken down, and nothing of it may be left.
    title("delete");
    let id = group.sandbox_id();
    let processes = leftovers::members(id.as_str());
    let bill = group.bill();
    group.delete().await?;
    printing.abort();
    println!(
        "the bill: {} s, {:.2} vCPU-seconds, {:.1} GB-seconds",
        bill.seconds,
        bill.vcpu_seconds(),
        bill.gb_seconds()
    );
    engine.shutdown(Shutdown::StopGroups).await?;
    let mut left = leftovers::find(&[id.as_str()], &[dir.clone(), state_dir]);
    for pid in leftovers::alive(&processes) {
        left.push(format!("process {pid}"));
    }
    if !left.is_empty() {
        bail!("left behind: {}", left.join("; "));
    }
    println!(
        "nothing is left: no process (of {}), mount, cgroup, link or file of {id}",
        processes.len()
    );
    shown
}

fn title(text: &str) {
    println!("\n== {text}");
}

/// Reads a document and says which place is wrong if it cannot be read.
fn read(path: Option<&Path>) -> Result<ContainerGroup> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("groups/hello.yaml");
    let path = path.unwrap_or(&default);
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the document {}", path.display()))?;
    let format = match path.extension().and_then(|e| e.to_str()) {
        Some("json") => Format::Json,
        _ => Format::Yaml,
    };
    let document =
        document::read(&text, format).map_err(|e| anyhow::anyhow!("{}: {}", path.display(), e))?;
    for warning in &document.warnings {
        println!("note: {}: {warning}", path.display());
    }
    document
        .groups
        .into_iter()
        .next()
        .with_context(|| format!("{} holds no container group", path.display()))
}

/// The image of hello.yaml, assembled from programs of this machine, and what was asked for.
async fn provide_images(images: &OciImages, imports: &[String]) -> Result<()> {
    let own = std::env::current_exe()?;
    HostImage::new("local/hello:1")
        .program("/bin/sh")
        .program("/bin/cat")
        .program("/bin/ls")
        .program("/usr/bin/id")
        .program_as(own, "/bin/hello-web")
        .build(images)
        .await?;
    for import in imports {
        let (name, path) = import
            .split_once('=')
            .with_context(|| format!("--image {import}: it must be NAME=PATH"))?;
        let path = Path::new(path);
        let image: Image = if path.is_dir() {
            images.import_layout(path, name).await?
        } else {
            images.import_tar(path, name).await?
        };
        println!("imported {} {}", image.reference, image.digest);
    }
    Ok(())
}

async fn show(group: &Group) -> Result<()> {
    wait_until_up(group).await?;
    let view = group.view();
    let first = view
        .properties
        .containers
        .first()
        .context("the group has no container")?;
    title(&format!(
        "{} is {}",
        group.name(),
        group.state().as_str().to_lowercase()
    ));
    if let Some(address) = group.address() {
        println!("address {address}");
    }
    if let Some(port) = first.properties.ports.first() {
        title(&format!(
            "GET http://{}:{}/index.html",
            first.name, port.port
        ));
        println!("{}", call(group, port.port).await?);
    }
    // A moment of life, so that there is something to see.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    for container in view
        .properties
        .init_containers
        .iter()
        .map(|c| &c.name)
        .chain(view.properties.containers.iter().map(|c| &c.name))
    {
        title(&format!("logs of {container}"));
        let options = LogOptions {
            tail: Some(5),
            timestamps: true,
        };
        match group.container(container)?.logs(options).await {
            Ok(text) => print!("{text}"),
            Err(error) => println!("({error})"),
        }
    }
    if group.state().as_str() != "Running" {
        return Ok(());
    }
    title(&format!("exec in {}: id; ls /", first.name));
    println!("{}", exec(group, &first.name, "id; ls /").await?);
    usage(group).await?;
    kill_and_wait(group, &first.name).await
}

/// Waits until the group runs. A group counts as running while one of its containers is started
/// again and again, so a container that cannot be started ends the wait with its reason.
async fn wait_until_up(group: &Group) -> Result<()> {
    let broken = group.wait_for(|view| reason(view).is_some());
    tokio::select! {
        stuck = broken => stuck?,
        up = group.running() => up?,
    }
    match reason(&group.view()) {
        Some(reason) => bail!("{reason}"),
        None => Ok(()),
    }
}

fn reason(view: &ContainerGroup) -> Option<String> {
    let properties = &view.properties;
    let apps = properties.containers.iter().map(|c| {
        (
            &c.name,
            c.properties.instance_view.as_ref().map(|v| &v.events),
        )
    });
    let inits = properties.init_containers.iter().map(|c| {
        (
            &c.name,
            c.properties.instance_view.as_ref().map(|v| &v.events),
        )
    });
    let lost = properties.instance_view.as_ref().and_then(|view| {
        let lost = |e: &&Event| e.name.as_deref() == Some("SandboxLost") && e.count > Some(1);
        let event = view.events.iter().find(lost)?;
        event.message.clone()
    });
    let failed = apps.chain(inits).find_map(|(name, events)| {
        let failed = events?
            .iter()
            .find(|e| e.name.as_deref() == Some("Failed"))?;
        Some(format!(
            "container '{name}': {}",
            failed.message.as_deref().unwrap_or_default()
        ))
    });
    failed.or(lost)
}

/// Asks the web container. Its process runs, but may not listen yet, so a refusal is tried again
/// for a while, as any client does.
async fn call(group: &Group, port: u16) -> Result<String> {
    let mut tries = 0;
    loop {
        match ask(group, port).await {
            Err(_) if tries < 50 => tries += 1,
            other => return other,
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// One request over the group's network: by its address where the host reaches it.
async fn ask(group: &Group, port: u16) -> Result<String> {
    let request = b"GET /index.html HTTP/1.1\r\nHost: hello\r\nConnection: close\r\n\r\n";
    let mut answer = String::new();
    match group.address() {
        Some(address) => {
            let mut stream = tokio::net::TcpStream::connect((address, port)).await?;
            stream.write_all(request).await?;
            stream.read_to_string(&mut answer).await?;
        }
        None => {
            let mut stream = group.dial(port).await?;
            stream.write_all(request).await?;
            stream.read_to_string(&mut answer).await?;
        }
    }
    Ok(answer.trim_end().to_owned())
}

async fn exec(group: &Group, container: &str, script: &str) -> Result<String> {
    let options = ExecOptions::command(["/bin/sh", "-c", script]);
    let mut process = group.container(container)?.exec(options).await?;
    let mut output = String::new();
    process.stdout.read_to_string(&mut output).await?;
    let status = process.control.wait().await?;
    Ok(format!("{output}(exit code {})", status.code))
}

async fn usage(group: &Group) -> Result<()> {
    title("measured");
    for container in group.usage().await?.containers {
        println!(
            "{:10} {:7.1} millicores  {:8.1} MiB  {} processes{}",
            container.stats.name,
            container.cpu_millicores,
            mib(container.stats.memory_bytes),
            container.stats.pids,
            if container.stats.exact {
                ""
            } else {
                "  (summed over processes)"
            }
        );
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss)] // exact below 8 PiB
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Kills a container's process twice: the first restart comes at once, the second after the
/// back-off.
async fn kill_and_wait(group: &Group, name: &str) -> Result<()> {
    let container = group.container(name)?;
    if group
        .view()
        .properties
        .restart_policy
        .as_ref()
        .is_some_and(|p| p.as_str() == "Never")
    {
        return Ok(());
    }
    for round in 1..=2 {
        title(&format!("kill {name}, {round}. time"));
        container.signal(Signal::KILL).await?;
        let bar = ProgressBar::new_spinner().with_style(ProgressStyle::with_template(
            "{spinner} waiting for the restart, {elapsed}",
        )?);
        bar.enable_steady_tick(Duration::from_millis(200));
        let wanted = round;
        group
            .wait_for(|view| {
                view.properties.containers.iter().any(|c| {
                    let state = c.properties.instance_view.as_ref();
                    c.name == name
                        && state.is_some_and(|s| {
                            s.restart_count.unwrap_or(0) >= wanted
                                && s.current_state.as_ref().and_then(|s| s.state.as_deref())
                                    == Some("Running")
                        })
                })
            })
            .await?;
        bar.finish_and_clear();
        let view = container.view();
        println!(
            "restarted {} time(s); before: {}",
            view.restart_count.unwrap_or(0),
            view.previous_state
                .and_then(|s| s.exit_code)
                .map_or_else(|| "unknown".to_owned(), |code| format!("exit code {code}"))
        );
    }
    Ok(())
}

async fn print_events(mut notices: Notices) {
    let bars = Bars::default();
    while let Some(notice) = notices.next().await {
        match notice {
            Notice::Pull { step, .. } => bars.hear(&step),
            Notice::Event {
                container, event, ..
            } => bars.print(format_args!(
                "event  {:8} {:10} {}{}",
                container.as_deref().unwrap_or("(group)"),
                event.name.unwrap_or_default(),
                event.message.unwrap_or_default(),
                match event.count {
                    Some(count) if count > 1 => format!(" (x{count})"),
                    _ => String::new(),
                }
            )),
            Notice::State {
                state,
                provisioning_state,
                ..
            } => bars.print(format_args!("state  {state} ({provisioning_state})")),
            Notice::Deleted { .. } => return,
            _ => {}
        }
    }
}
