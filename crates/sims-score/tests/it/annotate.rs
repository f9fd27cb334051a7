//! The annotator over real sockets, against servers that misbehave, and on published log-probabilities.

use std::collections::HashMap;
use std::fs::{self, File};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sims_score::alpaca::order::is_switched;
use sims_score::records::Records;
use tempfile::TempDir;

use crate::judge_server::{KEY, Reply, Server};
use crate::{cases, close, index, json, number, scored, text};

/// Instruction and both outputs, apart by a sign that occurs in none of them.
const TEMPLATE: &str = "<|im_start|>system\nbe fair\n<|im_end|>\n<|im_start|>user\n\
                        {instruction}\u{1}{output_1}\u{1}{output_2}\n<|im_end|>";

/// A folder with a template and outputs of a baseline and a model for so many instructions; the model's are good.
fn outputs(count: usize) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("clf.txt"), TEMPLATE).expect("written");
    for (generator, word) in [("base", "bad"), ("mine", "good")] {
        let row = |i| {
            json!({"instruction": format!("instruction {i}é"), "output": format!("{word} {i}"),
                "generator": generator, "dataset": "test"})
        };
        let rows: Vec<Value> = (0..count).map(row).collect();
        write_outputs(&folder, generator, rows);
    }
    folder
}

fn write_outputs(folder: &TempDir, generator: &str, rows: Vec<Value>) {
    let path = folder.path().join(format!("{generator}.json"));
    fs::write(path, Value::from(rows).to_string()).expect("written");
}

/// Returns instruction and outputs, as shown, of a request.
fn parts(body: &Value) -> Vec<String> {
    assert_eq!(
        body["messages"][0],
        json!({"role": "system", "content": "be fair"})
    );
    assert_eq!(body["messages"][1]["role"], "user");
    let question = text(&body["messages"][1], "content");
    question.split('\u{1}').map(str::to_owned).collect()
}

/// A judge that gives probability 0.8 to the output with `good` in it.
fn judge(body: &Value) -> Reply {
    let good_first = parts(body)[1].starts_with("good");
    let p: f64 = if good_first { 0.8 } else { 0.2 };
    Reply::tokens(&[("m", p.ln()), ("M", (1.0 - p).ln()), ("The", -20.0)])
}

