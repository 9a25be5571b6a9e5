#!/bin/sh
# Make the cluster of databases, once: two of them, each for one user, who may connect to it alone.
# Killed anywhere it begins again: what is under the real name is whole.
set -eu
umask 077
if [ -s "$PGDATA/PG_VERSION" ]; then
    chmod 0700 "$PGDATA" # PostgreSQL insists; who mounts a volume may have opened it to the group
    exit 0
fi
new="$PGDATA.new"
rm -rf "$new"
# The superuser has no password and no way in but from a shell in the pod.
initdb --pgdata="$new" --username=postgres --encoding=UTF8 --locale=C --data-checksums \
    --auth-local=peer --auth-host=scram-sha-256 >/dev/null
cat >"$new/pg_hba.conf" <<END
local  all  postgres               peer map=superuser
host   hub  hub       0.0.0.0/0    scram-sha-256
host   hub  hub       ::/0         scram-sha-256
host   lab  lab       0.0.0.0/0    scram-sha-256
host   lab  lab       ::/0         scram-sha-256
END
# Whoever the pod runs as; no other is in it.
echo "superuser /.* postgres" >"$new/pg_ident.conf"
quoted() { printf '%s' "$1" | sed "s/'/''/g"; }
# Without a server: one statement a line. The first that fails ends it, and none is ever logged.
postgres --single -D "$new" -c exit_on_error=on -c log_min_error_statement=panic postgres \
    >/dev/null <<END
CREATE ROLE hub LOGIN PASSWORD '$(quoted "$HUB_PASSWORD")'
CREATE ROLE lab LOGIN PASSWORD '$(quoted "$LAB_PASSWORD")'
CREATE DATABASE hub OWNER hub TEMPLATE template0
CREATE DATABASE lab OWNER lab TEMPLATE template0
REVOKE CONNECT, TEMPORARY ON DATABASE hub FROM PUBLIC
REVOKE CONNECT, TEMPORARY ON DATABASE lab FROM PUBLIC
END
sync
mv "$new" "$PGDATA"
