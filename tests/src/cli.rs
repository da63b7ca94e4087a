//! Calling `symbolon`, and any other program with a deadline.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{Read, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use symbolon_protocol::identity::{PublicKey, Signature};

use crate::binary;

/// How long one command may run. Making a key may take three attempts of ten seconds.
const COMMAND: Duration = Duration::from_secs(90);

/// What came of a command.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command, for messages.
    pub line: String,
    /// Exit code; 128 and more for a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
}

impl Output {
    /// Checks the exit code.
    ///
    /// # Panics
    /// When it is another one.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert!(self.code == code, "exit code {} where {code} is expected\n{self}", self.code);
        self
    }
    /// Standard output as text, without white space at its ends.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }
    /// Standard output as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("no JSON on standard output: {error}\n{self}"))
    }
    /// The object `error` on standard error.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    #[must_use]
    pub fn error(&self) -> Value {
        let object =
            self.stderr.find('{').zip(self.stderr.rfind('}')).and_then(|(from, to)| self.stderr.get(from..=to));
        let parsed = object.and_then(|text| serde_json::from_str::<Value>(text).ok());
        match parsed.and_then(|value| value.get("error").cloned()) {
            Some(error) => error,
            None => panic!("no JSON error on standard error\n{self}"),
        }
    }
    /// `error.code` on standard error.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    #[must_use]
    pub fn error_code(&self) -> String {
        self.error()["code"].as_str().unwrap_or_else(|| panic!("an error without a code\n{self}")).to_owned()
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "$ {}    (exit code {}, {:.2} s)", self.line, self.code, self.took.as_secs_f64())?;
        match std::str::from_utf8(&self.stdout) {
            Ok(text) => writeln!(f, "standard output: {}", text.get(..2000).unwrap_or(text))?,
            Err(_) => writeln!(f, "standard output: {} bytes", self.stdout.len())?,
        }
        write!(f, "standard error: {}", self.stderr)
    }
}

/// Runs a command to its end.
///
/// # Panics
/// When it cannot be started, or does not end within `limit`.
#[track_caller]
pub fn run(command: &mut Command, stdin: &[u8], limit: Duration) -> Output {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_os_string();
    let words = std::iter::once(program.as_os_str()).chain(command.get_args());
    let line = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");

    let begin = Instant::now();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start `{line}`: {error}"));
    let (mut pipe, input) = (child.stdin.take().unwrap(), stdin.to_vec());
    // A command that does not read its input is fine.
    let feeder = spawn(move || {
        let _ = pipe.write_all(&input);
    });
    let (stdout, stderr) = (drain(child.stdout.take().unwrap()), drain(child.stderr.take().unwrap()));
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begin.elapsed() > limit {
            let _ = child.kill();
            let _ = child.wait();
            let said = String::from_utf8_lossy(&stderr.join().unwrap()).into_owned();
            panic!("`{line}` did not end within {limit:?}; it said: {said}");
        }
        sleep(Duration::from_millis(5));
    };
    feeder.join().unwrap();
    Output {
        line,
        code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
        stdout: stdout.join().unwrap(),
        stderr: String::from_utf8_lossy(&stderr.join().unwrap()).into_owned(),
        took: begin.elapsed(),
    }
}

fn drain(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    spawn(move || {
        let mut all = Vec::new();
        let _ = from.read_to_end(&mut all);
        all
    })
}

/// `symbolon` with its environment: whose identity, which cluster, which nodes.
#[derive(Debug, Clone)]
pub struct Cli {
    environment: BTreeMap<String, OsString>,
}

