//! `GET /v1/openapi.json`: the API as an OpenAPI 3.1 document, made of the routes' own types.

use schemars::{
    JsonSchema, Schema, SchemaGenerator,
    generate::{Contract, SchemaSettings},
};
use serde_json::{Map, Value, json};

use super::types::{ChangeFailure, ChangeReply, Failure};

/// A type's schema.
type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// What a route takes and answers.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    summary: &'static str,
    is_change: bool,
    /// A struct whose fields are the query's parameters.
    query: Option<SchemaOf>,
    body: Option<SchemaOf>,
    headers: &'static [(&'static str, &'static str)],
    answer: Answer,
}

#[derive(Clone, Copy, Debug)]
struct Answer {
    of: SchemaOf,
    content_type: &'static str,
    description: &'static str,
}

impl Operation {
    /// A read that answers one object.
    pub(super) fn read<T: JsonSchema>(summary: &'static str) -> Self {
        Self {
            summary,
            is_change: false,
            query: None,
            body: None,
            headers: &[],
            answer: Answer {
                of: schema_of::<T>,
                content_type: "application/json",
                description: "One object",
            },
        }
    }

    /// A read that answers a line for each object.
    pub(super) fn lines<T: JsonSchema>(summary: &'static str) -> Self {
        let mut operation = Self::read::<T>(summary);
        operation.answer.content_type = "application/x-ndjson";
        operation.answer.description = "One object per line";
        operation
    }

    /// A read that answers a server-sent event for each object.
    pub(super) fn events<T: JsonSchema>(summary: &'static str) -> Self {
        let mut operation = Self::read::<T>(summary);
        operation.answer.content_type = "text/event-stream";
        operation.answer.description = "Server-sent events; the data of each is one object";
        operation
    }

    /// A change that is described by `B`.
    pub(super) fn change<B: JsonSchema>(summary: &'static str) -> Self {
        let mut operation = Self::read::<ChangeReply>(summary);
        operation.is_change = true;
        operation.body = Some(schema_of::<B>);
        operation.answer.description = "Done, or already so";
        operation
    }

    /// With the fields of `T` as parameters of the query.
    pub(super) fn query<T: JsonSchema>(mut self) -> Self {
        self.query = Some(schema_of::<T>);
        self
    }

    /// With this header, which may be absent.
    pub(super) const fn headers(
        mut self,
        headers: &'static [(&'static str, &'static str)],
    ) -> Self {
        self.headers = headers;
        self
    }

    /// Whether it changes anything: those are sent with POST, all others with GET.
    pub(super) const fn is_change(&self) -> bool {
        self.is_change
    }
}

/// The document of all routes.
pub(super) fn document<'a>(routes: impl Iterator<Item = (&'a str, &'a Operation)>) -> Value {
    let mut schemas = Schemas::new();
    let mut paths = Map::new();
    for (path, operation) in routes {
        let method = if operation.is_change() { "post" } else { "get" };
        let described = schemas.describe(path, operation);
        paths.insert(path.to_owned(), json!({ method: described }));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "switcher",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The agent's API, HTTP/1.1 on a Unix socket. Durations are integers in `_ms`, \
                            instants RFC 3339 UTC in `_at`. A failed request answers `error`, whose `code` decides \
                            the HTTP status and the CLI's exit code.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "paths": paths,
        "components": { "schemas": schemas.all() },
    })
}

/// The schemas that operations refer to.
struct Schemas {
    /// What clients send.
    requests: SchemaGenerator,
    /// What the agent answers.
    answers: SchemaGenerator,
}

impl Schemas {
    fn new() -> Self {
        let generator = |contract| {
            SchemaSettings::draft2020_12()
                .with(|settings| {
                    settings.definitions_path = "/components/schemas".into();
                    settings.contract = contract;
                })
                .into_generator()
        };
        Self {
            requests: generator(Contract::Deserialize),
            answers: generator(Contract::Serialize),
        }
    }

    fn all(mut self) -> Map<String, Value> {
        let mut all = self.requests.take_definitions(true);
        all.extend(self.answers.take_definitions(true));
        all
    }

    fn describe(&mut self, path: &str, operation: &Operation) -> Value {
        let answer = &operation.answer;
        let failures = if operation.is_change {
            let reply = self.answers.subschema_for::<ChangeReply>();
            let failure = self.answers.subschema_for::<ChangeFailure>();
            json!({ "anyOf": [reply, failure] })
        } else {
            self.answers.subschema_for::<Failure>().to_value()
        };
        let mut described = json!({
            "summary": operation.summary,
            "operationId": operation_id(path),
            "parameters": self.parameters(path, operation),
            "responses": {
                "200": {
                    "description": answer.description,
                    "content": { answer.content_type: { "schema": (answer.of)(&mut self.answers) } },
                },
                "default": {
                    "description": "Refused or failed: `error` says what was found, and what to do next",
                    "content": { "application/json": { "schema": failures } },
                },
            },
        });
        if let Some(body) = operation.body {
            described["requestBody"] = json!({
                "required": true,
                "content": { "application/json": { "schema": body(&mut self.requests) } },
            });
        }
        described
    }

    fn parameters(&mut self, path: &str, operation: &Operation) -> Vec<Value> {
        let mut parameters = Vec::new();
        for name in path.split('/').filter_map(|part| part.strip_prefix('{')) {
            parameters.push(json!({
                "name": name.trim_end_matches('}'),
                "in": "path",
                "required": true,
                "schema": { "type": "string" },
            }));
        }
        for (name, description) in operation.headers {
            parameters.push(json!({
                "name": name,
                "in": "header",
                "description": description,
                "schema": { "type": "string" },
            }));
        }
        if let Some(query) = operation.query {
            parameters.extend(self.fields(query));
        }
        parameters
    }

    /// The fields of a query as its parameters.
    fn fields(&mut self, query: SchemaOf) -> Vec<Value> {
        let reference = query(&mut self.requests).to_value();
        let name = reference["$ref"]
            .as_str()
            .and_then(|it| it.rsplit('/').next());
        // The struct itself is no part of the document, its fields are.
        let fields = name.and_then(|name| self.requests.definitions_mut().remove(name));
        let fields = fields.unwrap_or_default();
        let required = fields["required"].as_array().cloned().unwrap_or_default();
        let properties = fields["properties"]
            .as_object()
            .cloned()
            .unwrap_or_default();
        let parameter = |(name, mut schema): (String, Value)| {
            let described = schema.as_object_mut();
            let description = described.and_then(|it| it.remove("description"));
            json!({
                "name": name,
                "in": "query",
                "required": required.iter().any(|it| *it == name),
                "description": description.unwrap_or_default(),
                "schema": schema,
            })
        };
        properties.into_iter().map(parameter).collect()
    }
}

/// `/v1/status/watch` as `status_watch`.
fn operation_id(path: &str) -> String {
    let parts = path
        .split('/')
        .skip(2)
        .filter(|part| !part.starts_with('{'));
    let id = parts.collect::<Vec<_>>().join("_");
    id.replace(['-', '.'], "_")
}
