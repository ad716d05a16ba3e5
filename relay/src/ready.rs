//! `lekiwi-relay ready`: asks a running relay whether it is ready, by HTTPS as anybody would. For health checks of
//! containers, in which there is nothing else to ask with.

use std::sync::Arc;
use std::time::Duration;

use lekiwi_protocol::api::Readiness;
use rustls::{ClientConfig, RootCertStore};

use crate::cli;
use crate::exit::Exit;
use crate::identity::authority::{Authority, AuthorityError};
use crate::ui;

const ANSWER: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
enum Unready {
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("cannot trust the authority")]
    Tls(#[from] rustls::Error),
    #[error("cannot ask")]
    Runtime(#[from] std::io::Error),
    #[error("expected an answer of /ready")]
    Answer(#[from] reqwest::Error),
    #[error("not ready: {}", .0.join("; "))]
    Missing(Vec<String>),
}

/// `ready`.
#[must_use]
pub fn ready(options: &cli::Ready) -> Exit {
    match ask(options) {
        Ok(()) => Exit::Success,
        Err(error) => {
            let hint = match &error {
                Unready::Authority(error) => error.hint(),
                _ => None,
            };
            ui::error(&error, hint);
            Exit::Failure
        }
    }
}

fn ask(options: &cli::Ready) -> Result<(), Unready> {
    let authority = Authority::open(&options.data.folder().authority())?;
    let mut roots = RootCertStore::empty();
    for root in authority.roots() {
        roots.add(root)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let http = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .timeout(ANSWER)
        .build()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let url = format!("{}/ready", options.url.trim_end_matches('/'));
    let said = runtime.block_on(async { http.get(url).send().await?.bytes().await })?;
    match serde_json::from_slice(&said) {
        Ok(Readiness { ready: true, .. }) => Ok(()),
        Ok(Readiness { missing, .. }) => Err(Unready::Missing(missing)),
        Err(_) => Err(Unready::Missing(vec![
            "what answers is no relay".to_owned(),
        ])),
    }
}
