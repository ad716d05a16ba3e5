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
