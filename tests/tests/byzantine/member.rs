//! A member with a program of its own that talks straight to its peers, as a coordinator of signatures that nobody asked for.

use rand_core::{OsRng, RngCore as _};
use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::id::{BootId, Digest, Epoch, KeyId, KeyVersion, SigningSession};
use symbolon_protocol::identity::{Identity, PublicKey, Signature};
use symbolon_protocol::peer::{WorkAnswer, WorkCall};
use symbolon_protocol::request::{MessageDigest, RequestBody, SignedRequest};
use symbolon_protocol::sign::{CommitmentPair, Commitments, Round1, Round2, Shares};
use symbolon_protocol::wire::{Bytes, decode, encode};
use symbolon_tests::hostile::Hostile;
use symbolon_tests::{Cli, Cluster, PATIENCE, Random, Raw, assert_signs, now_ms, public_key, sign_body, wait_until};

use crate::raft_door::raft_door;
use crate::{identity_of, node};

/// The nodes that run while a hostile program uses the identity of the third.
pub(crate) const HONEST: [u16; 2] = [1, 2];
/// The node whose identity is used.
pub(crate) const STOLEN: u16 = 3;

/// A cluster of which one member attacks the others.
pub(crate) struct Attacked {
    pub(crate) cluster: Cluster,
    pub(crate) hostile: Hostile,
    me: Identity,
    signer: Cli,
    client: Identity,
    public: PublicKey,
    key: KeyId,
    version: KeyVersion,
    epoch: Epoch,
}

impl Attacked {
    pub(crate) fn new() -> Self {
        let mut cluster = Cluster::start(3);
        for key in ["release", "other"] {
            cluster.cli().ok(&["key", "create", key, "--threshold", "2"]);
        }
        let (signer, client) = cluster.new_client("signer", "signer", "release");
        let public = public_key(cluster.cli(), "release", None);
        let answer = assert_signs(&signer, "release", &public, b"first");
        let number = |name: &str| u32::try_from(answer[name].as_u64().unwrap()).unwrap();
        let (version, epoch) = (KeyVersion::new(number("version")).unwrap(), Epoch::new(number("epoch")).unwrap());
        let key = answer["key_id"].as_str().unwrap().parse().unwrap();
        let me = identity_of(&cluster, usize::from(STOLEN));
        cluster.stop(usize::from(STOLEN));
        cluster.wait_ready();
        let hostile = Hostile::new(cluster.genesis(), &me, 1_000_000);
        Self { cluster, hostile, me, signer, client, public, key, version, epoch }
    }

