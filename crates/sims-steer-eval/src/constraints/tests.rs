use super::*;

fn holds(kind: &str, value: &str, text: &str) -> bool {
    Constraint::new(kind, value)
        .expect("a constraint")
        .holds(text)
}

/// Asserts what a constraint says of texts.
#[track_caller]
fn check(kind: &str, value: &str, kept: &[&str], broken: &[&str]) {
    for text in kept {
        assert!(holds(kind, value, text), "{kind} {value}: {text:?}");
    }
    for text in broken.iter().chain(&["", " \n"]) {
        assert!(!holds(kind, value, text), "{kind} {value}: {text:?}");
    }
}

#[test]
fn counts_are_ranges_with_both_ends() {
    let count = |text: &str| text.parse::<Count>();
    let range = |least, most| Ok(Count { least, most });
    assert_eq!(count("5"), range(5, Some(5)));
    assert_eq!(count("5.."), range(5, None));
    assert_eq!(count("..10"), range(0, Some(10)));
    assert_eq!(count(" 3 .. 5 "), range(3, Some(5)));
    for text in ["", "..", "x", "-1", "1.5", "3...5", "5..3"] {
        assert!(count(text).is_err(), "{text}");
    }
}

#[test]
fn words_are_counted_as_ifeval_does() {
    check(
        "words",
        "3",
        &[
            "one two three",
            "one, two -- three!",
            "don't go",
            "été à_b 7",
        ],
        &["one two", "a b c d"],
    );
}

#[test]
fn sentences_end_with_a_mark_and_white_space() {
    check(
        "sentences",
        "2",
        &[
            "One. Two.",
            "One! Two",
            "It is 3.5 m. \"Really?\" ",
            "Wait... what?!",
            "(First.) Second",
            "一。二",
        ],
        &["One", "One. Two. Three.", "3.5 and 4.5", "... !"],
    );
}

#[test]
fn paragraphs_stand_between_blank_lines() {
    check(
        "paragraphs",
        "2",
        &["a\n\nb", "a\nb\n \n\n\nc\n", "a\r\n\r\nb"],
        &["a\nb", "a\n\nb\n\nc"],
    );
}

#[test]
fn bullets_are_lines() {
    check(
        "bullets",
        "2..3",
        &["* a\n* b", "Here:\n - a\n - b\n• c"],
        &[
            "* a",
            "**bold**\n* a",
            "---\n- a",
            "- a\n-\n",
            "- a\n- b\n- c\n- d",
        ],
    );
}

#[test]
fn json_is_one_value_and_nothing_else() {
    check(
        "json",
        "",
        &[
            "{\"a\": [1, 2]}",
            "```json\n{\"a\": 1}\n```",
            "```\n[]\n```",
            " 3 ",
        ],
        &[
            "{\"a\": 1",
            "Here: {\"a\": 1}",
            "```json\n{\"a\": 1}",
            "{} {}",
        ],
    );
}

#[test]
fn case_is_that_of_letters() {
    check(
        "lowercase",
        "",
        &["all small, 3 words", "straße"],
        &["All small", "123"],
    );
    check("uppercase", "", &["ALL BIG 3!"], &["ALL big", "123", "…"]);
}

#[test]
fn the_whole_is_quoted() {
    check(
        "quoted",
        "",
        &["\"so\"", " \"a \"b\" c\"\n"],
        &["so", "\"so", "\"", "x \"so\""],
    );
}

#[test]
fn keywords_are_whole_words_in_any_case() {
    check(
        "includes",
        "red cat",
        &["A Red Cat.", "red cat", "(RED CAT)"],
        &["red cats", "a scared cat", "red  cat"],
    );
    check("includes", "C++", &["use C++17", "c++!"], &["use C"]);
    check(
        "excludes",
        "cat",
        &["category", "a dog", "concat"],
        &["The CAT sat", "cat"],
    );
}

#[test]
fn endings_may_be_quoted() {
    check(
        "ends-with",
        "Any questions?",
        &[
            "So. any Questions?",
            "\"So. Any questions?\"",
            "Any questions? \n",
        ],
        &["Any questions? No."],
    );
}

#[test]
fn what_means_nothing_is_refused() {
    for (kind, value, expected) in [
        ("rhymes", "", "there is no kind `rhymes`; choose words,"),
        ("words", "few", "kind words: `few` is no number of them"),
        ("words", "5..3", "leaves no number"),
        ("json", "yes", "the value is `yes`, but json takes none"),
        ("includes", " ", "kind includes: the value is empty"),
    ] {
        let message = Constraint::new(kind, value).expect_err("nothing");
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn lines_name_prompts_by_id_or_text() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("constraints.jsonl");
    let write = |text: &str| fs::write(&path, text).expect("written");
    write(
        "{\"prompt_id\": \"p\", \"kind\": \"words\", \"value\": 2}\n\n{\"prompt\": \"hi\", \"kind\": \"json\"}\n{\"prompt_id\": \"p\", \"kind\": \"lowercase\"}",
    );
    let constraints = Constraints::read(&path).expect("rows");
    let hi = PromptRow::new(vec![Message::user("hi")], "eval", "x").prompt_id;
    assert_eq!(constraints.of(&hi), [Constraint::Json]);
    assert_eq!(constraints.kept("p", "Two words"), Some(0.5));
    assert_eq!(constraints.kept("q", "Two words"), None);
    for (text, expected) in [
        (
            "{\"prompt_id\": \"p\", \"kind\": \"json\"}\n{\"kind\": \"json\"}",
            "row 1 (from 0): give prompt_id, or prompt",
        ),
        (
            "{\"prompt_id\": \"p\", \"kind\": \"rhyme\"}",
            "row 0 (from 0): there is no kind `rhyme`",
        ),
        (
            "{\"prompt_id\": \"p\", \"kind\": \"json\", \"x\": 1}",
            "unknown field `x`",
        ),
        ("words", "neither a Parquet file nor a JSON object"),
    ] {
        write(text);
        let message = Constraints::read(&path)
            .expect_err("no constraints")
            .to_string();
        assert!(message.contains(expected), "{message}");
    }
}
