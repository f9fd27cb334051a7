//! Parameters of a stage against its JSON Schema: checks, defaults, and flags.
//!
//! Understood are the keywords that say what a parameter may be: `type`, `enum`, `const`,
//! `oneOf`, `anyOf`, `allOf`, `$ref`, `items`, and the bounds of numbers. A stage checks its own
//! flags again, so what is not understood here is still refused, only later.

use serde_json::{Map, Number, Value};
use sims_stage::Description;

use crate::yaml::{self, Diagnostic, Node, Yaml};

/// Parameters by name.
pub(crate) type Parameters = Map<String, Value>;

/// Checks the parameters written in a pipeline file; `key` is where they are.
///
/// Returns them with the number types that the schema asks for, or every mistake.
pub(crate) fn check(
    description: &Description,
    written: &yaml::Map,
    key: &str,
) -> Result<Parameters, Vec<Diagnostic>> {
    let schema = &description.params;
    let mut problems = Vec::new();
    let mut parameters = Parameters::new();
    for entry in &written.entries {
        let Some(property) = properties(schema).and_then(|all| all.get(&entry.key)) else {
            let names: Vec<&str> = properties(schema)
                .map_or_else(Vec::new, |all| all.keys().map(String::as_str).collect());
            problems.push(
                Diagnostic::new(
                    &entry.key_at,
                    format!(
                        "unknown key `{}` in `{key}`: stage `{}` has no such parameter",
                        entry.key, description.stage
                    ),
                )
                .suggest(&entry.key, names),
            );
            continue;
        };
        match check_value(
            schema,
            property,
            &entry.value,
            &format!("{key}.{}", entry.key),
        ) {
            Ok(()) => {
                let value = normal_form(schema, property, entry.value.to_json());
                parameters.insert(entry.key.clone(), value);
            }
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() {
        Ok(parameters)
    } else {
        Err(problems)
    }
}

/// Tells whether the stage has the parameter.
pub(crate) fn has(description: &Description, name: &str) -> bool {
    properties(&description.params).is_some_and(|all| all.contains_key(name))
}

/// Returns the default of a parameter.
pub(crate) fn default(description: &Description, name: &str) -> Option<Value> {
    let property = properties(&description.params)?.get(name)?;
    let default = property.get("default")?.clone();
    Some(normal_form(&description.params, property, default))
}

/// Fills in the defaults of everything that is not set.
pub(crate) fn with_defaults(description: &Description, set: &Parameters) -> Parameters {
    let names = properties(&description.params)
        .into_iter()
        .flat_map(|all| all.keys());
    names
        .filter_map(|name| {
            let value = set
                .get(name)
                .cloned()
                .or_else(|| default(description, name))?;
            Some((name.clone(), value))
        })
        .collect()
}

/// Returns the parameters that the schema requires and that are not set.
pub(crate) fn missing<'a>(description: &'a Description, set: &Parameters) -> Vec<&'a str> {
    let required = description.params.get("required").and_then(Value::as_array);
    required
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .filter(|name| !set.contains_key(*name) && default(description, name).is_none())
        .collect()
}

/// Writes a value as a stage's flag takes it: lists with commas, texts as they are.
pub(crate) fn flag_value(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(flag_value).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

fn properties(schema: &Value) -> Option<&Map<String, Value>> {
    schema.get("properties")?.as_object()
}

/// Follows `$ref` into the schema's own definitions.
fn resolve<'a>(root: &'a Value, mut schema: &'a Value) -> &'a Value {
    for _ in 0..16 {
        let target = schema
            .get("$ref")
            .and_then(Value::as_str)
            .and_then(|reference| root.pointer(reference.strip_prefix('#')?));
        match target {
            Some(target) => schema = target,
            None => break,
        }
    }
    schema
}

/// Returns the values of a schema that lists them, through `enum`, `const` or a `oneOf` of these.
fn choices<'a>(root: &'a Value, schema: &'a Value) -> Option<Vec<&'a Value>> {
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return Some(values.iter().collect());
    }
    if let Some(value) = schema.get("const") {
        return Some(vec![value]);
    }
    let forms = alternatives(schema)?;
    let lists: Option<Vec<_>> = forms
        .iter()
        .map(|form| choices(root, resolve(root, form)))
        .collect();
    Some(lists?.into_iter().flatten().collect())
}

