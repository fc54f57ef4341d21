//! The schema of a result in files, made from the types: their documentation is the schema's.

use super::RunResult;
use std::path::Path;

#[test]
fn the_schema_is_that_of_the_types() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema/result.schema.json");
    let mut schema = schemars::schema_for!(RunResult);
    schema.insert("title".to_owned(), "The result of `procession load`".into());
    let mut schema = schema.to_value();
    without_links(&mut schema);
    let actual = serde_json::to_string_pretty(&schema).unwrap() + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, actual).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        actual == expected,
        "{} is not up to date: UPDATE_GOLDEN=1 cargo test -p procession-load writes it",
        path.display()
    );
}

/// Links between the items of the source mean nothing to readers of the schema: what they link stays.
fn without_links(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) => {
            while let Some((before, rest)) = text.split_once("[`") {
                let Some((name, after)) = rest.split_once("`]") else {
                    break;
                };
                let after = match after.strip_prefix('(') {
                    Some(target) => target.split_once(')').map_or("", |(_, after)| after),
                    None => after,
                };
                *text = format!("{before}`{name}`{after}");
            }
        }
        serde_json::Value::Array(values) => values.iter_mut().for_each(without_links),
        serde_json::Value::Object(fields) => fields.values_mut().for_each(without_links),
        _ => {}
    }
}
