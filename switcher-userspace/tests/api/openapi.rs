//! The OpenAPI document against the handlers: what it promises is what they take and answer.

use std::{io::Write as _, os::unix::net::UnixStream};

use serde_json::{Map, Value, json};

use switcher_userspace::api::flows::FlowsLine;

use crate::{
    fake::{Served, running},
    flows::flow,
    history::entry,
    http::request,
    preview::preview,
};

/// The document as clients get it.
fn document(served: &Served) -> Value {
    let (status, document) = request(&served.socket(), "GET", "/v1/openapi.json", b"");
    assert_eq!(status, 200, "{document}");
    document
}

/// Path, method and what is said of it.
fn operations(document: &Value) -> Vec<(&str, &str, &Value)> {
    let paths = document["paths"].as_object().expect("paths");
    let each = paths.iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().expect("methods");
        methods
            .iter()
            .map(move |(method, it)| (path.as_str(), method.as_str(), it))
    });
    each.collect()
}

/// What `schema` refers to.
fn schema_of<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(reference) => {
            &document["components"]["schemas"][reference.rsplit('/').next().unwrap()]
        }
        None => schema,
    }
}

/// What refuses all values that `schema` of `document` does not describe, undescribed fields too.
fn validator(document: &Value, schema: &Value) -> jsonschema::Validator {
    let mut whole = document["components"]["schemas"].clone();
    close(document, &mut whole);
    let mut schema = schema.clone();
    close(document, &mut schema);
    let schema = json!({ "allOf": [schema], "components": { "schemas": whole } });
    jsonschema::draft202012::new(&schema).expect("a valid schema")
}

/// Forbids fields that a struct does not list.
fn close(document: &Value, schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            unite(document, fields);
            let is_struct = fields.get("properties").is_some_and(Value::is_object);
            fields.values_mut().for_each(|it| close(document, it));
            if is_struct {
                fields.insert("additionalProperties".to_owned(), json!(false));
            }
        }
        Value::Array(all) => all.iter_mut().for_each(|it| close(document, it)),
        _ => {}
    }
}

/// Gives a struct that is another one with further fields all fields of its own.
fn unite(document: &Value, fields: &mut Map<String, Value>) {
    if !fields.contains_key("properties") {
        return;
    }
    let Some(reference) = fields.remove("$ref") else {
        return;
    };
    let other = schema_of(document, &json!({ "$ref": reference })).clone();
    for part in ["properties", "required"] {
        match (fields.get_mut(part), &other[part]) {
            (Some(Value::Object(own)), Value::Object(others)) => own.extend(others.clone()),
            (Some(Value::Array(own)), Value::Array(others)) => own.extend(others.iter().cloned()),
            _ => {}
        }
    }
}

fn check(document: &Value, schema: &Value, value: &Value) {
    let validator = validator(document, schema);
    let problems: Vec<String> = (validator.iter_errors(value))
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(problems.is_empty(), "{problems:#?} in {value:#}");
}

/// A value that `schema` describes, with all of its fields or only the required ones.
fn example(document: &Value, schema: &Value, all: bool) -> Value {
    let schema = schema_of(document, schema);
    if let Some(variants) = schema.get("anyOf").or(schema.get("oneOf")) {
        return example(document, &variants[0], all);
    }
    if let Some(constant) = schema.get("const") {
        return constant.clone();
    }
    if let Some(values) = schema.get("enum") {
        return values[0].clone();
    }
    let kind = match &schema["type"] {
        Value::Array(kinds) => kinds[0].as_str(),
        kind => kind.as_str(),
    };
    match kind {
        Some("object") => {
            let required = schema["required"].as_array().cloned().unwrap_or_default();
            let fields = schema["properties"]
                .as_object()
                .cloned()
                .unwrap_or_default();
            let fields = fields
                .into_iter()
                .filter(|(name, _)| all || required.iter().any(|it| it == name));
            let fields = fields.map(|(name, schema)| {
                let value = example(document, &schema, all);
                (name, value)
            });
            Value::Object(fields.collect::<Map<_, _>>())
        }
        Some("array") => json!([example(document, &schema["items"], all)]),
        Some("boolean") => json!(false),
        Some("integer") => json!(1),
        Some("string") => match schema["format"].as_str() {
            None => json!("web"),
            Some("ip") => json!("192.0.2.1"),
            Some(format) => panic!("no example of {format}"),
        },
        kind => panic!("no example of {kind:?}: {schema}"),
    }
}

/// The body's schema.
fn body_of(operation: &Value) -> &Value {
    &operation["requestBody"]["content"]["application/json"]["schema"]
}

/// `example` as the verb accepts it: what the schema cannot say.
fn sendable(path: &str, mut example: Value) -> Vec<u8> {
    if let Some(endpoint) = example.get_mut("backend") {
        endpoint["address"] = json!("192.0.2.1:80");
    }
    if path == "/v1/flip" {
        // It must not flip back when it is repeated.
        example["to"] = json!("blue");
    }
    if path == "/v1/apply" {
        example["config"] = json!(crate::fake::CONFIG);
    }
    example.to_string().into_bytes()
}

