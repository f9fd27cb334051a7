//! The detectors: one reading each of what goes wrong over rounds.
//!
//! | signature | a detector fires when | action |
//! |---|---|---|
//! | judge collapse | nearly all verdicts name one slot, or are invalid | roll back, stop |
//! | feedback loop | the longer response wins almost always | roll back, drop pairs |
//! | | it wins much more often than in round 1 | drop pairs |
//! | | the loop's judge sees a gain where a second judge sees a loss | roll back |
//! | degenerate samples | answers to a prompt repeat each other, entropy or distinct-2 collapse, few pairs come out | hotter |
//! | | loops rise | roll back |
//! | over-steering | a gate against harm fails at every strength | back off; the second time fewer layers |
//! | plateau | no certain gain over the incumbent for some rounds | stop |
//! | strikes | some rounds were refused or rolled back | stop |
//!
//! A detector whose figure is not known is not read.

use sims_artifact::tables::SignalRow;

use crate::GuardParams;
use crate::actions::Action;
use crate::figures::{Figure, Figures, History};

/// One detector, read.
#[derive(Debug, Clone, PartialEq)]
pub struct Signal {
    /// What goes wrong.
    pub signature: &'static str,
    /// What was looked at.
    pub detector: &'static str,
    /// What was measured.
    pub figure: Figure,
    /// The same in the first round, where it is compared with that.
    pub reference: Option<f64>,
    /// The limit it was held against.
    pub limit: f64,
    /// Whether the limit was passed.
    pub fired: bool,
    /// What follows if it fired.
    pub actions: Vec<Action>,
}

impl Signal {
    /// Returns the reading as a row; `acts` says whether its actions are taken.
    pub fn row(&self, round: u32, acts: bool) -> SignalRow {
        let actions: Vec<&str> = match self.fired && acts {
            true => self.actions.iter().map(|action| action.name()).collect(),
            false => Vec::new(),
        };
        SignalRow {
            round,
            signature: self.signature.to_owned(),
            detector: self.detector.to_owned(),
            value: self.figure.value,
            ci_low: self.figure.interval.map(|(low, _)| low),
            ci_high: self.figure.interval.map(|(_, high)| high),
            reference: self.reference,
            limit: self.limit,
            fired: self.fired,
            action: actions.join(", "),
        }
    }
}

/// Reads every detector whose figures are known; `history` holds the rounds before.
pub fn read(now: &Figures, history: &History, params: &GuardParams) -> Vec<Signal> {
    let mut signals = Vec::new();
    judge_collapse(now, params, &mut signals);
    feedback_loop(now, history, params, &mut signals);
    degenerate_samples(now, history, params, &mut signals);
    over_steering(now, history, &mut signals);
    plateau(now, history, params, &mut signals);
    signals
}

fn judge_collapse(now: &Figures, params: &GuardParams, signals: &mut Vec<Signal>) {
    let collapse = |detector, figure: Figure, limit, fired| Signal {
        signature: "judge-collapse",
        detector,
        figure,
        reference: None,
        limit,
        fired,
        actions: vec![Action::RollBack, Action::Stop],
    };
    if let Some(share) = now.get("first_slot_share") {
        let limit = params.max_slot_share;
        let fired = share.value > limit || share.value < 1.0 - limit;
        signals.push(collapse("first_slot_share", share, limit, fired));
    }
    if let Some(share) = now.get("invalid_share") {
        let limit = params.max_invalid_share;
        signals.push(collapse("invalid_share", share, limit, share.value > limit));
    }
}

fn feedback_loop(
    now: &Figures,
    history: &History,
    params: &GuardParams,
    signals: &mut Vec<Signal>,
) {
    let signature = "feedback-loop";
    if let Some(share) = now.get("longer_preferred") {
        let first = history.first("longer_preferred").map(|first| first.value);
        let limit = params.max_longer_preferred;
        signals.push(Signal {
            signature,
            detector: "longer_preferred",
            figure: share,
            reference: first,
            limit,
            fired: share.low() > limit,
            actions: vec![Action::RollBack, Action::DropPairs],
        });
        if let Some(first) = first {
            let limit = first + params.max_longer_preferred_rise;
            signals.push(Signal {
                signature,
                detector: "longer_preferred_rise",
                figure: share,
                reference: Some(first),
                limit,
                fired: share.low() > limit,
                actions: vec![Action::DropPairs],
            });
        }
    }
    let second = now.get("second_win_rate_against_incumbent").or_else(|| {
        // Without an incumbent the base is what the round started from.
        now.get("win_rate_against_incumbent")
            .is_none()
            .then(|| now.get("second_win_rate"))?
    });
    let own = now
        .get("win_rate_against_incumbent")
        .or(now.get("win_rate"));
    if let (Some(second), Some(own)) = (second, own) {
        let limit = params.min_second_win_rate;
        signals.push(Signal {
            signature,
            detector: "second_win_rate",
            figure: second,
            reference: None,
            limit,
            fired: own.low() > 0.5 && second.high() < limit,
            actions: vec![Action::RollBack],
        });
    }
}

