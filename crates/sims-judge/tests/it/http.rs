//! The HTTP judge over real sockets, against servers that misbehave.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use sims_artifact::write_table;
use sims_judge::http::{ApiKey, HttpJudge, HttpSettings, Patience};
use sims_judge::{Answer, Comparison, JudgeError, Judged, PairJudge, Preference};
use sims_stats::random::key_of;
use sims_testkit::random_model::{RandomModel, succeeded, summary};
use tempfile::TempDir;

use crate::Bench;

const KEY: &str = "sk-never-to-be-seen";

/// How a server treats one request.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Treatment {
    Healthy,
    WithoutLogprobs,
    Nonsense,
    TooMany,
    ServerError,
    Unavailable,
    Dropped,
    BrokenOff,
    TruncatedJson,
    Garbage,
    WrongKind,
    NoChoice,
    BadLogprob,
    Slow,
    Huge,
    WrongKey,
    Redirect,
}

use Treatment::*;

/// Those after which a request is worth another try.
const PASSING: [Treatment; 12] = [
    TooMany,
    ServerError,
    Unavailable,
    Dropped,
    BrokenOff,
    TruncatedJson,
    Garbage,
    WrongKind,
    NoChoice,
    BadLogprob,
    Slow,
    Huge,
];

/// A server on a port of its own; it lives as long as the test's process.
struct Server {
    address: String,
    requests: Arc<AtomicUsize>,
}

impl Server {
    /// Starts a server; `treat` is given the number of the question and of the attempt, both from 0.
    fn start(treat: impl Fn(usize, usize) -> Treatment + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/v1", listener.local_addr().unwrap());
        let requests = Arc::new(AtomicUsize::new(0));
        let (count, treat) = (requests.clone(), Arc::new(treat));
        let seen: Arc<Mutex<HashMap<String, (usize, usize)>>> = Arc::default();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (count, treat, seen) = (count.clone(), treat.clone(), seen.clone());
                thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let Some(body) = read_request(&stream) else {
                        return;
                    };
                    count.fetch_add(1, Ordering::SeqCst);
                    let (question, attempt) = {
                        let mut seen = seen.lock().unwrap();
                        let next = seen.len();
                        let entry = seen.entry(body.to_string()).or_insert((next, 0));
                        entry.1 += 1;
                        (entry.0, entry.1 - 1)
                    };
                    answer(&mut stream, &body, treat(question, attempt));
                });
            }
        });
        Self { address, requests }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// Reads a request's body; checks what a server would.
fn read_request(stream: &TcpStream) -> Option<Value> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    assert_eq!(line, "POST /v1/chat/completions HTTP/1.1\r\n");
    let mut authorised = false;
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let lower = line.to_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        authorised |= lower == format!("authorization: bearer {KEY}\r\n");
        if line == "\r\n" {
            break;
        }
    }
    assert!(authorised);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        (&body["temperature"], &body["top_logprobs"]),
        (&json!(0), &json!(20))
    );
    assert_eq!(body["model"], "some-model");
    Some(body)
}

/// Returns the probability that the server's model gives to A: a function of what it is asked.
fn probability(body: &Value) -> f64 {
    0.05 + 0.9 * (key_of(&body.to_string()) % 1000) as f64 / 1000.0
}

