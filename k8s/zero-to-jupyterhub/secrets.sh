#!/usr/bin/env bash
# Make the secrets of hub and service, once; a file that is there is kept. Nothing of it is printed.
# The chart makes its own: the proxy's token, the cookies' key.
set -euo pipefail
umask 077
file="$(dirname "$0")/hub/secrets.env"
random() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }
if [ ! -e "$file" ]; then
    # Written aside first: a file that was cut off would be kept for ever.
    cat >"$file.new" <<END
login-password=$(random 16)
admin-password=$(random 20)
service-token=$(random 32)
END
    mv "$file.new" "$file"
fi
echo "The secrets are in $file, which git ignores."
