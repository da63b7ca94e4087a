//! Tests against the installed ssh-keygen and openssl, and of malformed files.

use super::super::public::{parse_public, to_openssh, to_pem};
use super::super::testing::{self, Scratch};
use super::*;

const MESSAGE: &[u8] = b"what is signed\n";

/// Has openssl verify an Ed25519 signature, and fails if it does not.
fn verify_with_openssl(scratch: &Scratch, public: &[u8; 32], data: &[u8], signature: &[u8]) {
    scratch.write("public.pem", to_pem(public).as_bytes());
    scratch.write("data", data);
    scratch.write("signature", signature);
    let what = ["-inkey", "public.pem", "-in", "data", "-sigfile", "signature"];
    let verify = ["pkeyutl", "-verify", "-rawin", "-pubin"];
    scratch.run("openssl", &[verify.as_slice(), what.as_slice()].concat(), None);
}

/// The file that ssh-keygen writes for [`MESSAGE`], and the public key that made it.
fn signed_by_ssh_keygen(scratch: &Scratch, namespace: &str, option: &str) -> (Vec<u8>, [u8; 32]) {
    scratch.ssh_key("key");
    scratch.write("message", MESSAGE);
    let sign = ["-Y", "sign", "-f", "key", "-n", namespace, "-O", option, "message"];
    scratch.run("ssh-keygen", &sign, None);
    let public = parse_public(&scratch.read("key.pub")).unwrap();
    (scratch.read("message.sig"), public)
}

#[test]
fn what_ssh_keygen_signs_is_read_and_written_the_same() {
    let scratch = Scratch::new("keygen512");
    let (file, public) = signed_by_ssh_keygen(&scratch, "file", "hashalg=sha512");
    let sshsig = decode(&file).unwrap();
    assert_eq!(sshsig.public, public);
    assert_eq!(sshsig.namespace, "file");
    assert_eq!(sshsig.hash_algorithm, HashAlgorithm::Sha512);
    let encoded = encode(&sshsig.public, &sshsig.namespace, &sshsig.signature);
    assert_eq!(encoded.as_bytes(), file);

    let hash = SshsigHasher::hash_reader(MESSAGE).unwrap();
    let data = signed_data("file", &hash).unwrap();
    assert_eq!(data, sshsig.signed_data(&hash).unwrap());
    verify_with_openssl(&scratch, &public, &data, &sshsig.signature);
}

#[test]
fn sha256_of_ssh_keygen_is_read() {
    let scratch = Scratch::new("keygen256");
    let (file, public) = signed_by_ssh_keygen(&scratch, "git", "hashalg=sha256");
    let sshsig = decode(&file).unwrap();
    assert_eq!(sshsig.hash_algorithm, HashAlgorithm::Sha256);
    assert_eq!(sshsig.to_armored().as_bytes(), file);

    let hash = sshsig.hash_algorithm.hash_reader(MESSAGE).unwrap();
    let data = sshsig.signed_data(&hash).unwrap();
    verify_with_openssl(&scratch, &public, &data, &sshsig.signature);
    let (expected, found) = (32, 64);
    assert_eq!(sshsig.signed_data(&[0; 64]), Err(FormatError::HashLength { expected, found }));
}

/// The other way round: openssl makes the Ed25519 signature, and ssh-keygen believes the file.
#[test]
fn what_is_written_verifies_with_ssh_keygen() {
    let scratch = Scratch::new("openssl");
    let generate = ["genpkey", "-algorithm", "ed25519", "-out", "key"];
    scratch.run("openssl", &generate, None);
    let print = ["pkey", "-in", "key", "-pubout", "-outform", "DER"];
    let public = parse_public(&scratch.run("openssl", &print, None)).unwrap();

    let hash = SshsigHasher::hash_reader(MESSAGE).unwrap();
    scratch.write("message", MESSAGE);
    scratch.write("data", &signed_data("release@example.org", &hash).unwrap());
    let sign = ["pkeyutl", "-sign", "-rawin", "-inkey", "key", "-in", "data", "-out", "raw"];
    scratch.run("openssl", &sign, None);
    let signature: [u8; 64] = scratch.read("raw").try_into().unwrap();
    let file = encode(&public, "release@example.org", &signature);
    scratch.write("message.sig", file.as_bytes());
    let signers = format!("tester {}", to_openssh(&public, ""));
    scratch.write("signers", signers.as_bytes());

    let verify = ["-Y", "verify", "-f", "signers", "-I", "tester"];
    let what = ["-n", "release@example.org", "-s", "message.sig"];
    let arguments = [verify.as_slice(), what.as_slice()].concat();
    scratch.run("ssh-keygen", &arguments, Some("message"));
}

