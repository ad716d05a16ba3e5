//! Starts the parts in order, tells when both ports listen, and ends them in order. Only plumbing.
//!
//! A signal is heard at any time: what has begun to start is dropped, as a crash would, which every part survives.

mod chores;
mod names;
mod ready;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lekiwi_protocol::Root;
use lekiwi_protocol::discovery::ad::RelayAd;
use lekiwi_protocol::id::NameError;
use lekiwi_relay_core::alerts::defaults;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::chores::{Kept, end_streams, keep_house};
use self::names::{advertised, host_name, relay_id, server_names};
use self::ready::Ready;
use crate::alerts::{Dispatcher, ReceiverError};
use crate::audit::{self, Action, Notary, NotaryError};
use crate::broker::{Broker, BrokerError, Membership, StoreAuthority};
use crate::cli;
use crate::config::Config;
use crate::discovery::Discovery;
use crate::exit::Exit;
use crate::files;
use crate::http;
use crate::http::audited::Refused;
use crate::http::starting::{Starting, Step};
use crate::identity::authority::{Authority, AuthorityError};
use crate::identity::crl::Revocations;
use crate::identity::server::ServerIdentity;
use crate::ingest::alerts::Settings as AlertSettings;
use crate::ingest::{Ingest, Settings, own_source};
use crate::leader::{Held, Office};
use crate::logs::{self, Logs};
use crate::metrics::Metrics;
use crate::paths::{DataError, DataFolder};
use crate::people::admin::{self, AdminError};
use crate::people::oidc::{ProviderError, Providers};
use crate::people::password::PasswordError;
use crate::people::sessions::Sessions;
use crate::protect::Protect;
use crate::store::records::Commit;
use crate::store::{Location, PostgresError, PostgresOptions, Store, StoreError};
use crate::traces::{Traces, TracesError};
use crate::{broker, clock, ui};

/// How long a relay that is not alone goes on after it has said that it stops, until nobody is sent to it any more.
const LEAVE: Duration = Duration::from_secs(4);
/// Time for running requests to end.
const DRAIN: Duration = Duration::from_secs(5);

/// Why the relay could not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The data folder cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store's database cannot be reached as it was said.
    #[error(transparent)]
    Database(#[from] PostgresError),
    /// The authority cannot be used.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Nobody can sign how far the audit goes.
    #[error(transparent)]
    Notary(#[from] NotaryError),
    /// Certificates were given, by an authority that is not there.
    #[error("expected the certificate authority of the store's robots in {0}, found none")]
    AuthorityLost(PathBuf),
    /// There is no administrator.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// No password can be hashed.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// An address cannot be had.
    #[error("cannot listen on {address}: {}", in_words(reason))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The option that chooses it.
        option: &'static str,
        /// Why, as the system says it; already in the message.
        reason: std::io::Error,
    },
    /// The broker cannot start.
    #[error(transparent)]
    Broker(BrokerError),
    /// Another relay has the database, and a broker of its own.
    #[error("another relay works on {0}")]
    NotAlone(String),
    /// The host's name is no id.
    #[error("cannot name the relay after this machine; say --relay-id")]
    RelayId(#[source] NameError),
    /// The server certificate cannot be used.
    #[error("cannot use the server certificate")]
    Tls(#[from] rustls::Error),
    /// Somebody who is to be told of alerts cannot be.
    #[error(transparent)]
    Receiver(#[from] ReceiverError),
    /// Traces cannot be exported.
    #[error(transparent)]
    Traces(#[from] TracesError),
    /// Nobody could log in by a provider.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// A file cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Signals cannot be caught.
    #[error("cannot wait for signals")]
    Signals(#[source] std::io::Error),
}

fn in_words(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "address already in use".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        std::io::ErrorKind::AddrNotAvailable => "this machine does not have the address".to_owned(),
        _ => error.to_string(),
    }
}

impl RunError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Listen {
                address,
                option,
                reason,
            } => match reason.kind() {
                std::io::ErrorKind::AddrInUse => Some(format!(
                    "stop the program that has it (`ss -ltnp 'sport = :{}'` names it), or choose another with {option}",
                    address.port()
                )),
                std::io::ErrorKind::PermissionDenied => {
                    Some(format!("choose a port above 1023 with {option}"))
                }
                std::io::ErrorKind::AddrNotAvailable => {
                    Some(format!("choose an address of this machine with {option}"))
                }
                _ => None,
            },
            Self::Data(DataError::Locked { .. }) => {
                Some("each relay has a data folder of its own: see --data".to_owned())
            }
            Self::NotAlone(_) => Some(
                "relays share a database when they share a broker (broker: mqtts://…); see docs/scale.md".to_owned(),
            ),
            Self::AuthorityLost(_) => Some(
                "restore the folder from a backup; or begin anew with `lekiwi-relay ca new`, and enrol every robot again".to_owned(),
            ),
            Self::Authority(error) => error.hint().map(str::to_owned),
            Self::Store(error) => error.hint().map(str::to_owned),
            _ => None,
        }
    }

    /// How the program ends.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Listen { .. } | Self::Data(DataError::Locked { .. }) | Self::NotAlone(_) => {
                Exit::Unavailable
            }
            Self::Database(_) | Self::Receiver(_) | Self::Provider(_) => Exit::Config,
            _ => Exit::Failure,
        }
    }
}