fn command(folder: &TempDir, server: &Server, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sims-score"));
    command
        .current_dir(folder.path())
        .args([
            "alpaca-annotate",
            "--model",
            "some-judge",
            "--endpoint",
            &server.address,
        ])
        .args(["--outputs", "mine.json", "--baseline-outputs", "base.json"])
        .args(["--template", "clf.txt", "--out", "annotations.json"])
        .args(more)
        .env("OPENAI_API_KEY", KEY)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn annotate(folder: &TempDir, server: &Server, more: &[&str]) -> Output {
    let output = command(folder, server, more).output().expect("it starts");
    // Whatever happened, the key is nowhere.
    for stream in [&output.stdout, &output.stderr] {
        assert!(!String::from_utf8_lossy(stream).contains(KEY));
    }
    for entry in fs::read_dir(folder.path()).expect("a folder") {
        let bytes = fs::read(entry.expect("an entry").path()).expect("a file");
        assert!(!String::from_utf8_lossy(&bytes).contains(KEY));
    }
    assert!(output.stdout.is_empty());
    output
}

/// Annotates, which must succeed, and returns the notes.
#[track_caller]
fn annotated(folder: &TempDir, server: &Server, more: &[&str]) -> String {
    let output = annotate(folder, server, more);
    let notes = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{notes}");
    notes
}

/// Annotates, which must end with this code, and returns the message.
#[track_caller]
fn failed(folder: &TempDir, server: &Server, more: &[&str], code: i32) -> String {
    let output = annotate(folder, server, more);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert!(!folder.path().join("annotations.json").exists());
    message
}

fn rows(folder: &TempDir) -> Vec<Value> {
    let content = fs::read_to_string(folder.path().join("annotations.json")).expect("annotations");
    json(&content).as_array().expect("an array").clone()
}

fn kept(folder: &TempDir) -> String {
    fs::read_to_string(folder.path().join("annotations.answers.jsonl")).expect("answers")
}

#[test]
fn verdicts_have_the_official_form_and_do_not_depend_on_the_order_shown() {
    let folder = outputs(12);
    let server = Server::start(|_, body| {
        let parts = parts(body);
        let number = parts[0]
            .trim_start_matches("instruction ")
            .trim_end_matches('é');
        let mut expected = [format!("bad {number}"), format!("good {number}")];
        if is_switched(&parts[0]) {
            expected.reverse();
        }
        assert_eq!(parts[1..], expected);
        judge(body)
    });
    let notes = annotated(&folder, &server, &[]);
    assert_eq!(
        notes,
        "12 answers took 84 tokens of prompts and 12 of answers; 0 were kept from before\n"
    );
    let found = rows(&folder);
    assert_eq!((found.len(), server.requests()), (12, 12));
    for (index, row) in found.iter().enumerate() {
        assert_eq!(text(row, "instruction"), format!("instruction {index}é"));
        assert_eq!(
            (text(row, "generator_1"), text(row, "generator_2")),
            ("base", "mine")
        );
        assert_eq!(
            (text(row, "dataset"), text(row, "annotator")),
            ("test", "some-judge")
        );
        assert_eq!(text(row, "output_1"), format!("bad {index}"));
        close(number(row, "preference"), 1.8, 1e-12);
        assert!(row["raw_completion"]["logprobs"].is_object());
    }
    // Both orders occur, or the test would say nothing of them.
    let switched = found
        .iter()
        .filter(|row| is_switched(text(row, "instruction")));
    assert!((1..12).contains(&switched.count()));

    let annotations = folder.path().join("annotations.json");
    let (scores, _) = scored(&[
        "alpaca",
        "--annotations",
        annotations.to_str().expect("UTF-8"),
        "--json",
    ]);
    close(number(&scores, "win_rate"), 80.0, 1e-9);
    assert_eq!(
        (&scores["n"], &scores["model"]),
        (&json!(12), &json!("mine"))
    );
}

#[test]
fn failures_that_pass_are_tried_again_and_a_stopped_run_goes_on() {
    let folder = outputs(6);
    // Of every three requests two fail for now; from the thirteenth on the key is wrong.
    let server = Server::start(|number, body| match (number, number % 3) {
        (12.., _) => Reply::error(401, &format!("bad key {KEY}")),
        (0, _) => Reply::Sent(429, "retry-after: 1\r\n", "slow down".to_owned()),
        (_, 0) => Reply::Dropped,
        (1 | 7, _) => Reply::BrokenOff("{\"choices\": [".to_owned()),
        (_, 1) => Reply::Sent(503, "retry-after: 0\r\n", "busy".to_owned()),
        _ => judge(body),
    });
    let started = Instant::now();
    let message = failed(&folder, &server, &["--concurrency", "1"], 2);
    assert!(
        started.elapsed() >= Duration::from_secs(1),
        "the server asked for a second"
    );
    assert!(
        message.contains("no verdict on `instruction 4é`"),
        "{message}"
    );
    let said = "the server answers 401: bad key ***; is the key in OPENAI_API_KEY right?";
    assert!(message.contains(said), "{message}");
    assert!(message.contains("run it again for the rest"), "{message}");
    assert!(message.starts_with("4 answers took 28 tokens"), "{message}");
    assert_eq!(kept(&folder).lines().count(), 4);

    // Another address is another judge.
    let server = Server::start(|_, body| judge(body));
    let notes = annotated(&folder, &server, &[]);
    assert!(notes.starts_with("6 answers took"), "{notes}");
    // Nothing is left to ask, unless the question is another.
    let notes = annotated(&folder, &server, &[]);
    assert!(notes.starts_with("0 answers took 0 tokens"), "{notes}");
    assert!(notes.contains("6 were kept from before"), "{notes}");
    assert_eq!((server.requests(), rows(&folder).len()), (6, 6));
    fs::write(
        folder.path().join("clf.txt"),
        format!("{TEMPLATE}<|im_start|>assistant\nAnswer:"),
    )
    .expect("written");
    annotated(&folder, &server, &[]);
    assert_eq!(server.requests(), 12);
}

#[test]
fn a_server_that_never_recovers_is_given_up_and_may_be_tried_later() {
    let folder = outputs(3);
    let is_well = Arc::new(AtomicBool::new(false));
    let state = is_well.clone();
    let server = Server::start(move |number, body| {
        if number < 2 || state.load(Ordering::SeqCst) {
            return judge(body);
        }
        Reply::Sent(500, "retry-after: 0\r\n", "oops".to_owned())
    });
    let more = ["--concurrency", "1", "--attempts", "3"];
    let message = failed(&folder, &server, &more, 75);
    assert!(
        message.contains("no answer after 3 attempts: the server answers 500: oops"),
        "{message}"
    );
    assert_eq!(server.requests(), 5);
    // A line that broke off in the middle of a letter is asked for again, whole ones are not.
    let path = folder.path().join("annotations.answers.jsonl");
    let mut bytes = kept(&folder).into_bytes();
    bytes.truncate(bytes.len() - 20);
    bytes.push(0xC3);
    fs::write(&path, bytes).expect("written");
    is_well.store(true, Ordering::SeqCst);
    let notes = annotated(&folder, &server, &[]);
    assert!(notes.contains("2 answers took"), "{notes}");
    assert!(notes.contains("1 were kept from before"), "{notes}");
    assert_eq!((server.requests(), rows(&folder).len()), (7, 3));
    assert_eq!(kept(&folder).lines().count(), 3);
}

#[test]
fn a_judge_that_names_neither_is_refused_unless_told_otherwise() {
    let folder = outputs(2);
    let server = Server::start(|_, body| match parts(body)[0].contains('0') {
        true => Reply::tokens(&[("The", -0.1), ("\n", -3.0)]),
        false => judge(body),
    });
    let message = failed(&folder, &server, &["--concurrency", "1"], 2);
    assert!(
        message.contains("no verdict on `instruction 0é`: neither `m` nor `M`"),
        "{message}"
    );
    assert!(message.contains("(`The` 0.905, `\\n` 0.050)"), "{message}");
    let notes = annotated(&folder, &server, &["--allow-missing"]);
    assert!(notes.contains("1 rows have no preference"), "{notes}");
    assert!(rows(&folder)[0]["preference"].is_null());
    close(number(&rows(&folder)[1], "preference"), 1.8, 1e-12);
    assert_eq!(server.requests(), 3);

    let folder = outputs(2);
    let server =
        Server::start(|_, _| Reply::Sent(200, "", "{\"choices\": [{\"message\": {}}]}".to_owned()));
    let message = failed(&folder, &server, &["--allow-missing"], 2);
    assert!(
        message.contains("the server gives no log-probabilities"),
        "{message}"
    );
}

#[test]
fn an_interrupt_loses_nothing() {
    let folder = outputs(40);
    let server = Server::start(|number, body| {
        if number >= 5 {
            std::thread::sleep(Duration::from_millis(200));
        }
        judge(body)
    });
    let child = command(&folder, &server, &["--concurrency", "2"])
        .spawn()
        .expect("it starts");
    while server.requests() < 8 {
        std::thread::sleep(Duration::from_millis(10));
    }
    let signal = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(signal.expect("kill runs").success());
    let output = child.wait_with_output().expect("it ends");
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{message}");
    let asked = server.requests();
    let told = format!("interrupted: {asked} of 40 answers are kept in annotations.answers.jsonl");
    assert!(message.contains(&told), "{message}");
    assert_eq!(kept(&folder).lines().count(), asked);
    annotated(&folder, &server, &["--concurrency", "16"]);
    assert_eq!((server.requests(), rows(&folder).len()), (40, 40));
}

#[test]
fn equal_outputs_are_a_draw_that_nobody_is_asked_about() {
    let folder = outputs(3);
    let row = |generator: &str, output: &str| json!({"instruction": "instruction 1é", "output": output, "generator": generator});
    write_outputs(&folder, "base", vec![row("base", "same")]);
    write_outputs(&folder, "mine", vec![row("mine", "same")]);
    let server = Server::start(|_, _| Reply::Dropped);
    annotated(&folder, &server, &[]);
    assert_eq!(server.requests(), 0);
    let found = &rows(&folder)[0];
    assert_eq!(found["preference"], 1.5);
    assert!(found["raw_completion"].is_null());
}

#[test]
fn a_key_in_an_answer_is_not_written() {
    let folder = outputs(2);
    let server = Server::start(|_, body| match judge(body) {
        Reply::Sent(status, headers, body) => {
            let mut body = json(&body);
            body["choices"][0]["echo"] = KEY.into();
            Reply::Sent(status, headers, body.to_string())
        }
        other => other,
    });
    annotated(&folder, &server, &[]);
    assert_eq!(rows(&folder)[0]["raw_completion"]["echo"], "***");
}

#[test]
fn the_key_comes_from_the_variable_that_is_named() {
    let folder = outputs(2);
    let server = Server::start(|_, body| judge(body));
    let mut command = command(&folder, &server, &["--key-variable", "JUDGE_KEY"]);
    command.env_remove("OPENAI_API_KEY").env("JUDGE_KEY", KEY);
    let output = command.output().expect("it starts");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(rows(&folder).len(), 2);
}

#[test]
fn what_cannot_be_asked_is_refused() {
    let folder = outputs(2);
    let server = Server::start(|_, body| judge(body));
    let refused = |more: &[&str], expected: &str| {
        let message = failed(&folder, &server, more, 2);
        assert!(message.contains(expected), "{message}");
    };
    let write = |text: &str| fs::write(folder.path().join("clf.txt"), text).expect("written");
    write("{instruction} {output_1}");
    refused(&[], "clf.txt: the template has {output_2} 0 times");
    write("{instruction} {output_1} {output_2} {output_1}");
    refused(&[], "clf.txt: the template has {output_1} 2 times");
    write(TEMPLATE);
    write_outputs(
        &folder,
        "mine",
        vec![json!({"instruction": "x", "output": "", "generator": "mine"})],
    );
    refused(
        &[],
        "mine.json: no instruction is one of those of base.json",
    );
    assert!(!folder.path().join("annotations.answers.jsonl").exists());
    let folder = outputs(2);
    // Another run has the file of answers.
    let file = File::create(folder.path().join("annotations.answers.jsonl")).expect("a file");
    file.lock().expect("free");
    let message = failed(&folder, &server, &[], 2);
    assert!(
        message.contains("another run is writing its answers here"),
        "{message}"
    );
    drop(file);
    fs::write(folder.path().join("annotations.answers.jsonl"), "{}\n").expect("written");
    let message = failed(&folder, &server, &[], 2);
    assert!(
        message.contains("annotations.answers.jsonl, row 0: no answer that was kept"),
        "{message}"
    );
    assert_eq!(server.requests(), 0);
}

/// Claude 2's published log-probabilities, sent for its published outputs, give its published win rate.
#[test]
fn published_log_probabilities_give_the_published_score() {
    let Some(cases) = cases("alpaca") else {
        return;
    };
    let real_text = cases.join("../../real-text/alpaca-responses.parquet");
    if !real_text.is_file() {
        eprintln!("skipped: {} is not here", real_text.display());
        return;
    }
    let own = |row: &sims_score::records::Record<'_>| {
        row.text("generator").expect("a text") == "claude-2"
    };
    let responses = Records::read(&real_text).expect("the responses");
    let mut own: Vec<_> = responses.iter().filter(own).collect();
    own.sort_by_key(|row| row.finite("instruction_index").expect("an index") as usize);
    let output = |generator: &str, row: &sims_score::records::Record<'_>, output: &str| {
        json!({"instruction": row.text("instruction").expect("a text"), "output": output, "generator": generator,
            "dataset": row.text("dataset").expect("a text")})
    };
    let folder = outputs(0);
    let published = own
        .iter()
        .map(|row| output("claude-2", row, row.text("output").expect("a text")));
    write_outputs(&folder, "mine", published.collect());
    // The baseline's texts are not here, and the judge of this test does not read them. Where the published file has no
    // log-probabilities, both outputs were the same.
    let judged = Records::read(&cases.join("claude-2.logprobs.csv")).expect("the table");
    let judged: HashMap<usize, (String, bool)> = judged
        .iter()
        .map(|row| {
            let number = row.finite("row").expect("a number") as usize;
            let switched = row.finite("switched").expect("a number") == 1.0;
            let top = row.text("top_logprobs").expect("a text").to_owned();
            (number, (top, switched))
        })
        .collect();
    assert_eq!((own.len(), judged.len()), (805, 804));
    let baseline = own.iter().enumerate().map(|(number, row)| {
        let same = row.text("output").expect("a text");
        let shown = if judged.contains_key(&number) {
            "baseline"
        } else {
            same
        };
        output("gpt4_1106_preview", row, shown)
    });
    write_outputs(&folder, "base", baseline.collect());

    let answers: HashMap<String, (String, bool)> = own
        .iter()
        .enumerate()
        .filter_map(|(number, row)| {
            let instruction = row.text("instruction").expect("a text").trim().to_owned();
            Some((instruction, judged.get(&number)?.clone()))
        })
        .collect();
    let server = Server::start(move |_, body| {
        let parts = parts(body);
        let (top, switched) = &answers[parts[0].trim()];
        // Claude 2's output was shown first where the published file says so.
        assert_eq!(parts[2] == "baseline", *switched, "{}", parts[0]);
        let top: Vec<(String, f64)> = serde_json::from_str(top).expect("pairs");
        let top: Vec<(&str, f64)> = top.iter().map(|(token, p)| (token.as_str(), *p)).collect();
        Reply::tokens(&top)
    });
    annotated(&folder, &server, &["--concurrency", "16"]);
    assert_eq!(server.requests(), 804);
    let published = Records::read(&cases.join("claude-2.csv")).expect("the table");
    assert_eq!(published.count(), 805);
    for (row, published) in rows(&folder).iter().zip(published.iter()) {
        let expected = published.finite("preference").expect("a number");
        close(number(row, "preference"), expected, 1e-9);
    }
    let annotations = folder.path().join("annotations.json");
    let (scores, _) = scored(&[
        "alpaca",
        "--annotations",
        annotations.to_str().expect("UTF-8"),
        "--json",
    ]);
    let index = index(&cases);
    let claude = index["models"].as_array().into_iter().flatten();
    let mut claude = claude.filter(|model| model["model"] == "claude-2");
    let official = &claude.next().expect("claude-2 is in the index")["official"];
    close(
        number(&scores, "win_rate"),
        number(official, "win_rate"),
        1e-6,
    );
    close(
        number(&scores, "standard_error"),
        number(official, "standard_error"),
        1e-6,
    );
    assert_eq!(scores["avg_length"], official["avg_length"]);
}
