//! The trace: a running SHA-256 over everything that happens. Two runs with one hash did the same things in the same order.

use sha2::{Digest as _, Sha256};

/// The running hash, and the lines behind it when somebody wants to read them.
pub(crate) struct Trace {
    state: [u8; 32],
    lines: Option<Vec<String>>,
}

/// SHA-256 of bytes.
pub(crate) fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

impl Trace {
    pub(crate) fn new(keep_lines: bool) -> Self {
        Self { state: [0; 32], lines: keep_lines.then(Vec::new) }
    }

    /// Adds an event.
    pub(crate) fn record(&mut self, step: u64, at_ms: u64, node: u16, kind: &str, payload: &[u8; 32]) {
        let hash = Sha256::new()
            .chain_update(self.state)
            .chain_update(step.to_be_bytes())
            .chain_update(at_ms.to_be_bytes())
            .chain_update(node.to_be_bytes())
            .chain_update((kind.len() as u64).to_be_bytes())
            .chain_update(kind.as_bytes())
            .chain_update(payload);
        self.state = hash.finalize().into();
        if let Some(lines) = &mut self.lines {
            let short = hex::encode(payload.get(..4).unwrap_or_default());
            lines.push(format!("{step:>7} {at_ms:>8} ms  node {node}  {kind}  {short}"));
        }
    }

    pub(crate) fn hash(&self) -> String {
        hex::encode(self.state)
    }

    pub(crate) fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }
}
