//! What can be asked for.

use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

use super::health::{self, Check};
use super::snapshot::Status;
use super::{Desk, Silent};
use crate::metrics;

/// The type of OpenMetrics text.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the unix socket answers.
pub(super) fn router(desk: Desk) -> Router {
    Router::new().route("/v1/status", get(status)).with_state(desk.clone()).merge(open(desk))
}

/// What anybody may know who reaches `metrics.listen`.
pub(super) fn open(desk: Desk) -> Router {
    Router::new()
        .route("/metrics", get(figures))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .fallback(unknown)
        .with_state(desk)
}

async fn status(State(desk): State<Desk>) -> Result<Json<Status>, Silent> {
    desk.status().await.map(Json)
}

async fn figures(State(desk): State<Desk>) -> Result<Response, Silent> {
    let text = metrics::encode(desk.status().await?);
    Ok(match text {
        Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    })
}

async fn livez(State(desk): State<Desk>, RawQuery(query): RawQuery) -> Response {
    checked("livez", &desk, health::live, query.as_deref()).await
}

async fn readyz(State(desk): State<Desk>, RawQuery(query): RawQuery) -> Response {
    checked("readyz", &desk, health::ready, query.as_deref()).await
}

/// `?verbose` lists every check.
async fn checked(
    name: &str,
    desk: &Desk,
    checks: fn(&Status) -> Vec<Check>,
    query: Option<&str>,
) -> Response {
    let checks = desk.status().await.map_or_else(|Silent| health::silent(), |status| checks(&status));
    let verbose = query.is_some_and(|query| query.split('&').any(|word| word.starts_with("verbose")));
    let (well, text) = health::report(name, &checks, verbose);
    (if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, text).into_response()
}

async fn unknown() -> Response {
    refusal(StatusCode::NOT_FOUND, "the agent knows nothing of this name; is it older than this command?")
}

impl IntoResponse for Silent {
    fn into_response(self) -> Response {
        refusal(StatusCode::SERVICE_UNAVAILABLE, &self.to_string())
    }
}

/// An answer that says why there is none, as the client shows it.
pub(crate) fn refusal(code: StatusCode, why: &str) -> Response {
    (code, Json(json!({ "schema": "portcullis.error/v1", "error": why }))).into_response()
}
