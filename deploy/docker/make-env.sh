#!/bin/sh
# Writes .env beside docker-compose.yml: a profile (cpu or gpu) and new random passwords. Makes the folder models.
# An .env of an older release gets what it lacks, and nothing else is changed.
# Usage: deploy/docker/make-env.sh [cpu|gpu]
set -eu

profile=${1:-cpu}
root=$(dirname "$0")/../..
file=$root/.env
case $profile in
  cpu | gpu) ;;
  *) echo "usage: $0 [cpu|gpu]" >&2; exit 2 ;;
esac

# Hexadecimal, so that a password needs no escaping inside a URL.
random() { od -An -N "$1" -tx1 /dev/urandom | tr -d ' \n'; }

if [ -e "$file" ]; then
  added=
  for name in API_PASSWORD WORKER_PASSWORD S3_ROOT_USER S3_ROOT_PASSWORD; do  # unknown to older releases
    grep -q "^$name=" "$file" && continue
    [ "$name" = S3_ROOT_USER ] && bytes=10 || bytes=24
    printf '\n%s=%s\n' "$name" "$(random $bytes)" >> "$file"
    added="$added $name"
  done
  if [ -n "$added" ]; then
    echo "Added to $file what this release needs:$added. All else is as it was."
    exit
  fi
  echo "$file is there already: its passwords belong to the data volumes. Move it away first." >&2
  exit 1
fi

mkdir -p "$root/models"  # the containers' /models; made by the engine it would be root's
umask 077
cat > "$file" <<END
COMPOSE_PROFILES=$profile
POSTGRES_PASSWORD=$(random 24)
API_PASSWORD=$(random 24)
WORKER_PASSWORD=$(random 24)
REDIS_PASSWORD=$(random 24)
S3_ROOT_USER=$(random 10)
S3_ROOT_PASSWORD=$(random 24)
S3_ACCESS_KEY=$(random 10)
S3_SECRET_KEY=$(random 24)
DISTILDIRE_SECRET_KEY=$(random 32)
END
echo "Wrote $file (profile $profile). Keep it: whoever loses DISTILDIRE_SECRET_KEY loses every API key."
