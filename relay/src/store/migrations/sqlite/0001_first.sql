-- The log, history, refused messages, and what the relay knows of tokens, certificates and people.
CREATE TABLE events (
    position       INTEGER PRIMARY KEY,
    aggregate_type TEXT    NOT NULL,
    aggregate_id   TEXT    NOT NULL,
    source         TEXT    NOT NULL,
    stream         BLOB    NOT NULL,
    seq            INTEGER NOT NULL,
    type           TEXT    NOT NULL,
    ts             INTEGER NOT NULL,
    received       INTEGER NOT NULL,
    data           TEXT    NOT NULL,
    metadata       TEXT    NOT NULL,
    UNIQUE (source, stream, seq)
) STRICT;
CREATE INDEX events_of_aggregate ON events (aggregate_type, aggregate_id, position);

CREATE TABLE robots (
    id         INTEGER PRIMARY KEY,
    robot      TEXT    NOT NULL UNIQUE,
    position   INTEGER NOT NULL DEFAULT 0,
    taken      INTEGER NOT NULL DEFAULT 0,
    picture    TEXT
) STRICT;

CREATE TABLE metrics (
    id     INTEGER PRIMARY KEY,
    metric TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE telemetry (
    robot  INTEGER NOT NULL,
    metric INTEGER NOT NULL,
    ts     INTEGER NOT NULL,
    value  REAL    NOT NULL,
    PRIMARY KEY (robot, metric, ts)
) STRICT, WITHOUT ROWID;

CREATE TABLE refused (
    id      INTEGER PRIMARY KEY,
    at      INTEGER NOT NULL,
    client  TEXT    NOT NULL,
    topic   TEXT    NOT NULL,
    kind    TEXT    NOT NULL,
    reason  TEXT    NOT NULL,
    payload BLOB    NOT NULL,
    bytes   INTEGER NOT NULL
) STRICT;

CREATE TABLE tokens (
    id          TEXT PRIMARY KEY,
    hash        BLOB NOT NULL UNIQUE,
    profile     TEXT,
    serial      TEXT,
    robot       TEXT,
    created     INTEGER NOT NULL,
    expires     INTEGER NOT NULL,
    used_key    BLOB,
    used        INTEGER,
    certificate TEXT
) STRICT;

CREATE TABLE certificates (
    serial      TEXT PRIMARY KEY,
    common_name TEXT    NOT NULL,
    kind        TEXT    NOT NULL,
    key         BLOB    NOT NULL,
    not_before  INTEGER NOT NULL,
    not_after   INTEGER NOT NULL,
    revoked     INTEGER,
    der         BLOB    NOT NULL
) STRICT;
CREATE INDEX certificates_by_name ON certificates (common_name);

CREATE TABLE sessions (
    hash    BLOB PRIMARY KEY,
    user    TEXT    NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE credentials (
    user TEXT PRIMARY KEY,
    hash TEXT NOT NULL
) STRICT, WITHOUT ROWID;
