//! What ingest does by the clock: samples for history, pictures for the next start, and what is kept no longer. Spans
//! are measured by time that goes on whatever the wall clock is set to.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use lekiwi_relay_core::Picture;
use lekiwi_relay_core::history::day_of;

use super::Ingest;
use crate::broker::Broker;
use crate::clock::{self, Gait};
use crate::store::records::{NewSample, Snapshot};
use crate::store::{Health, LookedBack, Moment, Store, StoreError};

/// Resolution of history: each metric's newest value in every such span.
const HISTORY: Duration = Duration::from_secs(5);
const SNAPSHOT: Duration = Duration::from_secs(30);
const UPKEEP: Duration = Duration::from_secs(3_600);
/// Time between two looks at how long certificates last.
const CERTIFICATES: Duration = Duration::from_secs(60);
/// The relay's own events that wait while the store takes none.
const MAX_OWN_EVENTS: usize = 20_000;

/// When it was done last; at once where that is absent.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    history: Option<Instant>,
    snapshot: Option<Instant>,
    upkeep: Option<Instant>,
    certificates: Option<Instant>,
    gait: Gait,
    /// The day for which old history was deleted last.
    day: u64,
}

impl Upkeep {
    /// The last samples and pictures are due.
    pub(super) fn hurry(&mut self) {
        self.history = None;
        self.snapshot = None;
    }
}

/// Whether it is time; then the next span begins.
fn is_due(last: &mut Option<Instant>, now: Instant, span: Duration) -> bool {
    let is_due = last.is_none_or(|last| now.saturating_duration_since(last) >= span);
    if is_due {
        *last = Some(now);
    }
    is_due
}

/// The last picture of each robot, and the position that it includes.
pub(super) async fn pictures(store: &Store) -> Result<Vec<(Picture, u64)>, StoreError> {
    let mut pictures = Vec::new();
    for snapshot in store.snapshots().await? {
        match Picture::from_json(&snapshot.picture) {
            Ok(picture) => pictures.push((picture, snapshot.position)),
            Err(error) => {
                tracing::warn!(robot = %snapshot.robot, %error, "a robot's snapshot cannot be read")
            }
        }
    }
    // Of an earlier relay; what this one keeps of them has the record.
    if pictures.iter().any(|(picture, _)| picture.is_view_only()) {
        let newest = pictures.iter().map(|(_, position)| *position).max();
        let moment = Moment::Position(newest.unwrap_or_default());
        if let LookedBack::Past(past, _) = store.look_back(moment, None).await? {
            for (picture, _) in &mut pictures {
                if picture.is_view_only() {
                    past.correct(picture);
                }
            }
        }
    }
    Ok(pictures)
}

impl Ingest {
    /// What is due by the clock: staleness, history, snapshots, old history.
    pub(super) async fn tick(&mut self, broker: &Broker) {
        self.apply(broker, Vec::new()).await;
        self.look_after_overload();
        if !self.leads {
            return;
        }
        let (now, now_ms) = (clock::monotonic(), clock::now_ms());
        if is_due(&mut self.upkeep.history, now, HISTORY) {
            self.take_samples();
        }
        if is_due(&mut self.upkeep.snapshot, now, SNAPSHOT) {
            self.take_snapshots(now_ms);
        }
        if is_due(&mut self.upkeep.certificates, now, CERTIFICATES) {
            self.look_at_certificates(now_ms);
        }
        if is_due(&mut self.upkeep.upkeep, now, UPKEEP) {
            self.look_after_history(now, now_ms);
        }
    }

    fn take_samples(&mut self) {
        let samples = &mut self.batch.samples;
        self.fleet
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take_samples(|robot, metric, at, value| {
                samples.push(NewSample {
                    robot: robot.as_str().into(),
                    metric: metric.as_str().into(),
                    ts_ms: at.as_ms(),
                    value,
                });
            });
    }

    /// Pictures of all robots that changed since the last ones. A restart folds only what is beyond the newest of all
    /// positions, so those of one position are written together: while the disk refuses, or earlier ones wait, changes
    /// stay marked in the picture.
    fn take_snapshots(&mut self, now_ms: u64) {
        if *self.store.health().borrow() != Health::Writing || !self.batch.snapshots.is_empty() {
            return;
        }
        let (changed, position) = {
            let mut fleet = self.fleet.write().unwrap_or_else(PoisonError::into_inner);
            (fleet.take_changed(), fleet.position())
        };
        let snapshots = changed.into_iter().filter_map(|picture| {
            let robot = picture.view.id.as_str().into();
            // It has string keys only, so it always serialises.
            let picture = serde_json::to_string(&picture).ok()?;
            Some(Snapshot {
                robot,
                position,
                taken_ms: now_ms,
                picture,
            })
        });
        self.batch.snapshots.extend(snapshots);
    }

