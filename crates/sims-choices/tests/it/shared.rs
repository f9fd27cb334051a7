//! Cases that lie beside the repository.

use serde_json::Value;
use sims_artifact::tables::ChoicesRow;
use sims_choices::evaluate::ChoiceScore;
use sims_choices::metrics::Metric;

#[test]
fn mc2_of_published_rows_is_reproduced() {
    let Some(path) = sims_testkit::shared("eval-cases/harness/truthfulqa_mc2.json") else {
        return;
    };
    let cases: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let docs = cases["docs"].as_array().unwrap();
    assert!(!docs.is_empty());
    for doc in docs {
        let list = |key: &str| doc[key].as_array().unwrap().iter();
        let question = ChoicesRow {
            task: "truthfulqa_mc2".to_owned(),
            groups: Vec::new(),
            doc_id: doc["doc_id"].to_string(),
            split: "test".to_owned(),
            description: None,
            context: String::new(),
            contexts: None,
            choices: list("choices")
                .map(|text| text.as_str().unwrap().to_owned())
                .collect(),
            gold: None,
            labels: Some(
                list("labels")
                    .map(|label| label.as_u64().unwrap() as u32)
                    .collect(),
            ),
            prefix: None,
            target_delimiter: " ".to_owned(),
            fewshot_delimiter: "\n\n".to_owned(),
        };
        let scores: Vec<ChoiceScore> = list("ll")
            .map(|loglikelihood| ChoiceScore {
                loglikelihood: loglikelihood.as_f64().unwrap(),
                is_greedy: false,
                tokens: 1,
                cut: 0,
                unconditional: None,
            })
            .collect();
        let found = Metric::Mc2.of_question(&question, &scores).unwrap();
        let expected = doc["acc"].as_f64().unwrap();
        assert!(
            (found - expected).abs() < 1e-14,
            "{}: {found} {expected}",
            question.doc_id
        );
    }
}
