//! The OpenAPI document, and what holds for all of its operations and is therefore said here and at none of them.

use axum::http::StatusCode;
use utoipa::ToSchema as _;
use utoipa::openapi::path::{Operation, ParameterIn, PathItem};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, Info, OpenApi, OpenApiBuilder, Ref, RefOr, Response,
    ResponseBuilder, Schema,
};

use super::access::{SCHEME, is_for_anyone};
use super::problem::{MEDIA_TYPE, Problem};
use crate::model::limits::MAX_NAME_BYTES;

/// Where a problem that many operations may answer stands in the document, its status, and when it is answered.
const PROBLEMS: &[(&str, StatusCode, &str)] = &[
    (
        "InvalidRequest",
        StatusCode::BAD_REQUEST,
        "A parameter or the body is malformed.",
    ),
    (
        "Unauthenticated",
        StatusCode::UNAUTHORIZED,
        "There is no valid token.",
    ),
    (
        "Forbidden",
        StatusCode::FORBIDDEN,
        "The token does not have the role; or the plugin is not signed as the server asks for.",
    ),
    (
        "TooLarge",
        StatusCode::PAYLOAD_TOO_LARGE,
        "The body is larger than the server takes.",
    ),
    (
        "UnsupportedMediaType",
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "The body has another media type than those that are listed.",
    ),
    (
        "Failed",
        StatusCode::INTERNAL_SERVER_ERROR,
        "Stored data is damaged, or the server failed.",
    ),
    (
        "Unavailable",
        StatusCode::SERVICE_UNAVAILABLE,
        "The server is going down, has no room for the request now, or its store takes no writes.",
    ),
];

/// The document without operations.
pub(super) fn without_operations() -> OpenApi {
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(
            "Made by `millstream token create`; its roles are the scopes of the operations. Where it can be left out, that is so on the server's own machine only.",
        ))
        .build();
    let mut info = Info::new("Millstream", env!("CARGO_PKG_VERSION"));
    info.description = Some(
        "Topics, queues, consumer groups, pipelines and plugins of a Millstream server. Whatever goes wrong is answered with a problem document (RFC 9457); its codes are explained at `/errors/{code}`."
            .to_owned(),
    );
    let mut schemas = Vec::new();
    Problem::schemas(&mut schemas);
    let components = PROBLEMS.iter().fold(
        ComponentsBuilder::new()
            .security_scheme(SCHEME, SecurityScheme::Http(bearer))
            .schema_from::<Problem>()
            .schemas_from_iter(schemas),
        |components, (name, _, description)| components.response(*name, problem(description)),
    );
    OpenApiBuilder::new()
        .info(info)
        .components(Some(components.build()))
        .build()
}

fn problem(description: &str) -> Response {
    let schema = Ref::from_schema_name("Problem");
    ResponseBuilder::new()
        .description(description)
        .content(
            MEDIA_TYPE,
            ContentBuilder::new().schema(Some(schema)).build(),
        )
        .build()
}

/// The document as clients read it. What an operation needs must have been read from it before: of an operation that
/// everybody on the server's machine may call it says here that a token can be left out.
pub(super) fn published(mut document: OpenApi) -> OpenApi {
    for item in document.paths.paths.values_mut() {
        for operation in operations(item) {
            describe_names(operation);
            add_problems(operation);
            describe_responses(operation);
            if is_for_anyone(operation) {
                let no_token = SecurityRequirement::default();
                let any_token = SecurityRequirement::new(SCHEME, [""; 0]);
                operation.security = Some(vec![no_token, any_token]);
            }
            // Handlers of several kinds of things share names, and an identifier must be unique.
            let tag = operation.tags.iter().flatten().next();
            if let (Some(tag), Some(id)) = (tag, &operation.operation_id) {
                operation.operation_id = Some(format!("{}_{id}", tag.replace(' ', "_")));
            }
        }
    }
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [
        &mut item.get,
        &mut item.post,
        &mut item.put,
        &mut item.patch,
        &mut item.delete,
    ]
    .into_iter()
    .flatten()
}

/// Parameters of paths that are names, which all follow one rule (`model/names.rs`).
const NAMES: &[&str] = &[
    "group", "manifest", "pipeline", "plugin", "queue", "token", "topic",
];
const NAME_PATTERN: &str = "^[a-zA-Z0-9._-]+$";

