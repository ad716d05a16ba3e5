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

-- Whom a provider of OpenID Connect vouches for; nobody where the relay itself does.
ALTER TABLE people ADD COLUMN issuer TEXT;
ALTER TABLE people ADD COLUMN subject TEXT;
CREATE UNIQUE INDEX people_of_provider ON people (issuer, subject);
