//! `lekiwi consumer create`: a read-only broker certificate. The key is made here and never leaves.

use std::fs;
use std::path::Path;

use lekiwi_protocol::ConsumerName;
use lekiwi_protocol::api::{ConsumerCreated, ConsumerRequest};
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};

use crate::client::Relay;
use crate::credentials::write_private;
use crate::failure::Failure;
use crate::ui::{Ui, plain};

const KEY: &str = "key.pem";
const CERTIFICATE: &str = "cert.pem";
const AUTHORITY: &str = "ca.pem";

pub(super) async fn create(
    relay: &Relay,
    name: ConsumerName,
    out: &Path,
    reads: Vec<String>,
    ui: &mut Ui,
) -> Result<(), Failure> {
    let failed = |file: &Path, source| Failure::File {
        path: file.to_owned(),
        did: "written",
        source,
    };
    fs::create_dir_all(out).map_err(|source| failed(out, source))?;
    for file in [KEY, CERTIFICATE, AUTHORITY].map(|file| out.join(file)) {
        if file.exists() {
            return Err(Failure::Exists(file));
        }
    }
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(Failure::Key)?;
    let request = ConsumerRequest {
        csr_pem: request(&name, &key)?,
        name: name.clone(),
        reads,
        lifetime_days: None,
    };
    let created = relay.create_consumer(&request).await?;
    let key_file = out.join(KEY);
    write_private(&key_file, key.serialize_pem().as_bytes())
        .map_err(|source| failed(&key_file, source))?;
    for (file, pem) in [
        (CERTIFICATE, &created.certificate_pem),
        (AUTHORITY, &created.ca_pem),
    ] {
        let file = out.join(file);
        fs::write(&file, pem).map_err(|source| failed(&file, source))?;
    }
    ui.note(format!(
        "wrote {KEY}, {CERTIFICATE} and {AUTHORITY} to {}, good until {}; follow the fleet with",
        out.display(),
        created.expires_at
    ));
    ui.line(plain(&subscribe(&name, out, &created)))
}

fn request(name: &ConsumerName, key: &KeyPair) -> Result<String, Failure> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters
        .distinguished_name
        .push(DnType::CommonName, name.common_name());
    parameters
        .serialize_request(key)
        .and_then(|request| request.pem())
        .map_err(Failure::Key)
}

/// A command for a shell that follows what this certificate may read.
fn subscribe(name: &ConsumerName, out: &Path, created: &ConsumerCreated) -> String {
    let (host, port) = created
        .mqtt
        .rsplit_once(':')
        .unwrap_or((&created.mqtt, "8883"));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let file = |file: &str| quoted(&out.join(file).display().to_string());
    format!(
        "mosquitto_sub -V 5 -h {} -p {} --cafile {} --cert {} --key {} -i {} -t {} -v",
        quoted(host),
        quoted(port),
        file(AUTHORITY),
        file(CERTIFICATE),
        file(KEY),
        quoted(&name.common_name()),
        quoted(&created.filter),
    )
}

/// As one word for a shell.
fn quoted(text: &str) -> String {
    let harmless = |c: char| c.is_ascii_alphanumeric() || "/._-:+".contains(c);
    if !text.is_empty() && text.chars().all(harmless) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use lekiwi_protocol::Timestamp;

    use super::*;

    #[test]
    fn the_command_survives_a_shell() {
        let created = ConsumerCreated {
            certificate_pem: String::new(),
            ca_pem: String::new(),
            serial: "1f".into(),
            expires_at: Timestamp::from_ms(0),
            mqtt: "[::1]:8883".into(),
            filter: "fleet/v1/default/robots/+/from/#".into(),
        };
        assert_eq!(
            subscribe(
                &"analytics".parse().unwrap(),
                Path::new("it's here"),
                &created
            ),
            r"mosquitto_sub -V 5 -h ::1 -p 8883 --cafile 'it'\''s here/ca.pem' --cert 'it'\''s here/cert.pem' --key 'it'\''s here/key.pem' -i consumer:analytics -t 'fleet/v1/default/robots/+/from/#' -v"
        );
    }

    #[test]
    fn the_request_is_pkcs10() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let pem = request(&"analytics".parse().unwrap(), &key).unwrap();
        assert!(
            pem.starts_with("-----BEGIN CERTIFICATE REQUEST-----"),
            "{pem}"
        );
    }
}