fn completion(body: &Value, text: &str, logprobs: Value) -> String {
    let prompt = body["messages"].to_string().split_whitespace().count();
    json!({
        "choices": [{"message": {"role": "assistant", "content": text}, "logprobs": logprobs}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": 1},
    })
    .to_string()
}

fn healthy(body: &Value) -> String {
    let p = probability(body);
    let text = if p > 0.5 { "A" } else { "B" };
    let top = json!([
        {"token": "A", "logprob": (0.96 * p).ln()},
        {"token": "B", "logprob": (0.96 * (1.0 - p)).ln()},
        {"token": "The", "logprob": 0.04_f64.ln()},
    ]);
    completion(
        body,
        text,
        json!({"content": [{"token": text, "logprob": 0.0, "top_logprobs": top}]}),
    )
}

fn answer(stream: &mut TcpStream, body: &Value, treatment: Treatment) {
    let mut send = |status: &str, kind: &str, body: &str| {
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
        );
        // The other side may have gone.
        let _ = stream.write_all((head + body).as_bytes());
    };
    let json = "application/json";
    let text = healthy(body);
    match treatment {
        Healthy => send("200 OK", json, &text),
        WithoutLogprobs => {
            let letter = if probability(body) > 0.5 {
                "**A**"
            } else {
                "Answer B."
            };
            send("200 OK", json, &completion(body, letter, Value::Null));
        }
        Nonsense => send(
            "200 OK",
            json,
            &completion(body, "It depends.", Value::Null),
        ),
        TooMany => send(
            "429 Too Many Requests\r\nretry-after: 0",
            json,
            "{\"error\": {\"message\": \"slow down\"}}",
        ),
        ServerError => send("500 Internal Server Error", "text/plain", "oops"),
        Unavailable => send("503 Service Unavailable", "text/html", "<html>"),
        Dropped => {}
        BrokenOff => {
            let head =
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 5000\r\n\r\n";
            let _ = stream.write_all((head.to_owned() + &text[..text.len() / 2]).as_bytes());
        }
        TruncatedJson => send("200 OK", json, &text[..text.len() / 2]),
        Garbage => {
            let _ = stream.write_all(&[0xff, 0x00, 0x13, 0x37, b'\r', b'\n', b'\r', b'\n']);
        }
        WrongKind => send("200 OK", "text/html", &text),
        NoChoice => send("200 OK", json, "{\"choices\": []}"),
        BadLogprob => send(
            "200 OK",
            json,
            &text.replace("\"logprob\":-", "\"logprob\":7e8, \"x\":-"),
        ),
        Slow => thread::sleep(Duration::from_millis(900)),
        Huge => send("200 OK", json, &(" ".repeat(3 << 20) + &text)),
        WrongKey => send(
            "401 Unauthorized",
            json,
            &json!({"error": {"message": format!("Incorrect API key provided: {KEY}")}})
                .to_string(),
        ),
        Redirect => send(
            "307 Temporary Redirect\r\nlocation: http://127.0.0.1:1/v1",
            json,
            "",
        ),
    }
}

fn settings(server: &Server, cache: &TempDir) -> HttpSettings {
    HttpSettings {
        base_url: server.address.clone(),
        model: "some-model".to_owned(),
        key: Some(ApiKey::new(KEY)),
        concurrency: 4,
        requests_per_minute: 0,
        token_budget: 0,
        patience: Patience {
            timeout: Duration::from_millis(600),
            attempts: 4,
            pause: Duration::from_millis(1),
            max_pause: Duration::from_millis(4),
        },
        cache: cache.path().to_owned(),
    }
}

fn comparisons(texts: &[String]) -> Vec<Comparison<'_>> {
    let mut all = Vec::new();
    for texts in texts.chunks_exact(2) {
        let forth = Comparison {
            prompt_id: "p",
            request: "say something",
            first: Answer::made("a", &texts[0]),
            second: Answer::made("b", &texts[1]),
        };
        all.extend([forth, forth.swapped()]);
    }
    all
}

fn texts(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("answer number {i}")).collect()
}

