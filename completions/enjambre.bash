# Completion for bash. Source it from ~/.bashrc, or put it into a folder of bash-completion.
# It completes `tracker`, `peer`, `demo`, `simulate` and their installed names `p2p-tracker`, `p2p-peer`, `p2p-demo`, `p2p-simulate`.

_enjambre_names() {
  # Names of contents, asked of the tracker; no answer within a second means no names.
  local program=${COMP_WORDS[0]}
  command -v timeout >/dev/null || return
  timeout 1 "$program" list --json 2>/dev/null | sed -n 's/^{"event":"content","name":"\([^"\\]*\)".*/\1/p'
}

_enjambre() {
  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}
  local program=${COMP_WORDS[0]##*/} command="" word
  local common="--json -q --quiet -v --verbose -h --help --version"
  local service="$common --state --trace"
  local anywhere="$service --tracker --transport"
  local peer="$anywhere --host --port --name --advertise --user --limit --limit-up --portable"
  local commands="serve share list search peers info download upload login logout status"
  local options="" words=""
  COMPREPLY=()

  case $previous in
    --transport) COMPREPLY=($(compgen -W "tcp grpc" -- "$current")); return ;;
    --hash) COMPREPLY=($(compgen -W "blake2b-256 sha256" -- "$current")); return ;;
    --store) COMPREPLY=($(compgen -W "memory sqlite:" -- "$current")); return ;;
    --tracker | --host | --advertise) COMPREPLY=($(compgen -A hostname -- "$current")); return ;;
    --state | -o | --output) COMPREPLY=($(compgen -d -- "$current")); return ;;
    --trace | --svg) COMPREPLY=($(compgen -f -- "$current")); return ;;
    --port | --ttl | --name | --user | --limit | --limit-up | --patience | --accept-uploads | --copies | --peers | --size | \
      --pieces | --piece | --rate | --delay | --links | --rng-seed) return ;;
  esac

  case ${program#p2p-} in
    tracker) options="$service --host --port --store --ttl --trust-advertised" ;;
    demo)
      options="$common --peers --transport --size --keep"
      [[ $current == -* ]] || { COMPREPLY=($(compgen -f -- "$current")); return; }
      ;;
    simulate)
      options="$common --list --peers --pieces --piece --rate --delay --links --seed --rng-seed --svg"
      words="equal flash killed slow churn late corrupt stall riders leave origin"
      ;;
    peer)
      for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        [[ " $commands " == *" $word "* ]] && { command=$word; break; }
      done
      case $command in
        "") options=$anywhere words=$commands ;;
        serve) options="$peer --patience --hash --rehash --accept-uploads" ;;
        share) options="$peer --hash --rehash" ;;
        info) options="$peer --patience" ;;
        download) options="$peer --patience -o --output --seed --overwrite" ;;
        upload) options="$peer --patience --hash --rehash --copies" ;;
        *) options=$anywhere ;;
      esac
      if [[ $current != -* ]]; then
        case $command in
          serve) COMPREPLY=($(compgen -d -- "$current")); return ;;
          share | upload) COMPREPLY=($(compgen -f -- "$current")); return ;;
          info | download)
            # Names come from other machines: never give them to compgen -W, which would run a $(...) in them.
            while IFS= read -r word; do
              [[ $word == "$current"* ]] && COMPREPLY+=("$word")
            done < <(_enjambre_names)
            return
            ;;
        esac
      fi
      ;;
  esac
  if [[ $current == -* ]]; then words=$options; fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}

complete -o filenames -F _enjambre tracker peer demo simulate p2p-tracker p2p-peer p2p-demo p2p-simulate
