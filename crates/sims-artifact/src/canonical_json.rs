//! JSON with one spelling a value, so that equal values have equal digests.

use serde_json::Value;

/// Writes `value` with sorted keys and no white space.
///
/// Numbers keep serde_json's shortest round-trip form; the same value always gives the same bytes.
pub fn canonical_json(value: &Value) -> String {
    let mut out = String::new();
    write_value(value, &mut out);
    out
}

fn write_value(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by(|a, b| a.0.cmp(b.0));
            write_sequence(out, '{', '}', entries, |(key, item), out| {
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                write_value(item, out);
            });
        }
        Value::Array(items) => write_sequence(out, '[', ']', items, write_value),
        scalar => out.push_str(&scalar.to_string()),
    }
}

fn write_sequence<T>(
    out: &mut String,
    open: char,
    close: char,
    items: impl IntoIterator<Item = T>,
    mut write: impl FnMut(T, &mut String),
) {
    out.push(open);
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        write(item, out);
    }
    out.push(close);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_order_does_not_matter() {
        let a: Value =
            serde_json::from_str(r#"{"b": [1, 2.5, "x\n"], "a": {"d": null, "c": true}}"#).unwrap();
        let b: Value =
            serde_json::from_str(r#"{"a":{"c":true,"d":null},"b":[1,2.5,"x\n"]}"#).unwrap();
        assert_eq!(canonical_json(&a), canonical_json(&b));
        assert_eq!(
            canonical_json(&a),
            r#"{"a":{"c":true,"d":null},"b":[1,2.5,"x\n"]}"#
        );
    }

    /// Records carry a digest of their own JSON, so a float must not change by a bit on the way.
    #[test]
    fn floats_read_back_as_they_were_written() {
        for i in 1..50_000_u32 {
            let value = Value::from(f64::from(i) * 1e-9 * f64::from(i) / 7.0);
            let text = canonical_json(&value);
            let back: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(canonical_json(&back), text);
        }
    }
}
