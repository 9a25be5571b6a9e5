#!/usr/bin/env bash
# Make the secrets of a hub on a laptop, once; an existing file is kept. Prints how to log in.
set -euo pipefail
umask 077
file="$(dirname "$0")/hub/secrets.env"
random() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }
if [ ! -e "$file" ]; then
    # Written aside first: a file that was cut off would be kept for ever.
    cat >"$file.new" <<END
login-password=$(random 8)
admin-password=$(random 20)
service-token=$(random 32)
proxy-token=$(random 32)
END
    mv "$file.new" "$file"
fi
echo "Log in as ana, bruno or carla with the password $(sed -n 's/^login-password=//p' "$file")"
echo "The admin's, and the tokens, are in $file; to have others, delete it and do this again."
