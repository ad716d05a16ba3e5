//! Where traces go, as the configuration says it.

use lekiwi_protocol::trace::Sample;
use reqwest::Url;
use serde::Deserialize;

use super::ConfigError;

/// The standard's own variable for the collector.
pub(super) const STANDARD: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// `traces` as a person wrote it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTraces {
    /// The collector's URL.
    pub endpoint: Option<String>,
    /// Which share of the requests that bring no trace begins one.
    pub sample: Option<String>,
}

/// Where traces go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracesConfig {
    /// The collector, as OTLP over HTTP has it: traces are posted to `v1/traces` below.
    pub endpoint: Url,
    /// Which share of the requests that bring no trace begins one.
    pub sample: Sample,
}

impl RawTraces {
    pub(super) fn over(self, below: Self) -> Self {
        Self {
            endpoint: self.endpoint.or(below.endpoint),
            sample: self.sample.or(below.sample),
        }
    }

    pub(super) fn check(self) -> Result<Option<TracesConfig>, ConfigError> {
        let wrong = |key, expected, actual| ConfigError::Value {
            key,
            expected,
            actual,
        };
        let sample = match self.sample {
            None => Sample::default(),
            Some(text) => {
                let share = text.parse().ok().and_then(Sample::new);
                let wrong = || wrong("traces.sample", "a share from 0 to 1", text);
                share.ok_or_else(wrong)?
            }
        };
        let Some(text) = self.endpoint else {
            return Ok(None);
        };
        let url = Url::parse(&text).ok();
        let url = url.filter(|url| matches!(url.scheme(), "http" | "https"));
        let expected = "the URL of a collector such as http://127.0.0.1:4318";
        Ok(Some(TracesConfig {
            endpoint: url.ok_or_else(|| wrong("traces.endpoint", expected, text))?,
            sample,
        }))
    }
}
