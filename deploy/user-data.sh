#!/bin/bash
# User data for a cloud instance: installs Python and this project, and starts a tracker, a peer, or both.
# Fill in the four settings, paste the file into the "user data" field, start the instance. It may be run again.
set -euo pipefail

# tracker, peer, or "tracker peer".
ROLES=${ROLES:-peer}

# The tracker's HOST:PORT, with the private address of its instance. Leave it on the tracker's own instance.
TRACKER=${TRACKER:-127.0.0.1:6969}

# The address of this project: a git repository (ends in .git), or a .tar.gz made by `git archive`.
# The address below is a placeholder: put your own copy here.
SOURCE=${SOURCE:-https://git.example.org/enjambre.git}

# The version: a tag or branch of the repository, or the SHA-256 of the .tar.gz. Pin it.
VERSION=${VERSION:-main}

# Only for rehearsals: a folder to install into in place of /.
DESTDIR=${DESTDIR:-}

say() { echo "enjambre user-data: $*"; }

install_packages() {
  if command -v apt-get >/dev/null; then
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q python3 git curl ca-certificates
  elif command -v dnf >/dev/null; then
    dnf install -y python3 git ca-certificates
  else
    say "no apt-get and no dnf here; install python3, git and curl into the image first"
    exit 1
  fi
  if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    say "python3 is older than 3.11; choose a newer image (Debian 12, Ubuntu 24.04, Fedora)"
    exit 1
  fi
}

install_project() {
  local new=$DESTDIR/opt/enjambre.new
  rm -rf "$new"
  mkdir -p "$new"
  case $SOURCE in
    *.tar.gz)
      local archive
      archive=$(mktemp)
      curl --fail --silent --show-error --location --output "$archive" "$SOURCE"
      echo "$VERSION  $archive" | sha256sum --check --quiet
      tar --extract --gzip --file "$archive" --directory "$new" --no-same-owner
      rm -f "$archive"
      ;;
    *)
      git clone --quiet --depth 1 --branch "$VERSION" "$SOURCE" "$new"
      ;;
  esac
  chmod -R a+rX "$new"
  rm -rf "$DESTDIR/opt/enjambre"
  mv "$new" "$DESTDIR/opt/enjambre"
}

write_settings() {
  mkdir -p "$DESTDIR/etc/enjambre"
  cat >"$DESTDIR/etc/enjambre/enjambre.env" <<EOF
P2P_TRACKER=$TRACKER
EOF
  if [ ! -e "$DESTDIR/etc/enjambre/peer.env" ]; then
    cat >"$DESTDIR/etc/enjambre/peer.env" <<EOF
P2P_ACCEPT_UPLOADS=10G
EOF
  fi
}

start_services() {
  local role
  mkdir -p "$DESTDIR/etc/systemd/system"
  for role in $ROLES; do
    cp "$DESTDIR/opt/enjambre/deploy/enjambre-$role.service" "$DESTDIR/etc/systemd/system/"
  done
  systemctl daemon-reload
  for role in $ROLES; do
    systemctl enable "enjambre-$role.service"
    systemctl restart "enjambre-$role.service"
  done
}

case $SOURCE in
  *git.example.org*)
    say "SOURCE is still the placeholder; put the address of your copy of this project there"
    exit 1
    ;;
esac
for role in $ROLES; do
  case $role in
    tracker | peer) ;;
    *)
      say "unknown role '$role' in ROLES; it must be tracker, peer, or both"
      exit 1
      ;;
  esac
done
install_packages
install_project
write_settings
start_services
say "done: $ROLES"
