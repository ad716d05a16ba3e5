#!/bin/sh
# Run once by the database's image, in an empty database: a user for the relays who is nobody's master, and a database of theirs.
set -eu
psql --no-psqlrc --set=ON_ERROR_STOP=1 --username="$POSTGRES_USER" --dbname=postgres \
    --set=password="$(cat /run/secrets/database)" <<'SQL'
CREATE ROLE relay LOGIN PASSWORD :'password';
CREATE DATABASE lekiwi OWNER relay;
REVOKE ALL ON DATABASE lekiwi FROM PUBLIC;
SQL