fn alternatives(schema: &Value) -> Option<&Vec<Value>> {
    schema
        .get("oneOf")
        .or_else(|| schema.get("anyOf"))?
        .as_array()
}

fn check_value(root: &Value, schema: &Value, node: &Node, key: &str) -> Result<(), Diagnostic> {
    let schema = resolve(root, schema);
    if let Some(choices) = choices(root, schema) {
        return check_choice(&choices, node, key);
    }
    if let Some(forms) = alternatives(schema) {
        return check_alternatives(root, forms, node, key);
    }
    for part in schema
        .get("allOf")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        check_value(root, part, node, key)?;
    }
    check_type(schema, node, key)?;
    check_bounds(schema, node, key)?;
    if let (Yaml::List(items), Some(schema)) = (&node.value, schema.get("items")) {
        for (index, item) in items.iter().enumerate() {
            check_value(root, schema, item, &format!("{key}[{index}]"))?;
        }
    }
    Ok(())
}

fn check_alternatives(
    root: &Value,
    forms: &[Value],
    node: &Node,
    key: &str,
) -> Result<(), Diagnostic> {
    let mut words = Vec::new();
    for form in forms {
        let schema = resolve(root, form);
        match check_value(root, schema, node, key) {
            Ok(()) => return Ok(()),
            // The form that takes this kind of value says what is wrong with it.
            Err(problem)
                if choices(root, schema).is_none() && check_type(schema, node, key).is_ok() =>
            {
                return Err(problem);
            }
            Err(_) => words.push(form_in_words(root, schema)),
        }
    }
    let written = value_in_words(node);
    Err(Diagnostic::new(
        &node.at,
        format!("`{key}` must be {}, but is {written}", words.join(" or ")),
    ))
}

fn form_in_words(root: &Value, schema: &Value) -> String {
    if let Some(choices) = choices(root, schema) {
        let names: Vec<String> = choices
            .iter()
            .map(|choice| format!("`{}`", flag_value(choice)))
            .collect();
        return names.join(" or ");
    }
    let name = schema
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or("something else");
    type_in_words(name).to_owned()
}

fn value_in_words(node: &Node) -> String {
    match &node.value {
        Yaml::Null | Yaml::List(_) | Yaml::Map(_) => node.value.kind().to_owned(),
        _ => format!("`{}`", flag_value(&node.to_json())),
    }
}

fn check_choice(choices: &[&Value], node: &Node, key: &str) -> Result<(), Diagnostic> {
    let value = node.to_json();
    if choices.contains(&&value) {
        return Ok(());
    }
    let names: Vec<String> = choices.iter().map(|choice| flag_value(choice)).collect();
    let written = value_in_words(node);
    let problem = Diagnostic::new(
        &node.at,
        format!(
            "`{key}` must be one of {}, but is {written}",
            names.join(", ")
        ),
    );
    Err(
        match yaml::nearest(&flag_value(&value), names.iter().map(String::as_str)) {
            Some(name) => problem.help(format!("did you mean `{name}`?")),
            None => problem,
        },
    )
}

fn check_type(schema: &Value, node: &Node, key: &str) -> Result<(), Diagnostic> {
    let types: Vec<&str> = match schema.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
        _ => return Ok(()),
    };
    if types.iter().any(|name| is_type(name, &node.value)) {
        return Ok(());
    }
    let wanted: Vec<&str> = types.iter().map(|name| type_in_words(name)).collect();
    let problem = node.wrong_type(key, &wanted.join(" or "));
    Err(match (&node.value, types[..] == ["string"], types[..] == ["array"]) {
        (Yaml::Null, ..) => problem.help("leave the key out to have the default; `null` removes a key in a file with `extends`"),
        (Yaml::Bool(_) | Yaml::Number(_), true, _) => problem.help("put it in quotes to make it a text"),
        (Yaml::Bool(_) | Yaml::Number(_) | Yaml::String(_), _, true) => {
            problem.help(format!("write [{}]", flag_value(&node.to_json())))
        }
        _ => problem,
    })
}