/// Says which names can be.
fn describe_names(operation: &mut Operation) {
    for parameter in operation.parameters.iter_mut().flatten() {
        let RefOr::T(parameter) = parameter else {
            continue;
        };
        let is_name = matches!(parameter.parameter_in, ParameterIn::Path)
            && NAMES.contains(&parameter.name.as_str());
        if let (true, Some(RefOr::T(Schema::Object(schema)))) = (is_name, &mut parameter.schema) {
            schema.pattern = Some(NAME_PATTERN.to_owned());
            schema.min_length = Some(1);
            schema.max_length = Some(MAX_NAME_BYTES);
        }
    }
}

/// Adds the problems that the operation may answer because of what it takes; what it says itself stays.
fn add_problems(operation: &mut Operation) {
    let has_body = operation.request_body.is_some();
    let takes_something = has_body || operation.parameters.iter().flatten().next().is_some();
    let is_for_anyone = is_for_anyone(operation);
    for (name, status, _) in PROBLEMS {
        let is_possible = match *status {
            StatusCode::BAD_REQUEST => takes_something,
            StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNSUPPORTED_MEDIA_TYPE => has_body,
            StatusCode::UNAUTHORIZED => true,
            _ => !is_for_anyone,
        };
        if is_possible {
            let responses = &mut operation.responses.responses;
            responses
                .entry(status.as_str().to_owned())
                .or_insert_with(|| RefOr::Ref(Ref::from_response_name(*name)));
        }
    }
}

/// OpenAPI asks for a description of each response; the name of the status is one where there is no better. What goes
/// wrong is a problem where nothing else is said.
fn describe_responses(operation: &mut Operation) {
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else {
            continue;
        };
        let status = StatusCode::from_bytes(status.as_bytes()).ok();
        if response.description.is_empty() {
            let name = status.and_then(|status| status.canonical_reason());
            response.description = name.unwrap_or("The answer").to_owned();
        }
        let is_error =
            status.is_some_and(|status| status.is_client_error() || status.is_server_error());
        if is_error && response.content.is_empty() {
            response.content = problem("").content;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn published_operation(operation: Value) -> Value {
        let mut document = without_operations();
        let item = json!({"get": operation});
        let item: PathItem = serde_json::from_value(item).unwrap();
        document.paths.paths.insert("/p".to_owned(), item);
        let document = serde_json::to_value(published(document)).unwrap();
        document["paths"]["/p"]["get"].clone()
    }

    fn statuses(operation: &Value) -> Vec<&str> {
        let responses = operation["responses"].as_object().unwrap();
        responses.keys().map(String::as_str).collect()
    }

    #[test]
    fn an_operation_lists_the_problems_of_what_it_takes() {
        let operation = published_operation(json!({
            "tags": ["dead letters"],
            "operationId": "list",
            "security": [{"token": ["read"]}],
            "requestBody": {"content": {}},
            "responses": {"200": {}, "404": {}, "413": {"description": "its own"}},
        }));
        let expected = [
            "200", "400", "401", "403", "404", "413", "415", "500", "503",
        ];
        assert_eq!(statuses(&operation), expected);
        let responses = &operation["responses"];
        assert_eq!(responses["200"]["description"], "OK");
        assert_eq!(responses["413"]["description"], "its own");
        let schema = &responses["404"]["content"][MEDIA_TYPE]["schema"]["$ref"];
        assert_eq!(schema, "#/components/schemas/Problem");
        let unauthenticated = "#/components/responses/Unauthenticated";
        assert_eq!(responses["401"]["$ref"], unauthenticated);
        assert_eq!(operation["operationId"], "dead_letters_list");
    }

    #[test]
    fn names_in_paths_say_which_names_can_be() {
        let operation = published_operation(json!({
            "security": [{"token": ["read"]}],
            "parameters": [
                {"name": "topic", "in": "path", "required": true, "schema": {"type": "string"}},
                {"name": "group", "in": "query", "required": false, "schema": {"type": "string"}},
            ],
            "responses": {"200": {"description": "ok"}},
        }));
        let schema = |at: usize| &operation["parameters"][at]["schema"];
        assert_eq!(schema(0)["pattern"], NAME_PATTERN);
        assert_eq!(schema(0)["maxLength"], 249);
        assert_eq!(schema(1)["pattern"], Value::Null);
    }

    #[test]
    fn an_operation_for_anyone_needs_a_token_from_elsewhere_only() {
        let operation = published_operation(json!({
            "security": [{"token": ["anyone"]}],
            "responses": {"200": {"description": "ok"}},
        }));
        assert_eq!(statuses(&operation), ["200", "401"]);
        assert_eq!(operation["security"], json!([{}, {"token": []}]));
    }
}