#[test]
fn the_document_is_one_of_openapi_3_1() {
    let served = Served::start();
    let document = document(&served);
    assert_eq!(document["openapi"], "3.1.0");
    let mut ids: Vec<&Value> = operations(&document)
        .iter()
        .map(|it| &it.2["operationId"])
        .collect();
    let count = ids.len();
    ids.sort_by_key(ToString::to_string);
    ids.dedup();
    assert_eq!(ids.len(), count, "operationIds are unique");
    // Every reference leads somewhere, and every schema is one.
    let text = document.to_string();
    let schemas = document["components"]["schemas"]
        .as_object()
        .expect("schemas");
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(schemas.contains_key(name), "{name}");
    }
    for (name, schema) in schemas {
        assert!(jsonschema::meta::is_valid(schema), "{name}");
        assert!(
            text.contains(&format!("schemas/{name}\"")),
            "nothing refers to {name}"
        );
    }
}

#[test]
fn every_documented_route_is_served_with_its_method_and_no_other() {
    let served = Served::start();
    for (path, method, operation) in operations(&document(&served)) {
        let other = if method == "get" { "POST" } else { "GET" };
        let (status, answer) = request(&served.socket(), other, path, b"");
        assert_eq!(status, 405, "{other} {path}: {answer}");
        assert_eq!(operation.get("requestBody").is_some(), method == "post");
    }
}

#[test]
fn a_changing_verb_takes_what_the_document_says_and_nothing_else() {
    let served = Served::start();
    let document = document(&served);
    let changes = operations(&document)
        .into_iter()
        .filter(|it| it.1 == "post");
    let mut verbs = 0;
    for (path, _, operation) in changes {
        verbs += 1;
        let schema = body_of(operation);
        let post = |body: &[u8]| request(&served.socket(), "POST", path, body);
        for all in [false, true] {
            let body = sendable(path, example(&document, schema, all));
            let (status, answer) = post(&body);
            assert_eq!(
                status,
                200,
                "{path} {}: {answer}",
                String::from_utf8_lossy(&body)
            );
            let answered = &operation["responses"]["200"]["content"]["application/json"]["schema"];
            check(&document, answered, &answer);
        }
        let complete = example(&document, schema, true);
        let mut refused = Vec::new();
        for name in schema_of(&document, schema)["required"]
            .as_array()
            .expect("required")
        {
            let mut body = complete.clone();
            body.as_object_mut().unwrap().remove(name.as_str().unwrap());
            refused.push(body);
        }
        for name in complete.as_object().unwrap().keys() {
            let mut body = complete.clone();
            body[name] = json!({ "of": "no type" });
            refused.push(body);
        }
        let mut body = complete;
        body["unheard_of"] = json!(1);
        refused.push(body);
        for body in refused {
            assert!(
                !validator(&document, schema).is_valid(&body),
                "{path} {body}"
            );
            let (status, answer) = post(body.to_string().as_bytes());
            assert_eq!(status, 400, "{path} {body}: {answer}");
            let failed =
                &operation["responses"]["default"]["content"]["application/json"]["schema"];
            check(&document, failed, &answer);
        }
    }
    assert_eq!(verbs, 16, "changing verbs");
}

/// The first object of an answer that may go on.
fn first_object(served: &Served, path: &str) -> Value {
    let mut stream = UnixStream::connect(served.socket()).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: x\r\nlast-event-id: 0\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let text = std::io::BufReader::new(stream);
    let lines = std::io::BufRead::lines(text).map(Result::unwrap);
    let objects = lines.filter_map(|line| {
        let line = line.strip_prefix("data: ").unwrap_or(&line).to_owned();
        line.starts_with('{')
            .then(|| serde_json::from_str(&line).unwrap())
    });
    objects.into_iter().next().expect("an object")
}

#[test]
fn a_read_answers_what_the_document_says() {
    let served = Served::start();
    let document = document(&served);
    served.fake.set_drain(running(None));
    *served.fake.preview.lock().unwrap() = Some(preview());
    *served.fake.flows.lock().unwrap() = vec![FlowsLine::Flow(Box::new(flow(1)))];
    *served.fake.history.lock().unwrap() = vec![entry(1)];
    for (path, method, operation) in operations(&document) {
        if method != "get" {
            continue;
        }
        let query = match path {
            "/v1/explain" => "?protocol=tcp&client=192.0.2.1:4000&vip=198.51.100.1:80",
            "/v1/preview" => "?service=web",
            _ => "",
        };
        for parameter in operation["parameters"].as_array().expect("parameters") {
            let (name, place) = (&parameter["name"], &parameter["in"]);
            let is_given = place == "path" || query.contains(name.as_str().unwrap());
            assert_eq!(parameter["required"] == true, is_given, "{path} {name}");
        }
        let content = operation["responses"]["200"]["content"]
            .as_object()
            .expect("content");
        let (_, answered) = content.iter().next().expect("one type");
        let path = path.replace("{service}", "web");
        let object = first_object(&served, &format!("{path}{query}"));
        check(&document, &answered["schema"], &object);
        if path != "/v1/openapi.json" {
            check_is_checked(&document, &answered["schema"], &object);
        }
        let parameters = operation["parameters"].as_array().expect("parameters");
        if parameters.iter().any(|it| it["in"] == "query") {
            let path = format!("{path}?unheard_of=1");
            let (status, refusal) = request(&served.socket(), "GET", &path, b"");
            assert_eq!(status, 400, "{path}: {refusal}");
            let failed =
                &operation["responses"]["default"]["content"]["application/json"]["schema"];
            check(&document, failed, &refusal);
        }
    }
}

/// A schema that lets everything through would show nothing.
fn check_is_checked(document: &Value, schema: &Value, object: &Value) {
    let mut other = object.clone();
    other["unheard_of"] = json!(1);
    assert!(
        !validator(document, schema).is_valid(&other),
        "{schema} takes anything"
    );
}
