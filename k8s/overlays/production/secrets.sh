#!/usr/bin/env bash
# Make the secrets of a hub, once; files that are there are kept. Nothing of them is printed.
#   hub/secrets.env    passwords and tokens of hub, proxy, service and Prometheus
#   hub/database.env   of the database in the cluster. For one of your own, write the file yourself:
#                      hub-url=postgresql+psycopg://USER:PASSWORD@HOST:5432/DATABASE?sslmode=verify-full
#                      lab-url=... (another database, of another user)
set -euo pipefail
umask 077
folder="$(dirname "$0")/hub"
random() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }
# Written aside first: a file that was cut off would be kept for ever.
make() { [ -e "$folder/$1" ] || { cat >"$folder/$1.new" && mv "$folder/$1.new" "$folder/$1"; }; }
make secrets.env <<END
login-password=$(random 16)
admin-password=$(random 20)
service-token=$(random 32)
proxy-token=$(random 32)
metrics-token=$(random 32)
END
hub="$(random 24)" lab="$(random 24)"
make database.env <<END
hub-password=$hub
lab-password=$lab
hub-url=postgresql+psycopg://hub:$hub@database:5432/hub
lab-url=postgresql+psycopg://lab:$lab@database:5432/lab
END
echo "The secrets are in $folder/secrets.env and $folder/database.env; git ignores both. Keep a copy"
echo "elsewhere: who loses database.env cannot open the database any more."
