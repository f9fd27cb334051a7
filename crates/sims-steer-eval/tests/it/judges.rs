//! Judges other than the model itself: a server over a real socket, several together, one that errs.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};
use sims_testkit::random_model::{RandomModel, succeeded};

use super::{ANY_GAIN, Bench};

const KEY: &str = "sk-never-to-be-seen";

/// Starts a server that answers every request with `status`; returns its address and the count of requests.
fn server(status: &'static str) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/v1", listener.local_addr().unwrap());
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            count.fetch_add(1, Ordering::SeqCst);
            answer(&stream.unwrap(), status);
        }
    });
    (address, requests)
}

/// Prefers the answer shown first in one order, and so with the same force the other one in the other order.
fn answer(mut stream: &TcpStream, status: &str) {
    let mut reader = BufReader::new(stream);
    let (mut length, mut line) = (0, String::new());
    while reader.read_line(&mut line).unwrap() > 2 {
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let _: Value = serde_json::from_slice(&body).unwrap();
    let top =
        json!([{"token": "A", "logprob": 0.9_f64.ln()}, {"token": "B", "logprob": 0.1_f64.ln()}]);
    let token = json!({"token": "A", "logprob": 0.9_f64.ln(), "top_logprobs": top});
    let text = json!({
        "choices": [{"message": {"role": "assistant", "content": "A"}, "logprobs": {"content": [token]}}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 1},
        "error": {"message": format!("no such key: {KEY}")},
    })
    .to_string();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        text.len()
    );
    // The other side may have gone.
    let _ = stream.write_all((head + &text).as_bytes());
}

/// Runs the stage with the judge `http`.
fn run_http(bench: &Bench, out: &str, address: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sims-steer-eval"))
        .args(["--judge", "http", "--judge-model", "m", "--gate", "none"])
        .args(["--base-url", address, "--max-new-tokens", "6"])
        .args(["--resamples", "200", "--draws", "1"])
        .arg("--model")
        .arg(&bench.model)
        .arg("--prompts")
        .arg(bench.path("prompts.parquet"))
        .arg("--steering")
        .arg(bench.path("s.safetensors"))
        .arg("--out")
        .arg(bench.path(out))
        .env("OPENAI_API_KEY", KEY)
        .env("SIMS_JUDGE_CACHE", bench.path("answers"))
        .output()
        .unwrap()
}

#[test]
fn a_server_judges_and_its_answers_are_kept() {
    let bench = Bench::new(&RandomModel::default());
    bench.push("s.safetensors", 1, 9, 0.5);
    let (address, requests) = server("200 OK");
    succeeded(&run_http(&bench, "out", &address));
    let asked = requests.load(Ordering::SeqCst);
    assert!(asked > 0);
    // Whatever is shown first wins, so that no side does.
    let wins = bench.metric("out", "self_judge_win_rate");
    assert!((wins.value - 0.5).abs() < 1e-12, "{wins:?}");

    succeeded(&run_http(&bench, "again", &address));
    assert_eq!(
        requests.load(Ordering::SeqCst),
        asked,
        "nothing is asked twice"
    );
    assert_eq!(bench.metric("again", "self_judge_win_rate"), wins);

    let (address, _) = server("401 Unauthorized");
    fs::remove_dir_all(bench.path("answers")).unwrap();
    let output = run_http(&bench, "refused", &address);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(
        message.contains("401") && !message.contains(KEY),
        "{message}"
    );
}

#[test]
fn judges_may_err_or_decide_together() {
    let bench = Bench::new(&RandomModel::default());
    bench.push("s.safetensors", 1, 9, 0.5);
    let noisy = [
        "--judge",
        "noisy",
        "--oracle",
        "planted-length",
        "--length-weight",
        "0.5",
    ];
    let noisy = [&noisy[..], &["--error-rate", "0.5"], &ANY_GAIN].concat();
    succeeded(&bench.run("noisy", "s.safetensors", &noisy));

    let together = ["--judge", "ensemble", "--members", "self,planted-length"];
    let together = [&together[..], &["--length-weight", "0.1"], &ANY_GAIN].concat();
    succeeded(&bench.run("together", "s.safetensors", &together));

    // What only the second judge reads is no mistake; what neither reads is.
    let second = ["--second-judge", "planted-length", "--length-weight", "0.1"];
    let second = [&second[..], &ANY_GAIN].concat();
    succeeded(&bench.run("second", "s.safetensors", &second));
    let output = bench.run("bad", "s.safetensors", &["--members", "self,rating"]);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        message.contains("members is given, but judge `self` does not read it"),
        "{message}"
    );
}