impl From<BrokerError> for RunError {
    fn from(error: BrokerError) -> Self {
        match error {
            // In the same words as for HTTPS.
            BrokerError::Listen { address, source } => Self::Listen {
                address,
                option: "--mqtt",
                reason: source,
            },
            other => Self::Broker(other),
        }
    }
}

/// Runs the relay until a signal.
///
/// # Errors
/// When a part cannot start.
pub async fn run(options: &cli::Run, config: Config, serving: &Handle) -> Result<(), RunError> {
    let folder = options.data.folder();
    let _lock = folder.lock()?;
    let (mut interrupt, mut terminate) = signals()?;
    let asked_to_stop = async {
        tokio::select! {
            _ = interrupt.recv() => tracing::info!("interrupted, stopping"),
            _ = terminate.recv() => tracing::info!("asked to stop"),
        }
    };
    tokio::pin!(asked_to_stop);
    let relay = tokio::select! {
        relay = start(options, config, &folder, serving) => Some(relay?),
        () = &mut asked_to_stop => None,
    };
    match relay {
        Some(relay) => {
            asked_to_stop.await;
            relay.stop().await;
        }
        None => drop(sd_notify::notify(&[sd_notify::NotifyState::Stopping])),
    }
    tracing::info!("stopped");
    Ok(())
}

/// What runs.
struct Relay {
    /// Cancelled when it is known that the relay will stop.
    leaving: CancellationToken,
    /// Others answer meanwhile.
    is_shared: bool,
    /// Cancelled when the relay begins to stop.
    stopping: CancellationToken,
    server: JoinHandle<()>,
    dispatcher: JoinHandle<()>,
    stop_ingest: CancellationToken,
    ingest: JoinHandle<()>,
    broker: Arc<Broker>,
    discovery: Arc<Discovery>,
    store: Store,
    traces: Traces,
    /// What only goes on and on.
    chores: [JoinHandle<()>; 3],
    /// Whether this relay leads, as long as somebody says so.
    _office: Office,
}