    /// Packs the days that are over and, on a new day, deletes what is kept no longer: never by a clock that was set
    /// within the last hour, which may be wrong by years.
    fn look_after_history(&mut self, now: Instant, now_ms: u64) {
        let is_steady = self.upkeep.gait.is_steady(now, now_ms);
        let today = day_of(now_ms);
        if is_steady && today != self.upkeep.day {
            self.upkeep.day = today;
            self.store.keep_history(self.settings.retention, now_ms);
        } else {
            self.store.pack_history(self.settings.retention, now_ms);
        }
    }

    pub(super) fn submit(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let mut back = self.store.submit(std::mem::take(&mut self.batch));
        // Robots send theirs again; nobody else has the relay's own, which wait for the next turn and are not given up.
        let (own, all) = (self.stream, back.events.len());
        back.events.retain(|event| event.stream == own);
        back.events.truncate(MAX_OWN_EVENTS);
        let gone = all - back.events.len();
        if gone > 0 {
            self.metrics.shed("events", gone as u64);
        }
        self.batch = back;
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::Arc;

    use lekiwi_protocol::message::ConnectionState;
    use lekiwi_protocol::{RelayId, RobotId, Root, Timestamp};
    use lekiwi_relay_core::history::Retention;
    use lekiwi_relay_core::{Fleet, Policy};
    use tokio::sync::mpsc;
    use uuid::Uuid;

    use super::super::folded::folded;
    use super::super::{Settings, alerts};
    use super::*;
    use crate::metrics::Metrics;
    use crate::store::Batch;
    use crate::store::records::{Certificate, CertificateKind, Commit, NewEvent};

    fn event(seq: u64, robot: &str, kind: &str) -> NewEvent {
        NewEvent {
            aggregate_type: "robot",
            aggregate_id: robot.into(),
            source: "relay:r1".into(),
            stream: Uuid::nil(),
            seq,
            kind: kind.into(),
            ts_ms: seq,
            received_ms: seq,
            data: "{}".into(),
            metadata: "{}".into(),
        }
    }

    fn settings() -> Settings {
        Settings {
            root: Root::default(),
            relay_id: RelayId::new("r1").unwrap(),
            retention: Retention::default(),
            registration: Policy::Open,
            alerts: alerts::Settings::default(),
            sharing: None,
            traces: Default::default(),
        }
    }

    fn fold(fleet: &mut Fleet, commit: &Commit) {
        for stored in &commit.events {
            let at = Timestamp::from_ms(stored.event.received_ms);
            fleet.handle(at, folded(stored));
        }
    }

    /// The store takes no more just when pictures are due, and the next ones are of another robot.
    #[tokio::test]
    async fn a_restart_knows_what_the_log_has_though_the_queue_was_full() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("relay.db");
        let metrics = Arc::new(Metrics::default());
        let (store, commits) = Store::open(&path, metrics.clone()).unwrap();
        let (handle, mut ingest) =
            Ingest::restore(settings(), store.clone(), commits, metrics.clone())
                .await
                .unwrap();
        let one = |seq, robot: &str, kind: &str| Batch {
            events: vec![event(seq, robot, kind)],
            ..Batch::default()
        };
        let say = async |ingest: &mut Ingest, seq, robot, kind| {
            while !store.submit(one(seq, robot, kind)).is_empty() {
                tokio::task::yield_now().await;
            }
            // Doubles are acknowledged as well, and are nothing new.
            while let Some(commit) = ingest.commits.recv().await {
                fold(&mut ingest.fleet.write().unwrap(), &commit);
                if commit.events.iter().any(|stored| stored.event.seq == seq) {
                    return;
                }
            }
        };
        say(&mut ingest, 1, "kiwi-01", "robot.registered").await;
        ingest.take_snapshots(1);
        ingest.submit();
        say(&mut ingest, 2, "kiwi-01", "robot.rejected").await;
        // Somebody else has the file, as a backup may for a moment; then nothing fits any more.
        let other = rusqlite::Connection::open(&path).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let fits = || {
            store
                .submit(one(1, "kiwi-01", "robot.registered"))
                .is_empty()
        };
        // The writer takes what waits until it begins to write, which it cannot.
        loop {
            while fits() {}
            tokio::time::sleep(Duration::from_millis(50)).await;
            if !fits() {
                break;
            }
        }
        ingest.take_snapshots(2);
        ingest.submit();
        assert!(!ingest.batch.is_empty(), "the queue was full");
        other.execute_batch("COMMIT").unwrap();
        say(&mut ingest, 3, "kiwi-02", "robot.registered").await;
        for at_ms in [3, 4] {
            ingest.take_snapshots(at_ms);
            ingest.submit();
        }
        let before = handle.robots();
        tokio::task::spawn_blocking(move || store.close())
            .await
            .unwrap();
        let (store, commits) = Store::open(&path, metrics.clone()).unwrap();
        let (restored, _ingest) = Ingest::restore(settings(), store, commits, metrics)
            .await
            .unwrap();
        assert_eq!(restored.robots(), before);
    }

