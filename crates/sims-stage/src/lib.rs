//! The stage protocol: describe, flags, inputs and outputs, progress, summary
