//! Prometheus' HTTP API: sends a query, reads the answer. Knows nothing of what is asked.

use std::fmt;

use reqwest::header::CONTENT_TYPE;
use reqwest::{Certificate, Client, StatusCode, Url, redirect};
use serde::Deserialize;

use crate::histogram::Bucket;
use crate::series::{Labels, NativeHistogram, Series};

/// The longest answer that is read, bytes.
const MOST_BYTES: usize = 16 * 1024 * 1024;
/// How much of an error text is kept, characters.
const LONGEST_REASON: usize = 300;

/// Where Prometheus is.
#[derive(Clone)]
pub struct Server {
    /// Base URL, with path prefix and credentials if need be.
    pub url: Url,
    /// Certificates (PEM) to trust instead of the system's.
    pub ca: Option<Vec<u8>>,
}

impl fmt::Debug for Server {
    /// Without the credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}://{}",
            self.url.scheme(),
            self.url.host_str().unwrap_or_default()
        )
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It took too long.
    #[error("Prometheus did not answer in time")]
    Timeout,
    /// No connection, or it broke.
    #[error("Prometheus is unreachable: {0}")]
    Unreachable(String),
    /// Prometheus, or something before it, answered with an error.
    #[error("Prometheus answered {status}: {reason}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What it said, shortened.
        reason: String,
    },
    /// The answer is longer than we read.
    #[error("the answer is larger than {} MiB", MOST_BYTES / 1024 / 1024)]
    TooLarge,
    /// The answer is not what the API documents.
    #[error("the answer is malformed: {0}")]
    Malformed(String),
}

impl Error {
    /// A word from a closed set, for metric labels.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Unreachable(_) => "unreachable",
            Self::Refused { .. } => "refused",
            Self::TooLarge => "too_large",
            Self::Malformed(_) => "malformed",
        }
    }

    fn unreachable(error: reqwest::Error) -> Self {
        if error.is_timeout() {
            return Self::Timeout;
        }
        // the URL may hold credentials; what reqwest says by itself is "error sending request", the cause comes last
        let error = error.without_url();
        let mut cause: &dyn std::error::Error = &error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        Self::Unreachable(shortened(&cause.to_string()))
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(LONGEST_REASON).collect()
}

/// What a query returned. An instant vector's series have one value each.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// The series.
    pub series: Vec<Series>,
    /// What Prometheus warned of, such as a partial answer.
    pub warnings: Vec<String>,
}

/// A client of one Prometheus. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Prometheus {
    client: Client,
    endpoint: Url,
}

impl Prometheus {
    /// Prepares the client; connects when asked.
    ///
    /// # Errors
    /// When the certificates cannot be used, or https:// is wanted and there are none.
    pub fn new(server: &Server) -> Result<Self, reqwest::Error> {
        let builder = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .user_agent("laneguard-collector");
        // without certificates the client cannot even be built, also for http:// where none are needed
        let builder = match &server.ca {
            Some(pem) => builder.tls_certs_only(Certificate::from_pem_bundle(pem)?),
            None if server.url.scheme() == "http" => builder.tls_certs_only([]),
            None => builder,
        };
        let mut endpoint = server.url.clone();
        let prefix = endpoint.path().trim_end_matches('/').to_owned();
        endpoint.set_path(&format!("{prefix}/api/v1/query"));
        Ok(Self {
            client: builder.build()?,
            endpoint,
        })
    }

