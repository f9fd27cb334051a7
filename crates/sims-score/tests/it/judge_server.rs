//! A server with an OpenAI-compatible interface, on a port of its own, for the annotator's tests.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};

/// The key that requests must carry.
pub(crate) const KEY: &str = "sk-never-to-be-seen";

/// What the server does with a request.
pub(crate) enum Reply {
    /// A status, further header lines, and a body.
    Sent(u16, &'static str, String),
    /// The connection ends without a word.
    Dropped,
    /// The body ends before it is whole.
    BrokenOff(String),
}

impl Reply {
    /// Answers with these tokens, likeliest first, and their log-probabilities.
    pub(crate) fn tokens(top: &[(&str, f64)]) -> Self {
        let top: Vec<Value> = top
            .iter()
            .map(|(token, logprob)| json!({"token": token, "logprob": logprob}))
            .collect();
        let choice =
            json!({"logprobs": {"content": [{"token": top[0]["token"], "top_logprobs": top}]}});
        let body =
            json!({"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 1}});
        Self::Sent(200, "", body.to_string())
    }

    /// Answers with an error.
    pub(crate) fn error(status: u16, message: &str) -> Self {
        let body = json!({"error": {"message": message}});
        Self::Sent(status, "", body.to_string())
    }
}

/// The server; it lives as long as the test's process.
pub(crate) struct Server {
    /// What to give as `--endpoint`.
    pub(crate) address: String,
    requests: Arc<AtomicUsize>,
}

impl Server {
    /// Starts a server; `reply` is given the number of the request, from 0, and its body.
    pub(crate) fn start(reply: impl Fn(usize, &Value) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = format!("http://{}/v1", listener.local_addr().expect("an address"));
        let requests = Arc::new(AtomicUsize::new(0));
        let (count, reply) = (requests.clone(), Arc::new(reply));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (count, reply) = (count.clone(), reply.clone());
                thread::spawn(move || {
                    let mut stream = stream.expect("a connection");
                    let Some(body) = read_request(&stream) else {
                        return;
                    };
                    send(
                        &mut stream,
                        reply(count.fetch_add(1, Ordering::SeqCst), &body),
                    );
                });
            }
        });
        Self { address, requests }
    }

    /// Returns how many requests came.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

fn send(stream: &mut TcpStream, reply: Reply) {
    let (status, headers, length, body) = match reply {
        Reply::Sent(status, headers, body) => (status, headers, body.len(), body),
        Reply::BrokenOff(body) => (200, "", body.len() + 10, body),
        Reply::Dropped => return,
    };
    // The client may be gone.
    let _ = write!(
        stream,
        "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\n{headers}content-length: {length}\r\n\
         connection: close\r\n\r\n{body}"
    );
}

/// Reads a request's body; checks what a server would, and what the official annotator asks for.
fn read_request(stream: &TcpStream) -> Option<Value> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    assert_eq!(line, "POST /v1/chat/completions HTTP/1.1\r\n");
    let (mut length, mut authorised) = (0, false);
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let lower = line.to_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
        authorised |= lower == format!("authorization: bearer {KEY}\r\n");
    }
    assert!(authorised);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(
        [
            "max_tokens",
            "top_logprobs",
            "temperature",
            "logprobs",
            "model"
        ]
        .map(|key| &body[key]),
        [
            &json!(1),
            &json!(5),
            &json!(1),
            &json!(true),
            &json!("some-judge")
        ]
    );
    Some(body)
}
