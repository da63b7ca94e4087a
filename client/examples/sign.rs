//! Signs a file with a key of a cluster and prints the signature in base64.
//!
//! ```text
//! SYMBOLON_GENESIS=genesis SYMBOLON_IDENTITY=admin/identity SYMBOLON_ENDPOINTS=127.0.0.1:7001,127.0.0.1:7002 sign KEY FILE
//! ```

use std::error::Error;
use std::io::Write as _;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use symbolon_client::{Client, Config, Name};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [key, file] = arguments.as_slice() else { return Err("usage: sign KEY FILE".into()) };

    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from).ok_or_else(|| format!("{name} is not set"));
    let mut config = Config::load(&variable("SYMBOLON_GENESIS")?, &variable("SYMBOLON_IDENTITY")?)?;
    if let Ok(endpoints) = std::env::var("SYMBOLON_ENDPOINTS") {
        config.endpoints = endpoints.split(',').map(str::to_owned).collect();
    }
    let client = Client::connect(config).await?;

    // The signature was verified under the certified key before it came back.
    let signed = client.sign(&Name::new(key)?, &std::fs::read(file)?).await?;
    for signature in &signed.signatures {
        writeln!(std::io::stdout(), "{}", STANDARD.encode(signature.as_bytes()))?;
    }
    let holders: Vec<String> = signed.holders.iter().map(|node| client.node_name(*node)).collect();
    writeln!(std::io::stderr(), "version {} signed, by {}", signed.version, holders.join(", "))?;
    Ok(())
}
