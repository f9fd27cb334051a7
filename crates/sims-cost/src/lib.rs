//! What a pipeline would cost on a GPU, found without running anything.
//!
//! [`stages`] says how much every stage reads and writes, from its parameters and the sizes of its inputs; [`estimate`]
//! turns that into time and memory of a [`card`], by a roofline model: reading is bound by arithmetic, writing by
//! memory. What a model takes, [`model`], is measured by `sims-model size`. Plain numbers; nothing here runs a model.

pub mod card;
pub mod estimate;
pub mod model;
pub mod stages;
pub mod work;