/// The example printed in PROTOCOL.sshsig is older than the hash_algorithm field. The bytes up
/// to there are as they are now; it has to be refused for the hash.
#[test]
fn the_example_of_the_document_is_refused_for_its_hash() {
    let example = "-----BEGIN SSH SIGNATURE-----\n\
        U1NIU0lHAAAAAQAAADMAAAALc3NoLWVkMjU1MTkAAAAgJKxoLBJBivUPNTUJUSslQTt2hD\n\
        jozKvHarKeN8uYFqgAAAADZm9vAAAAAAAAAFMAAAALc3NoLWVkMjU1MTkAAABAKNC4IEbt\n\
        Tq0Fb56xhtuE1/lK9H9RZJfON4o6hE9R4ZGFX98gy0+fFJ/1d2/RxnZky0Y7GojwrZkrHT\n\
        FgCqVWAQ==\n-----END SSH SIGNATURE-----\n";
    let error = decode(example).unwrap_err();
    assert!(matches!(error, FormatError::HashAlgorithm(_)), "{error}");
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let scratch = Scratch::new("cut");
    let (file, _) = signed_by_ssh_keygen(&scratch, "file", "hashalg=sha512");
    testing::assert_prefixes_refused(file.trim_ascii_end(), |text| decode(std::str::from_utf8(text).unwrap()));
    let blob = ARMOR.decode(&file).unwrap();
    testing::assert_prefixes_refused(&blob, |cut| decode(ARMOR.encode(cut)));
    let overlong = [blob.as_slice(), b"\0"].concat();
    assert!(decode(ARMOR.encode(&overlong)).is_err());
}

/// The fields of a file, to be spoiled one at a time.
struct Fields {
    version: u32,
    public: Vec<u8>,
    namespace: Vec<u8>,
    reserved: Vec<u8>,
    hash_algorithm: Vec<u8>,
    signature: Vec<u8>,
}

/// Decodes a good file after `spoil` has been at its fields.
fn decode_spoiled(spoil: impl FnOnce(&mut Fields)) -> Result<Sshsig, FormatError> {
    let mut fields = Fields {
        version: 1,
        public: wire::ed25519_blob(&[1; 32]),
        namespace: b"file".to_vec(),
        reserved: Vec::new(),
        hash_algorithm: b"sha512".to_vec(),
        signature: wire::ed25519_blob(&[2; 64]),
    };
    spoil(&mut fields);
    let mut blob = b"SSHSIG".to_vec();
    blob.extend_from_slice(&fields.version.to_be_bytes());
    let strings = [&fields.public, &fields.namespace, &fields.reserved, &fields.hash_algorithm, &fields.signature];
    for string in strings {
        wire::put_string(&mut blob, string);
    }
    decode(ARMOR.encode(&blob))
}

#[test]
fn every_field_is_checked() {
    assert!(decode_spoiled(|_| ()).is_ok());
    let version = decode_spoiled(|f| f.version = 2);
    assert_eq!(version, Err(FormatError::SshsigVersion(2)));
    for namespace in ["", "fi\0le"] {
        let error = decode_spoiled(|f| f.namespace = namespace.into()).unwrap_err();
        assert!(matches!(error, FormatError::Namespace { .. }));
    }
    assert!(decode_spoiled(|f| f.namespace = vec![0xff]).is_err());
    assert!(decode_spoiled(|f| f.reserved = vec![0]).is_err());
    let hash = decode_spoiled(|f| f.hash_algorithm = b"sha1".to_vec());
    assert_eq!(hash, Err(FormatError::HashAlgorithm("sha1".to_owned())));
}

#[test]
fn keys_and_signatures_of_other_types_and_lengths_are_refused() {
    assert!(decode_spoiled(|f| f.public = wire::ed25519_blob(&[1; 31])).is_err());
    assert!(decode_spoiled(|f| f.public.push(0)).is_err());
    assert!(decode_spoiled(|f| f.signature = wire::ed25519_blob(&[2; 63])).is_err());
    assert!(decode_spoiled(|f| f.signature.push(0)).is_err());
    let mut rsa = Vec::new();
    wire::put_string(&mut rsa, b"ssh-rsa");
    let error = decode_spoiled(|f| f.public = rsa).unwrap_err();
    assert!(error.to_string().contains("\"ssh-rsa\""), "{error}");
}

#[test]
fn namespaces_that_openssh_refuses_are_not_signed() {
    for namespace in ["", "a\0b"] {
        let error = signed_data(namespace, &[0; 64]).unwrap_err();
        assert!(matches!(error, FormatError::Namespace { .. }));
    }
}

/// Gives a byte at a time and is interrupted before each.
struct Stutter<'a> {
    rest: &'a [u8],
    interrupted: bool,
}

impl Read for Stutter<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.interrupted = !self.interrupted;
        if self.interrupted {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let one = buffer.len().min(1);
        self.rest.read(buffer.split_at_mut(one).0)
    }
}

#[test]
fn streams_hash_to_the_published_value() {
    // FIPS 180, the one-block message "abc".
    let expected: [u8; 64] = testing::hex_array(
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
         2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
    );
    assert_eq!(SshsigHasher::hash_reader(b"abc".as_slice()).unwrap(), expected);
    let stutter = Stutter { rest: b"abc", interrupted: false };
    assert_eq!(SshsigHasher::hash_reader(stutter).unwrap(), expected);
    let mut hasher = SshsigHasher::new();
    hasher.update(b"a");
    hasher.update(b"bc");
    assert_eq!(hasher.finish(), expected);
}

#[test]
fn a_message_over_many_chunks_hashes_as_openssl_hashes_it() {
    let scratch = Scratch::new("large");
    let message: Vec<u8> = (0..3 * CHUNK + 17).map(|i| (i % 251) as u8).collect();
    scratch.write("message", &message);
    let hash = ["dgst", "-sha512", "-binary", "message"];
    let expected = scratch.run("openssl", &hash, None);
    let found = SshsigHasher::hash_reader(message.as_slice()).unwrap();
    assert_eq!(found.as_slice(), expected);
}
