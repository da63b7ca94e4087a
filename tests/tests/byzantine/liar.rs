//! A node that answers clients with other keys, certificates and signatures than the true ones.

use std::fs;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use symbolon_protocol::certificate::{CertificateCore, KeyCertificate};
use symbolon_protocol::id::Name;
use symbolon_protocol::identity::{Identity, PublicKey, Signature};
use symbolon_protocol::request::{Action, SignedRequest};
use symbolon_protocol::state::view::KeyView;
use symbolon_protocol::wire::{decode, encode};
use symbolon_rpc::v1::SignReply;
use symbolon_tests::hostile::{KeyLie, Liar, Lies, SignLie, certify, sign_raw};
use symbolon_tests::{Cli, Cluster, Output, Raw, assert_signs, body, public_key, sign_body};

use crate::identity_of;

/// A cluster in whose third place a liar answers clients.
struct Lied {
    cluster: Cluster,
    liar: Liar,
    own: Identity,
    /// Asks the liar, then an honest node.
    both: Cli,
    /// Asks the liar alone.
    only: Cli,
    pem: Vec<u8>,
    public: PublicKey,
    message: Vec<u8>,
    file: PathBuf,
    signature: PathBuf,
}

impl Lied {
    fn new() -> Self {
        let mut cluster = Cluster::start(3);
        let cli = cluster.cli().clone();
        cli.ok(&["key", "create", "alpha", "--threshold", "2"]);
        cli.ok(&["key", "create", "beta", "--threshold", "2"]);
        let pem = cli.ok(&["key", "export-public", "alpha", "--format", "pem"]).stdout;
        let (message, file, signature) =
            (b"what was asked for".to_vec(), cluster.scratch("file"), cluster.scratch("sig"));
        fs::write(&file, &message).unwrap();
        cli.ok(&["sign", "alpha", file.to_str().unwrap(), "--out", signature.to_str().unwrap()]);
        let (public, own) = (public_key(&cli, "alpha", None), identity_of(&cluster, 3));
        cluster.stop(3);
        cluster.wait_ready();
        let liar = Liar::start(cluster.genesis(), &own, &cluster.endpoint(1));
        let both = cli.endpoints(&[cluster.endpoint(3), cluster.endpoint(2)]);
        let only = cli.endpoints(&[cluster.endpoint(3)]);
        Self { cluster, liar, own, both, only, pem, public, message, file, signature }
    }

    fn administrator(&self, action: Action) -> SignedRequest {
        let admin = self.cluster.administrator();
        SignedRequest::sign(&body(self.cluster.genesis(), &admin, action), &admin)
    }
    /// A key as an honest node shows it.
    fn view(&self, name: &str) -> KeyView {
        let request = self.administrator(Action::ShowKey { name: Name::new(name).unwrap() });
        let reply = Raw::connect(self.cluster.genesis(), &self.cluster.endpoint(1)).show_key(&request).unwrap();
        decode(&reply.key).unwrap()
    }
    /// What an honest node answers to a request for a signature.
    fn signed(&self, key: &str, message: &[u8]) -> SignReply {
        let admin = self.cluster.administrator();
        let body = sign_body(self.cluster.genesis(), &admin, self.view(key).id, message);
        let mut raw = Raw::connect(self.cluster.genesis(), &self.cluster.endpoint(2));
        raw.sign(&SignedRequest::sign(&body, &admin), &[message]).unwrap()
    }
    /// A certificate for the liar's own key under the name of `alpha`, with all votes: its own.
    fn own_certificate(&self) -> KeyCertificate {
        let core = certificate_of(&self.view("alpha")).core;
        certify(CertificateCore { public_key: *self.own.public().as_bytes(), ..core }, |_| &self.own)
    }

