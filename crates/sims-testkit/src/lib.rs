//! Fixtures and harnesses that tests share
