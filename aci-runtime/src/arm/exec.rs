//! `exec` and `attach`: the requests that hand out a WebSocket, and that WebSocket.

use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use aci_core::contract::{Process, Signal, TerminalSize};
use aci_core::error::Error;
use aci_core::lifecycle::GroupState;
use axum::extract::FromRequestParts as _;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use http::header::AUTHORIZATION;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::auth::Need;
use super::call::Call;
use super::error::{ArmError, ArmResult};
use super::route::{FIRST, Route, Versions};
use super::sessions::{Session, Work};
use super::{Front, reply};
use crate::{ContainerHandle, ExecOptions};

/// The subprotocol that brings control messages; see the module `arm` on exec.
pub(crate) const CONTROL: &str = "exec.v1.container-groups";

/// Time for the password to come as the first frame.
const FIRST_FRAME: Duration = Duration::from_secs(30);
/// Time for output that is still on its way when the process has ended.
const LAST_OUTPUT: Duration = Duration::from_millis(500);
/// How often the other end is asked whether it is there.
const PING: Duration = Duration::from_secs(30);
/// Time for the client to answer the close.
const GOODBYE: Duration = Duration::from_secs(5);
/// Largest message of a client, in bytes.
const LARGEST: usize = 1 << 20;

pub(crate) fn routes() -> Vec<Route> {
    // One container's operations are below its group.
    const EXEC: &str = "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers/Microsoft.ContainerInstance/containerGroups/{containerGroupName}/containers/{containerName}/exec";
    const ATTACH: &str = "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers/Microsoft.ContainerInstance/containerGroups/{containerGroupName}/containers/{containerName}/attach";
    let open = |path, action, handler| {
        Route::new(Method::GET, path, action, handler)
            .need(Need::Open)
            .versions(Versions::Unversioned)
    };
    vec![
        Route::new(
            Method::POST,
            EXEC,
            "Microsoft.ContainerInstance/containerGroups/containers/exec/action",
            |call| exec(call).boxed(),
        )
        .versions(Versions::Aci(FIRST)),
        Route::new(
            Method::POST,
            ATTACH,
            "Microsoft.ContainerInstance/containerGroups/containers/attach/action",
            |call| attach(call).boxed(),
        )
        .versions(Versions::Aci(FIRST)),
        open("/exec/{session}", "exec", |call| socket(call).boxed()),
        open("/attach/{session}", "attach", |call| socket(call).boxed()),
    ]
}

fn invalid(path: &str, message: &str) -> ArmError {
    ArmError::bad_request("InvalidRequestContent", message).target(path)
}

async fn exec(call: Call) -> ArmResult {
    let container = container(&call)?;
    let body = call.json()?.to_json();
    let command = body["command"].as_str().unwrap_or_default();
    let argv = shlex::split(command).unwrap_or_default();
    if argv.is_empty() {
        return Err(invalid(
            "command",
            "'command' has to name a program, such as '/bin/sh'; quotes are as in a shell and have to be closed.",
        ));
    }
    if command.contains('\0') {
        return Err(invalid("command", "'command' holds a zero character."));
    }
    let size = match &body["terminalSize"] {
        Value::Null => TerminalSize::default(),
        given => size(given, "terminalSize.", true)?,
    };
    hand_out(&call, &container, "exec", Work::Exec { argv, size })
}

async fn attach(call: Call) -> ArmResult {
    let container = container(&call)?;
    hand_out(&call, &container, "attach", Work::Attach)
}

/// What is missing has the usual size; zero, too, where it may be: the Azure CLI asks so for a terminal
/// if its own has no size.
fn size(given: &Value, path: &str, zero: bool) -> ArmResult<TerminalSize> {
    let one = |name: &str, usual: u16| match &given[name] {
        Value::Null => Ok(usual),
        value => match value.as_u64().map(u16::try_from) {
            Some(Ok(0)) if zero => Ok(usual),
            Some(Ok(size)) if size > 0 => Ok(size),
            _ => Err(invalid(
                &format!("{path}{name}"),
                &format!("'{path}{name}' is a whole number up to 65535."),
            )),
        },
    };
    let usual = TerminalSize::default();
    Ok(TerminalSize {
        rows: one("rows", usual.rows)?,
        cols: one("cols", usual.cols)?,
    })
}

