//! What computing took: tokens, operations, hours of a device, joules, and money at the user's prices.

use crate::number::{count, duration, number};
use crate::run::StageSummary;

/// Seconds of an hour.
const HOUR: f64 = 3600.0;

/// What the user pays; nothing is known where nothing was said.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Prices {
    /// An hour of one GPU.
    pub gpu_hour: Option<f64>,
    /// An hour of one CPU core.
    pub core_hour: Option<f64>,
    /// A million tokens, read or written, of a judge behind an interface.
    pub million_tokens: Option<f64>,
    /// What stands before an amount; may be empty.
    pub currency: String,
}

impl Prices {
    /// Writes an amount with two decimals, small ones with two digits: `$ 12.30`, `$ 0.0018`.
    pub fn amount(&self, money: f64) -> String {
        let mut decimals = 2;
        while decimals < 8 && money > 0.0 && money * 10_f64.powi(decimals) < 9.5 {
            decimals += 1;
        }
        let decimals = decimals.unsigned_abs() as usize;
        format!("{} {money:.decimals$}", self.currency)
            .trim_start()
            .to_owned()
    }

    fn of(&self, spent: &Spent) -> Option<f64> {
        let parts = [
            (spent.gpu_hours, self.gpu_hour),
            (spent.core_hours, self.core_hour),
            (spent.api_tokens / 1e6, self.million_tokens),
        ];
        let known = parts
            .into_iter()
            .filter(|(amount, _)| *amount > 0.0)
            .filter_map(|(amount, price)| Some(amount * price?));
        known.reduce(|sum, part| sum + part)
    }
}

/// What a stage, or several, took when they were computed; a result from the store costs what it cost then.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Spent {
    /// Wall-clock time. Unit: seconds.
    pub seconds: f64,
    /// Tokens sampled.
    pub generated: f64,
    /// Tokens read: prompts, comparisons, teacher forcing, after shared beginnings.
    pub read: f64,
    /// Tokens, read or written, of judges behind an interface.
    pub api_tokens: f64,
    /// Estimated work, where the stage counts it.
    pub flops: Option<f64>,
    /// Wall-clock hours times GPUs, of stages that computed on GPUs.
    pub gpu_hours: f64,
    /// Wall-clock hours times threads, of the other stages.
    pub core_hours: f64,
    /// What processors and GPUs drew, where the machine counts it.
    pub joules: Option<f64>,
    /// What that is worth; none without a price.
    pub money: Option<f64>,
}

/// The counts of a summary that are tokens read.
const READ: [&str; 6] = [
    "prompt_tokens_computed",
    "tokens_computed",
    "judge_tokens_computed",
    "neutral_tokens_computed",
    "trained_tokens",
    "scored_tokens",
];

impl Spent {
    /// Returns what a stage took by its summary.
    pub fn of(stage: &StageSummary, prices: &Prices) -> Self {
        let counts = |names: &[&str]| {
            let found = names.iter().filter_map(|name| stage.counts.get(*name));
            // The sum of nothing is minus zero otherwise.
            0.0 + found.sum::<f64>()
        };
        // What chunks of earlier processes took belongs to what the result cost.
        let seconds = stage.seconds + counts(&["seconds_reused"]);
        let hours = seconds / HOUR;
        let (gpu_hours, core_hours) = match stage.gpus {
            0 => (0.0, hours * f64::from(stage.threads)),
            gpus => (hours * f64::from(gpus), 0.0),
        };
        let energy = stage.energy.unwrap_or_default();
        let mut spent = Self {
            seconds,
            generated: counts(&["new_tokens"]),
            read: counts(&READ),
            api_tokens: counts(&["api_tokens"]),
            flops: stage.counts.get("estimated_flops").copied(),
            gpu_hours,
            core_hours,
            joules: sum_known(energy.cpu_joules, energy.gpu_joules),
            money: None,
        };
        spent.money = prices.of(&spent);
        spent
    }