    fn body(&self, message: &[u8]) -> RequestBody {
        sign_body(self.cluster.genesis(), &self.client, self.key, message)
    }
    fn request(&self, message: &[u8]) -> SignedRequest {
        SignedRequest::sign(&self.body(message), &self.client)
    }
    /// What an honest coordinator would ask for this request.
    fn round1(&self, request: SignedRequest, message: &[u8]) -> Round1 {
        let mut session = [0; 16];
        OsRng.fill_bytes(&mut session);
        let messages = vec![Bytes(message.to_vec())];
        let session = SigningSession::from_bytes(session);
        Round1 { session, key: self.key, version: self.version, epoch: self.epoch, request, messages }
    }
    fn commit(&self, to: u16, round1: &Round1) -> Result<Commitments, Refusal> {
        match self.hostile.work(node(to), &WorkCall::SignRound1(round1.clone())).unwrap() {
            WorkAnswer::Commitments(commitments) => Ok(commitments),
            WorkAnswer::Refused(refusal) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }
    fn share(&self, to: u16, session: SigningSession, signers: &[&Commitments]) -> Result<Shares, Refusal> {
        let signers = signers.iter().map(|&one| one.clone()).collect();
        match self.hostile.work(node(to), &WorkCall::SignRound2(Round2 { session, signers })).unwrap() {
            WorkAnswer::Shares(shares) => Ok(shares),
            WorkAnswer::Refused(refusal) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }
    /// Commitments of the attacker as a holder: points as good as any, signed by it.
    fn own_commitments(&self, round1: &Round1, digest: &Digest) -> Commitments {
        let point = || *Identity::generate(&mut OsRng).public().as_bytes();
        let Round1 { session, key, version, epoch, .. } = *round1;
        let boot = BootId { counter: 1_000_000, random: [1; 16] };
        let pairs = vec![CommitmentPair { hiding: point(), binding: point() }];
        let (coordinator, signature) = (node(STOLEN), Signature::from_bytes([0; 64]));
        Commitments {
            session,
            coordinator,
            node: coordinator,
            boot,
            key,
            version,
            epoch,
            first_sequence: 0,
            pairs,
            signature,
        }
        .signed(&self.me, &self.cluster.genesis().cluster_id(), digest)
    }
    fn digest(&self, request: &SignedRequest) -> Digest {
        request.verify(&self.cluster.genesis().cluster_id()).unwrap().digest()
    }
    #[track_caller]
    fn no_commitments(&self, what: &str, round1: &Round1, code: ErrorCode) {
        for to in HONEST {
            match self.commit(to, round1) {
                Err(refusal) => assert!(refusal.code == code, "{what}: node{to} refuses for another reason: {refusal}"),
                Ok(_) => panic!("{what}: node{to} gave commitments"),
            }
        }
    }
    #[track_caller]
    fn no_share(&self, what: &str, session: SigningSession, signers: &[&Commitments]) {
        match self.share(1, session, signers) {
            Err(refusal) => assert!(refusal.code == ErrorCode::PeerMisbehaved, "{what}: {refusal}"),
            Ok(_) => panic!("{what}: a share was given"),
        }
    }
    /// Nothing that was refused left a trace.
    #[track_caller]
    pub(crate) fn still_works(&self) {
        for to in HONEST {
            assert!(self.cluster.is_healthy(usize::from(to)), "node{to}");
        }
        assert_signs(&self.signer, "release", &self.public, b"still works");
    }
}

#[test]
fn a_hostile_member_gets_no_share_and_no_say() {
    let scene = Attacked::new();
    strangers(&scene);
    the_good_request_passes(&scene);
    changed_requests(&scene);
    reused_requests(&scene);
    bent_packages(&scene);
    scene.still_works();
    raft_door(&scene);
    the_good_request_passes(&scene);
    a_request_id_in_flight(&scene);
    a_clone(&scene);
    scene.still_works();
}

/// Only members are spoken to.
fn strangers(scene: &Attacked) {
    let genesis = scene.cluster.genesis();
    let unknown = Hostile::new(genesis, &Identity::generate(&mut OsRng), 1_000_000);
    let administrator = Hostile::new(genesis, &scene.cluster.administrator(), 1_000_000);
    let nobody = Hostile::without_certificate(genesis);
    for to in HONEST {
        for (what, stranger) in [("unknown", &unknown), ("an administrator", &administrator), ("nobody", &nobody)] {
            let refusal = stranger.work(node(to), &WorkCall::Status).expect_err(what);
            assert!(refusal.code == ErrorCode::Unreachable, "{what}: {refusal}");
        }
        let answer = scene.hostile.work(node(to), &WorkCall::Status);
        assert!(matches!(answer, Ok(WorkAnswer::Status(_))), "a member is not spoken to either: {answer:?}");
    }
    scene.still_works();
}

/// A coordinator may be any member: what is refused elsewhere is refused for what is wrong with it.
fn the_good_request_passes(scene: &Attacked) {
    let request = scene.request(b"good");
    let (round1, digest) = (scene.round1(request.clone(), b"good"), scene.digest(&request));
    let genesis = scene.cluster.genesis();
    let commitments = HONEST.map(|to| scene.commit(to, &round1).unwrap());
    for to in HONEST {
        let key = &genesis.members[&node(to)].key;
        assert!(commitments[usize::from(to) - 1].verifies(key, &genesis.cluster_id(), &digest));
        let shares = scene.share(to, round1.session, &commitments.each_ref()).unwrap();
        assert!(shares.verifies(key, &genesis.cluster_id(), &digest) && shares.shares.len() == 1);
    }
}

fn changed_requests(scene: &Attacked) {
    let message = b"what was asked for";
    let good = scene.request(message);
    let round1 = |request: SignedRequest| scene.round1(request, message);
    let plain = || round1(good.clone());

    for messages in [vec![Bytes(b"something else....".to_vec())], vec![], vec![Bytes(message.to_vec()); 2]] {
        scene.no_commitments("other messages", &Round1 { messages, ..plain() }, ErrorCode::BadSignature);
    }
    let changed = |change: fn(&mut RequestBody)| {
        let mut body: RequestBody = decode(&good.body.0).unwrap();
        change(&mut body);
        round1(SignedRequest { body: Bytes(encode(&body)), ..good.clone() })
    };
    scene.no_commitments("another expiry", &changed(|body| body.expires_ms += 60_000), ErrorCode::BadSignature);
    scene.no_commitments(
        "another key",
        &changed(|body| body.key = Some(KeyId::from_bytes([7; 32]))),
        ErrorCode::BadSignature,
    );
    scene.no_commitments(
        "a message more",
        &changed(|body| body.messages.push(MessageDigest::of(b"x"))),
        ErrorCode::BadSignature,
    );
    scene.no_commitments(
        "no signature",
        &round1(SignedRequest { signatures: vec![], ..good.clone() }),
        ErrorCode::BadSignature,
    );
    let mut random = Random::from_environment("changed bytes");
    for _ in 0..32 {
        let mut request = good.clone();
        let at = usize::try_from(random.below(request.body.0.len() as u64)).unwrap();
        request.body.0[at] ^= 1 << random.below(8);
        let refusal = scene.commit(1, &round1(request)).expect_err("a changed byte");
        assert!(matches!(refusal.code.row().exit, 2 | 3), "byte {at} changed: {refusal}");
    }

    // Something else around the request than what it asks for.
    let other = scene.cluster.cli().json(&["key", "show", "other"])["id"].as_str().unwrap().parse().unwrap();
    let (version, epoch) = (KeyVersion::new(2).unwrap(), Epoch::new(2).unwrap());
    scene.no_commitments("another key beside it", &Round1 { key: other, ..plain() }, ErrorCode::NotFresh);
    scene.no_commitments("another version beside it", &Round1 { version, ..plain() }, ErrorCode::EpochChanged);
    scene.no_commitments("another epoch beside it", &Round1 { epoch, ..plain() }, ErrorCode::EpochChanged);
    let admin = scene.cluster.administrator();
    let for_other = sign_body(scene.cluster.genesis(), &admin, other, message);
    scene.no_commitments(
        "a request for another key",
        &round1(SignedRequest::sign(&for_other, &admin)),
        ErrorCode::NotFresh,
    );

    // What the client did sign, and may not have.
    let signed = |change: &dyn Fn(&mut RequestBody), by: &Identity| {
        let mut body = RequestBody { client: by.public(), ..scene.body(message) };
        change(&mut body);
        round1(SignedRequest::sign(&body, by))
    };
    let now = now_ms();
    let late = |body: &mut RequestBody| (body.not_before_ms, body.expires_ms) = (now - 120_000, now - 60_000);
    let early = |body: &mut RequestBody| (body.not_before_ms, body.expires_ms) = (now + 60_000, now + 120_000);
    scene.no_commitments("expired", &signed(&late, &scene.client), ErrorCode::RequestExpired);
    scene.no_commitments("not yet valid", &signed(&early, &scene.client), ErrorCode::RequestNotYetValid);
    scene.no_commitments("unregistered", &signed(&|_| {}, &Identity::generate(&mut OsRng)), ErrorCode::UnknownClient);
    scene.no_commitments("the node itself", &signed(&|_| {}, &scene.me), ErrorCode::UnknownClient);
    let (_, auditor) = scene.cluster.new_client("auditor", "auditor", "*");
    wait_until("the new client to be known everywhere", PATIENCE, || {
        HONEST.iter().all(|to| {
            let refused = scene.commit(*to, &signed(&|_| {}, &auditor)).expect_err("an auditor");
            refused.code == ErrorCode::PermissionDenied
        })
    });
    scene.no_commitments(
        "no right to this key",
        &signed(&|body| body.key = Some(other), &scene.client),
        ErrorCode::PermissionDenied,
    );
    scene.still_works();
}

/// One request id stands for one body, and one request for so many attempts as can be needed.
fn reused_requests(scene: &Attacked) {
    let first = scene.body(b"first");
    let mut raw = Raw::connect(scene.cluster.genesis(), &scene.cluster.endpoint(1));
    raw.sign(&SignedRequest::sign(&first, &scene.client), &[b"first"]).unwrap();
    let second = RequestBody { messages: vec![MessageDigest::of(b"second")], ..first };
    let second = scene.round1(SignedRequest::sign(&second, &scene.client), b"second");
    scene.no_commitments("a request id that was used", &second, ErrorCode::RequestReplayed);

    // n - t + 1 = 2 attempts, and a session is for one request.
    let request = scene.request(b"again");
    let attempts = [(); 3].map(|()| scene.round1(request.clone(), b"again"));
    for attempt in &attempts[..2] {
        let commitments = scene.commit(1, attempt).unwrap();
        assert_eq!(scene.commit(1, attempt), Ok(commitments), "the same question has the same answer");
    }
    let third = scene.commit(1, &attempts[2]).expect_err("a third attempt");
    assert_eq!(third.code, ErrorCode::PeerMisbehaved, "{third}");
    let mut another = scene.round1(scene.request(b"another"), b"another");
    another.session = attempts[0].session;
    let mixed = scene.commit(1, &another).expect_err("a session for two requests");
    assert_eq!(mixed.code, ErrorCode::PeerMisbehaved, "{mixed}");
}

/// A package is answered once, and only when every statement in it is its signer's.
fn bent_packages(scene: &Attacked) {
    let request = scene.request(b"bent");
    let (round1, digest) = (scene.round1(request.clone(), b"bent"), scene.digest(&request));
    let elsewhere = scene.round1(request, b"bent");
    let session = round1.session;
    let [first, second] = HONEST.map(|to| scene.commit(to, &round1).unwrap());
    let of_elsewhere = scene.commit(2, &elsewhere).unwrap();
    let [own, own_again] = [(); 2].map(|()| scene.own_commitments(&round1, &digest));

    let mut bent = second.clone();
    bent.pairs[0].hiding = own.pairs[0].hiding;
    scene.no_share("altered commitments of another signer", session, &[&first, &bent]);
    let mut bent = first.clone();
    bent.pairs[0].binding = own.pairs[0].binding;
    scene.no_share("altered commitments of the holder", session, &[&bent, &second]);
    let mut framed = own.clone();
    framed.node = second.node;
    scene.no_share("commitments in another's name", session, &[&first, &framed]);
    scene.no_share("commitments of another session", session, &[&first, &of_elsewhere]);
    scene.no_share("a package without the holder", session, &[&second, &own]);
    scene.no_share("a signer too few", session, &[&first]);
    scene.no_share("a signer twice", session, &[&first, &first]);
    scene.no_share("signers out of order", session, &[&second, &first]);

    // None of these used the nonces up; the first good package does, and only it is answered from then on.
    let shares = scene.share(1, session, &[&first, &own]).unwrap();
    assert_eq!(scene.share(1, session, &[&first, &own]), Ok(shares), "the same package has the same answer");
    scene.no_share("other commitments of the attacker", session, &[&first, &own_again]);
    scene.no_share("another set of signers", session, &[&first, &second]);
    scene.no_share("all signers", session, &[&first, &second, &own]);
    let again = scene.commit(1, &round1).expect_err("a session that is over");
    assert_eq!(again.code, ErrorCode::PeerMisbehaved, "{again}");
    assert!(scene.cluster.log(1).contains("a second use of nonces was attempted"), "nobody is alarmed");

    // A session of which the holder never heard.
    let unknown = scene.round1(scene.request(b"unknown"), b"unknown");
    let refused = scene.share(1, unknown.session, &[&first, &second]).expect_err("round 2 without round 1");
    assert_eq!(refused.code, ErrorCode::DeadlineExceeded, "{refused}");
}

/// The same while neither of the two bodies has been signed.
fn a_request_id_in_flight(scene: &Attacked) {
    let first = scene.body(b"one");
    let second = RequestBody { messages: vec![MessageDigest::of(b"two")], ..first.clone() };
    let [first, second] = [(first, b"one"), (second, b"two")].map(|(body, message)| {
        let request = SignedRequest::sign(&body, &scene.client);
        let (round1, digest) = (scene.round1(request.clone(), message), scene.digest(&request));
        let own = scene.own_commitments(&round1, &digest);
        (scene.commit(1, &round1), round1.session, own)
    });
    let share = |(commitments, session, own): &(Result<Commitments, Refusal>, SigningSession, Commitments)| {
        commitments.clone().and_then(|commitments| scene.share(1, *session, &[&commitments, own]))
    };
    assert!(share(&first).is_ok());
    let refused = share(&second).expect_err("two messages were signed under one request id");
    assert_eq!(refused.code, ErrorCode::RequestReplayed, "{refused}");
}

/// The same identity with an older store, or a second time.
fn a_clone(scene: &Attacked) {
    let genesis = scene.cluster.genesis();
    for boot in [1, 1_000_000] {
        let clone = Hostile::new(genesis, &scene.me, boot);
        for to in HONEST {
            let refusal = clone.work(node(to), &WorkCall::Status).expect_err("a clone");
            assert_eq!(refusal.code, ErrorCode::Quarantined, "{refusal}");
        }
    }
}
