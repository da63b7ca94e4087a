//! What bad input gets: a clear error with the right code, and nothing lost.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::id::{ClusterId, KeyId, Name};
use symbolon_protocol::identity::{Identity, PublicKey, Signature};
use symbolon_protocol::limits;
use symbolon_protocol::request::{Action, Grant, MessageDigest, Role, SignatureRole, SignedRequest};
use symbolon_tests::{
    Cli, Cluster, PATIENCE, Random, Raw, assert_signs, body, now_ms, public_key, sign_body, wait_until,
};

/// The cluster with one key, `release`, and somebody who may sign with it.
struct Scene {
    cluster: Cluster,
    key: KeyId,
    public: PublicKey,
    signer: Cli,
    identity: Identity,
    raw: Raw,
}

impl Scene {
    fn new() -> Self {
        let cluster = Cluster::start(3);
        let admin = cluster.cli();
        admin.ok(&["key", "create", "release", "--threshold", "2"]);
        let (signer, identity) = cluster.new_client("signer", "signer", "release*");
        let public = public_key(admin, "release", None);
        let answer = assert_signs(&signer, "release", &public, b"first");
        let key = answer["key_id"].as_str().unwrap().parse().unwrap();
        let raw = Raw::connect(cluster.genesis(), &cluster.endpoint(1));
        Self { cluster, key, public, signer, identity, raw }
    }
    /// Asks node1 for a signature over `message` with a body that was changed and then signed.
    fn sign_changed(
        &mut self,
        message: &[u8],
        change: impl FnOnce(&mut symbolon_protocol::request::RequestBody),
    ) -> ErrorCode {
        let mut body = sign_body(self.cluster.genesis(), &self.identity, self.key, message);
        change(&mut body);
        let request = SignedRequest::sign(&body, &self.identity);
        code(self.raw.sign(&request, &[message]))
    }
    /// Nothing that was refused left a trace.
    fn still_works(&self) {
        assert_signs(&self.signer, "release", &self.public, b"still works");
    }
}

#[track_caller]
fn code<T>(answer: Result<T, Refusal>) -> ErrorCode {
    match answer {
        Err(refusal) => refusal.code,
        Ok(_) => panic!("this should have been refused"),
    }
}

#[test]
fn bad_requests_are_refused_by_name_and_change_nothing() {
    let mut scene = Scene::new();
    the_good_request_passes(&mut scene);
    strangers_and_the_unauthorised(&mut scene);
    times(&mut scene);
    tampered(&mut scene);
    replayed(&mut scene);
    other_clusters(&mut scene);
    unknown_and_taken(&scene);
    oversized(&mut scene);
    garbage(&scene);
    scene.still_works();
}

fn the_good_request_passes(scene: &mut Scene) {
    let message = b"a request made by hand";
    let body = sign_body(scene.cluster.genesis(), &scene.identity, scene.key, message);
    let reply = scene.raw.sign(&SignedRequest::sign(&body, &scene.identity), &[message]).unwrap();
    let signature: [u8; 64] = reply.signatures[0].as_ref().try_into().unwrap();
    assert!(scene.public.verifies_raw(message, &Signature::from_bytes(signature)));
}

fn strangers_and_the_unauthorised(scene: &mut Scene) {
    let cluster = &scene.cluster;
    let (path, stranger) = cluster.new_identity("stranger");
    let as_stranger = cluster.cli().identity(&path);
    for arguments in
        [&["sign", "release", path.to_str().unwrap()][..], &["key", "list"], &["key", "create", "mine"], &["status"]]
    {
        as_stranger.refused(3, "unknown_client", arguments);
    }
    let request = SignedRequest::sign(&sign_body(cluster.genesis(), &stranger, scene.key, b"x"), &stranger);
    assert_eq!(code(scene.raw.sign(&request, &[b"x"])), ErrorCode::UnknownClient);

    // A signer makes no keys, an auditor signs nothing, and nobody reaches beyond the pattern.
    let file = cluster.scratch("file");
    fs::write(&file, "x").unwrap();
    let file = file.to_str().unwrap();
    cluster.cli().ok(&["key", "create", "other"]);
    let (auditor, _) = cluster.new_client("auditor", "auditor", "*");
    let (keeper, _) = cluster.new_client("keeper", "key-admin", "team/*");
    auditor.ok(&["key", "show", "release"]);
    for (who, arguments) in [
        (&scene.signer, &["key", "create", "release2"][..]),
        (&scene.signer, &["key", "revoke", "release", "--reason", "no right to"]),
        (&scene.signer, &["sign", "other", file]),
        (
            &scene.signer,
            &[
                "client",
                "add",
                "friend",
                "--public-key",
                &stranger.public().to_string(),
                "--role",
                "admin",
                "--key",
                "*",
            ],
        ),
        (&auditor, &["sign", "release", file]),
        (&auditor, &["key", "rotate", "release"]),
        (&keeper, &["key", "create", "release3"]),
        (&keeper, &["key", "suspend", "release"]),
        (&keeper, &["client", "remove", "auditor"]),
    ] {
        who.refused(3, "permission_denied", arguments);
    }
    keeper.ok(&["key", "create", "team/one"]);

    // A right ends with the client.
    cluster.cli().ok(&["client", "remove", "auditor"]);
    wait_until("the removed client to be unknown everywhere", PATIENCE, || {
        (1..=3).all(|node| auditor.endpoints(&[cluster.endpoint(node)]).call(&["key", "show", "release"]).code == 3)
    });
    assert_eq!(cluster.cli().state("release", 1), "active");
    scene.still_works();
}

