//! Handshakes over loopback: who is let in, who is not, and with which key exchange.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::NamedGroup;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::*;

fn node(number: u8) -> Identity {
    Identity::from_seed(&[number; 32])
}

type Ends = (io::Result<server::TlsStream<TcpStream>>, io::Result<client::TlsStream<TcpStream>>);

/// Both ends of one handshake. In TLS 1.3 a client is done before the server has judged its certificate: what the server
/// thinks of a client shows on the server's end.
async fn handshake(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> Ends {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accept = async {
        let (tcp, _) = listener.accept().await.unwrap();
        TlsAcceptor::from(server).accept(tcp).await
    };
    let connect = async {
        let tcp = TcpStream::connect(address).await.unwrap();
        TlsConnector::from(client).connect(ServerName::try_from(SERVER_NAME).unwrap(), tcp).await
    };
    tokio::join!(accept, connect)
}

fn key_and_group(session: &rustls::CommonState) -> (Option<PublicKey>, NamedGroup) {
    let key = session.peer_certificates().map(|certificates| peer_key(certificates).unwrap());
    (key, session.negotiated_key_exchange_group().unwrap().name())
}

#[test]
fn an_identity_has_one_certificate() {
    let (first, _) = certificate(&node(1)).unwrap();
    let (again, _) = certificate(&node(1)).unwrap();
    assert_eq!(first, again);
    assert_eq!(peer_key(std::slice::from_ref(&first)).unwrap(), node(1).public());
    let (other, _) = certificate(&node(2)).unwrap();
    assert_ne!(peer_key(std::slice::from_ref(&other)).unwrap(), node(1).public());
    assert!(matches!(peer_key(&[first, other]), Err(TlsError::Certificates(2))));
    assert!(matches!(peer_key(&[]), Err(TlsError::Certificates(0))));
}

#[test]
fn other_kinds_of_keys_are_refused() {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let params = rcgen::CertificateParams::new(vec![SERVER_NAME.to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    assert!(matches!(peer_key(&[certificate.der().clone()]), Err(TlsError::NotEd25519)));
    let rubbish = CertificateDer::from(vec![0x30, 0x00]);
    assert!(matches!(peer_key(&[rubbish]), Err(TlsError::Tls(_))));
}

#[test]
fn only_ed25519_is_offered() {
    let verifier = PinnedKeys::new(only([])).unwrap();
    assert_eq!(ServerCertVerifier::supported_verify_schemes(&verifier), [SignatureScheme::ED25519]);
    assert_eq!(ClientCertVerifier::supported_verify_schemes(&verifier), [SignatureScheme::ED25519]);
}

#[tokio::test]
async fn nodes_learn_each_others_keys() {
    let server = peer_server_config(&node(1), only([node(2).public(), node(3).public()])).unwrap();
    let client = peer_client_config(&node(2), node(1).public()).unwrap();
    let (server, client) = handshake(server, client).await;
    let (server, client) = (server.unwrap(), client.unwrap());
    assert_eq!(key_and_group(server.get_ref().1), (Some(node(2).public()), NamedGroup::X25519MLKEM768));
    assert_eq!(key_and_group(client.get_ref().1), (Some(node(1).public()), NamedGroup::X25519MLKEM768));
    assert_eq!(client.get_ref().1.alpn_protocol(), Some(ALPN_H2));
}

#[tokio::test]
async fn a_server_with_another_key_is_refused() {
    let server = peer_server_config(&node(1), only([node(2).public()])).unwrap();
    let client = peer_client_config(&node(2), node(3).public()).unwrap();
    let (server, client) = handshake(server, client).await;
    assert!(client.is_err() && server.is_err());
}

#[tokio::test]
async fn a_node_outside_the_set_is_refused_as_soon_as_it_is_outside() {
    let member = Arc::new(AtomicBool::new(true));
    let answer = Arc::clone(&member);
    let server = peer_server_config(&node(1), Arc::new(move |_| answer.load(Ordering::SeqCst))).unwrap();
    let client = peer_client_config(&node(2), node(1).public()).unwrap();
    assert!(handshake(server.clone(), client.clone()).await.0.is_ok());
    member.store(false, Ordering::SeqCst);
    assert!(handshake(server, client).await.0.is_err());
}

#[tokio::test]
async fn a_stolen_certificate_is_worth_nothing() {
    // Node 3 shows node 2's certificate, but can sign only with its own key.
    let (stolen, _) = certificate(&node(2)).unwrap();
    let (_, key) = certificate(&node(3)).unwrap();
    let key = default_provider().key_provider.load_private_key(key).unwrap();
    let pair = rustls::sign::SingleCertAndKey::from(rustls::sign::CertifiedKey::new(vec![stolen], key));
    let builder = client_builder(only([node(1).public()]), BETWEEN_NODES).unwrap();
    let client = finish_client(builder.with_client_cert_resolver(Arc::new(pair)));
    let server = peer_server_config(&node(1), only([node(2).public()])).unwrap();
    assert!(handshake(server, client).await.0.is_err());
}

#[tokio::test]
async fn a_peer_without_certificate_is_refused() {
    let server = peer_server_config(&node(1), Arc::new(|_| true)).unwrap();
    let client = client_config(only([node(1).public()])).unwrap();
    assert!(handshake(server, client).await.0.is_err());
}

#[tokio::test]
async fn between_nodes_nothing_classical_is_spoken() {
    let server = peer_server_config(&node(1), only([node(2).public()])).unwrap();
    let (certificate, key) = certificate(&node(2)).unwrap();
    let builder = client_builder(only([node(1).public()]), &[kx_group::X25519]).unwrap();
    let client = finish_client(builder.with_client_auth_cert(vec![certificate], key).unwrap());
    let (server, client) = handshake(server, client).await;
    assert!(server.is_err() && client.is_err());
}

#[tokio::test]
async fn clients_show_no_certificate_and_may_be_classical() {
    let server = client_server_config(&node(1)).unwrap();
    let allowed = only([node(1).public(), node(2).public()]);

    let modern = client_config(allowed.clone()).unwrap();
    let (accepted, connected) = handshake(server.clone(), modern).await;
    assert_eq!(key_and_group(accepted.unwrap().get_ref().1), (None, NamedGroup::X25519MLKEM768));
    assert_eq!(key_and_group(connected.unwrap().get_ref().1), (Some(node(1).public()), NamedGroup::X25519MLKEM768));

    let classical = finish_client(client_builder(allowed, &[kx_group::X25519]).unwrap().with_no_client_auth());
    let (accepted, connected) = handshake(server.clone(), classical).await;
    assert_eq!(key_and_group(accepted.unwrap().get_ref().1), (None, NamedGroup::X25519));
    assert!(connected.is_ok());

    let elsewhere = client_config(only([node(2).public()])).unwrap();
    assert!(handshake(server, elsewhere).await.1.is_err());
}