    fn key_lies(&self) -> Vec<(&'static str, KeyLie)> {
        let beta = self.view("beta");
        let mut renamed = beta.clone();
        renamed.name = Name::new("alpha").unwrap();
        let (foreign, own) = (certificate_of(&beta), self.own_certificate());
        // Good votes about another public key.
        let mut stale = certificate_of(&self.view("alpha"));
        stale.core.public_key = *self.own.public().as_bytes();
        vec![
            ("the view of another key", Box::new(move |_| beta.clone())),
            ("the view of another key under this one's name", Box::new(move |_| renamed.clone())),
            ("the certificate of another key", shown_with(foreign)),
            ("a certificate for its own key", shown_with(own)),
            ("votes for another public key", shown_with(stale)),
        ]
    }

    fn sign_lies(&self) -> Vec<(&'static str, SignLie)> {
        let own = sign_raw(&self.own, &self.message).to_vec();
        let certificate = encode(&self.own_certificate());
        let certified = own.clone();
        let (beta, other) = (self.signed("beta", &self.message), self.signed("alpha", b"another message"));
        let other = other.signatures[0].to_vec();
        vec![
            ("a signature of its own", Box::new(move |reply| with_signature(reply, &own))),
            (
                "a signature of its own with a certificate of its own",
                Box::new(move |reply| SignReply {
                    certificate: certificate.clone().into(),
                    ..with_signature(reply, &certified)
                }),
            ),
            ("the signature of another key with its certificate", Box::new(move |_| beta.clone())),
            ("a signature over another message", Box::new(move |reply| with_signature(reply, &other))),
            ("garbage", Box::new(|reply| with_signature(reply, &[7; 64]))),
            ("half a signature", Box::new(|reply| with_signature(reply, &[7; 32]))),
            ("no signature", Box::new(|reply| SignReply { signatures: Vec::new(), ..reply })),
        ]
    }

    /// Asks for everything that a client must be able to trust; `asked` checks each answer.
    fn ask(&self, cli: &Cli, asked: impl Fn(&str, Output)) {
        let (file, signature) = (self.file.to_str().unwrap(), self.signature.to_str().unwrap());
        asked("export", cli.call(&["key", "export-public", "alpha", "--format", "pem"]));
        asked("sign", cli.call(&["sign", "alpha", file]));
        asked("verify", cli.call(&["verify", "alpha", file, signature]));
    }
    #[track_caller]
    fn check_true(&self, what: &str, command: &str, output: &Output) {
        assert!(output.code == 0, "{what}\n{output}");
        match command {
            "export" => assert!(output.stdout == self.pem, "{what}: another public key\n{output}"),
            "sign" => {
                let bytes: [u8; 64] = STANDARD.decode(output.text()).unwrap().try_into().unwrap();
                assert!(self.public.verifies_raw(&self.message, &Signature::from_bytes(bytes)), "{what}\n{output}");
            }
            _ => {}
        }
    }
    #[track_caller]
    fn check_refused(what: &str, output: &Output) {
        assert!(output.code == 6 && output.stdout.is_empty(), "{what}\n{output}");
    }
}

/// The node that lied is named, so that somebody looks at it.
#[track_caller]
fn assert_warns(what: &str, output: &Output) {
    let mut lines = output.stderr.lines();
    assert!(lines.any(|line| line.starts_with("warning: bad_certificate: node node3 ")), "{what}\n{output}");
}

fn certificate_of(view: &KeyView) -> KeyCertificate {
    view.versions[0].certificate.clone().unwrap()
}

fn shown_with(certificate: KeyCertificate) -> KeyLie {
    Box::new(move |mut view| {
        for version in &mut view.versions {
            version.certificate = Some(certificate.clone());
        }
        view
    })
}

fn with_signature(reply: SignReply, signature: &[u8]) -> SignReply {
    SignReply { signatures: vec![signature.to_vec().into()], ..reply }
}