fn times(scene: &mut Scene) {
    let now = now_ms();
    let expired =
        scene.sign_changed(b"late", |body| (body.not_before_ms, body.expires_ms) = (now - 120_000, now - 60_000));
    assert_eq!(expired, ErrorCode::RequestExpired);
    let early =
        scene.sign_changed(b"early", |body| (body.not_before_ms, body.expires_ms) = (now + 60_000, now + 120_000));
    assert_eq!(early, ErrorCode::RequestNotYetValid);
    let long = scene.sign_changed(b"long", |body| body.expires_ms = now + limits::REQUEST_LIFETIME_MS + 60_000);
    assert_eq!(long, ErrorCode::InvalidArgument);

    // An ordered request is looked at when it is applied, on every node alike.
    let admin = scene.cluster.administrator();
    let mut late = body(scene.cluster.genesis(), &admin, add("late", &admin_like()));
    (late.not_before_ms, late.expires_ms) = (now - 120_000, now - 60_000);
    assert_eq!(code(scene.raw.order(&SignedRequest::sign(&late, &admin))), ErrorCode::RequestExpired);
}

/// A key for a client that is never used.
fn admin_like() -> PublicKey {
    Identity::from_seed(&[9; 32]).public()
}

fn add(name: &str, key: &PublicKey) -> Action {
    let grant = Grant { role: Role::Auditor, keys: "*".to_owned() };
    Action::AddClient { name: Name::new(name).unwrap(), key: *key, grant }
}

fn tampered(scene: &mut Scene) {
    let message = b"what was asked for";
    let body = sign_body(scene.cluster.genesis(), &scene.identity, scene.key, message);
    let request = SignedRequest::sign(&body, &scene.identity);

    // Another message beside the same body: what the client signed does not name it.
    assert_eq!(code(scene.raw.sign(&request, &[b"what was not asked."])), ErrorCode::BadSignature);
    assert_eq!(code(scene.raw.sign(&request, &[])), ErrorCode::BadSignature);
    assert_eq!(code(scene.raw.sign(&request, &[message, message])), ErrorCode::BadSignature);

    // Every byte of the body is under the signature.
    let mut random = Random::from_environment("tampered requests");
    for _ in 0..64 {
        let mut changed = request.clone();
        let at = usize::try_from(random.below(changed.body.0.len() as u64)).unwrap();
        changed.body.0[at] ^= 1 << random.below(8);
        let code = code(scene.raw.sign(&changed, &[message]));
        assert!(code.row().exit == 2 || code.row().exit == 3, "byte {at} changed: {code}");
    }
    let mut other = request.clone();
    other.signatures[0].signature = Signature::from_bytes([7; 64]);
    assert_eq!(code(scene.raw.sign(&other, &[message])), ErrorCode::BadSignature);
    // Somebody else's name over one's own signature.
    let mut other = body.clone();
    other.client = scene.cluster.administrator().public();
    assert_eq!(
        code(scene.raw.sign(&SignedRequest::sign(&other, &scene.identity), &[message])),
        ErrorCode::BadSignature
    );
    let mut none = request.clone();
    none.signatures.clear();
    assert_eq!(code(scene.raw.sign(&none, &[message])), ErrorCode::BadSignature);

    // What later versions will know is refused by name.
    let mut approver = request.clone();
    approver.signatures[0].role = SignatureRole::Approver;
    assert_eq!(code(scene.raw.sign(&approver, &[message])), ErrorCode::Unsupported);
    assert_eq!(scene.sign_changed(message, |body| body.payload_type = "ssh".to_owned()), ErrorCode::Unsupported);

    // A request goes the way that its action names, and no other.
    let refused = scene.raw.order(&request);
    assert!(refused.is_err(), "a sign request was ordered");
    let admin = scene.cluster.administrator();
    let ordered = SignedRequest::sign(
        &symbolon_tests::body(scene.cluster.genesis(), &admin, add("sideways", &admin_like())),
        &admin,
    );
    assert!(scene.raw.sign(&ordered, &[]).is_err(), "an ordered request was signed");
    assert!(scene.raw.show_key(&ordered).is_err(), "an ordered request was read");
    scene.still_works();
}

