//! A very small shell, so that documents with `sh -c "..."` run in simulation.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

use super::program::{FakeProcess, Program};

/// `sh -c SCRIPT`: simple commands with `;`, `&&`, `||` and line ends between them, quotes,
/// `$NAME`, `> FILE`, `>> FILE`, and `exit`. Nothing else of a shell's language.
pub(super) fn program() -> Arc<dyn Program> {
    Arc::new(|process: FakeProcess| async move { run(process).await.unwrap_or(141) })
}

/// A piece of a script.
#[derive(Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    /// `;` or a line end, `&&`, `||`, `>`, `>>`.
    Operator(&'static str),
}

async fn run(mut shell: FakeProcess) -> io::Result<i32> {
    let (Some("-c"), Some(script)) = (shell.arg(1), shell.arg(2)) else {
        shell
            .complain("sh: only 'sh -c SCRIPT' is known in simulation")
            .await?;
        return Ok(2);
    };
    let tokens = match tokens(script, |name| {
        shell.env.get(name).map(|value| value.expose().to_owned())
    }) {
        Ok(tokens) => tokens,
        Err(why) => {
            shell.complain(&format!("sh: {why}")).await?;
            return Ok(2);
        }
    };
    let mut code = 0;
    let mut rest = tokens.as_slice();
    let mut joint = ";";
    while !rest.is_empty() {
        let end = rest
            .iter()
            .position(|t| matches!(t, Token::Operator(";" | "&&" | "||")))
            .unwrap_or(rest.len());
        let command = &rest[..end];
        let wanted = match joint {
            "&&" => code == 0,
            "||" => code != 0,
            _ => true,
        };
        if wanted && !command.is_empty() {
            match simple(&mut shell, command, code).await? {
                Outcome::Code(new) => code = new,
                Outcome::Exit(new) => return Ok(new),
            }
        }
        joint = match rest.get(end) {
            Some(Token::Operator(operator)) => operator,
            _ => ";",
        };
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    Ok(code)
}

enum Outcome {
    Code(i32),
    Exit(i32),
}

/// Runs one command, inside the shell's own process.
async fn simple(shell: &mut FakeProcess, command: &[Token], last: i32) -> io::Result<Outcome> {
    let mut args = Vec::new();
    let mut target = None;
    let mut tokens = command.iter();
    while let Some(token) = tokens.next() {
        match (token, &target) {
            (Token::Word(word), _) => args.push(word.clone()),
            (Token::Operator(operator), None) => match tokens.next() {
                Some(Token::Word(path)) => target = Some((path.clone(), *operator == ">>")),
                _ => {
                    shell.complain("sh: a file is missing after '>'").await?;
                    return Ok(Outcome::Exit(2));
                }
            },
            (Token::Operator(_), Some(_)) => {
                shell.complain("sh: one '>' a command at most").await?;
                return Ok(Outcome::Exit(2));
            }
        }
    }
    let Some(name) = args.first() else {
        return Ok(Outcome::Code(0));
    };
    if name == "exit" {
        let code = args.get(1).and_then(|code| code.parse().ok());
        return Ok(Outcome::Exit(code.unwrap_or(last)));
    }
    let base = name.rsplit('/').next().unwrap_or(name);
    let Some(program) = shell.sandbox.world.program(base) else {
        shell.complain(&format!("sh: {name}: not found")).await?;
        return Ok(Outcome::Code(127));
    };
    let (mut reader, writer) = tokio::io::duplex(64 * 1024);
    let (mut err_reader, err_writer) = tokio::io::duplex(64 * 1024);
    let child = FakeProcess {
        args,
        env: shell.env.clone(),
        cwd: shell.cwd.clone(),
        user: shell.user.clone(),
        stdin: std::mem::replace(&mut shell.stdin, Box::new(tokio::io::empty())),
        stdout: Box::new(writer),
        stderr: Box::new(err_writer),
        sandbox: Arc::clone(&shell.sandbox),
        container: Arc::clone(&shell.container),
        state: Arc::clone(&shell.state),
        tasks: JoinSet::new(),
    };
    let mut captured = Vec::new();
    let to_file = target.is_some();
    let stdout = async {
        if to_file {
            tokio::io::copy(&mut reader, &mut captured).await?;
        } else {
            tokio::io::copy(&mut reader, &mut shell.stdout).await?;
            shell.stdout.flush().await?;
        }
        Ok::<(), io::Error>(())
    };
    let stderr = async {
        tokio::io::copy(&mut err_reader, &mut shell.stderr).await?;
        shell.stderr.flush().await
    };
    let (code, out, err) = futures_util::future::join3(program.run(child), stdout, stderr).await;
    // What it caught goes back to the default actions.
    shell.state.release();
    out?;
    err?;
    if let Some((path, append)) = target {
        let path = if path.starts_with('/') {
            path
        } else {
            format!("{}/{path}", shell.cwd)
        };
        let mut content = Vec::new();
        if append {
            content.extend_from_slice(&shell.read_file(&path).unwrap_or_default());
        }
        content.append(&mut captured);
        if let Err(e) = shell.write_file(&path, Bytes::from(content)) {
            shell.complain(&format!("sh: {path}: {e}")).await?;
            return Ok(Outcome::Code(1));
        }
    }
    Ok(Outcome::Code(code))
}

/// Cuts a script into words and operators, with variables filled in.
fn tokens(
    script: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Vec<Token>, &'static str> {
    let mut tokens = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = script.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\'' | '"', Some(open)) if c == open => quote = None,
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            ('\\', None | Some('"')) => word.get_or_insert_default().extend(chars.next()),
            ('$', None | Some('"')) => {
                let braces = chars.next_if_eq(&'{').is_some();
                let mut name = String::new();
                while let Some(c) = chars.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
                    name.push(c);
                }
                if braces && chars.next_if_eq(&'}').is_none() {
                    return Err("only ${NAME} is known of ${...}");
                }
                let word = word.get_or_insert_default();
                if name.is_empty() {
                    word.push('$');
                } else {
                    word.push_str(&variable(&name).unwrap_or_default());
                }
            }
            (c, Some(_)) => word.get_or_insert_default().push(c),
            ('#', None) if word.is_none() => while chars.next_if(|c| *c != '\n').is_some() {},
            (' ' | '\t' | '\n' | ';' | '&' | '|' | '>', None) => {
                tokens.extend(word.take().map(Token::Word));
                match c {
                    ';' | '\n' => tokens.push(Token::Operator(";")),
                    '>' if chars.next_if_eq(&'>').is_some() => tokens.push(Token::Operator(">>")),
                    '>' => tokens.push(Token::Operator(">")),
                    '&' if chars.next_if_eq(&'&').is_some() => tokens.push(Token::Operator("&&")),
                    '|' if chars.next_if_eq(&'|').is_some() => tokens.push(Token::Operator("||")),
                    '&' => return Err("'&' is not known in simulation"),
                    '|' => return Err("pipes are not known in simulation"),
                    _ => {}
                }
            }
            ('<' | '(' | ')' | '`', None) => {
                return Err(
                    "redirected input, subshells and substitution are not known in simulation",
                );
            }
            (c, None) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed");
    }
    tokens.extend(word.map(Token::Word));
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_cut_as_a_shell_cuts_them() {
        let vars = |name: &str| (name == "A").then(|| "x y".to_owned());
        let word = |text: &str| Token::Word(text.to_owned());
        assert_eq!(
            tokens("echo \"a $A\" 'b;$A' ${A}>> /f && exit 3 # end", vars).unwrap(),
            [
                word("echo"),
                word("a x y"),
                word("b;$A"),
                word("x y"),
                Token::Operator(">>"),
                word("/f"),
                Token::Operator("&&"),
                word("exit"),
                word("3"),
            ]
        );
        for bad in ["a | b", "a &", "echo 'x", "$(x)", "a < b", "${A:-b}"] {
            assert!(tokens(bad, vars).is_err(), "{bad}");
        }
    }
}