#[test]
fn a_lying_node_may_withhold_a_key_and_never_puts_another_in_its_place() {
    let scene = Lied::new();
    // It passes on the truth, so what is refused below is refused for the lie.
    scene.ask(&scene.only, |command, output| scene.check_true("the truth", command, &output));
    assert_eq!(scene.liar.told(), 0);

    for (number, (what, lie)) in scene.key_lies().into_iter().enumerate() {
        scene.liar.tell(Lies { key: Some(lie), sign: None });
        let before = scene.liar.told();
        scene.ask(&scene.both, |command, output| {
            scene.check_true(what, command, &output);
            assert_warns(what, &output);
        });
        assert!(scene.liar.told() >= before + 3, "the liar was not asked");
        scene.ask(&scene.only, |_, output| Lied::check_refused(what, &output));
        scene.only.refused(6, "bad_certificate", &["key", "show", "alpha"]);
        // In a list, the true view of another key is no lie: it is only the wrong length.
        if number > 0 {
            scene.only.refused(6, "bad_certificate", &["key", "list"]);
            let listed = scene.both.ok(&["key", "list", "-o", "json"]);
            assert!(listed.text().contains(&scene.public.to_string()), "{what}\n{listed}");
        }
    }
    a_signature_under_the_liars_key_is_none(&scene);
    votes_that_are_kept_back(&scene);

    for (what, lie) in scene.sign_lies() {
        scene.liar.tell(Lies { key: None, sign: Some(lie) });
        let before = scene.liar.told();
        let (file, out) = (scene.file.to_str().unwrap(), scene.cluster.scratch("forged"));
        let output = scene.both.call(&["sign", "alpha", file]);
        scene.check_true(what, "sign", &output);
        assert_warns(what, &output);
        assert!(scene.liar.told() > before, "the liar was not asked");
        Lied::check_refused(what, &scene.only.call(&["sign", "alpha", file]));
        let refused =
            scene.only.refused(6, "bad_certificate", &["sign", "alpha", file, "--out", out.to_str().unwrap()]);
        assert!(refused.stdout.is_empty() && !out.exists(), "{what}\n{refused}");
    }
    a_key_that_is_made_by_way_of_the_liar(&scene);
}

/// `verify` takes no signature of the liar's own key, whoever is asked.
fn a_signature_under_the_liars_key_is_none(scene: &Lied) {
    let forged = scene.cluster.scratch("forged.sig");
    fs::write(&forged, STANDARD.encode(sign_raw(&scene.own, &scene.message))).unwrap();
    let arguments = ["verify", "alpha", scene.file.to_str().unwrap(), forged.to_str().unwrap()];
    scene.liar.tell(Lies { key: Some(shown_with(scene.own_certificate())), sign: None });
    scene.both.refused(6, "verification_failed", &arguments);
    scene.only.refused(6, "bad_certificate", &arguments);
}

/// A certificate without its heads or ACTIVATED votes may be on its way; the client goes elsewhere, and waits in vain here.
fn votes_that_are_kept_back(scene: &Lied) {
    let lies: [KeyLie; 2] = [
        Box::new(|mut view| {
            view.versions[0].certificate.as_mut().unwrap().heads.clear();
            view
        }),
        Box::new(|mut view| {
            view.versions[0].certificate.as_mut().unwrap().activated.clear();
            view
        }),
    ];
    for lie in lies {
        scene.liar.tell(Lies { key: Some(lie), sign: None });
        let before = scene.liar.told();
        scene.ask(&scene.both, |command, output| scene.check_true("votes that are kept back", command, &output));
        assert!(scene.liar.told() > before, "the liar was not asked");
        let refused = scene.only.refused(6, "bad_certificate", &["key", "export-public", "alpha", "--format", "pem"]);
        assert!(refused.stdout.is_empty(), "{refused}");
    }
}

fn a_key_that_is_made_by_way_of_the_liar(scene: &Lied) {
    scene.liar.tell(Lies { key: Some(shown_with(scene.own_certificate())), sign: None });
    let arguments = ["key", "create", "gamma", "--roster", "node1,node2", "-o", "json"];
    let made = scene.both.ok(&arguments);
    assert!(made.stderr.contains("node node3 "), "{made}");
    let true_key = public_key(&scene.cluster.cli_at(1), "gamma", None);
    assert_eq!(made.json()["public_key"], true_key.to_string(), "{made}");
    assert_signs(&scene.cluster.cli_at(2), "gamma", &true_key, b"made by way of a liar");
}
