//! Where the inputs of a stage come from when the pipeline file does not say.
//!
//! A role that a row of the table names is filled as the row says. Any other role is filled by
//! the output of the same name of an earlier stage: earlier in the file, and repeated as often.
//! Where several stages have such an output, those that bear the name of their program go first
//! (`sample: …` before `base-test: {uses: sample}`); more than one of them is an error.

/// How a role is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fill {
    /// With the pipeline's model.
    Model,
    /// With the first of these splits that the pipeline has.
    Prompts(&'static [&'static str]),
    /// With the output of that name of this stage, earlier in the round.
    From(&'static str),
    /// With an output of the round before, the first of these that some stage has; with nothing in round 1.
    Previous(&'static [&'static str]),
    /// The same, but only when a stage of the round has a parameter set so.
    PreviousWhen {
        /// The outputs' roles.
        roles: &'static [&'static str],
        /// The stage.
        stage: &'static str,
        /// Its parameter.
        parameter: &'static str,
        /// The value that turns the wire on.
        value: &'static str,
    },
    /// With the output of that name of an earlier stage.
    Earlier,
}

/// The steering that a round leaves: what the guard kept, where there is a guard.
const LEFT: &[&str] = &["kept", "accepted"];

/// Stage (`*`: any), role, and how it is filled; the first row that fits counts.
const TABLE: &[(&str, &str, Fill)] = &[
    ("*", "model", Fill::Model),
    ("*", "settings", Fill::Previous(&["settings"])),
    ("sample", "steering", Fill::Previous(LEFT)),
    ("contrast", "bank", Fill::Previous(&["bank"])),
    (
        "extract",
        "steering",
        Fill::PreviousWhen {
            roles: LEFT,
            stage: "fit",
            parameter: "compose",
            value: "stack",
        },
    ),
    ("fit", "incumbent", Fill::Previous(LEFT)),
    ("train", "incumbent", Fill::Previous(LEFT)),
    ("steer-eval", "incumbent", Fill::Previous(LEFT)),
    ("guard", "responses", Fill::From("sample")),
    ("guard", "incumbent", Fill::Previous(LEFT)),
    ("guard", "champion", Fill::Previous(&["champion"])),
    ("guard", "history", Fill::Previous(&["history"])),
    ("steer-eval", "prompts", Fill::Prompts(&["dev", "train"])),
    ("*", "prompts", Fill::Prompts(&["train"])),
];

/// Returns how `role` of a stage is filled.
pub(crate) fn fill(stage: &str, role: &str) -> Fill {
    TABLE
        .iter()
        .find(|(for_stage, for_role, _)| {
            (*for_stage == "*" || *for_stage == stage) && *for_role == role
        })
        .map_or(Fill::Earlier, |(.., fill)| *fill)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loop_is_wired_as_the_design_draws_it() {
        assert_eq!(fill("judge", "responses"), Fill::Earlier);
        assert_eq!(fill("judge", "model"), Fill::Model);
        assert_eq!(fill("judge", "prompts"), Fill::Prompts(&["train"]));
        assert_eq!(
            fill("steer-eval", "prompts"),
            Fill::Prompts(&["dev", "train"])
        );
        assert_eq!(fill("steer-eval", "steering"), Fill::Earlier);
        assert_eq!(
            fill("sample", "steering"),
            Fill::Previous(&["kept", "accepted"])
        );
        assert_eq!(fill("guard", "responses"), Fill::From("sample"));
        assert_eq!(fill("guard", "judgments"), Fill::Earlier);
    }
}