    /// Returns the sum; figures that only some have are the sum of those.
    pub fn sum<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        all.into_iter()
            .fold(Self::default(), |sum, spent| sum.plus(spent))
    }

    fn plus(self, other: &Self) -> Self {
        Self {
            seconds: self.seconds + other.seconds,
            generated: self.generated + other.generated,
            read: self.read + other.read,
            api_tokens: self.api_tokens + other.api_tokens,
            flops: sum_known(self.flops, other.flops),
            gpu_hours: self.gpu_hours + other.gpu_hours,
            core_hours: self.core_hours + other.core_hours,
            joules: sum_known(self.joules, other.joules),
            money: sum_known(self.money, other.money),
        }
    }

    /// Returns all tokens that went through the model.
    pub fn tokens(&self) -> f64 {
        self.generated + self.read
    }

    /// Writes the hours with their device: `0.12 GPU-hours + 0.003 core-hours`.
    pub fn hours_in_words(&self) -> String {
        let part =
            |hours: f64, unit: &str| (hours > 0.0).then(|| format!("{} {unit}", number(hours)));
        let parts = [
            part(self.gpu_hours, "GPU-hours"),
            part(self.core_hours, "core-hours"),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" + ")
    }

    /// Returns the cells of a row: as its headings name them.
    pub fn cells(&self, shown: &Shown, prices: &Prices) -> Vec<String> {
        let some = |value: f64| {
            if value > 0.0 {
                count(value)
            } else {
                String::new()
            }
        };
        let mut cells = vec![
            duration(self.seconds),
            some(self.read),
            some(self.generated),
            some(self.flops.unwrap_or(0.0)),
            self.hours_in_words(),
        ];
        if shown.joules {
            cells.push(self.joules.map_or_else(String::new, some));
        }
        if shown.api_tokens {
            cells.push(some(self.api_tokens));
        }
        if shown.money {
            cells.push(
                self.money
                    .map_or_else(String::new, |money| prices.amount(money)),
            );
        }
        cells
    }
}

/// Which figures a table of costs has columns for: those that something is known of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    joules: bool,
    api_tokens: bool,
    money: bool,
}

impl Shown {
    /// Looks at the total.
    pub fn of(total: &Spent) -> Self {
        Self {
            joules: total.joules.is_some(),
            api_tokens: total.api_tokens > 0.0,
            money: total.money.is_some(),
        }
    }

    /// Returns the headings of [`Spent::cells`].
    pub fn headings(&self) -> Vec<&'static str> {
        let mut headings = vec![
            "Wall time",
            "Tokens read",
            "Tokens sampled",
            "FLOP",
            "Device-hours",
        ];
        headings.extend(self.joules.then_some("Joules"));
        headings.extend(self.api_tokens.then_some("API tokens"));
        headings.extend(self.money.then_some("Money"));
        headings
    }
}

fn sum_known(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a + b),
        (known, None) | (None, known) => known,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::StageEnergy;

    fn summary(gpus: u32, counts: &[(&str, f64)]) -> StageSummary {
        StageSummary {
            node: "sample".to_owned(),
            stage: "sample".to_owned(),
            seconds: 1800.0,
            threads: 4,
            gpus,
            counts: counts
                .iter()
                .map(|(name, value)| ((*name).to_owned(), *value))
                .collect(),
            energy: Some(StageEnergy {
                cpu_joules: Some(100.0),
                gpu_joules: None,
            }),
            ..StageSummary::default()
        }
    }

    #[test]
    fn hours_are_those_of_the_device_that_computed() {
        let prices = Prices {
            gpu_hour: Some(2.5),
            million_tokens: Some(10.0),
            currency: "$".to_owned(),
            ..Prices::default()
        };
        let gpu = Spent::of(&summary(2, &[("new_tokens", 7.0)]), &prices);
        assert_eq!((gpu.gpu_hours, gpu.core_hours), (1.0, 0.0));
        assert_eq!((gpu.money, gpu.generated), (Some(2.5), 7.0));
        // Half an hour on four threads, whose price nobody named; the answers of a server have one.
        let asked = [("api_tokens", 200_000.0)];
        let cpu = Spent::of(&summary(0, &asked), &prices);
        assert_eq!((cpu.gpu_hours, cpu.core_hours), (0.0, 2.0));
        assert_eq!(cpu.money, Some(2.0));
        assert_eq!(Spent::of(&summary(0, &[]), &prices).money, None);
        let both = Spent::sum([&gpu, &cpu]);
        assert_eq!((both.money, both.joules), (Some(4.5), Some(200.0)));
        assert_eq!(both.hours_in_words(), "1.000 GPU-hours + 2.000 core-hours");
        assert_eq!(both.flops, None);
        let shown = Shown::of(&both);
        assert_eq!(shown.headings().len(), both.cells(&shown, &prices).len());
        assert_eq!(both.cells(&shown, &prices).last().unwrap(), "$ 4.50");
    }

    #[test]
    fn amounts_keep_two_digits() {
        let prices = Prices::default();
        let amounts = [1234.5, 2.0, 0.12, 0.0018, 0.0].map(|money| prices.amount(money));
        assert_eq!(amounts, ["1234.50", "2.00", "0.12", "0.0018", "0.00"]);
    }

    #[test]
    fn without_a_price_there_is_no_money() {
        let spent = Spent::of(&summary(1, &[]), &Prices::default());
        assert_eq!(spent.money, None);
        let shown = Shown::of(&spent);
        assert!(!shown.headings().contains(&"Money"));
    }
}
