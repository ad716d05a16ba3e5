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

-- What consumers may read, where it is not everything.
CREATE TABLE consumer_reads (
    consumer TEXT NOT NULL,
    filter   TEXT NOT NULL,
    PRIMARY KEY (consumer, filter)
) STRICT, WITHOUT ROWID;
