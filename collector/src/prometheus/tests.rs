use std::time::Duration;

use axum::Router;
use axum::extract::RawQuery;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::post;

use super::*;

/// A server on loopback that ends with the test's runtime.
async fn serve(router: Router) -> Prometheus {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/prefix/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let url = url.parse().unwrap();
    Prometheus::new(&Server { url, ca: None }).unwrap()
}

async fn answering(status: StatusCode, body: &'static str) -> Result<Answer, Error> {
    let answer = move || async move { (status, body).into_response() };
    let prometheus = serve(Router::new().route("/prefix/api/v1/query", post(answer))).await;
    prometheus.query("up").await
}

#[tokio::test]
async fn the_query_is_posted_as_a_form() {
    let echo = |RawQuery(in_url): RawQuery, body: String| async move {
        assert_eq!(in_url, None);
        let url: Url = format!("http://form/?{body}").parse().unwrap();
        let (name, value) = url.query_pairs().next().unwrap();
        let series = serde_json::json!({"metric": {name: value}, "value": [1.5, "1"]});
        axum::Json(
            serde_json::json!({"status": "success", "data": {"resultType": "vector", "result": [series]}}),
        )
    };
    let prometheus = serve(Router::new().route("/prefix/api/v1/query", post(echo))).await;
    let promql = r#"{__name__=~"a|b",c="ä & = +"}[5s]"#;
    let answer = prometheus.query(promql).await.unwrap();
    assert_eq!(answer.series[0].label("query"), promql);
    assert_eq!(answer.series[0].values, [(1500, 1.0)]);
}

#[tokio::test]
async fn a_matrix_keeps_times_to_the_millisecond_and_special_values() {
    let answer = answering(
        StatusCode::OK,
        r#"{"status":"success","warnings":["partial"],"data":{"resultType":"matrix","result":[
            {"metric":{"__name__":"m","le":"+Inf"},"values":[[1795528731.145,"3363"],[1795528732.145,"NaN"],[1795528733,"+Inf"]]}]}}"#,
    )
    .await
    .unwrap();
    assert_eq!(answer.warnings, ["partial"]);
    let values = &answer.series[0].values;
    assert_eq!(values[0], (1_795_528_731_145, 3363.0));
    assert!(values[1].1.is_nan());
    assert_eq!(values[2], (1_795_528_733_000, f64::INFINITY));
}

#[tokio::test]
async fn a_native_histogram_is_read_as_prometheus_writes_it() {
    let answer = answering(
        StatusCode::OK,
        r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"__name__":"m"},"histograms":[
            [1.0,{"count":"12","sum":"0.5","buckets":[[3,"-0.001","0.001","2"],[0,"0.5","0.7071067811865475","10"]]}]]}]}}"#,
    )
    .await
    .unwrap();
    let (at, histogram) = &answer.series[0].histograms[0];
    assert_eq!((*at, histogram.count, histogram.sum), (1000, 12.0, 0.5));
    assert_eq!(
        histogram.buckets[0],
        Bucket {
            low: 0.0,
            high: 0.001,
            count: 2.0
        }
    );
    assert_eq!(histogram.buckets[1].low, 0.5);
}

#[tokio::test]
async fn prometheus_own_reason_is_passed_on() {
    let error = answering(
        StatusCode::BAD_REQUEST,
        r#"{"status":"error","errorType":"bad_data","error":"1:6: parse error: unclosed left parenthesis"}"#,
    )
    .await
    .unwrap_err();
    assert_eq!(error.kind(), "refused");
    assert_eq!(
        error.to_string(),
        "Prometheus answered 400: bad_data: 1:6: parse error: unclosed left parenthesis"
    );
}

#[tokio::test]
async fn what_is_no_answer_is_an_error_of_its_kind() {
    for (status, body, kind) in [
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "<html>starting</html>",
            "refused",
        ),
        (StatusCode::OK, "<html>login</html>", "malformed"),
        (StatusCode::OK, r#"{"status":"success"}"#, "malformed"),
        (
            StatusCode::OK,
            r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[1,"x"]]}]}}"#,
            "malformed",
        ),
    ] {
        assert_eq!(
            answering(status, body).await.unwrap_err().kind(),
            kind,
            "{body}"
        );
    }
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let endless = || async {
        let chunk = axum::body::Bytes::from(vec![b' '; 1024 * 1024]);
        let chunks = futures::stream::repeat_with(move || Ok::<_, std::io::Error>(chunk.clone()));
        Response::new(axum::body::Body::from_stream(chunks))
    };
    let prometheus = serve(Router::new().route("/prefix/api/v1/query", post(endless))).await;
    assert_eq!(prometheus.query("up").await, Err(Error::TooLarge));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = || async { Redirect::temporary("http://127.0.0.1:1/") };
    let prometheus = serve(Router::new().route("/prefix/api/v1/query", post(elsewhere))).await;
    let error = prometheus.query("up").await.unwrap_err();
    assert_eq!(error.kind(), "refused");
}

#[tokio::test]
async fn a_closed_port_is_unreachable_and_silence_is_for_the_caller_to_bound() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url: Url = format!("http://user:secret@{}/", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    let server = Server { url, ca: None };
    assert!(!format!("{server:?}").contains("secret"));
    let prometheus = Prometheus::new(&server).unwrap();
    let silent = tokio::time::timeout(Duration::from_millis(50), prometheus.query("up")).await;
    assert!(silent.is_err());
    drop(listener);
    let error = prometheus.query("up").await.unwrap_err();
    assert_eq!(error.kind(), "unreachable");
    assert!(!error.to_string().contains("secret"), "{error}");
}