async fn start(
    options: &cli::Run,
    config: Config,
    folder: &DataFolder,
    serving: &Handle,
) -> Result<Relay, RunError> {
    let started = clock::monotonic();
    let host = host_name();
    let metrics = Arc::new(Metrics::default());
    metrics.start_time.set((clock::now_ms() / 1_000) as i64);
    let location = location(&config, folder)?;
    let mut opened = None;
    if !Authority::is_in(&folder.authority())? {
        let (store, commits) = open_store(&location, &metrics).await?;
        if store.knows_certificates() {
            return Err(RunError::AuthorityLost(folder.authority()));
        }
        opened = Some((store, commits));
    }
    let authority = Authority::open_or_create(&folder.authority(), &config.org, clock::now_ms())?;
    let authority = Arc::new(authority);
    let cannot_listen = |reason| RunError::Listen {
        address: config.https,
        option: "--https",
        reason,
    };
    let listener = http::server::listen(config.https, serving).map_err(cannot_listen)?;
    let https = listener.local_addr().map_err(cannot_listen)?;
    let names = server_names(&config, host.as_deref());
    let identity =
        ServerIdentity::open_or_renew(&authority, &folder.server(), &names, clock::now_ms())?;
    let tls = http::server::tls(&identity, config.allow_tls12)?;
    // From here on it is said how far the relay is.
    let (starting, stopping) = (Starting::new(started), CancellationToken::new());
    let leaving = CancellationToken::new();
    let mqtt_address = Arc::new(OnceLock::new());
    let protect = Protect::new(config.limits.clone(), metrics.clone());
    let server = serving.spawn(http::server::serve(
        listener,
        tls,
        http::starting::router(starting.clone()),
        mqtt_address.clone(),
        protect.clone(),
        stopping.clone(),
        DRAIN,
    ));

    let (store, commits) = match opened {
        Some(opened) => opened,
        None => open_store(&location, &metrics).await?,
    };
    starting.done(Step::Store);
    // Robots on one broker, events in one database: there may be other relays on both, and otherwise on neither.
    let is_shared = config.broker.is_some() && config.store.is_some();
    let held = match &config.store {
        Some(_) if !is_shared => {
            let held = Held::take(&store).await?;
            Some(held.ok_or_else(|| RunError::NotAlone(location.to_string()))?)
        }
        _ => None,
    };
    let root = Root::of(config.org.clone());
    let relay_id = match config.relay_id.clone() {
        Some(id) => id,
        None => relay_id(host.as_deref()).map_err(RunError::RelayId)?,
    };
    let source = own_source(&relay_id);
    let traces = Traces::start(config.traces.as_ref(), &relay_id, &metrics)?;
    let (leads_sender, leads) = watch::channel(!is_shared);
    let settings = Settings {
        root: root.clone(),
        relay_id: relay_id.clone(),
        retention: config.retention,
        registration: config.registration,
        alerts: AlertSettings {
            defaults: if config.alerts.no_defaults {
                Vec::new()
            } else {
                defaults::rules()
            },
            rules: config
                .alerts
                .rules
                .iter()
                .map(|rule| rule.0.clone())
                .collect(),
        },
        sharing: is_shared.then(|| leads.clone()),
        traces: traces.clone(),
    };
    let (fleet, ingest) =
        Ingest::restore(settings, store.clone(), commits, metrics.clone()).await?;
    starting.done(Step::Picture);
    let dispatcher = Dispatcher::new(
        relay_id.clone(),
        store.clone(),
        fleet.clone(),
        metrics.clone(),
        leads.clone(),
        config.alerts.receivers.clone(),
    )?;
    let (broker, inputs) = match &config.broker {
        Some(address) => {
            let membership = Membership {
                address: address.clone(),
                relay_id: relay_id.clone(),
                root: root.clone(),
                authority: authority.clone(),
                is_shared,
            };
            Broker::join(membership, metrics.clone())?
        }
        None => {
            let listening = broker::Config {
                listen: config.mqtt,
                certificate: identity.certificate_path.clone(),
                key: identity.key_path.clone(),
                client_ca: identity.clients_path.clone(),
                root: root.clone(),
            };
            let admission = Arc::new(StoreAuthority::new(
                store.clone(),
                config.org.clone(),
                source.clone(),
            ));
            Broker::start(listening, admission, metrics.clone(), protect.clone()).await?
        }
    };
    // Behind the port of HTTPS there is only the relay's own broker, and only that is announced as being on this machine.
    let (mqtt, advertised_mqtt) = match &broker {
        Broker::Embedded(own) => {
            let address = *mqtt_address.get_or_init(|| own.address());
            let advertised = advertised(&config, host.as_deref(), address);
            (address.to_string(), advertised)
        }
        Broker::External(other) => (other.address().to_string(), other.address().to_string()),
    };
    let office = match broker.is_up() {
        Some(fit) if is_shared => Office::share(&store, fit, fleet.clone(), leads_sender)?,
        _ => Office::alone(leads_sender, held),
    };
    let broker = Arc::new(broker);
    let stop_ingest = CancellationToken::new();
    let ingest = tokio::spawn(ingest.run(broker.clone(), inputs, stop_ingest.clone()));

    let dispatcher = tokio::spawn(dispatcher.run(stopping.clone()));
    let discovery = Arc::new(Discovery::start(
        &config,
        broker.address().map(|mqtt| RelayAd {
            id: relay_id,
            https: https.port(),
            mqtt: mqtt.port(),
            ca_fingerprint: authority.fingerprint(),
        }),
    ));

    let crl_file = config.identity.crl_file.clone();
    let revocations = Arc::new(Revocations::new(store.clone(), authority.clone(), crl_file));
    let app = Arc::new(http::Parts {
        store: store.clone(),
        fleet,
        broker: broker.clone(),
        authority: authority.clone(),
        discovery: discovery.clone(),
        logs: Logs::new(folder.logs(), logs::LOG_ENDING, logs::BOUNDS),
        packages: Logs::new(folder.packages(), logs::LIST_ENDING, logs::PACKAGES_BOUNDS),
        retention: config.retention,
        sessions: Sessions::new(store.clone(), config.org.clone(), config.second_factor)?,
        oidc: Providers::new(config.oidc)?,
        metrics,
        traces: traces.clone(),
        protect: protect.clone(),
        cors: config.cors,
        notary: Notary::open_or_create(&folder.audit())?,
        refused: Refused::default(),
        root,
        source: source.clone(),
        mqtt: advertised_mqtt,
        certificate_ends_ms: identity.not_after_ms,
        revocations: revocations.clone(),
        robot_lifetime: config.identity.robot_lifetime,
        started,
        streams: Arc::new(Semaphore::new(http::MAX_STREAMS)),
        leaving: leaving.clone(),
        stopping: stopping.clone(),
    });
    // In this order: who reads that it is ready asks the whole interface next.
    starting.finish(http::router(app.clone()));
    starting.done(Step::Broker);
    let streams = tokio::spawn(end_streams(app.clone()));
    let listing = tokio::spawn(revocations.keep());
    let kept = Kept {
        event_days: config.event_days,
        audit_days: config.audit_days,
    };
    let housekeeping = tokio::spawn(keep_house(app, leads, kept));

    // Only now: a password is told by a relay that runs.
    tell_admin_password(options, folder, &store).await?;
    let fingerprint = authority.fingerprint();
    let said = [
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("ca", fingerprint.clone()),
    ];
    let begun = audit::of_system(&source, Action::RelayStart, "", said);
    if let Err(error) = store.record(begun).await {
        tracing::warn!(%error, "the start could not be put on record");
    }
    tracing::info!(%https, %mqtt, ca = %fingerprint, "the relay listens");
    if let Some(path) = &options.ready_file {
        let ready = Ready {
            https,
            mqtt,
            ca_fingerprint: fingerprint,
            pid: std::process::id(),
        };
        ready.write(path)?;
    }
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);

    Ok(Relay {
        leaving,
        is_shared,
        stopping,
        server,
        dispatcher,
        stop_ingest,
        ingest,
        broker,
        discovery,
        store,
        traces,
        chores: [streams, housekeeping, listing],
        _office: office,
    })
}