/// The container, if its group runs.
fn container(call: &Call) -> ArmResult<ContainerHandle> {
    let group = call.front.engine.get(call.group())?;
    let container = group.container(call.value("containerName"))?;
    match group.state() {
        GroupState::Running | GroupState::Pending => Ok(container),
        _ => Err(ArmError::bad_request(
            "ContainerGroupStopped",
            format!(
                "Container Group '{}' in resource group '{}' is stopped.",
                call.value("containerGroupName"),
                call.resource_group()
            ),
        )),
    }
}

fn hand_out(call: &Call, container: &ContainerHandle, kind: &str, work: Work) -> ArmResult {
    let front = &call.front;
    let now = front.engine.clock().now();
    let ticket = front
        .sessions
        .open(call.group(), container.name(), work, now)?;
    // `https` becomes `wss`, `http` `ws`.
    let base = call.base().replacen("http", "ws", 1);
    Ok(reply::ok(&json!({
        "webSocketUri": format!("{base}/{kind}/{}", ticket.id),
        "password": ticket.password.expose(),
    })))
}

/// The password in the header, bare or as a bearer's.
fn header_password(call: &Call) -> Option<&str> {
    let value = call.parts.headers.get(AUTHORIZATION)?.to_str().ok()?;
    let bare = match value.split_once(' ') {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer") => rest,
        _ => value,
    };
    Some(bare.trim())
}

/// The request that becomes a WebSocket. Any that could become one uses the session up, whether its
/// password is right or not.
async fn socket(mut call: Call) -> ArmResult<Response> {
    let upgrade = WebSocketUpgrade::from_request_parts(&mut call.parts, &())
        .await
        .map_err(|rejection| {
            ArmError::new(
                StatusCode::UPGRADE_REQUIRED,
                "UpgradeRequired",
                format!("This address is for a WebSocket: {rejection}"),
            )
            .header(http::header::UPGRADE, "websocket")
        })?;
    let refused = || {
        ArmError::unauthenticated(
            "The session is unknown, was used, has expired, or its password is wrong.",
        )
    };
    let now = call.front.engine.clock().now();
    let session = call
        .front
        .sessions
        .take(call.value("session"), now)
        .ok_or_else(refused)?;
    let known = match header_password(&call) {
        Some(password) if session.accepts(password) => true,
        Some(_) => return Err(refused()),
        None if session.work == Work::Attach => return Err(refused()),
        None => false,
    };
    let front = Arc::clone(&call.front);
    let upgrade = upgrade
        .protocols([CONTROL])
        .max_message_size(LARGEST)
        .max_frame_size(LARGEST);
    let tracker = front.streams.clone();
    Ok(upgrade.on_upgrade(move |socket| {
        tracker.track_future(async move {
            let control = socket.protocol().is_some_and(|p| p == CONTROL);
            let (sink, stream) = socket.split();
            let end = front.closing.clone();
            let talk = Talk {
                control,
                sink,
                stream,
            };
            tokio::select! {
                () = end.cancelled() => {}
                () = talk.run(&front, session, known) => {}
            }
        })
    }))
}

/// One WebSocket.
struct Talk {
    control: bool,
    sink: SplitSink<WebSocket, Message>,
    stream: SplitStream<WebSocket>,
}

/// What the other end is told at last.
struct Goodbye {
    code: u16,
    reason: String,
}

impl Goodbye {
    fn new(code: u16, reason: impl Into<String>) -> Self {
        let mut reason: String = reason.into();
        // A close frame holds 125 bytes, two of them for the code.
        while reason.len() > 123 {
            reason.pop();
        }
        Self { code, reason }
    }
}

/// The connection is gone.
struct Gone;