fn replayed(scene: &mut Scene) {
    // Signing: the same request again may get the same answer, never another message under its id.
    let message = b"once";
    let first = sign_body(scene.cluster.genesis(), &scene.identity, scene.key, message);
    let request = SignedRequest::sign(&first, &scene.identity);
    scene.raw.sign(&request, &[message]).unwrap();
    if let Ok(reply) = scene.raw.sign(&request, &[message]) {
        let signature: [u8; 64] = reply.signatures[0].as_ref().try_into().unwrap();
        assert!(scene.public.verifies_raw(message, &Signature::from_bytes(signature)));
    }
    let mut second = first.clone();
    second.messages = vec![MessageDigest::of(b"twice")];
    let second = SignedRequest::sign(&second, &scene.identity);
    assert_eq!(code(scene.raw.sign(&second, &[b"twice"])), ErrorCode::RequestReplayed);
    // Nor by way of another coordinator: two of three holders are needed, and at least one of any two has seen the first.
    for node in 2..=3 {
        let mut raw = Raw::connect(scene.cluster.genesis(), &scene.cluster.endpoint(node));
        assert!(raw.sign(&second, &[b"twice"]).is_err(), "a replayed request was signed by way of node{node}");
    }

    // Ordered: the same request again has the same outcome, another one under its id is refused.
    let admin = scene.cluster.administrator();
    let first = body(scene.cluster.genesis(), &admin, add("replayed", &admin_like()));
    let request = SignedRequest::sign(&first, &admin);
    let once = scene.raw.order(&request).unwrap();
    let again = scene.raw.order(&request).unwrap();
    assert_eq!(once.outcome, again.outcome);
    let mut second = first;
    second.action = add("replayed-2", &admin_like());
    assert_eq!(code(scene.raw.order(&SignedRequest::sign(&second, &admin))), ErrorCode::RequestReplayed);
    let clients = scene.cluster.cli().json(&["client", "list"]).to_string();
    assert!(clients.contains("replayed") && !clients.contains("replayed-2"), "{clients}");
    scene.cluster.cli().ok(&["client", "remove", "replayed"]);
}

fn other_clusters(scene: &mut Scene) {
    let other = scene.sign_changed(b"elsewhere", |body| body.cluster = ClusterId::from_bytes([7; 32]));
    assert_eq!(other, ErrorCode::WrongCluster);

    // A client that follows another genesis does not even talk to these nodes: it does not know their keys.
    let mut genesis = scene.cluster.genesis().clone();
    for (at, member) in genesis.members.values_mut().enumerate() {
        member.key = Identity::from_seed(&[100 + u8::try_from(at).unwrap(); 32]).public();
    }
    let file = scene.cluster.scratch("other-genesis");
    fs::write(&file, genesis.to_file()).unwrap();
    let output = scene.signer.with("SYMBOLON_GENESIS", &file).call(&["status", "-o", "json"]);
    assert!(output.code == 3 || output.code == 4, "{output}");
    // Nor does one whose genesis differs in its salt alone: the nodes are the same, the cluster is not.
    let mut genesis = scene.cluster.genesis().clone();
    genesis.salt[0] ^= 1;
    fs::write(&file, genesis.to_file()).unwrap();
    scene.signer.with("SYMBOLON_GENESIS", &file).refused(3, "wrong_cluster", &["status"]);
}

fn unknown_and_taken(scene: &Scene) {
    let admin = scene.cluster.cli();
    let file = scene.cluster.scratch("file");
    let file = file.to_str().unwrap();
    for arguments in [
        &["sign", "nothing", file][..],
        &["key", "show", "nothing"],
        &["key", "rotate", "nothing"],
        &["key", "suspend", "nothing"],
        &["key", "revoke", "nothing", "--reason", "x"],
        &["key", "destroy", "nothing", "--confirm", "nothing"],
        &["key", "export-public", "nothing", "--format", "pem"],
        &["client", "remove", "nobody"],
    ] {
        admin.refused(5, "not_found", arguments);
    }
    admin.refused(5, "already_exists", &["key", "create", "release", "--threshold", "2"]);
    // The same name for another identity.
    let other = Identity::from_seed(&[11; 32]).public().to_string();
    let add = ["client", "add", "signer", "--public-key", &other, "--role", "signer", "--key", "*"];
    admin.refused(5, "already_exists", &add);
    // A plan that cannot be.
    for arguments in [
        &["key", "create", "bad", "--threshold", "1"][..],
        &["key", "create", "bad", "--threshold", "4"],
        &["key", "create", "bad", "--roster", "node1,node1"],
        &["key", "create", "bad", "--roster", "node1,node9"],
        &["key", "create", "a name with spaces"],
    ] {
        let output = admin.call(&[arguments, &["-o", "json"]].concat());
        assert!(output.code == 2 || output.code == 5, "{output}");
    }
    admin.refused(5, "not_found", &["key", "show", "bad"]);
}

