#!/bin/sh
# The image's entry: the first word names a command of this project; any other first word is run as it is.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
case "${1:-}" in
  tracker | peer | demo)
    command=$1
    shift
    exec python3 -I "$root/bin/$command" "$@"
    ;;
  *)
    exec "$@"
    ;;
esac
