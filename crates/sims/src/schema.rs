//! `sims schema`: what the columns of an artifact mean.

use clap::Args;
use serde_json::{Value, json};
use sims_artifact::schema::{TableSchema, TensorsSchema};
use sims_artifact::tables::{table_schemas, tensors_schemas};

use crate::exit::{Exit, UsageError};
use crate::print;
use crate::text_table::text_table;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sims schema\n  sims schema responses\n  sims schema pairs@1 --json"
)]
pub(crate) struct Arguments {
    /// Schema: responses@1, or responses for its latest version; all are listed without it
    #[arg(value_name = "ID")]
    id: Option<String>,
    /// Print JSON on stdout, and nothing else there
    #[arg(long)]
    json: bool,
}

/// One kind of artifact.
enum Schema {
    Table(TableSchema),
    Tensors(TensorsSchema),
}

impl Schema {
    fn id(&self) -> &'static str {
        match self {
            Self::Table(schema) => schema.id,
            Self::Tensors(schema) => schema.id,
        }
    }

    fn description(&self) -> &str {
        match self {
            Self::Table(schema) => &schema.description,
            Self::Tensors(schema) => schema.description,
        }
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Table(schema) => json!(schema),
            Self::Tensors(schema) => json!(schema),
        }
    }

    fn columns(&self) -> String {
        let rows = |rows: Vec<[String; 3]>| rows.into_iter().map(Vec::from).collect::<Vec<_>>();
        match self {
            Self::Table(schema) => {
                let columns = schema.columns.iter().map(|column| {
                    let null = if column.nullable { " or null" } else { "" };
                    let unit = column
                        .unit
                        .as_ref()
                        .map_or_else(String::new, |unit| format!(" [{unit}]"));
                    [
                        column.name.to_owned(),
                        format!("{}{null}", column.kind),
                        format!("{}{unit}", column.meaning),
                    ]
                });
                text_table(&["column", "type", "meaning"], &rows(columns.collect()))
            }
            Self::Tensors(schema) => {
                let tensors = schema.tensors.iter().map(|tensor| {
                    [
                        tensor.name.to_owned(),
                        format!("{} {}", tensor.dtype, tensor.shape),
                        tensor.meaning.to_owned(),
                    ]
                });
                let table = text_table(&["tensor", "type", "meaning"], &rows(tensors.collect()));
                format!("{table}\n\nmetadata key `sims`: {}", schema.metadata)
            }
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let tables = table_schemas().into_iter().map(Schema::Table);
    let all: Vec<Schema> = tables
        .chain(tensors_schemas().into_iter().map(Schema::Tensors))
        .collect();
    let Some(id) = &arguments.id else {
        if arguments.json {
            print(&Value::from(all.iter().map(Schema::to_json).collect::<Vec<_>>()).to_string());
        } else {
            let rows: Vec<Vec<String>> = all
                .iter()
                .map(|schema| vec![schema.id().to_owned(), schema.description().to_owned()])
                .collect();
            print(&text_table(&["schema", "what it is"], &rows));
        }
        return Ok(Exit::Success);
    };
    let name = |schema: &&Schema| schema.id() == id || schema.id().split('@').next() == Some(id);
    let Some(schema) = all.iter().rfind(name) else {
        let names: Vec<&str> = all.iter().map(Schema::id).collect();
        let help = match sims_pipeline::yaml::nearest(id, names.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("there are {}", names.join(", ")),
        };
        return Err(UsageError(format!("no schema `{id}`; {help}")).into());
    };
    if arguments.json {
        print(&schema.to_json().to_string());
    } else {
        print(&format!(
            "{}: {}\n\n{}",
            schema.id(),
            schema.description(),
            schema.columns()
        ));
    }
    Ok(Exit::Success)
}
