//! "Are you well?", over a Unix socket that only local users reach: no identity is needed, nothing but the answer is told.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

/// Answers every connection with one line until the program ends.
///
/// # Errors
/// When the socket cannot be made.
pub fn serve(path: PathBuf, state: impl Fn() -> Result<String, String> + Send + 'static) -> io::Result<()> {
    // Left over from a process that was killed.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((mut stream, _)) => {
                    let line = match state() {
                        Ok(text) => format!("ok {text}\n"),
                        Err(text) => format!("unwell {text}\n"),
                    };
                    // Whoever asked and left does not need the answer.
                    let _ = stream.write_all(line.as_bytes()).await;
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    });
    Ok(())
}

/// Asks a node on this machine.
///
/// # Errors
/// What is wrong: the node does not run, does not answer, or is not well.
pub async fn ask(path: &Path) -> Result<String, String> {
    let asked = async {
        let connected = UnixStream::connect(path).await;
        let mut stream = connected.map_err(|e| format!("the node does not run ({}: {e})", path.display()))?;
        let mut line = String::new();
        stream.read_to_string(&mut line).await.map_err(|e| e.to_string())?;
        match line.trim().split_once(' ') {
            Some(("ok", text)) => Ok(text.to_owned()),
            _ => Err(line.trim().to_owned()),
        }
    };
    match tokio::time::timeout(Duration::from_secs(2), asked).await {
        Ok(result) => result,
        Err(_) => Err(format!("{}: no answer", path.display())),
    }
}