impl Relay {
    async fn stop(self) {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        self.leaving.cancel();
        if self.is_shared {
            tokio::time::sleep(LEAVE).await;
        }
        for chore in &self.chores {
            chore.abort();
        }
        self.discovery.leave().await;
        self.stopping.cancel();
        // Requests first: what they write must find the store. A task that panicked has ended as well.
        let _ = self.server.await;
        let _ = self.dispatcher.await;
        self.stop_ingest.cancel();
        let _ = self.ingest.await;
        self.broker.stop().await;
        // Waits for the last commit, so not on a thread of the runtime.
        let _ = tokio::task::spawn_blocking(move || self.store.close()).await;
        self.traces.finish().await;
    }
}

async fn open_store(
    location: &Location,
    metrics: &Arc<Metrics>,
) -> Result<(Store, mpsc::Receiver<Commit>), StoreError> {
    let (location, metrics) = (location.clone(), metrics.clone());
    // Its connections wait on their own threads, and must not be made on one of the runtime's.
    let opened = tokio::task::spawn_blocking(move || Store::open_at(&location, metrics));
    opened.await.map_err(|_| StoreError::Closed)?
}

/// Where the store of this configuration is.
///
/// # Errors
/// When a file that it names cannot be used.
pub fn location(config: &Config, folder: &DataFolder) -> Result<Location, PostgresError> {
    let Some(store) = &config.store else {
        return Ok(Location::Sqlite(folder.store()));
    };
    let options = PostgresOptions::read(
        store.url.expose(),
        store.password_file.as_deref(),
        store.ca.as_deref(),
    )?;
    Ok(Location::Postgres(Arc::new(options)))
}

fn signals() -> Result<(tokio::signal::unix::Signal, tokio::signal::unix::Signal), RunError> {
    let signal = |kind| signal(kind).map_err(RunError::Signals);
    Ok((
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    ))
}

async fn tell_admin_password(
    options: &cli::Run,
    folder: &DataFolder,
    store: &Store,
) -> Result<(), RunError> {
    let Some(credential) = admin::first_start(store)? else {
        return Ok(());
    };
    let file = match &options.admin_password_file {
        Some(path) => Some(path.clone()),
        // A journal keeps what it is told; a file can be deleted.
        None if !ui::note_is_read() => Some(folder.admin_password()),
        None => None,
    };
    match file {
        Some(path) => {
            let text = format!("{}\n", credential.password);
            files::replace(&path, text.as_bytes(), files::SECRET).map_err(|source| {
                RunError::Write {
                    path: path.clone(),
                    source,
                }
            })?;
            tracing::info!(user = admin::USER, file = %path.display(), "the administrator's password is in a file; delete it once noted");
        }
        None => ui::note(&format!(
            "\n  The dashboard's login, shown only this once:\n\n      user      {}\n      password  {}\n\n",
            admin::USER,
            credential.password
        )),
    }
    let who = audit::operator();
    let made = audit::of_system(&who, Action::AdminCreate, admin::USER, []);
    if credential.keep(store, clock::now_ms()).await? {
        store.record(made).await?;
    } else {
        tracing::warn!(
            user = admin::USER,
            "another relay on this database started at the same time: its password is the one that counts"
        );
    }
    Ok(())
}
