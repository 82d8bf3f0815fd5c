//! What the OpenAPI document says of each operation: who may call it, and what may be in its query.
//!
//! The roles of an operation are decided by that document, so that the two cannot differ; an operation that says nothing
//! needs `admin`.

use axum::extract::Query;
use axum::http::{Method, Uri};
use hashbrown::HashMap;
use utoipa::openapi::path::{Operation, ParameterIn};
use utoipa::openapi::{OpenApi, RefOr};

use super::super::problem::{Code, Problem};
use super::Role;

/// The name of the scheme in the OpenAPI document.
pub(in crate::server) const SCHEME: &str = "token";
/// The scope of an operation that everybody on the server's machine may call, and elsewhere whoever has any token.
const ANYONE: &str = "anyone";

/// What an operation needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// A token, whatever its roles, if the request does not come over the loopback interface.
    TokenFromElsewhere,
    /// A token with one of these roles.
    OneOf(Vec<Role>),
}

/// What the document says of an operation.
pub(super) struct Documented {
    pub(super) need: Need,
    /// The names of what may be in the query.
    pub(super) parameters: Vec<String>,
}

/// What the document says of each operation.
pub(super) fn operations(document: &OpenApi) -> HashMap<(Method, String), Documented> {
    let mut documented = HashMap::new();
    for (path, item) in &document.paths.paths {
        let operations = [
            (Method::GET, &item.get),
            (Method::POST, &item.post),
            (Method::PUT, &item.put),
            (Method::PATCH, &item.patch),
            (Method::DELETE, &item.delete),
        ];
        for (method, operation) in operations {
            if let Some(operation) = operation {
                let known = Documented {
                    need: need(operation),
                    parameters: query_parameters(operation),
                };
                documented.insert((method, path.clone()), known);
            }
        }
    }
    documented
}

fn query_parameters(operation: &Operation) -> Vec<String> {
    let parameters = operation.parameters.iter().flatten();
    parameters
        .filter_map(|parameter| match parameter {
            RefOr::T(parameter) => Some(parameter),
            // Operations have them themselves.
            RefOr::Ref(_) => None,
        })
        .filter(|parameter| parameter.parameter_in == ParameterIn::Query)
        .map(|parameter| parameter.name.clone())
        .collect()
}

/// What is wrong with a query that has a parameter which the operation does not know: one that is misspelt would count as
/// left out. What cannot be read is told by whoever reads it.
pub(super) fn unknown_parameter(uri: &Uri, known: &[String]) -> Option<Problem> {
    let Query(given) = Query::<Vec<(String, String)>>::try_from_uri(uri).ok()?;
    let (unknown, _) = given.iter().find(|(name, _)| !known.contains(name))?;
    let expected = match known {
        [] => "there are none here".to_owned(),
        known => format!("expected one of {}", known.join(", ")),
    };
    let text = format!("unknown query parameter `{unknown}`; {expected}");
    Some(Problem::new(Code::InvalidRequest, text))
}

/// Each requirement of an operation is an alternative, with one scope.
fn need(operation: &Operation) -> Need {
    let requirements = serde_json::to_value(&operation.security).unwrap_or_default();
    let alternatives = requirements.as_array().into_iter().flatten();
    let scopes: Vec<_> = alternatives
        .filter_map(
            |requirement| match requirement.get(SCHEME)?.as_array()?.as_slice() {
                [scope] => scope.as_str(),
                _ => None,
            },
        )
        .collect();
    if scopes == [ANYONE] {
        return Need::TokenFromElsewhere;
    }
    let roles: Vec<_> = scopes.into_iter().filter_map(Role::named).collect();
    match roles.is_empty() {
        true => Need::OneOf(vec![Role::Admin]),
        false => Need::OneOf(roles),
    }
}

/// Whether only those who deploy, or may do everything, are let through: what they do is written down.
pub(super) fn is_for_operators(roles: &[Role]) -> bool {
    !roles.is_empty()
        && roles
            .iter()
            .all(|role| matches!(role, Role::Deploy | Role::Admin))
}

/// Whether the operation needs no token on the server's machine.
pub(in crate::server) fn is_for_anyone(operation: &Operation) -> bool {
    need(operation) == Need::TokenFromElsewhere
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn need_of(security: serde_json::Value) -> Need {
        let operation = json!({ "security": security, "responses": {} });
        need(&serde_json::from_value(operation).unwrap())
    }

    #[test]
    fn requirements_are_alternatives() {
        let one_of = |roles: &[Role]| Need::OneOf(roles.to_vec());
        assert_eq!(
            need_of(json!([{"token": ["read"]}, {"token": ["deploy"]}])),
            one_of(&[Role::Read, Role::Deploy])
        );
        assert_eq!(
            need_of(json!([{"token": ["anyone"]}])),
            Need::TokenFromElsewhere
        );
        // Whatever is not understood opens nothing.
        for unknown in [
            json!(null),
            json!([]),
            json!([{}]),
            json!([{"token": []}]),
            json!([{"token": ["everyone"]}]),
            json!([{"token": ["read", "deploy"]}]),
            json!([{"other": ["read"]}]),
        ] {
            assert_eq!(
                need_of(unknown.clone()),
                one_of(&[Role::Admin]),
                "{unknown}"
            );
        }
    }

    #[test]
    fn what_others_may_do_too_is_no_change_of_an_operator() {
        assert!(is_for_operators(&[Role::Deploy]));
        assert!(is_for_operators(&[Role::Deploy, Role::Admin]));
        assert!(!is_for_operators(&[Role::Consume, Role::Deploy]));
        assert!(!is_for_operators(&[]));
    }
}