fn is_type(name: &str, value: &Yaml) -> bool {
    match value {
        Yaml::Null => name == "null",
        Yaml::Bool(_) => name == "boolean",
        Yaml::Number(number) => name == "number" || (name == "integer" && !number.is_f64()),
        Yaml::String(_) => name == "string",
        Yaml::List(_) => name == "array",
        Yaml::Map(_) => name == "object",
    }
}

fn type_in_words(name: &str) -> &str {
    match name {
        "string" => "a text",
        "integer" => "an integer",
        "number" => "a number",
        "boolean" => "true or false",
        "array" => "a list",
        "object" => "a mapping",
        "null" => "nothing",
        other => other,
    }
}

fn check_bounds(schema: &Value, node: &Node, key: &str) -> Result<(), Diagnostic> {
    let Yaml::Number(number) = &node.value else {
        return Ok(());
    };
    let value = number.as_f64().unwrap_or_default();
    if schema.get("format").and_then(Value::as_str) == Some("uint32") && value > f64::from(u32::MAX)
    {
        return Err(Diagnostic::new(
            &node.at,
            format!("`{key}` must be at most {}, but is {number}", u32::MAX),
        ));
    }
    type Fails = fn(f64, f64) -> bool;
    let bounds: [(&str, &str, Fails); 4] = [
        ("minimum", "at least", |value, bound| value < bound),
        ("maximum", "at most", |value, bound| value > bound),
        ("exclusiveMinimum", "more than", |value, bound| {
            value <= bound
        }),
        ("exclusiveMaximum", "less than", |value, bound| {
            value >= bound
        }),
    ];
    for (keyword, words, fails) in bounds {
        if let Some(bound) = schema.get(keyword)
            && fails(value, bound.as_f64().unwrap_or(value))
        {
            return Err(Diagnostic::new(
                &node.at,
                format!("`{key}` must be {words} {bound}, but is {number}"),
            ));
        }
    }
    Ok(())
}

