//! Files of judgments, and the rows that the scores are means of.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Version;
use super::verdict::{self, Verdict};
use crate::ScoreError;
use crate::records::{Record, Records};

/// All verdicts on one model.
#[derive(Debug)]
pub struct Battles {
    /// The model.
    pub model: String,
    /// The file that it was first met in.
    pub path: PathBuf,
    /// Groups of equal rows.
    pub rows: Vec<Battle>,
    /// The two games of each question, where the files tell them apart.
    pub games: Vec<[Option<Verdict>; 2]>,
    /// Games without a label that this edition knows; they count nowhere.
    pub invalid_games: usize,
    /// Questions that count nowhere, because one of their games has no label.
    pub dropped_questions: usize,
}

/// Equal rows of one question.
#[derive(Debug, Clone, PartialEq)]
pub struct Battle {
    /// The question.
    pub question: String,
    /// 1 if the model won, ½ for a tie, 0 if the baseline won.
    pub share: f64,
    /// Number of rows.
    pub rows: u32,
}

/// How files are to be read.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whose rules apply.
    pub version: Version,
    /// The model that all others are compared with.
    pub baseline: String,
    /// The only category whose questions count; all count where there is none.
    pub category: Option<String>,
}

/// Reads the judgments of one or more models, in the order in which they are met.
///
/// A file has either judgments (`games`: two, the baseline shown first in the first one) or battles
/// (`winner`: `model_a`, `model_b` or `tie`, optionally with a `count`). Its model is named by the
/// columns `model` or `model_a` and `model_b`, else by the file's name.
///
/// # Errors
/// A file that cannot be read, a value that means nothing, a question twice, another baseline, a model
/// without any row.
pub fn read(paths: &[PathBuf], settings: &Settings) -> Result<Vec<Battles>, ScoreError> {
    let mut models: Vec<Battles> = Vec::new();
    let mut seen = HashSet::new();
    for path in paths {
        let records = Records::read(path)?;
        for record in records.iter() {
            if !settings.counts(&record)? {
                continue;
            }
            if records.has("games") {
                let name = judged_model(&records, &record, settings)?;
                let question = question_id(&records, &record)?;
                if !seen.insert((name.clone(), question.clone())) {
                    return Err(record.error(format!(
                        "question {question} of {name} was judged in an earlier row; keep one of them"
                    )));
                }
                of(&mut models, name, path).add_games(&record, question, settings.version)?;
            } else if records.has("winner") {
                let (name, first) = battling_model(&records, &record, settings)?;
                let battle = battle(&records, &record, first)?;
                of(&mut models, name, path).rows.push(battle);
            } else {
                return Err(records.without(&["games", "winner"]));
            }
        }
    }
    match models.iter().find(|model| model.rows.is_empty()) {
        Some(model) => Err(ScoreError::file(
            &model.path,
            format!("no verdict on {} can be used", model.model),
        )),
        None if models.is_empty() => Err(ScoreError::file(
            &paths[0],
            "no row is of the category that was asked for",
        )),
        None => Ok(models),
    }
}

impl Settings {
    /// Tells whether a row is of the category that was asked for.
    fn counts(&self, record: &Record<'_>) -> Result<bool, ScoreError> {
        match &self.category {
            Some(category) => Ok(record.text("category")? == category),
            None => Ok(true),
        }
    }

    fn not_the_baseline(&self, record: &Record<'_>, column: &str, found: &str) -> ScoreError {
        let hint = match record.get("category") {
            Some(_) => "; categories differ in their baselines: choose one with --category",
            None => "",
        };
        record.cell(
            column,
            format!("the baseline is `{found}`, not `{}`{hint}", self.baseline),
        )
    }
}

impl Battles {
    fn add_games(
        &mut self,
        record: &Record<'_>,
        question: String,
        version: Version,
    ) -> Result<(), ScoreError> {
        let games = record
            .get("games")
            .and_then(Value::as_array)
            .filter(|games| (1..=2).contains(&games.len()))
            .ok_or_else(|| record.cell("games", "two games are needed here".to_owned()))?;
        let mut verdicts = [None, None];
        for (place, game) in games.iter().enumerate() {
            let Some(label) = label_of(record, game, version)? else {
                continue;
            };
            verdicts[place] = Verdict::of_label(&label, version);
            if verdicts[place].is_none() && version == Version::V20 {
                return Err(record.cell(
                    "games",
                    format!("game {} has the unknown label `{label}`", place + 1),
                ));
            }
        }
        self.games.push(verdicts);
        self.invalid_games += verdicts.iter().filter(|v| v.is_none()).count();
        if version == Version::V20 && verdicts.contains(&None) {
            self.dropped_questions += 1;
            return Ok(());
        }
        for (place, verdict) in verdicts.into_iter().enumerate() {
            if let Some(verdict) = verdict {
                let for_model = verdict.for_model(place == 1);
                self.rows.push(Battle {
                    question: question.clone(),
                    share: 0.5 + 0.5 * f64::from(for_model.signum()),
                    rows: verdict::rows(for_model),
                });
            }
        }
        Ok(())
    }
}

