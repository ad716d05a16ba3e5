//! How to reach the database: a URL, and what does not belong into one.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::postgres::config::{Host, SslMode};
use ::postgres::{Client, Config};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::super::database::{DatabaseError, Result};
use super::in_words;

/// The authorities that the system trusts, on Debian and most others.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// A server that does not take connections within this time is not there.
const CONNECT: Duration = Duration::from_secs(5);
/// A network that does not take data within this time is not there.
const SEND: Duration = Duration::from_secs(6);

/// How to reach a database of PostgreSQL. Shown without its password.
pub struct Options {
    config: Config,
    tls: MakeRustlsConnect,
    place: String,
}

/// Why a database cannot be reached as it was said.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// The URL cannot be understood. It may have a password, and is not repeated.
    #[error(
        "expected a URL such as postgresql://relay@db.example.org/lekiwi for store.postgres ({0})"
    )]
    Url(String),
    /// A file cannot be used.
    #[error("cannot read {what} {path}")]
    File {
        /// What it is.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file has no certificate.
    #[error("expected certificates (PEM) in {path}, got none that can be used")]
    Authorities {
        /// The file.
        path: PathBuf,
    },
    /// TLS cannot be set up.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
}

impl Options {
    /// Checks that a URL can be understood, without a look at any file.
    ///
    /// # Errors
    /// When it cannot.
    pub fn check(url: &str) -> std::result::Result<(), OptionsError> {
        parse(url).map(drop)
    }

    /// Reads a URL, and the files with password and authorities.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn read(
        url: &str,
        password_file: Option<&Path>,
        authorities: Option<&Path>,
    ) -> std::result::Result<Self, OptionsError> {
        let mut config = parse(url)?;
        if let Some(path) = password_file {
            let text = std::fs::read_to_string(path).map_err(|source| OptionsError::File {
                what: "the password of the database",
                path: path.to_owned(),
                source,
            })?;
            config.password(text.trim_end_matches(['\r', '\n']));
        }
        let roots = if config.get_ssl_mode() == SslMode::Disable {
            RootCertStore::empty()
        } else {
            roots(authorities.unwrap_or(Path::new(SYSTEM_AUTHORITIES)))?
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            place: place(&config),
            tls: MakeRustlsConnect::new(tls),
            config,
        })
    }

    /// A new connection, set up for writing or for reading only.
    pub(super) fn connect(&self, is_reader: bool) -> Result<Client> {
        let lost = |error| DatabaseError::Lost(in_words(&error));
        let mut client = self.config.connect(self.tls.clone()).map_err(lost)?;
        let session = if is_reader {
            "SET default_transaction_read_only = on"
        } else {
            // An acknowledgement promises that the event is on disk; and no relay that hangs may hold up the others.
            "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
             SET lock_timeout = '20s'; SET idle_in_transaction_session_timeout = '20s'"
        };
        client.batch_execute(session).map_err(lost)?;
        Ok(client)
    }
}

fn parse(url: &str) -> std::result::Result<Config, OptionsError> {
    let mut config: Config = url.parse().map_err(|error: ::postgres::Error| {
        // The cause names the parameter, never its value.
        OptionsError::Url(in_words(&error))
    })?;
    if config.get_hosts().is_empty() {
        return Err(OptionsError::Url("it names no host".to_owned()));
    }
    if config.get_user().is_none() {
        return Err(OptionsError::Url("it names no user".to_owned()));
    }
    if config.get_dbname().is_none() {
        return Err(OptionsError::Url("it names no database".to_owned()));
    }
    if !url.contains("sslmode=") {
        let is_near = config.get_hosts().iter().all(is_this_machine);
        config.ssl_mode(if is_near {
            SslMode::Disable
        } else {
            SslMode::Require
        });
    }
    if config.get_application_name().is_none() {
        config.application_name("lekiwi-relay");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(SEND);
    }
    // A server that vanished without a word is noticed within half a minute.
    config
        .keepalives_idle(SEND)
        .keepalives_interval(Duration::from_secs(5))
        .keepalives_retries(3);
    Ok(config)
}

fn is_this_machine(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost" || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
        }
    }
}

/// Server and database, for people.
fn place(config: &Config) -> String {
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(name)) => name.clone(),
        Some(Host::Unix(path)) => path.display().to_string(),
        None => String::new(),
    };
    let port = match config.get_ports() {
        [] | [5432] => String::new(),
        [port, ..] => format!(":{port}"),
    };
    let database = config.get_dbname().unwrap_or_default();
    format!("postgresql://{host}{port}/{database}")
}

fn roots(path: &Path) -> std::result::Result<RootCertStore, OptionsError> {
    let pem = std::fs::read(path).map_err(|source| OptionsError::File {
        what: "the authorities of the database's certificate",
        path: path.to_owned(),
        source,
    })?;
    let mut roots = RootCertStore::empty();
    // One that is out of date does not spoil the others.
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
    if roots.is_empty() {
        return Err(OptionsError::Authorities {
            path: path.to_owned(),
        });
    }
    Ok(roots)
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Options").field(&self.place).finish()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_spoken_to_by_tls_and_passwords_are_not_shown() {
        for (url, mode, shown) in [
            (
                "postgresql://r:geheim@db.example/lekiwi",
                SslMode::Require,
                "postgresql://db.example/lekiwi",
            ),
            (
                "postgresql://r:geheim@127.0.0.1:5433/lekiwi",
                SslMode::Disable,
                "postgresql://127.0.0.1:5433/lekiwi",
            ),
            (
                "postgresql://r@%2Frun%2Fpg/lekiwi",
                SslMode::Disable,
                "postgresql:///run/pg/lekiwi",
            ),
            (
                "postgresql://r@db.example/lekiwi?sslmode=disable",
                SslMode::Disable,
                "postgresql://db.example/lekiwi",
            ),
        ] {
            let config = parse(url).unwrap();
            assert_eq!(config.get_ssl_mode(), mode, "{url}");
            assert_eq!(place(&config), shown);
        }
        let options = Options::read("postgresql://r:geheim@[::1]/lekiwi", None, None).unwrap();
        assert_eq!(
            format!("{options} {options:?}"),
            "postgresql://::1/lekiwi Options(\"postgresql://::1/lekiwi\")"
        );
    }

    #[test]
    fn what_is_no_url_is_refused_without_its_password() {
        let refusal = |url| Options::check(url).unwrap_err().to_string();
        let expected =
            "expected a URL such as postgresql://relay@db.example.org/lekiwi for store.postgres";
        assert_eq!(
            refusal("postgresql://r:geheim@/lekiwi"),
            format!("{expected} (it names no host)")
        );
        assert_eq!(
            refusal("postgresql://db.example/lekiwi"),
            format!("{expected} (it names no user)")
        );
        assert_eq!(
            refusal("postgresql://r@db.example"),
            format!("{expected} (it names no database)")
        );
        let strange = refusal("postgresql://r:geheim@db.example/l?colour=blue");
        assert!(
            strange.contains("colour") && !strange.contains("geheim"),
            "{strange}"
        );
    }
}
