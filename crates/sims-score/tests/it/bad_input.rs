//! Files and flags that cannot be used: what is said about them.

use std::fs;

use tempfile::TempDir;

use crate::refused;

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, content: &str) -> String {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

#[track_caller]
fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

fn alpaca(path: &str) -> String {
    refused(&["alpaca", "--annotations", path, "--json"])
}

#[test]
fn annotations_that_are_none() {
    let files = Files::new();
    let refused = |name: &str, content: &str| alpaca(&files.write(name, content));
    says(
        &refused("a.csv", "preferences,length_1,length_2\n1.5,1,2\n1.2,1,2\n"),
        &[
            "a.csv has no column `preference`",
            "preferences, length_1, length_2",
        ],
    );
    says(
        &refused("a.csv", "preference\n1.5\n1.2\n"),
        &["no column `output_1` or `length_1`"],
    );
    says(
        &refused("a.csv", "preference,length_1,length_2\n1.5,1,2\nbad,1,2\n"),
        &[
            "a.csv, row 1, column `preference`",
            "\"bad\" is not a number",
        ],
    );
    says(
        &refused("a.csv", "preference,length_1,length_2\n1.5,1,2\n1.2,1,-3\n"),
        &["row 1, column `length_2`: -3 is not a count"],
    );
    says(
        &refused("a.csv", "preference,length_1,length_2\n1.5,1\n"),
        &["not a CSV table"],
    );
    says(
        &refused("a.csv", "preference,length_1,length_2\n"),
        &["the file has no rows"],
    );
    // Not a number, and on another scale.
    says(
        &refused(
            "a.csv",
            "preference,length_1,length_2\nnan,1,2\n0.3,1,2\n3,1,2\n1.1,1,2\n",
        ),
        &["1 rows have a preference from 1", "at least two are needed"],
    );
    says(
        &refused(
            "a.json",
            "[{\"preference\": 1.5, \"output_1\": \"a\", \"outp",
        ),
        &["not an array of JSON objects (cut short?)", "line 1"],
    );
    says(
        &refused(
            "a.json",
            "[{\"preference\": 1.5, \"output_1\": \"a\", \"output_2\": null}]",
        ),
        &["row 0, column `output_2`: a text is needed"],
    );
    says(
        &refused("a.jsonl", "{\"preference\": 1}\n{\"preference\":"),
        &["row 1: not a JSON object (cut short?)"],
    );
    says(
        &refused(
            "a.json",
            "[{\"preference\": 1, \"length_1\": 1, \"length_2\": 1, \"generator_2\": \"x\"},
              {\"preference\": 2, \"length_1\": 1, \"length_2\": 1, \"generator_2\": \"y\"}]",
        ),
        &["row 1, column `generator_2`: `y` after `x`"],
    );
    says(
        &refused("a.parquet", "PAR1"),
        &["not a readable Parquet file"],
    );
    says(
        &refused("a.txt", "x"),
        &["must end in .csv, .parquet, .json or .jsonl"],
    );
    says(&alpaca("absent.csv"), &["cannot read absent.csv"]);
}

#[test]
fn official_files_that_are_none() {
    let files = Files::new();
    let verdicts = files.write("a.csv", "preference,length_1,length_2\n1.5,1,2\n1.2,1,9\n");
    let right = files.write("d.csv", "index,instruction_difficulty\n0,0.5\n1,-1\n");
    let gamed = files.write(
        "g.csv",
        "preference,std_delta_len,instruction_difficulty\n0.5,1,2\n",
    );
    let refused = |verdicts: &str, difficulty: &str, gamed: &str| {
        refused(&[
            "alpaca",
            "--annotations",
            verdicts,
            "--difficulty",
            difficulty,
            "--gamed",
            gamed,
        ])
    };
    // The two files, confused.
    says(
        &refused(&verdicts, &gamed, &right),
        &["g.csv has no column `index`"],
    );
    says(
        &refused(&verdicts, &right, &right),
        &["d.csv has no column `preference`"],
    );
    let short = files.write("short.csv", "index,instruction_difficulty\n0,0.5\n");
    says(
        &refused(&verdicts, &short, &gamed),
        &[
            "short.csv: 1 difficulties for the 2 rows of",
            "the official instruction_difficulty.csv",
        ],
    );
    let jumbled = files.write("jumbled.csv", "index,instruction_difficulty\n1,0.5\n0,-1\n");
    says(
        &refused(&verdicts, &jumbled, &gamed),
        &["jumbled.csv, row 0, column `index`: 1 is out of order"],
    );
    let infinite = files.write("infinite.csv", "index,instruction_difficulty\n0,inf\n1,1\n");
    says(
        &refused(&verdicts, &infinite, &gamed),
        &["row 0, column `instruction_difficulty`: inf is not finite"],
    );
    let scale = files.write(
        "scale.csv",
        "preference,std_delta_len,instruction_difficulty\n1.5,1,2\n",
    );
    says(
        &refused(&verdicts, &right, &scale),
        &["scale.csv, row 0, column `preference`: 1.5 is outside 0 to 1"],
    );
    let equal = files.write(
        "equal.csv",
        "preference,length_1,length_2\n1.5,1,2\n1.2,5,6\n",
    );
    says(
        &refused(&equal, &right, &gamed),
        &["equal.csv: all outputs differ from the baseline's by the same length"],
    );
}

#[test]
fn a_regularization_that_is_none() {
    for value in ["0", "-1", "inf", "x"] {
        let flag = format!("--regularization={value}");
        let message = refused(&["alpaca", "--annotations", "a.csv", &flag]);
        says(&message, &["give a number above zero"]);
    }
}

#[test]
fn judgments_that_are_none() {
    let files = Files::new();
    let arena = |name: &str, content: &str, more: &[&str]| {
        let path = files.write(name, content);
        let mut arguments = vec!["arena-hard", "--judgments", &path, "--baseline", "base"];
        arguments.extend(more);
        refused(&arguments)
    };
    says(
        &arena("a.csv", "question_id,winner\nq,model_c\n", &[]),
        &["a.csv, row 0, column `winner`: `model_c` is none of model_a, model_b, tie"],
    );
    says(
        &arena("a.csv", "question_id,won\nq,tie\n", &[]),
        &["no column `games` or `winner`"],
    );
    says(
        &arena("a.csv", "winner\ntie\n", &[]),
        &["no column `question_id` or `uid`"],
    );
    says(
        &arena("a.csv", "question_id,winner,count\nq,tie,0\n", &[]),
        &["row 0, column `count`: 0 rows"],
    );
    says(
        &arena(
            "a.csv",
            "question_id,winner,model_a,model_b\nq,tie,x,y\n",
            &[],
        ),
        &["the baseline is `x`, not `base`"],
    );
    let games = |label: &str| {
        format!(
            "{{\"question_id\": \"q\", \"model\": \"m\", \"games\": [{{\"score\": {label}}}, {{\"score\": {label}}}]}}"
        )
    };
    says(
        &arena("a.jsonl", &games("\"A>>A\""), &["--version", "v2.0"]),
        &["row 0, column `games`: game 1 has the unknown label `A>>A`"],
    );
    says(
        &arena("a.jsonl", &games("null"), &[]),
        &["no verdict on m can be used"],
    );
    says(
        &arena("a.jsonl", &games("3"), &[]),
        &["is a label such as `A>B`, or null"],
    );
    says(
        &arena("a.jsonl", &format!("{0}\n{0}", games("\"A>B\"")), &[]),
        &["row 1: question q of m was judged in an earlier row"],
    );
    says(
        &arena("a.jsonl", &games("\"A>B\"")[..40], &[]),
        &["row 0: not a JSON object"],
    );
    says(
        &arena(
            "a.jsonl",
            "{\"question_id\": \"q\", \"model\": \"m\", \"games\": [{}, {}]}",
            &[],
        ),
        &["a game needs a `score` or a `judgment`"],
    );
    says(
        &arena(
            "a.jsonl",
            "{\"question_id\": \"q\", \"model\": \"m\", \"games\": []}",
            &[],
        ),
        &["two games are needed here"],
    );
    let elsewhere = "{\"uid\": \"q\", \"model\": \"m\", \"baseline\": \"other\", \"category\": \"c\", \"games\": [{\"score\": \"A>B\"}, {\"score\": \"A>B\"}]}";
    says(
        &arena("a.jsonl", elsewhere, &[]),
        &["the baseline is `other`, not `base`; categories differ in their baselines"],
    );
    says(
        &arena("a.jsonl", elsewhere, &["--category", "d"]),
        &["no row is of the category that was asked for"],
    );
}

#[test]
fn styles_that_are_none() {
    let files = Files::new();
    let battles = files.write("m.battles.csv", "question_id,winner\nq,tie\nr,model_a\n");
    let arena = |name: &str, content: &str| {
        let path = files.write(name, content);
        refused(&[
            "arena-hard",
            "--judgments",
            &battles,
            "--baseline",
            "base",
            "--style",
            &path,
        ])
    };
    let columns = "question_id,tokens_baseline,headers_baseline,lists_baseline,bold_baseline,tokens_model,headers_model,lists_model,bold_model";
    says(
        &arena("m.style.csv", &format!("{columns}\nq,1,1,1,1,2,2,2,2\n")),
        &["no counts for the answers of base and m to question r"],
    );
    says(
        &arena(
            "m.style.csv",
            &format!("{columns}\nq,1,1,1,1,2,2,2,2\nr,1,1,1,1,2,2,2,2\n"),
        ),
        &["the answers never differ in tokens", "--control"],
    );
    says(
        &arena("m.style.csv", &format!("{columns}\nq,1,1,1,1,2,x,2,2\n")),
        &["row 0, column `headers_model`", "is not a number"],
    );
    says(
        &arena("m.style.csv", "question_id\nq\n"),
        &["no column `tokens_baseline` or `model_id` or `model`"],
    );
    says(
        &arena("m.jsonl", "{\"question_id\": \"q\", \"model_id\": \"m\"}"),
        &["row 0: the answer has neither metadata nor a text with its `token_len`"],
    );
    says(
        &arena(
            "m.jsonl",
            "{\"question_id\": \"q\", \"model_id\": \"m\", \"conv_metadata\": {\"token_len\": 1}}",
        ),
        &["column `conv_metadata`: `header_count` is no count"],
    );
}
