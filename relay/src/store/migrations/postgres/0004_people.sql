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
