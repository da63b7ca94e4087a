//! What Prometheus asks: `GET /metrics` over HTTP/1.1, in the clear, on a listener of its own that is off by default.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 8;
/// Time for a request to arrive.
const READ: Duration = Duration::from_secs(5);
/// Time for a whole connection, which carries one request.
const CONNECTION: Duration = Duration::from_secs(15);
/// Largest head of a request, bytes.
const HEAD_BYTES: usize = 16 * 1024;
/// Pause after a failed `accept`: out of file descriptors, it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The format of the metrics.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";
/// That of everything else.
const PLAIN: &str = "text/plain; charset=utf-8";

/// Serves what `text` gives until the program ends; none means that it cannot be had now.
pub async fn serve<F, G>(listener: TcpListener, text: F)
where
    F: Fn() -> G + Clone + Send + Sync + 'static,
    G: Future<Output = Option<String>> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The place comes first, so that nothing is accepted that cannot be served.
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let text = text.clone();
                tokio::spawn(async move {
                    // Who is too slow, or says something else than HTTP, is left without an answer.
                    let _ = timeout(CONNECTION, answer(stream, text, READ)).await;
                    drop(place);
                });
            }
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn answer<F, G>(stream: TcpStream, text: F, read: Duration) -> hyper::Result<()>
where
    F: Fn() -> G,
    G: Future<Output = Option<String>>,
{
    let text = &text;
    let service = service_fn(|request: Request<hyper::body::Incoming>| async move {
        Ok::<_, Infallible>(respond(request.method(), request.uri().path(), text).await)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(read).max_buf_size(HEAD_BYTES).keep_alive(false);
    http.serve_connection(TokioIo::new(stream), service).await
}

async fn respond<F, G>(method: &Method, path: &str, text: &F) -> Response<String>
where
    F: Fn() -> G,
    G: Future<Output = Option<String>>,
{
    if path != "/metrics" {
        return reply(StatusCode::NOT_FOUND, PLAIN, "there is /metrics and nothing else\n".to_owned());
    }
    if method != Method::GET {
        let mut response = reply(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET\n".to_owned());
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
        return response;
    }
    match text().await {
        Some(body) => reply(StatusCode::OK, EXPOSITION, body),
        None => reply(StatusCode::SERVICE_UNAVAILABLE, PLAIN, "the node stops\n".to_owned()),
    }
}

fn reply(status: StatusCode, kind: &'static str, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = [(header::CONTENT_TYPE, kind), (header::CONNECTION, "close")];
    response.headers_mut().extend(headers.map(|(name, value)| (name, HeaderValue::from_static(value))));
    response
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn up() -> std::future::Ready<Option<String>> {
        std::future::ready(Some("up 1\n".to_owned()))
    }

    /// What a listener answers to bytes, until it closes the connection.
    async fn ask(say: &[u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(serve(listener, up));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(say).await.unwrap();
        let mut answer = Vec::new();
        // A connection that is closed on bytes which nobody read ends with an error.
        let _ = timeout(CONNECTION, stream.read_to_end(&mut answer)).await.unwrap();
        serving.abort();
        String::from_utf8(answer).unwrap()
    }

    async fn status(method: &str, path: &str) -> String {
        let answer = ask(format!("{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
        answer.lines().next().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn only_metrics_and_only_get() {
        let answer = ask(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.to_lowercase();
        assert!(answer.starts_with("http/1.1 200 ok\r\n") && answer.ends_with("\r\n\r\nup 1\n"), "{answer}");
        assert!(answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{answer}");
        assert!(answer.contains("connection: close\r\n") && answer.contains("content-length: 5\r\n"), "{answer}");
        assert_eq!(status("GET", "/metrics?x=1").await, "HTTP/1.1 200 OK");
        for path in ["/", "/metrics/", "/metric", "/../metrics"] {
            assert_eq!(status("GET", path).await, "HTTP/1.1 404 Not Found", "{path}");
        }
        for method in ["POST", "HEAD", "PUT", "DELETE", "OPTIONS"] {
            assert_eq!(status(method, "/metrics").await, "HTTP/1.1 405 Method Not Allowed", "{method}");
        }
    }

    #[tokio::test]
    async fn a_head_that_is_too_large_gets_nothing() {
        let answer = ask(&[b"GET /metrics HTTP/1.1\r\nx: ", vec![b'y'; 2 * HEAD_BYTES].as_slice()].concat()).await;
        assert!(!answer.contains("200 OK") && !answer.contains("up 1"), "{answer}");
    }

    #[tokio::test]
    async fn who_does_not_end_its_question_is_left() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (there, _) = listener.accept().await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\n").await.unwrap();
        let answered = timeout(CONNECTION, answer(there, up, Duration::from_millis(50))).await.unwrap();
        assert!(answered.is_err_and(|error| error.is_timeout()), "a question without an end was waited for");
    }
}
