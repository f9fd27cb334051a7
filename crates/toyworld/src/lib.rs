//! The built-in miniature world: generator, training, gold checker.
//!
//! Imaginary writers of varying care answer instructions whose right answers are known. A tiny model learns
//! from their chats and from verdicts on their answers; the gold checker knows the truth and is used in
//! evaluation only. Start at [`world::World`] (what can vary), [`families`] (what is asked), [`writer`]
//! (who answers) and [`corpus`] (what the model reads).

pub mod acceptance;
pub mod commands;
pub mod corpus;
pub mod families;
pub mod gold;
pub mod gold_stage;
pub mod judge_quality;
pub mod layout;
pub mod oracle_stage;
pub mod policies;
pub mod prompts;
pub mod random;
pub mod tokenizer_files;
pub mod train;
pub mod vocab;
pub mod world;
pub mod writer;

pub use corpus::{Document, DocumentKind, document};
pub use world::World;