fn degenerate_samples(
    now: &Figures,
    history: &History,
    params: &GuardParams,
    signals: &mut Vec<Signal>,
) {
    let mut push = |detector, figure, reference: Option<Figure>, limit, fired, action| {
        signals.push(Signal {
            signature: "degenerate-samples",
            detector,
            figure,
            reference: reference.map(|first| first.value),
            limit,
            fired,
            actions: vec![action],
        });
    };
    if let Some(share) = now.get("identical_share") {
        let first = history.first("identical_share");
        let risen = first.map_or(f64::INFINITY, |first| {
            first.value + params.max_identical_rise
        });
        let limit = params.max_identical_share.min(risen);
        let fired = share.low() > limit;
        push(
            "identical_share",
            share,
            first,
            limit,
            fired,
            Action::Hotter,
        );
    }
    for (name, share_of_first) in [
        ("entropy_per_token", params.min_entropy_ratio),
        ("distinct_2", params.min_distinct_2_ratio),
    ] {
        if let (Some(figure), Some(first)) = (now.get(name), history.first(name)) {
            let limit = share_of_first * first.value;
            let fired = figure.high() < limit;
            push(name, figure, Some(first), limit, fired, Action::Hotter);
        }
    }
    if let (Some(share), Some(first)) = (now.get("loop_share"), history.first("loop_share")) {
        let limit = first.value + params.max_loop_rise;
        let fired = share.low() > limit;
        push(
            "loop_share",
            share,
            Some(first),
            limit,
            fired,
            Action::RollBack,
        );
    }
    if let Some(figure) = now.get("yield") {
        let limit = params.min_yield;
        let fired = figure.value < limit;
        push("yield", figure, None, limit, fired, Action::Hotter);
    }
}

fn over_steering(now: &Figures, history: &History, signals: &mut Vec<Signal>) {
    let Some(share) = now.get("unsafe_share") else {
        return;
    };
    let before = history.backwards().any(|round| {
        round
            .get("unsafe_share")
            .is_some_and(|share| share.value >= 1.0)
    });
    signals.push(Signal {
        signature: "over-steering",
        detector: "unsafe_share",
        figure: share,
        reference: None,
        limit: 1.0,
        fired: share.value >= 1.0,
        actions: vec![if before {
            Action::FewerLayers
        } else {
            Action::BackOff
        }],
    });
}

fn plateau(now: &Figures, history: &History, params: &GuardParams, signals: &mut Vec<Signal>) {
    let rounds = params.plateau_rounds;
    if rounds == 0 || now.get("accepted").is_none() {
        return;
    }
    let without_gain = std::iter::once(now)
        .chain(history.backwards())
        .take_while(|round| !gained(round))
        .count();
    signals.push(Signal {
        signature: "plateau",
        detector: "rounds_without_gain",
        figure: Figure {
            value: without_gain as f64,
            interval: None,
        },
        reference: None,
        limit: f64::from(rounds),
        fired: without_gain >= rounds as usize,
        actions: vec![Action::Stop],
    });
}

/// Tells whether a round was accepted with a gain over what was there before that is certain.
fn gained(round: &Figures) -> bool {
    let accepted = round
        .get("accepted")
        .is_some_and(|accepted| accepted.value > 0.0);
    let gain = round
        .get("win_rate_against_incumbent")
        .or(round.get("win_rate"));
    accepted && gain.is_some_and(|gain| gain.low() > 0.5)
}