fn oversized(scene: &mut Scene) {
    let limit = limits::MESSAGE_BYTES;
    let message = Random::new(1).bytes(limit);
    assert_signs(&scene.signer, "release", &scene.public, &message);
    let longer = [message.as_slice(), b"x"].concat();
    let file = scene.cluster.scratch("longer");
    fs::write(&file, &longer).unwrap();
    let refused = scene.signer.refused(2, "too_large", &["sign", "release", file.to_str().unwrap()]);
    assert!(refused.error()["hint"].as_str().unwrap().contains("sshsig"), "{refused}");
    scene.signer.ok(&["sign", "release", file.to_str().unwrap(), "--format", "sshsig", "--namespace", "file"]);

    // A client that does not look at the limit itself.
    let body = sign_body(scene.cluster.genesis(), &scene.identity, scene.key, &longer);
    assert!(scene.raw.sign(&SignedRequest::sign(&body, &scene.identity), &[&longer]).is_err());
    // A body beyond its limit, and one that lies about how much comes with it.
    let mut request =
        SignedRequest::sign(&sign_body(scene.cluster.genesis(), &scene.identity, scene.key, b"x"), &scene.identity);
    request.body.0.resize(limits::REQUEST_BODY_BYTES + 1, 0);
    assert!(matches!(code(scene.raw.sign(&request, &[b"x"])), ErrorCode::TooLarge | ErrorCode::InvalidArgument));
    let many = vec![MessageDigest::of(b"x"); limits::MESSAGES_PER_REQUEST + 1];
    let messages = vec![b"x".as_slice(); limits::MESSAGES_PER_REQUEST + 1];
    let mut body = sign_body(scene.cluster.genesis(), &scene.identity, scene.key, b"x");
    body.messages = many;
    let refused = scene.raw.sign(&SignedRequest::sign(&body, &scene.identity), &messages);
    assert!(matches!(code(refused), ErrorCode::TooLarge | ErrorCode::InvalidArgument));
    // Many messages at once are fine below it.
    let messages = vec![b"x".as_slice(); limits::MESSAGES_PER_REQUEST];
    let mut body = sign_body(scene.cluster.genesis(), &scene.identity, scene.key, b"x");
    body.messages = vec![MessageDigest::of(b"x"); limits::MESSAGES_PER_REQUEST];
    let reply = scene.raw.sign(&SignedRequest::sign(&body, &scene.identity), &messages).unwrap();
    assert_eq!(reply.signatures.len(), limits::MESSAGES_PER_REQUEST);
}

/// Bytes that are no protocol at all, on both ports of every node.
fn garbage(scene: &Scene) {
    let mut random = Random::from_environment("garbage");
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // The head of a TLS handshake record that promises more than comes.
    let half_hello =
        [&[0x16_u8, 0x03, 0x01, 0x40, 0x00, 0x01, 0x00, 0x3f, 0xfc, 0x03, 0x03][..], &random.bytes(32)].concat();
    for node in 1..=scene.cluster.count() {
        for address in [scene.cluster.endpoint(node), scene.cluster.peer_address(node)] {
            let pieces = [
                vec![],
                b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
                preface.clone(),
                half_hello.clone(),
                vec![0; 100_000],
                random.bytes(1),
                random.bytes(1_000),
                random.bytes(100_000),
            ];
            // Kept open all at once, so that none is helped by the end of another.
            let mut open = Vec::new();
            for piece in pieces {
                let mut stream = TcpStream::connect(&address).unwrap();
                stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
                // The node may close while this is written.
                let _ = stream.write_all(&piece);
                open.push(stream);
            }
            scene.still_works();
            // It answers none of them with more than a TLS alert.
            for mut stream in open {
                stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
                let mut answer = [0; 1024];
                let count = stream.read(&mut answer).unwrap_or(0);
                assert!(count < 100, "node{node} answered garbage on {address} with {count} bytes");
            }
        }
        assert!(scene.cluster.is_healthy(node), "node{node} after garbage");
    }
}
