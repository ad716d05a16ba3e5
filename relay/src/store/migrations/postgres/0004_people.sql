-- People with what they may, and groups of robots. Whoever had a password was the administrator.
CREATE TABLE people (
    name     text COLLATE "C" PRIMARY KEY,
    created  bigint NOT NULL,
    disabled bigint
);
INSERT INTO people (name, created) SELECT "user", 0 FROM credentials;

CREATE TABLE rights (
    person text COLLATE "C" NOT NULL,
    role   text COLLATE "C" NOT NULL,
    scope  text COLLATE "C" NOT NULL,
    lender text COLLATE "C" NOT NULL,
    until  bigint,
    PRIMARY KEY (person, scope, role, lender)
);
INSERT INTO rights (person, role, scope, lender) SELECT name, 'admin', 'fleet', '' FROM people;

CREATE TABLE robot_groups (
    name text COLLATE "C" PRIMARY KEY
);
CREATE TABLE group_robots (
    name  text COLLATE "C" NOT NULL,
    robot text COLLATE "C" NOT NULL,
    PRIMARY KEY (name, robot)
);

ALTER TABLE sessions ADD COLUMN address text NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN agent text NOT NULL DEFAULT '';

-- Keys of programs.
CREATE TABLE keys (
    id          text COLLATE "C" PRIMARY KEY,
    owner       text COLLATE "C" NOT NULL,
    name        text NOT NULL,
    note        text NOT NULL,
    permissions text NOT NULL,
    scope       text COLLATE "C" NOT NULL,
    hash        bytea NOT NULL,
    old_hash    bytea,
    old_until   bigint,
    created     bigint NOT NULL,
    expires     bigint NOT NULL,
    used        bigint
);
-- Which certificate was asked for with which, and since when it has been in use.
CREATE TABLE renewals (
    certificate text COLLATE "C" PRIMARY KEY,
    renews      text COLLATE "C" NOT NULL,
    asked       bigint NOT NULL,
    used        bigint
);
CREATE INDEX renewals_by_renewed ON renewals (renews);
-- Who did what, each with a hash over itself and the hash before it.
CREATE TABLE audit (
    number  bigint PRIMARY KEY,
    at      bigint NOT NULL,
    who     text NOT NULL,
    address text NOT NULL,
    action  text NOT NULL,
    subject text NOT NULL,
    outcome text NOT NULL,
    trace   text NOT NULL,
    detail  text NOT NULL,
    hash    bytea NOT NULL
);
-- Authenticators with what lets in whoever lost theirs, and invitations.
CREATE TABLE second_factors (
    person    text COLLATE "C" PRIMARY KEY,
    secret    bytea NOT NULL,
    confirmed bigint,
    last_step bigint NOT NULL,
    misses    bigint NOT NULL
);
CREATE TABLE recovery_codes (
    person text COLLATE "C" NOT NULL,
    hash   bytea NOT NULL,
    PRIMARY KEY (person, hash)
);
CREATE TABLE invitations (
    id      text COLLATE "C" PRIMARY KEY,
    hash    bytea NOT NULL UNIQUE,
    person  text COLLATE "C" NOT NULL,
    roles   text NOT NULL,
    inviter text COLLATE "C" NOT NULL,
    created bigint NOT NULL,
    expires bigint NOT NULL,
    used    bigint,
    revoked bigint
);

-- What consumers may read, where it is not everything.
CREATE TABLE consumer_reads (
    consumer text COLLATE "C" NOT NULL,
    filter   text COLLATE "C" NOT NULL,
    PRIMARY KEY (consumer, filter)
);

-- Whom a provider of OpenID Connect vouches for; nobody where the relay itself does.
ALTER TABLE people ADD COLUMN issuer text;
ALTER TABLE people ADD COLUMN subject text;
CREATE UNIQUE INDEX people_of_provider ON people (issuer, subject);
