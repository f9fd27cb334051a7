//! Tables in the terminal: aligned columns, no lines.

/// Aligns the cells of `rows` under `header`; columns whose header begins with `>` to the right.
pub(crate) fn text_table(header: &[&str], rows: &[Vec<String>]) -> String {
    let names: Vec<String> = header
        .iter()
        .map(|name| name.trim_start_matches('>').to_owned())
        .collect();
    let all = || std::iter::once(&names).chain(rows);
    let width = |column: usize| {
        all()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row
            .iter()
            .zip(&widths)
            .zip(header)
            .map(|((cell, width), name)| {
                if name.starts_with('>') {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:<width$}")
                }
            });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    all().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align() {
        let rows = [
            vec!["a".to_owned(), "10".to_owned()],
            vec!["long".to_owned(), "9".to_owned()],
        ];
        assert_eq!(
            text_table(&["name", ">n"], &rows),
            "name   n\na     10\nlong   9"
        );
    }
}
