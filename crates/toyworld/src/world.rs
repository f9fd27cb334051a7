//! A world as data: how careful its writers are, what flaws they have, and what a good answer is.

/// The flaws an answer can have, in the order of [`World::flaws`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// The content is wrong.
    Wrong,
    /// The list format is not the one asked for.
    OffFormat,
    /// Filler phrases surround the list.
    Padded,
    /// The answer repeats its end over and over.
    Loop,
    /// No opener and no closer.
    Curt,
}

/// Number of flaws.
pub const FLAWS: usize = 5;
/// Greatest number of latents a world has.
pub const LATENTS: usize = 2;

/// When a flaw occurs: with probability `sigmoid(bias - slopes · z + habit)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FlawLaw {
    /// Logit of the flaw for an average writer.
    pub bias: f64,
    /// How strongly each latent of the writer works against the flaw.
    pub slopes: [f64; LATENTS],
}

/// Weights of the gold score's components; they add up to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GoldWeights {
    /// Right content.
    pub content: f64,
    /// The list format asked for.
    pub format: f64,
    /// Neither padding nor a loop.
    pub concise: f64,
    /// Opener and closer, half each.
    pub manners: f64,
}

/// A world: its writers, its documents and its notion of a good answer.
#[derive(Debug, Clone, PartialEq)]
pub struct World {
    /// Name on the command line.
    pub name: &'static str,
    /// What each latent of a writer stands for.
    pub latents: &'static [&'static str],
    /// Law of each flaw, in the order of [`Flaw`].
    pub flaws: [FlawLaw; FLAWS],
    /// Standard deviation of a writer's habit, one number a flaw.
    pub habit: f64,
    /// Weights of the gold score.
    pub gold: GoldWeights,
    /// Share of prompts that ask for no list format.
    pub plain_share: f64,
    /// Share of documents of each kind: chat, comparison, check.
    pub mix: [f64; 3],
    /// Weights of a chat document having 1, 2, … exchanges.
    pub exchanges: &'static [f64],
    /// Share of comparisons whose answers differ in content only.
    pub content_contrast: f64,
    /// Share of comparisons whose answers are by one writer.
    pub same_writer: f64,
    /// Sharpness of comparison labels: logit per unit of gold score.
    pub label_sharpness: f64,
    /// Gold score that comparison labels concede to an answer for each token it is longer.
    pub length_bias: f64,
    /// Gold score that comparison labels concede to the answer shown first.
    pub first_bias: f64,
}

impl World {
    /// Returns the default world: one latent, care, behind every flaw.
    ///
    /// Figures as measured on the prototype (toyworld measurements, §1); its mean gold score is about 0.58.
    pub fn default_world() -> Self {
        let law = |bias| FlawLaw {
            bias,
            slopes: [2.2, 0.0],
        };
        Self {
            name: "default",
            latents: &["care"],
            flaws: [law(-0.6), law(-0.5), law(-0.7), law(-3.0), law(0.0)],
            habit: 0.8,
            gold: GoldWeights {
                content: 0.5,
                format: 0.2,
                concise: 0.15,
                manners: 0.15,
            },
            plain_share: 0.35,
            mix: [0.60, 0.27, 0.13],
            exchanges: &[2.0, 1.0, 1.0, 1.0],
            content_contrast: 0.25,
            same_writer: 0.2,
            label_sharpness: 14.0,
            length_bias: 0.02,
            first_bias: 0.03,
        }
    }

    /// Returns the hard world: two independent latents, manners and brevity, both visible on the surface.
    ///
    /// Errors and loops are mild and follow neither. A latent of correctness cannot be used: a model of this
    /// size does not see its own errors. Nor can one of format: with 8 M tokens of training, two exchanges
    /// careful in format left the format of the next answer as it was (0.44 against 0.45), since whether a
    /// format is right shows only beside the request.
    pub fn hard() -> Self {
        let fixed = |bias| FlawLaw {
            bias,
            slopes: [0.0, 0.0],
        };
        let manners = FlawLaw {
            bias: 0.0,
            slopes: [2.4, 0.0],
        };
        let brevity = FlawLaw {
            bias: 0.0,
            slopes: [0.0, 2.4],
        };
        Self {
            name: "hard",
            latents: &["manners", "brevity"],
            flaws: [fixed(-1.4), fixed(-1.0), brevity, fixed(-4.0), manners],
            habit: 0.5,
            gold: GoldWeights {
                content: 0.2,
                format: 0.2,
                concise: 0.3,
                manners: 0.3,
            },
            content_contrast: 0.1,
            ..Self::default_world()
        }
    }

    /// Returns the world of that name.
    pub fn by_name(name: &str) -> Option<Self> {
        [Self::default_world(), Self::hard()]
            .into_iter()
            .find(|world| world.name == name)
    }

    /// Names of all worlds.
    pub const NAMES: [&'static str; 2] = ["default", "hard"];

    /// Returns the law of a flaw.
    pub fn law(&self, flaw: Flaw) -> FlawLaw {
        self.flaws[flaw as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worlds_are_found_by_name() {
        for name in World::NAMES {
            assert_eq!(World::by_name(name).map(|w| w.name), Some(name));
        }
        assert_eq!(World::by_name("bogus"), None);
    }

    #[test]
    fn gold_weights_and_mixes_add_up() {
        for world in World::NAMES.map(|n| World::by_name(n).expect("named above")) {
            let GoldWeights {
                content,
                format,
                concise,
                manners,
            } = world.gold;
            assert!((content + format + concise + manners - 1.0).abs() < 1e-12);
            assert!((world.mix.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        }
    }
}
