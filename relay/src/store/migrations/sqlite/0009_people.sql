-- People with what they may, and groups of robots. Whoever had a password was the administrator.
CREATE TABLE people (
    name     TEXT PRIMARY KEY,
    created  INTEGER NOT NULL,
    disabled INTEGER
) STRICT, WITHOUT ROWID;
INSERT INTO people (name, created) SELECT user, 0 FROM credentials;

CREATE TABLE rights (
    person TEXT NOT NULL,
    role   TEXT NOT NULL,
    scope  TEXT NOT NULL,
    lender TEXT NOT NULL,
    until  INTEGER,
    PRIMARY KEY (person, scope, role, lender)
) STRICT, WITHOUT ROWID;
INSERT INTO rights (person, role, scope, lender) SELECT name, 'admin', 'fleet', '' FROM people;

CREATE TABLE robot_groups (
    name TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;
CREATE TABLE group_robots (
    name  TEXT NOT NULL,
    robot TEXT NOT NULL,
    PRIMARY KEY (name, robot)
) STRICT, WITHOUT ROWID;

ALTER TABLE sessions ADD COLUMN address TEXT NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN agent TEXT NOT NULL DEFAULT '';

-- Keys of programs.
CREATE TABLE keys (
    id          TEXT PRIMARY KEY,
    owner       TEXT NOT NULL,
    name        TEXT NOT NULL,
    note        TEXT NOT NULL,
    permissions TEXT NOT NULL,
    scope       TEXT NOT NULL,
    hash        BLOB NOT NULL,
    old_hash    BLOB,
    old_until   INTEGER,
    created     INTEGER NOT NULL,
    expires     INTEGER NOT NULL,
    used        INTEGER
) STRICT, WITHOUT ROWID;
-- Which certificate was asked for with which, and since when it has been in use.
CREATE TABLE renewals (
    certificate TEXT PRIMARY KEY,
    renews      TEXT NOT NULL,
    asked       INTEGER NOT NULL,
    used        INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX renewals_by_renewed ON renewals (renews);
-- Who did what, each with a hash over itself and the hash before it.
CREATE TABLE audit (
    number  INTEGER PRIMARY KEY,
    at      INTEGER NOT NULL,
    who     TEXT NOT NULL,
    address TEXT NOT NULL,
    action  TEXT NOT NULL,
    subject TEXT NOT NULL,
    outcome TEXT NOT NULL,
    trace   TEXT NOT NULL,
    detail  TEXT NOT NULL,
    hash    BLOB NOT NULL
) STRICT;
-- Authenticators with what lets in whoever lost theirs, and invitations.
CREATE TABLE second_factors (
    person    TEXT PRIMARY KEY,
    secret    BLOB NOT NULL,
    confirmed INTEGER,
    last_step INTEGER NOT NULL,
    misses    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE recovery_codes (
    person TEXT NOT NULL,
    hash   BLOB NOT NULL,
    PRIMARY KEY (person, hash)
) STRICT, WITHOUT ROWID;
CREATE TABLE invitations (
    id      TEXT PRIMARY KEY,
    hash    BLOB NOT NULL UNIQUE,
    person  TEXT NOT NULL,
    roles   TEXT NOT NULL,
    inviter TEXT NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    used    INTEGER,
    revoked INTEGER
) STRICT, WITHOUT ROWID;

-- What consumers may read, where it is not everything.
CREATE TABLE consumer_reads (
    consumer TEXT NOT NULL,
    filter   TEXT NOT NULL,
    PRIMARY KEY (consumer, filter)
) STRICT, WITHOUT ROWID;

-- Whom a provider of OpenID Connect vouches for; nobody where the relay itself does.
ALTER TABLE people ADD COLUMN issuer TEXT;
ALTER TABLE people ADD COLUMN subject TEXT;
CREATE UNIQUE INDEX people_of_provider ON people (issuer, subject);
