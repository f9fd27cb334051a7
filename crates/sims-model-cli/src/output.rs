//! Writing for people and scripts: a reader that went away (`| head`) is no reason to fail.

/// Writes a line to stdout, as `println!` does.
macro_rules! print_line {
    ($($words:tt)*) => {{
        use std::io::Write;
        let _nobody_listens = writeln!(std::io::stdout().lock(), $($words)*);
    }};
}

/// Writes a line to stderr, as `eprintln!` does.
macro_rules! say_line {
    ($($words:tt)*) => {{
        use std::io::Write;
        let _nobody_listens = writeln!(std::io::stderr().lock(), $($words)*);
    }};
}