impl Talk {
    async fn run(mut self, front: &Front, session: Session, known: bool) {
        let goodbye = if known || self.password(&session).await {
            match self.work(front, &session).await {
                Ok(goodbye) => goodbye,
                Err(Gone) => return,
            }
        } else {
            Goodbye::new(close_code::POLICY, "the password is wrong or late")
        };
        let close = Message::Close(Some(CloseFrame {
            code: goodbye.code,
            reason: goodbye.reason.into(),
        }));
        if self.sink.send(close).await.is_ok() {
            // Until the client has closed, too; what it still sends is not looked at.
            let _ = tokio::time::timeout(GOODBYE, async {
                while let Some(Ok(_)) = self.stream.next().await {}
            })
            .await;
        }
    }

    /// The password as the first frame.
    async fn password(&mut self, session: &Session) -> bool {
        let first = tokio::time::timeout(FIRST_FRAME, self.stream.next()).await;
        match first {
            Ok(Some(Ok(Message::Text(text)))) => session.accepts(text.trim()),
            Ok(Some(Ok(Message::Binary(bytes)))) => {
                std::str::from_utf8(&bytes).is_ok_and(|text| session.accepts(text.trim()))
            }
            _ => false,
        }
    }

    async fn work(&mut self, front: &Front, session: &Session) -> Result<Goodbye, Gone> {
        let container = front
            .engine
            .get(&session.group)
            .and_then(|group| group.container(&session.container));
        let container = match container {
            Ok(container) => container,
            Err(error) => return self.failed(&error).await,
        };
        match &session.work {
            Work::Attach => self.attach(&container).await,
            Work::Exec { argv, size } => {
                let options = ExecOptions {
                    command: argv.clone(),
                    terminal: Some(*size),
                    stdin: true,
                    ..Default::default()
                };
                match container.exec(options).await {
                    Ok(process) => self.exec(process).await,
                    Err(error) => self.failed(&error).await,
                }
            }
        }
    }

    async fn send(&mut self, message: Message) -> Result<(), Gone> {
        self.sink.send(message).await.map_err(|_| Gone)
    }

    /// What could not be begun: the reason as output, for people, and as a close. A program that is
    /// not there ends like one that said so, with 127 or 126, as in a shell.
    async fn failed(&mut self, error: &Error) -> Result<Goodbye, Gone> {
        let text = format!("{}\r\n", error.message());
        self.send(Message::Binary(text.into())).await?;
        match error.program_exit_code() {
            Some(code) => self.exited(code, None).await,
            None => Ok(Goodbye::new(
                close_code::ERROR,
                error
                    .aci_code()
                    .unwrap_or("the process could not be started"),
            )),
        }
    }

    async fn exited(&mut self, code: i32, signal: Option<Signal>) -> Result<Goodbye, Gone> {
        let mut exit = json!({"exitCode": code});
        if let Some(signal) = signal {
            exit["signal"] = json!(signal.to_string());
        }
        if self.control {
            self.send(Message::Text(exit.to_string().into())).await?;
        }
        Ok(Goodbye::new(close_code::NORMAL, exit.to_string()))
    }

    /// Output only, line by line as it is logged.
    async fn attach(&mut self, container: &ContainerHandle) -> Result<Goodbye, Gone> {
        let mut lines = match container.attach().await {
            Ok(lines) => lines,
            Err(error) => return self.failed(&error).await,
        };
        let mut ping = tokio::time::interval(PING);
        loop {
            tokio::select! {
                line = lines.next() => match line {
                    Some(Ok(line)) => {
                        let mut bytes = line.line.to_vec();
                        if !line.partial {
                            bytes.push(b'\n');
                        }
                        self.send(Message::Binary(bytes.into())).await?;
                    }
                    Some(Err(error)) => return self.failed(&error).await,
                    None => return Ok(Goodbye::new(close_code::NORMAL, "")),
                },
                message = self.stream.next() => match message {
                    None | Some(Err(_) | Ok(Message::Close(_))) => return Err(Gone),
                    Some(Ok(_)) => {}
                },
                _ = ping.tick() => self.send(Message::Ping(Bytes::new())).await?,
            }
        }
    }