/// Returns the battles of a model, started where they are not there yet.
fn of<'a>(models: &'a mut Vec<Battles>, name: String, path: &Path) -> &'a mut Battles {
    let place = models.iter().position(|model| model.model == name);
    let place = place.unwrap_or_else(|| {
        models.push(Battles {
            model: name,
            path: path.to_owned(),
            rows: Vec::new(),
            games: Vec::new(),
            invalid_games: 0,
            dropped_questions: 0,
        });
        models.len() - 1
    });
    &mut models[place]
}

/// Returns a game's label: as it was stored, else as the judgment has it.
fn label_of(
    record: &Record<'_>,
    game: &Value,
    version: Version,
) -> Result<Option<String>, ScoreError> {
    let wrong = |message: &str| record.cell("games", message.to_owned());
    if game.is_null() {
        return Ok(None);
    }
    match game.get("score") {
        Some(Value::Null) => Ok(None),
        Some(Value::String(label)) => Ok(Some(label.clone())),
        Some(_) => Err(wrong(
            "the `score` of a game is a label such as `A>B`, or null",
        )),
        None => {
            let judgment = game.get("judgment");
            let text = judgment.and_then(|j| j.as_str().or_else(|| j.get("answer")?.as_str()));
            let text = text.ok_or_else(|| wrong("a game needs a `score` or a `judgment`"))?;
            Ok(verdict::label(text, version))
        }
    }
}

/// Returns the question's id: `question_id` in v0.1, `uid` in v2.0.
pub(super) fn question_id(records: &Records, record: &Record<'_>) -> Result<String, ScoreError> {
    ["question_id", "uid"]
        .into_iter()
        .find(|column| records.has(column))
        .map(|column| record.text(column).map(str::to_owned))
        .unwrap_or_else(|| Err(records.without(&["question_id", "uid"])))
}

/// Returns the name that a file gives: without its ending and what it says about its kind.
pub(super) fn name_of(path: &Path, kind: &str) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    stem.strip_suffix(kind).unwrap_or(&stem).to_owned()
}

fn judged_model(
    records: &Records,
    record: &Record<'_>,
    settings: &Settings,
) -> Result<String, ScoreError> {
    if records.has("baseline") {
        let baseline = record.text("baseline")?;
        if baseline != settings.baseline {
            return Err(settings.not_the_baseline(record, "baseline", baseline));
        }
    }
    let name = if records.has("model") {
        record.text("model")?.to_owned()
    } else {
        name_of(records.path(), ".judgments")
    };
    if name == settings.baseline {
        return Err(record.cell(
            "model",
            "the baseline is not judged against itself".to_owned(),
        ));
    }
    Ok(name)
}

/// Returns the model of a battle, and whether it is `model_a`.
fn battling_model(
    records: &Records,
    record: &Record<'_>,
    settings: &Settings,
) -> Result<(String, bool), ScoreError> {
    if !records.has("model_a") && !records.has("model_b") {
        return Ok((name_of(records.path(), ".battles"), false));
    }
    let (a, b) = (record.text("model_a")?, record.text("model_b")?);
    match (a == settings.baseline, b == settings.baseline) {
        (true, false) => Ok((b.to_owned(), false)),
        (false, true) => Ok((a.to_owned(), true)),
        _ => Err(settings.not_the_baseline(record, "model_a", a)),
    }
}

/// Reads a row of battles; `first` tells that the model is `model_a`.
fn battle(records: &Records, record: &Record<'_>, first: bool) -> Result<Battle, ScoreError> {
    let share = match (record.text("winner")?, first) {
        ("model_a", true) | ("model_b", false) => 1.0,
        ("model_a", false) | ("model_b", true) => 0.0,
        ("tie" | "tie (bothbad)", _) => 0.5,
        (other, _) => {
            return Err(record.cell(
                "winner",
                format!("`{other}` is none of model_a, model_b, tie"),
            ));
        }
    };
    let rows = if records.has("count") {
        record.count("count")?
    } else {
        1
    };
    if rows == 0 {
        return Err(record.cell("count", "0 rows; leave the row out".to_owned()));
    }
    Ok(Battle {
        question: question_id(records, record)?,
        share,
        rows,
    })
}