    /// Evaluates a query now, by Prometheus' clock. Takes as long as it takes: the caller bounds it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn query(&self, promql: &str) -> Result<Answer, Error> {
        let form = {
            let mut url = self.endpoint.clone();
            url.query_pairs_mut().clear().append_pair("query", promql);
            url.query().unwrap_or_default().to_owned()
        };
        let mut response = self
            .client
            .post(self.endpoint.clone())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form)
            .send()
            .await
            .map_err(Error::unreachable)?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(Error::unreachable)? {
            if body.len() + chunk.len() > MOST_BYTES {
                return Err(Error::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        read(status, &body)
    }
}

#[derive(Deserialize)]
struct Body {
    status: String,
    data: Option<Data>,
    #[serde(rename = "errorType", default)]
    error_type: String,
    #[serde(default)]
    error: String,
    #[serde(default)]
    warnings: Vec<String>,
}

#[derive(Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
enum Data {
    Matrix(Vec<RawSeries>),
    Vector(Vec<RawSeries>),
    Scalar((f64, String)),
    String((f64, String)),
}

#[derive(Deserialize)]
struct RawSeries {
    metric: Labels,
    #[serde(default)]
    values: Vec<(f64, String)>,
    value: Option<(f64, String)>,
    #[serde(default)]
    histograms: Vec<(f64, RawHistogram)>,
    histogram: Option<(f64, RawHistogram)>,
}

#[derive(Deserialize)]
struct RawHistogram {
    count: String,
    sum: String,
    /// Which bounds are inclusive, lower bound, upper bound, count.
    #[serde(default)]
    buckets: Vec<(u8, String, String, String)>,
}

fn read(status: StatusCode, body: &[u8]) -> Result<Answer, Error> {
    let parsed: Result<Body, _> = serde_json::from_slice(body);
    if !status.is_success() {
        let reason = match parsed {
            Ok(body) if !body.error.is_empty() => format!("{}: {}", body.error_type, body.error),
            // a proxy's page, perhaps
            _ => String::from_utf8_lossy(&body[..body.len().min(LONGEST_REASON)]).into_owned(),
        };
        return Err(Error::Refused {
            status: status.as_u16(),
            reason: shortened(reason.trim()),
        });
    }
    let body = parsed.map_err(|e| Error::Malformed(shortened(&e.to_string())))?;
    let series = match body.data {
        Some(Data::Matrix(series) | Data::Vector(series)) => series
            .into_iter()
            .map(RawSeries::read)
            .collect::<Result<_, _>>()?,
        Some(Data::Scalar(value) | Data::String(value)) => vec![Series {
            values: vec![number(value)?],
            ..Series::default()
        }],
        None => {
            return Err(Error::Malformed(format!(
                "status {} without data",
                shortened(&body.status)
            )));
        }
    };
    Ok(Answer {
        series,
        warnings: body.warnings,
    })
}

/// Seconds with fraction to whole milliseconds, which is what Prometheus stores.
fn time_ms(seconds: f64) -> i64 {
    (seconds * 1000.0).round() as i64
}

fn parsed(text: &str) -> Result<f64, Error> {
    text.parse()
        .map_err(|_| Error::Malformed(format!("`{}` is not a number", shortened(text))))
}

fn number((at, value): (f64, String)) -> Result<(i64, f64), Error> {
    Ok((time_ms(at), parsed(&value)?))
}

impl RawSeries {
    fn read(self) -> Result<Series, Error> {
        Ok(Series {
            labels: self.metric,
            values: self
                .values
                .into_iter()
                .chain(self.value)
                .map(number)
                .collect::<Result<_, _>>()?,
            histograms: self
                .histograms
                .into_iter()
                .chain(self.histogram)
                .map(|(at, histogram)| Ok((time_ms(at), histogram.read()?)))
                .collect::<Result<_, Error>>()?,
        })
    }
}

impl RawHistogram {
    fn read(self) -> Result<NativeHistogram, Error> {
        let bucket = |(_, low, high, count): (u8, String, String, String)| {
            Ok(Bucket {
                // the zero bucket reaches as far below zero as above it
                low: parsed(&low)?.max(0.0),
                high: parsed(&high)?,
                count: parsed(&count)?,
            })
        };
        Ok(NativeHistogram {
            count: parsed(&self.count)?,
            sum: parsed(&self.sum)?,
            buckets: self
                .buckets
                .into_iter()
                .map(bucket)
                .collect::<Result<_, Error>>()?,
        })
    }
}

#[cfg(test)]
mod tests;