/// Reads the count of refused and rolled-back rounds, this one included.
pub fn strikes(count: u32, params: &GuardParams) -> Option<Signal> {
    (params.max_strikes > 0).then(|| Signal {
        signature: "strikes",
        detector: "refused_rounds",
        figure: Figure {
            value: f64::from(count),
            interval: None,
        },
        reference: None,
        limit: f64::from(params.max_strikes),
        fired: count >= params.max_strikes,
        actions: vec![Action::Stop],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(values: &[(&str, f64)]) -> Figures {
        let mut figures = Figures::default();
        for (name, value) in values {
            figures.plain(name, *value);
        }
        figures
    }

    /// Returns what fired, and what follows, for this round after those before.
    fn fired(now: &[(&str, f64)], before: &[&[(&str, f64)]]) -> Vec<(&'static str, Vec<Action>)> {
        let mut history = History::default();
        for (round, values) in (1..).zip(before) {
            history.push(round, figures(values));
        }
        read(&figures(now), &history, &GuardParams::default())
            .into_iter()
            .filter(|signal| signal.fired)
            .map(|signal| (signal.detector, signal.actions))
            .collect()
    }

    #[test]
    fn a_judge_that_names_one_slot_or_says_nothing_has_collapsed() {
        let stop = vec![Action::RollBack, Action::Stop];
        assert_eq!(fired(&[("first_slot_share", 0.6)], &[]), []);
        for share in [0.95, 0.05] {
            assert_eq!(
                fired(&[("first_slot_share", share)], &[]),
                [("first_slot_share", stop.clone())]
            );
        }
        assert_eq!(
            fired(&[("invalid_share", 0.7)], &[]),
            [("invalid_share", stop)]
        );
    }

    #[test]
    fn a_judge_that_turns_towards_length_is_seen_against_the_first_round() {
        let first: &[(&str, f64)] = &[("longer_preferred", 0.5)];
        assert_eq!(fired(&[("longer_preferred", 0.74)], &[first]), []);
        assert_eq!(
            fired(&[("longer_preferred", 0.8)], &[first]),
            [("longer_preferred_rise", vec![Action::DropPairs])]
        );
        assert_eq!(fired(&[("longer_preferred", 0.8)], &[]), []);
        assert_eq!(
            fired(&[("longer_preferred", 0.95)], &[]),
            [(
                "longer_preferred",
                vec![Action::RollBack, Action::DropPairs]
            )]
        );
    }

    #[test]
    fn a_gain_that_a_second_judge_sees_as_a_loss_is_a_feedback_loop() {
        let both = |own, second| {
            [
                ("win_rate_against_incumbent", own),
                ("second_win_rate_against_incumbent", second),
            ]
        };
        assert_eq!(fired(&both(0.6, 0.55), &[]), []);
        assert_eq!(fired(&both(0.45, 0.4), &[]), []);
        assert_eq!(
            fired(&both(0.6, 0.4), &[]),
            [("second_win_rate", vec![Action::RollBack])]
        );
        // In the first round the base stands in for the incumbent.
        let first = [("win_rate", 0.6), ("second_win_rate", 0.4)];
        assert_eq!(fired(&first, &[]).len(), 1);
    }

    #[test]
    fn samples_that_grow_alike_are_asked_for_hotter() {
        let first: &[(&str, f64)] = &[
            ("identical_share", 0.3),
            ("entropy_per_token", 1.0),
            ("distinct_2", 0.8),
            ("loop_share", 0.1),
        ];
        assert_eq!(fired(first, &[first]), []);
        for (name, value, action) in [
            ("identical_share", 0.6, Action::Hotter),
            ("entropy_per_token", 0.4, Action::Hotter),
            ("distinct_2", 0.4, Action::Hotter),
            ("loop_share", 0.25, Action::RollBack),
            ("yield", 0.1, Action::Hotter),
        ] {
            assert_eq!(
                fired(&[(name, value)], &[first]),
                [(name, vec![action])],
                "{name}"
            );
        }
    }

    #[test]
    fn the_second_unsafe_round_costs_a_layer() {
        let unsafe_round: &[(&str, f64)] = &[("unsafe_share", 1.0)];
        assert_eq!(fired(&[("unsafe_share", 0.75)], &[]), []);
        assert_eq!(
            fired(unsafe_round, &[]),
            [("unsafe_share", vec![Action::BackOff])]
        );
        assert_eq!(
            fired(unsafe_round, &[unsafe_round]),
            [("unsafe_share", vec![Action::FewerLayers])]
        );
    }

    #[test]
    fn two_rounds_without_a_certain_gain_are_a_plateau() {
        let gain: &[(&str, f64)] = &[("accepted", 1.0), ("win_rate_against_incumbent", 0.6)];
        let level: &[(&str, f64)] = &[("accepted", 1.0), ("win_rate_against_incumbent", 0.49)];
        let refused: &[(&str, f64)] = &[("accepted", 0.0)];
        assert_eq!(fired(level, &[gain]), []);
        assert_eq!(fired(gain, &[level, refused]), []);
        for last_two in [[level, refused], [refused, level], [level, level]] {
            assert_eq!(
                fired(last_two[1], &[gain, last_two[0]]),
                [("rounds_without_gain", vec![Action::Stop])]
            );
        }
        let off = GuardParams {
            plateau_rounds: 0,
            ..GuardParams::default()
        };
        assert!(read(&figures(refused), &History::default(), &off).is_empty());
    }
}
