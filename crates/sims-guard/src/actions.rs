//! What follows from the detectors that fired.

use sims_artifact::tables::SettingsRow;

use crate::GuardParams;
use crate::detectors::Signal;

/// What a detector asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// The steering of the round before stays.
    RollBack,
    /// The next rounds sample at a higher temperature.
    Hotter,
    /// The next rounds step half as far.
    BackOff,
    /// The next rounds steer one layer fewer.
    FewerLayers,
    /// The next rounds drop pairs of unlike length.
    DropPairs,
    /// No further round runs.
    Stop,
}

impl Action {
    /// Returns the action as it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::RollBack => "roll-back",
            Self::Hotter => "hotter",
            Self::BackOff => "back-off",
            Self::FewerLayers => "fewer-layers",
            Self::DropPairs => "drop-pairs",
            Self::Stop => "stop",
        }
    }
}

/// Returns the settings before anything happened.
pub fn initial(round: u32) -> SettingsRow {
    SettingsRow {
        round,
        temperature_rise: 0.0,
        step_factor: 1.0,
        fewer_layers: 0,
        length_balance: false,
        strikes: 0,
    }
}

/// Tells whether some detector that fired asks for `action`.
pub fn asks_for(signals: &[Signal], action: Action) -> bool {
    signals
        .iter()
        .any(|signal| signal.fired && signal.actions.contains(&action))
}

/// Returns the settings of the next round: those of this one, changed by what fired.
///
/// An action counts once a round, however many detectors ask for it.
pub fn next(settings: &SettingsRow, signals: &[Signal], params: &GuardParams) -> SettingsRow {
    let mut next = SettingsRow {
        round: params.round,
        ..settings.clone()
    };
    if asks_for(signals, Action::Hotter) {
        let rise = settings.temperature_rise + params.temperature_step;
        next.temperature_rise = rise.min(params.max_temperature_rise);
    }
    if asks_for(signals, Action::BackOff) {
        next.step_factor *= 0.5;
    }
    if asks_for(signals, Action::FewerLayers) {
        next.fewer_layers += 1;
    }
    next.length_balance |= asks_for(signals, Action::DropPairs);
    next
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Figure;

    fn signal(fired: bool, actions: &[Action]) -> Signal {
        Signal {
            signature: "test",
            detector: "test",
            figure: Figure {
                value: 0.0,
                interval: None,
            },
            reference: None,
            limit: 0.0,
            fired,
            actions: actions.to_vec(),
        }
    }

    #[test]
    fn what_did_not_fire_changes_nothing_and_what_fired_twice_counts_once() {
        let params = GuardParams::default();
        let before = initial(1);
        let quiet = [signal(false, &[Action::Hotter, Action::DropPairs])];
        assert_eq!(next(&before, &quiet, &params), before);
        let twice = [
            signal(true, &[Action::BackOff]),
            signal(true, &[Action::BackOff]),
        ];
        assert_eq!(next(&before, &twice, &params).step_factor, 0.5);
    }

    #[test]
    fn settings_add_up_over_rounds_within_their_limits() {
        let params = GuardParams::default();
        let mut settings = initial(1);
        for _ in 0..5 {
            let all = [Action::Hotter, Action::FewerLayers, Action::DropPairs];
            settings = next(&settings, &[signal(true, &all)], &params);
        }
        assert_eq!(settings.temperature_rise, params.max_temperature_rise);
        assert_eq!((settings.fewer_layers, settings.length_balance), (5, true));
        assert_eq!(settings.step_factor, 1.0);
    }
}
