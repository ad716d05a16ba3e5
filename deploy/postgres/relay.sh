#!/bin/sh
# Run once by the image of PostgreSQL, in an empty database: a user for the relays who is nobody's master, and a database of theirs.
set -eu
psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username="$POSTGRES_USER" --dbname=postgres \
    --set=password="$(cat "$RELAY_PASSWORD_FILE")" <<'SQL'
CREATE ROLE relay LOGIN PASSWORD :'password';
CREATE DATABASE lekiwi OWNER relay;
REVOKE ALL ON DATABASE lekiwi FROM PUBLIC;
SQL
