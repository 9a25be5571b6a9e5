#!/usr/bin/env bash
# Make the secrets of a hub, once; what is there is kept, and what a newer version needs is added.
# Nothing of them is printed.
#   hub/secrets.env    tokens of hub, proxy, service and Prometheus, and the hub's secret at the identity
#                      provider: in OIDC_CLIENT_SECRET, or asked for
#   hub/database.env   of the database in the cluster. For one of your own, write the file yourself:
#                      hub-url=postgresql+psycopg://USER:PASSWORD@HOST:5432/DATABASE?sslmode=verify-full
#                      lab-url=... (another database, of another user)
set -euo pipefail
umask 077
folder="$(dirname "$0")/hub"
random() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }
has() { [ -e "$folder/$1" ] && grep -q "^$2=" "$folder/$1"; }
# Written aside first: a file that was cut off would be kept for ever.
add() {
    has "$1" "${2%%=*}" && return
    { [ ! -e "$folder/$1" ] || cat "$folder/$1"; printf '%s\n' "$2"; } >"$folder/$1.new"
    mv "$folder/$1.new" "$folder/$1"
}
if ! has secrets.env oidc-client-secret && [ -z "${OIDC_CLIENT_SECRET:-}" ]; then
    if [ ! -t 0 ]; then
        echo "give the hub's secret at the identity provider in OIDC_CLIENT_SECRET" >&2
        exit 1
    fi
    read -rsp "The hub's secret at the identity provider: " OIDC_CLIENT_SECRET && echo
fi
add secrets.env "oidc-client-secret=${OIDC_CLIENT_SECRET:-}"
add secrets.env "crypt-key=$(random 32)"
for each in service proxy metrics; do add secrets.env "$each-token=$(random 32)"; done
if [ ! -e "$folder/database.env" ]; then
    hub="$(random 24)" lab="$(random 24)"
    cat >"$folder/database.env.new" <<END
hub-password=$hub
lab-password=$lab
hub-url=postgresql+psycopg://hub:$hub@database:5432/hub
lab-url=postgresql+psycopg://lab:$lab@database:5432/lab
END
    mv "$folder/database.env.new" "$folder/database.env"
fi
echo "The secrets are in $folder/secrets.env and $folder/database.env; git ignores both. Keep a copy"
echo "elsewhere: who loses database.env cannot open the database any more."
