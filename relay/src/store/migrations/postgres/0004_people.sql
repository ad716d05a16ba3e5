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

-- Whom a provider of OpenID Connect vouches for; nobody where the relay itself does.
ALTER TABLE people ADD COLUMN issuer text;
ALTER TABLE people ADD COLUMN subject text;
CREATE UNIQUE INDEX people_of_provider ON people (issuer, subject);