fn ask(settings: HttpSettings, comparisons: &[Comparison<'_>]) -> Result<Judged, JudgeError> {
    HttpJudge::new(settings)?.compare(comparisons, &mut |_| ControlFlow::Continue(()))
}

#[test]
fn a_server_that_misbehaves_in_every_way_gives_what_a_healthy_one_gives() {
    let texts = texts(24);
    let asked = comparisons(&texts);
    let (well, ill) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(|_, _| Healthy);
    let expected = ask(settings(&server, &well), &asked).unwrap();
    assert_eq!(server.requests(), 24);
    assert!(
        expected
            .preferences
            .iter()
            .all(|p| (p.coverage - 0.96).abs() < 1e-9)
    );
    let logits: Vec<f64> = expected.preferences.iter().map(|p| p.logit).collect();
    assert!(logits.iter().any(|l| *l > 0.5) && logits.iter().any(|l| *l < -0.5));

    let treat = |question: usize, attempt: usize| match attempt {
        0 | 1 => PASSING[(question + 5 * attempt) % PASSING.len()],
        _ => Healthy,
    };
    let server = Server::start(treat);
    let found = ask(settings(&server, &ill), &asked).unwrap();
    assert_eq!(found.preferences, expected.preferences);
    // Two failures each, and the answer.
    assert_eq!(server.requests(), 3 * 24);

    // Answers are kept: nothing is asked again, and what they cost still counts.
    let kept = ask(settings(&server, &ill), &asked).unwrap();
    assert_eq!(kept.preferences, expected.preferences);
    assert_eq!(server.requests(), 3 * 24);
    assert!(found.api_tokens > 0);
    assert_eq!(kept.api_tokens, found.api_tokens);
}

#[test]
fn a_server_without_log_probabilities_gives_letters_and_nonsense_is_invalid() {
    let texts = texts(8);
    let asked = comparisons(&texts);
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(|_, _| WithoutLogprobs);
    let found = ask(settings(&server, &cache), &asked).unwrap().preferences;
    assert!(
        found
            .iter()
            .all(|p| p.logit.abs() == 1.0 && p.coverage == 1.0)
    );
    assert!(found.iter().any(|p| p.logit > 0.0) && found.iter().any(|p| p.logit < 0.0));

    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(|_, _| Nonsense);
    let found = ask(settings(&server, &cache), &asked).unwrap().preferences;
    let invalid = Preference {
        logit: 0.0,
        coverage: 0.0,
    };
    assert_eq!(found, vec![invalid; 8]);
    assert_eq!(server.requests(), 8);
}

#[test]
fn a_wrong_key_or_a_redirect_ends_the_run_at_once_without_naming_the_key() {
    let texts = texts(2);
    let asked = comparisons(&texts);
    for (treatment, expected) in [
        (WrongKey, "is the key in OPENAI_API_KEY right?"),
        (Redirect, "as base-url"),
    ] {
        let cache = tempfile::tempdir().unwrap();
        let server = Server::start(move |_, _| treatment);
        let one = HttpSettings {
            concurrency: 1,
            ..settings(&server, &cache)
        };
        let error = ask(one, &asked).unwrap_err();
        assert!(error.is_bad_input() && !error.is_passing());
        let message = format!("{error} {error:?}");
        assert!(message.contains(expected), "{message}");
        assert!(!message.contains(KEY), "{message}");
        assert_eq!(server.requests(), 1);
    }
}

#[test]
fn a_server_that_never_recovers_is_given_up_and_may_be_tried_later() {
    let texts = texts(2);
    let asked = comparisons(&texts);
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(|_, _| ServerError);
    let one = HttpSettings {
        concurrency: 1,
        ..settings(&server, &cache)
    };
    let error = ask(one, &asked).unwrap_err();
    assert!(error.is_passing(), "{error}");
    assert!(
        error
            .to_string()
            .contains("no answer after 4 attempts: the server answers 500: oops"),
        "{error}"
    );
    assert_eq!(server.requests(), 4);
}

#[test]
fn a_run_that_was_stopped_asks_only_what_is_missing() {
    let texts = texts(40);
    let asked = comparisons(&texts);
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(|_, _| Healthy);
    let judge = HttpJudge::new(settings(&server, &cache)).unwrap();
    let stopped = judge.compare(&asked, &mut |done| match done {
        0..10 => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    });
    assert!(stopped.is_err());
    let before = server.requests();
    assert!((10..=10 + 4 + 4).contains(&before), "{before}");
    let found = ask(settings(&server, &cache), &asked).unwrap();
    assert_eq!(found.preferences.len(), 40);
    assert_eq!(server.requests(), 40);
}

#[test]
fn a_budget_stops_the_run_and_keeps_what_it_paid_for() {
    let texts = texts(20);
    let asked = comparisons(&texts);
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(|_, _| Healthy);
    let poor = || HttpSettings {
        token_budget: 700,
        ..settings(&server, &cache)
    };
    let error = ask(poor(), &asked).unwrap_err();
    let JudgeError::Budget {
        spent,
        answered,
        asked: all,
        ..
    } = error
    else {
        panic!("{error}");
    };
    assert!(spent <= 700 && all == 20);
    assert!(0 < answered && answered < 20, "{answered}");
    assert_eq!(server.requests(), answered);
    // Each further run goes on where the last one stopped.
    let mut runs = 1;
    let found = loop {
        match ask(poor(), &asked) {
            Ok(found) => break found,
            Err(_) => runs += 1,
        }
        assert!(runs < 20);
    };
    assert_eq!(found.preferences.len(), 20);
    assert_eq!(server.requests(), 20);
}

#[test]
fn a_damaged_answer_is_asked_again_and_equal_questions_once() {
    let texts = vec!["same".to_owned(); 4];
    let asked = comparisons(&texts);
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(|_, _| Healthy);
    let first = ask(settings(&server, &cache), &asked).unwrap();
    assert_eq!(server.requests(), 1);
    let folder = fs::read_dir(cache.path()).unwrap().next().unwrap().unwrap();
    let file = fs::read_dir(folder.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    fs::write(file.path(), "{\"logit\": 1").unwrap();
    let second = ask(settings(&server, &cache), &asked).unwrap();
    assert_eq!(server.requests(), 2);
    assert_eq!(first.preferences, second.preferences);
}

#[test]
fn the_stage_asks_the_server_and_leaves_no_trace_of_the_key() {
    let bench = Bench::new(&RandomModel::default());
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(|_, _| Healthy);
    let responses = bench.path("responses.parquet");
    write_table(&responses, &bench.responses(2, 4)).unwrap();
    let run = |out: &str, extra: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_sims-judge"))
            .arg("--prompts")
            .arg(bench.path("prompts.parquet"))
            .arg("--responses")
            .arg(&responses)
            .arg("--out")
            .arg(bench.path(out))
            .args(["--judge", "http"])
            .args(extra)
            .env("OPENAI_API_KEY", KEY)
            .env("OPENAI_BASE_URL", &server.address)
            .env("SIMS_JUDGE_CACHE", cache.path())
            .output()
            .unwrap()
    };
    let output = run("out", &["--judge-model", "some-model"]);
    succeeded(&output);
    let rows = bench.judgments("out");
    assert_eq!(rows.len(), 24);
    assert!(rows.iter().all(|row| row.judge == "http/some-model/ab-1"));
    assert!(
        summary(&bench.path("out"))["counts"]["api_tokens"]
            .as_f64()
            .unwrap()
            > 0.0
    );
    let mut written = output.stderr;
    for entry in fs::read_dir(bench.path("out")).unwrap() {
        written.extend(fs::read(entry.unwrap().path()).unwrap());
    }
    assert!(!String::from_utf8_lossy(&written).contains(KEY));

    // Another run reads the kept answers and makes the same tables.
    let asked = server.requests();
    succeeded(&run(
        "again",
        &["--judge-model", "some-model", "--concurrency", "1"],
    ));
    assert_eq!(server.requests(), asked);
    assert_eq!(bench.judgments("again"), rows);

    let message = String::from_utf8(run("none", &[]).stderr).unwrap();
    assert!(
        message.contains("judge `http` needs judge-model"),
        "{message}"
    );
    let message =
        String::from_utf8(run("none", &["--judge-model", "m", "--base-url", "api"]).stderr)
            .unwrap();
    assert!(
        message.contains("`api` is no address of a server"),
        "{message}"
    );
}