impl Cli {
    /// With the environment that `dev init` wrote, and a home of its own.
    #[must_use]
    pub fn new(environment: &BTreeMap<String, String>, home: &Path) -> Self {
        let mut all: BTreeMap<String, OsString> =
            environment.iter().map(|(name, value)| (name.clone(), value.into())).collect();
        for (name, under) in
            [("HOME", ""), ("XDG_STATE_HOME", "state"), ("XDG_CONFIG_HOME", "config"), ("XDG_CACHE_HOME", "cache")]
        {
            all.insert(name.to_owned(), home.join(under).into());
        }
        Self { environment: all }
    }
    /// The same with another value of a variable.
    #[must_use]
    pub fn with(&self, name: &str, value: impl Into<OsString>) -> Self {
        let mut other = self.clone();
        other.environment.insert(name.to_owned(), value.into());
        other
    }
    /// The same as another client.
    #[must_use]
    pub fn identity(&self, path: &Path) -> Self {
        self.with("SYMBOLON_IDENTITY", path)
    }
    /// The same, asking these nodes in this order.
    #[must_use]
    pub fn endpoints(&self, endpoints: &[String]) -> Self {
        self.with("SYMBOLON_ENDPOINTS", endpoints.join(","))
    }
    /// A variable of the environment, as a path.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.environment.get(name).map(PathBuf::from).unwrap_or_default()
    }
    /// The command, not started.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("symbolon"));
        for name in ["SYMBOLON_GENESIS", "SYMBOLON_IDENTITY", "SYMBOLON_ENDPOINTS"] {
            command.env_remove(name);
        }
        command.envs(&self.environment).args(arguments);
        command
    }
    /// Runs it.
    #[track_caller]
    pub fn call(&self, arguments: &[&str]) -> Output {
        run(&mut self.command(arguments), b"", COMMAND)
    }
    /// Runs it with something on standard input.
    #[track_caller]
    pub fn feed(&self, stdin: &[u8], arguments: &[&str]) -> Output {
        run(&mut self.command(arguments), stdin, COMMAND)
    }
    /// Runs it; it must succeed.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> Output {
        self.call(arguments).exits(0)
    }
    /// Runs it with `-o json`; it must succeed.
    #[track_caller]
    #[must_use]
    pub fn json(&self, arguments: &[&str]) -> Value {
        self.ok(&[arguments, &["-o", "json"]].concat()).json()
    }
    /// Runs it with `-o json`; it must fail with this exit code and this code of the error table.
    #[track_caller]
    pub fn refused(&self, exit: i32, code: &str, arguments: &[&str]) -> Output {
        let output = self.call(&[arguments, &["-o", "json"]].concat()).exits(exit);
        assert!(output.error_code() == code, "error code {} where {code} is expected\n{output}", output.error_code());
        output
    }
    /// Asks for a signature over a message.
    #[track_caller]
    pub fn sign(&self, key: &str, message: &[u8]) -> Output {
        self.feed(message, &["sign", key, "-", "-o", "json"])
    }
    /// The state of a version of a key, as `key show` tells it.
    #[track_caller]
    #[must_use]
    pub fn state(&self, key: &str, version: u64) -> String {
        let shown = self.json(&["key", "show", key]);
        let versions = shown["versions"].as_array().unwrap_or_else(|| panic!("`key show` names no versions: {shown}"));
        let of = versions.iter().find(|one| one["version"] == version);
        let of = of.unwrap_or_else(|| panic!("`key show` does not name version {version}: {shown}"));
        of["state"].as_str().unwrap_or_else(|| panic!("a version without a state: {shown}")).to_owned()
    }
}

/// The public key of a version of a key, exported by `symbolon`.
///
/// # Panics
/// When it cannot be exported.
#[track_caller]
#[must_use]
pub fn public_key(cli: &Cli, key: &str, version: Option<u64>) -> PublicKey {
    let number = version.map(|v| v.to_string()).unwrap_or_default();
    let mut arguments = vec!["key", "export-public", key, "--format", "raw"];
    if version.is_some() {
        arguments.extend(["--version", &number]);
    }
    let output = cli.ok(&arguments);
    let bytes: &[u8; 32] = output.stdout.as_slice().try_into().unwrap_or_else(|_| panic!("not 32 bytes\n{output}"));
    PublicKey::from_bytes(bytes).unwrap_or_else(|error| panic!("no public key: {error}\n{output}"))
}

/// The signature in the answer of `sign -o json`.
///
/// # Panics
/// When there is none.
#[track_caller]
#[must_use]
pub fn signature_of(answer: &Value) -> Signature {
    let text = answer["signature"].as_str().unwrap_or_else(|| panic!("no signature in {answer}"));
    let bytes = STANDARD.decode(text).unwrap_or_else(|error| panic!("the signature is not base64: {error}: {answer}"));
    Signature::from_bytes(bytes.try_into().unwrap_or_else(|_| panic!("the signature has not 64 bytes: {answer}")))
}

/// Signs a message and checks the signature here, without the client.
///
/// # Panics
/// When there is no signature, or a wrong one.
#[track_caller]
pub fn assert_signs(cli: &Cli, key: &str, public: &PublicKey, message: &[u8]) -> Value {
    let answer = cli.sign(key, message).exits(0).json();
    assert!(public.verifies_raw(message, &signature_of(&answer)), "a wrong signature: {answer}");
    answer
}