    async fn exec(&mut self, process: Process) -> Result<Goodbye, Gone> {
        let Process {
            mut stdin,
            mut stdout,
            control: process,
            ..
        } = process;
        let with_control = self.control;
        let (sink, stream) = (&mut self.sink, &mut self.stream);
        // Output and input go their own ways, so that neither waits for the other.
        let output = async {
            let mut buffer = vec![0; 16 << 10];
            let mut ping = tokio::time::interval(PING);
            let mut last: Option<tokio::time::Instant> = None;
            loop {
                let over = async {
                    match last {
                        Some(at) => tokio::time::sleep_until(at).await,
                        None => {
                            // A process of the background may hold the terminal for long.
                            let _ = process.wait().await;
                        }
                    }
                };
                tokio::select! {
                    biased;
                    read = stdout.read(&mut buffer) => match read {
                        Ok(n) if n > 0 => {
                            let bytes = Bytes::copy_from_slice(&buffer[..n]);
                            sink.send(Message::Binary(bytes)).await.map_err(|_| Gone)?;
                        }
                        _ => break,
                    },
                    () = over => match last {
                        None => last = Some(tokio::time::Instant::now() + LAST_OUTPUT),
                        Some(_) => break,
                    },
                    _ = ping.tick() => sink.send(Message::Ping(Bytes::new())).await.map_err(|_| Gone)?,
                }
            }
            Ok(process.wait().await)
        };
        let input = async {
            loop {
                let bytes = match stream.next().await {
                    None | Some(Err(_) | Ok(Message::Close(_))) => return Gone,
                    Some(Ok(Message::Binary(bytes))) => bytes,
                    Some(Ok(Message::Text(text))) if with_control => {
                        match Control::read(&text) {
                            Some(Control::Resize(size)) => {
                                let _ = process.resize(size).await;
                            }
                            Some(Control::Signal(signal)) => {
                                let _ = process.signal(signal).await;
                            }
                            Some(Control::Eof) => stdin = None,
                            // What a later client knows more is not for us.
                            None => {}
                        }
                        continue;
                    }
                    Some(Ok(Message::Text(text))) => Bytes::from(text),
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                };
                if let Some(open) = &mut stdin
                    && (open.write_all(&bytes).await.is_err() || open.flush().await.is_err())
                {
                    stdin = None;
                }
            }
        };
        let ended = tokio::select! {
            ended = output => ended?,
            // The process sees a hang-up when its terminal is closed.
            gone = input => return Err(gone),
        };
        match ended {
            Ok(status) => self.exited(status.code, status.signal).await,
            Err(error) => self.failed(&error).await,
        }
    }
}

/// A message of a client that speaks [`CONTROL`].
#[derive(Debug, PartialEq, Eq)]
enum Control {
    Resize(TerminalSize),
    Signal(Signal),
    Eof,
}

impl Control {
    fn read(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        if let Some(given) = value.get("resize") {
            return size(given, "", false).ok().map(Self::Resize);
        }
        if let Some(name) = value.get("signal") {
            return Signal::from_str(name.as_str()?).ok().map(Self::Signal);
        }
        (value.get("eof") == Some(&Value::Bool(true))).then_some(Self::Eof)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_messages_are_read_and_unknown_ones_left() {
        let read = Control::read;
        let size = TerminalSize {
            rows: 50,
            cols: 132,
        };
        assert_eq!(
            read(r#"{"resize": {"rows": 50, "cols": 132}}"#),
            Some(Control::Resize(size))
        );
        assert_eq!(
            read(r#"{"signal": "SIGINT"}"#),
            Some(Control::Signal(Signal::INT))
        );
        assert_eq!(read(r#"{"eof": true}"#), Some(Control::Eof));
        for text in [
            "",
            "ls\n",
            "{}",
            "[]",
            r#"{"resize": {"rows": 0}}"#,
            r#"{"resize": {"rows": 70000}}"#,
            r#"{"signal": "SIGNOPE"}"#,
            r#"{"eof": 1}"#,
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn a_reason_fits_its_frame() {
        assert_eq!(Goodbye::new(1000, "x".repeat(500)).reason.len(), 123);
        assert!(Goodbye::new(1000, "\u{e4}".repeat(500)).reason.len() <= 123);
    }
}