    /// What the rules say of it is tested with them.
    #[tokio::test]
    async fn the_rules_hear_of_certificates_that_end() {
        let dir = tempfile::tempdir().unwrap();
        let metrics = Arc::new(Metrics::default());
        let opened = Store::open(&dir.path().join("relay.db"), metrics.clone());
        let (store, commits) = opened.unwrap();
        let rule = r#"{ "id": "certificate", "summary": "It ends", "when": { "state": { "is": "certificate_ending" } } }"#;
        let settings = Settings {
            alerts: alerts::Settings {
                rules: vec![serde_json::from_str(rule).unwrap()],
                ..Default::default()
            },
            ..settings()
        };
        let restored = Ingest::restore(settings, store.clone(), commits, metrics);
        let (_handle, ingest) = restored.await.unwrap();
        let certificate = Certificate {
            serial: "aa".to_owned(),
            common_name: "kiwi-01".to_owned(),
            kind: CertificateKind::Robot,
            key: [1; 32],
            not_before_ms: 0,
            not_after_ms: 6_000,
            revoked_ms: None,
            der: Vec::new(),
        };
        store.insert_certificate(certificate).await.unwrap();
        let robot = RobotId::new("kiwi-01").unwrap();
        let now = Timestamp::from_ms(clock::steady_ms());
        ingest.alert_desk.write().robot(now, &robot, "lekiwi");
        ingest.alert_desk.write().lead(now, true);
        let said = |now_ms| {
            ingest.look_at_certificates(now_ms);
            ingest.alert_desk.write().poll_output()
        };
        assert_eq!(said(4_999), None);
        assert_eq!(said(5_000).map(|event| event.kind), Some("alert.firing"));
    }

    /// A robot that came back before its earlier session was known to be over, and a relay that kept the view only.
    #[tokio::test]
    async fn what_an_earlier_relay_kept_gets_its_record_from_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("relay.db");
        let metrics = Arc::new(Metrics::default());
        let (store, mut commits) = Store::open(&path, metrics.clone()).unwrap();
        let session = |n| format!(r#"{{"session":"{}"}}"#, Uuid::from_u128(n));
        let say = async |store: &Store, commits: &mut mpsc::Receiver<Commit>, seq, kind, data| {
            let event = NewEvent {
                data: String::into(data),
                ..event(seq, "kiwi-01", kind)
            };
            let batch = Batch {
                events: vec![event],
                ..Batch::default()
            };
            assert!(store.submit(batch).is_empty());
            commits.recv().await.unwrap()
        };
        let mut fleet = Fleet::new(Policy::Open);
        for (seq, kind, data) in [
            (1, "robot.registered", "{}".to_owned()),
            (2, "robot.connected", session(1)),
            (3, "robot.connected", session(2)),
        ] {
            fold(
                &mut fleet,
                &say(&store, &mut commits, seq, kind, data).await,
            );
        }
        let close = async |store: Store| {
            let closed = tokio::task::spawn_blocking(move || store.close());
            closed.await.unwrap();
        };
        close(store).await;
        let view = serde_json::to_string(&fleet.views().next().unwrap()).unwrap();
        let file = rusqlite::Connection::open(&path).unwrap();
        let keep = "UPDATE robots SET position = 3, taken = 3, picture = ?1";
        assert_eq!(file.execute(keep, [view]).unwrap(), 1);

        let (store, commits) = Store::open(&path, metrics.clone()).unwrap();
        let restored = Ingest::restore(settings(), store.clone(), commits, metrics).await;
        let (_handle, mut ingest) = restored.unwrap();
        ingest.take_snapshots(3);
        ingest.submit();
        let ended = session(1).replace('}', r#","state":"OFFLINE"}"#);
        say(&store, &mut ingest.commits, 4, "robot.disconnected", ended).await;
        let pictures = store.snapshots().await.unwrap();
        let picture = Picture::from_json(&pictures[0].picture).unwrap();
        assert!(!picture.is_view_only(), "it is kept again");
        let then = store.look_back(Moment::Position(4), None).await.unwrap();
        let LookedBack::Past(then, 4) = then else {
            panic!("expected the past, got {then:?}");
        };
        let status = then.views().next().unwrap().status;
        assert_eq!(status.connection, ConnectionState::Online, "in session 2");
        close(store).await;
    }
}