/// Gives a value one spelling: `1` and `1.0` are the same number where a number is asked for.
fn normal_form(root: &Value, schema: &Value, value: Value) -> Value {
    let schema = resolve(root, schema);
    let is_number = schema.get("type").and_then(Value::as_str) == Some("number");
    match value {
        Value::Number(number) if is_number && !number.is_f64() => number
            .as_f64()
            .and_then(Number::from_f64)
            .map_or(Value::Number(number), Value::Number),
        Value::Array(items) => match schema.get("items") {
            Some(schema) => items
                .into_iter()
                .map(|item| normal_form(root, schema, item))
                .collect(),
            None => Value::Array(items),
        },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use insta::assert_snapshot;
    use serde_json::json;

    use super::*;
    use crate::yaml::{SourceFile, parse};

    fn stage() -> Description {
        serde_json::from_value(json!({
            "stage": "fit", "behaviour": 1, "inputs": {}, "outputs": {},
            "params": {
                "type": "object",
                "properties": {
                    "operator": {"$ref": "#/$defs/Operator", "default": "mean-difference", "description": "What is fitted"},
                    "step": {"type": "number", "format": "double", "default": 1},
                    "top-k": {"type": "integer", "format": "uint32", "minimum": 0, "default": 5},
                    "layers": {"anyOf": [{"const": "auto"}, {"type": "array", "items": {"type": "integer", "minimum": 0}}], "default": "auto"},
                    "weights": {"type": "array", "items": {"type": "number"}, "default": []},
                    "name": {"type": "string", "default": ""},
                    "centre": {"type": "boolean", "default": false},
                },
                "$defs": {"Operator": {"oneOf": [
                    {"type": "string", "const": "mean-difference", "description": "d"}, {"type": "string", "const": "hpr"}]}},
            },
        }))
        .unwrap()
    }

    fn checked(text: &str) -> Result<Parameters, String> {
        let file = Arc::new(SourceFile {
            path: "p.yaml".into(),
            text: text.to_owned(),
        });
        let node = parse(&file).unwrap();
        check(&stage(), node.as_map("").unwrap(), "round.fit").map_err(|problems| {
            problems
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("\n")
        })
    }

    #[test]
    fn right_values_pass_in_one_spelling() {
        let set = checked(
            "{operator: hpr, step: 2, layers: [1, 2], weights: [1, 0.5], name: '7', centre: true}",
        )
        .unwrap();
        assert_eq!(
            Value::Object(with_defaults(&stage(), &set)),
            json!({"operator": "hpr", "step": 2.0, "top-k": 5, "layers": [1, 2], "weights": [1.0, 0.5], "name": "7", "centre": true})
        );
        assert_eq!(default(&stage(), "step"), Some(json!(1.0)));
        assert_eq!(flag_value(&set["layers"]), "1,2");
        assert_eq!(flag_value(&set["step"]), "2.0");
    }

    #[test]
    fn wrong_values_are_named_with_what_is_right() {
        assert_snapshot!(checked("{oprator: hpr, top_k: 3, zebra: 1}").unwrap_err(), @r"
        p.yaml:1:2: unknown key `oprator` in `round.fit`: stage `fit` has no such parameter
           |
         1 | {oprator: hpr, top_k: 3, zebra: 1}
           |  ^
           = did you mean `operator`?
        p.yaml:1:16: unknown key `top_k` in `round.fit`: stage `fit` has no such parameter
           |
         1 | {oprator: hpr, top_k: 3, zebra: 1}
           |                ^
           = did you mean `top-k`?
        p.yaml:1:26: unknown key `zebra` in `round.fit`: stage `fit` has no such parameter
           |
         1 | {oprator: hpr, top_k: 3, zebra: 1}
           |                          ^
           = known here: operator, step, top-k, layers, weights, name, centre
        ");
        assert_snapshot!(checked("{operator: hpr2, step: fast, top-k: -1, layers: 3, weights: 1, name: 7, centre: 1}").unwrap_err(), @r"
        p.yaml:1:12: `round.fit.operator` must be one of mean-difference, hpr, but is `hpr2`
           |
         1 | {operator: hpr2, step: fast, top-k: -1, layers: 3, weights: 1, name: 7, centre: 1}
           |            ^
           = did you mean `hpr`?
        p.yaml:1:24: `round.fit.step` must be a number, but is a text
           |
         1 | {operator: hpr2, step: fast, top-k: -1, layers: 3, weights: 1, name: 7, centre: 1}
           |                        ^
        p.yaml:1:37: `round.fit.top-k` must be at least 0, but is -1
           |
         1 | {operator: hpr2, step: fast, top-k: -1, layers: 3, weights: 1, name: 7, centre: 1}
           |                                     ^
        p.yaml:1:49: `round.fit.layers` must be `auto` or a list, but is `3`
           |
         1 | {operator: hpr2, step: fast, top-k: -1, layers: 3, weights: 1, name: 7, centre: 1}
           |                                                 ^
        p.yaml:1:61: `round.fit.weights` must be a list, but is an integer
           |
         1 | {operator: hpr2, step: fast, top-k: -1, layers: 3, weights: 1, name: 7, centre: 1}
           |                                                             ^
           = write [1]
        p.yaml:1:70: `round.fit.name` must be a text, but is an integer
           |
         1 | {operator: hpr2, step: fast, top-k: -1, layers: 3, weights: 1, name: 7, centre: 1}
           |                                                                      ^
           = put it in quotes to make it a text
        p.yaml:1:81: `round.fit.centre` must be true or false, but is an integer
           |
         1 | {operator: hpr2, step: fast, top-k: -1, layers: 3, weights: 1, name: 7, centre: 1}
           |                                                                                 ^
        ");
        assert_snapshot!(checked("{top-k: 5000000000}").unwrap_err(), @r"
        p.yaml:1:9: `round.fit.top-k` must be at most 4294967295, but is 5000000000
           |
         1 | {top-k: 5000000000}
           |         ^
        ");
        assert_snapshot!(checked("{top-k: 2.5, layers: [1, -1], step: null}").unwrap_err(), @r"
        p.yaml:1:9: `round.fit.top-k` must be an integer, but is a number
           |
         1 | {top-k: 2.5, layers: [1, -1], step: null}
           |         ^
        p.yaml:1:26: `round.fit.layers[1]` must be at least 0, but is -1
           |
         1 | {top-k: 2.5, layers: [1, -1], step: null}
           |                          ^
        p.yaml:1:37: `round.fit.step` must be a number, but is nothing
           |
         1 | {top-k: 2.5, layers: [1, -1], step: null}
           |                                     ^
           = leave the key out to have the default; `null` removes a key in a file with `extends`
        ");
    }
}
