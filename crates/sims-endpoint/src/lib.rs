//! Asks a server with an OpenAI-compatible chat completions interface.
//!
//! [`Endpoint`] sends one request and sends it again where that may help; [`ask_all`] has many under way at a
//! time; [`Pace`] spreads them over time. What is asked, what an answer means and where it is kept is the
//! caller's: the HTTP judge and the annotator of AlpacaEval ask through this crate.

mod endpoint;
mod pace;
mod workers;

pub use endpoint::{ApiKey, Endpoint, EndpointError, Patience, SettingNames};
pub use pace::Pace;
pub use workers::ask_all;
