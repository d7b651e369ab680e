#!/usr/bin/env bash
# Pretraining on Cloud TPU VMs: create a slice, install, start on every host, follow, stop, delete.
#
#     export TPU=siglip ZONE=us-east5-a TYPE=v6e-16 VERSION=v2-alpha-tpuv6e
#     export DATA_BUCKET=my-shards RUNS_BUCKET=my-runs
#     launch/every_worker.sh create
#     launch/every_worker.sh status            # until it says ACTIVE
#     launch/every_worker.sh install
#     launch/every_worker.sh mount
#     launch/every_worker.sh start --config configs/siglip_b16.py:256 --workdir /runs/b16 \
#         --config.data.train='/data/pairs-{00000..01999}.tar' \
#         --config.text.tokenizer=/data/c4_en.model
#     launch/every_worker.sh logs
#     launch/every_worker.sh delete
#
# `--dry-run` before the verb prints the commands instead of running them. Verbs:
#
#     create   ask for the slice and return; it comes when there is room (queued resource)
#     status   the state of the request
#     install  the committed state of this repository, and what it needs, on every host
#     mount    DATA_BUCKET read-only at /data, RUNS_BUCKET at /runs, with Cloud Storage FUSE
#     start    `python train.py ARGUMENTS` on every host; the same arguments resume
#     logs     follow the first host;  `logs all`: the last lines of every host
#     stop     end the program on every host
#     delete   give the slice back
#
# Environment:
#
#     TPU      name of the request and, for one slice, of the slice           required
#     ZONE     zone                                                           required
#     PROJECT  Google Cloud project                                           default: of gcloud
#     TYPE     v5litepod-256, v6e-16, v5p-128, ...                            for create
#     VERSION  v5e: v2-alpha-tpuv5-lite, v5p: v2-alpha-tpuv5, v6e: v2-alpha-tpuv6e,
#              v4: tpu-ubuntu2204-base                                for create
#     SLICES   how many slices, connected by the data-centre network          default: 1
#     SPOT     1: may be preempted                                            default: 0
#     QUEUED   0: now or not at all, for one slice (tpu-vm create)            default: 1
#     DATA_BUCKET, RUNS_BUCKET    names without gs://                         for mount
#
# For more than a few hosts run `ssh-add ~/.ssh/google_compute_engine` first.
#
# Not run on hardware. Checked: `bash -n`, the dry run (tests/test_launch.py), and the names of
# gcloud's flags against its help text (528.0.0).
set -euo pipefail

usage() {
  sed -n '2,/^set -euo/p' "$0" | sed '$d; s/^# \{0,1\}//'
}

fail() {
  echo "error: $1" >&2
  exit 2
}

dry=0
if [ "${1:-}" = --dry-run ]; then
  dry=1
  shift
fi
case ${1:-} in
  '' | -h | --help) usage && exit 0 ;;
esac
verb=$1
shift

TPU=${TPU:-} ZONE=${ZONE:-} PROJECT=${PROJECT:-} TYPE=${TYPE:-} VERSION=${VERSION:-}
SLICES=${SLICES:-1} SPOT=${SPOT:-0} QUEUED=${QUEUED:-1}
DATA_BUCKET=${DATA_BUCKET:-} RUNS_BUCKET=${RUNS_BUCKET:-}
[ -n "$TPU" ] || fail "TPU is not set: the name of the slice"
[ -n "$ZONE" ] || fail "ZONE is not set, such as us-east5-a"
[ "$QUEUED" = 1 ] || [ "$SLICES" = 1 ] || fail "SLICES=$SLICES: several slices need QUEUED=1"
where=(--zone="$ZONE")
if [ -n "$PROJECT" ]; then where+=(--project="$PROJECT"); fi

# The arguments as words that a shell reads back unchanged.
quote() {
  local word separator=''
  for word in "$@"; do
    printf '%s' "$separator"
    separator=' '
    case $word in
      '' | *[!A-Za-z0-9_./:=@%+,-]*)
        printf "'%s'" "$(printf '%s' "$word" | sed "s/'/'\\\\''/g")"
        ;;
      *) printf '%s' "$word" ;;
    esac
  done
}

run() {
  if [ "$dry" = 1 ]; then
    quote "$@"
    echo
  else
    "$@"
  fi
}

slices() {
  local i
  if [ "$SLICES" = 1 ]; then
    echo "$TPU"
  else
    for ((i = 0; i < SLICES; i++)); do echo "$TPU-$i"; done
  fi
}

# on_every_host COMMAND: all hosts of a slice at once, slice after slice.
on_every_host() {
  local slice
  for slice in $(slices); do
    run gcloud compute tpus tpu-vm ssh "$slice" "${where[@]}" --worker=all --command="$1"
  done
}

case $verb in
  create)
    [ -n "$TYPE" ] || fail "TYPE is not set, such as v6e-16"
    [ -n "$VERSION" ] || fail "VERSION is not set, such as v2-alpha-tpuv6e"
    options=(--accelerator-type="$TYPE")
    if [ "$SPOT" = 1 ]; then options+=(--spot); fi
    if [ "$QUEUED" = 0 ]; then
      run gcloud compute tpus tpu-vm create "$TPU" "${where[@]}" "${options[@]}" \
        --version="$VERSION"
      exit
    fi
    if [ "$SLICES" = 1 ]; then
      options+=(--node-id="$TPU")
    else
      options+=(--node-count="$SLICES" --node-prefix="$TPU")
    fi
    run gcloud compute tpus queued-resources create "$TPU" "${where[@]}" "${options[@]}" \
      --runtime-version="$VERSION"
    ;;

  status)
    if [ "$QUEUED" = 1 ]; then
      run gcloud compute tpus queued-resources describe "$TPU" "${where[@]}" \
        --format='value(state.state)'
    else
      run gcloud compute tpus tpu-vm describe "$TPU" "${where[@]}" --format='value(state)'
    fi
    ;;

  install)
    cd "$(dirname "$0")/.."
    # A fixed name: scp keeps it on the hosts.
    run git archive --format=tar.gz --output=/tmp/siglip.tar.gz HEAD
    for slice in $(slices); do
      run gcloud compute tpus tpu-vm scp /tmp/siglip.tar.gz "$slice:" "${where[@]}" --worker=all
    done
    # The hosts' own Python may be too old; uv brings one.
    on_every_host 'set -e
rm -rf siglip && mkdir siglip && tar -xzf siglip.tar.gz -C siglip
export PATH="$HOME/.local/bin:$PATH"
command -v uv > /dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
uv venv --quiet --allow-existing --python 3.12 venv
uv pip install --quiet --python venv/bin/python -c siglip/constraints.txt "./siglip[tpu]"'
    ;;

  mount)
    [ -n "$DATA_BUCKET" ] || fail "DATA_BUCKET is not set"
    [ -n "$RUNS_BUCKET" ] || fail "RUNS_BUCKET is not set"
    # Shards do not change, so what is known of them is kept. In the other bucket hosts must see each
    # other's files at once, and a checkpoint is finished by renaming its folder.
    on_every_host "set -e
if ! command -v gcsfuse > /dev/null; then
  key=/usr/share/keyrings/cloud.google.asc
  curl -fsS https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee \$key > /dev/null
  echo \"deb [signed-by=\$key] https://packages.cloud.google.com/apt gcsfuse-\$(lsb_release -cs) main\" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list > /dev/null
  sudo apt-get -q update && sudo apt-get -q install -y gcsfuse
fi
sudo mkdir -p /data /runs && sudo chown \$USER /data /runs
mountpoint -q /data || gcsfuse -o ro --implicit-dirs --metadata-cache-ttl-secs=-1 --stat-cache-max-size-mb=-1 --type-cache-max-size-mb=-1 --kernel-list-cache-ttl-secs=-1 $(quote "$DATA_BUCKET") /data
mountpoint -q /runs || gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0 --kernel-list-cache-ttl-secs=0 --rename-dir-limit=200000 $(quote "$RUNS_BUCKET") /runs"
    ;;

  start)
    [ $# -gt 0 ] || fail "start needs the arguments of train.py: --config ... --workdir ..."
    on_every_host "if kill -0 \$(cat siglip.pid 2> /dev/null) 2> /dev/null; then echo already running; exit 1; fi
cd siglip
nohup ../venv/bin/python train.py $(quote "$@") >> ../siglip.log 2>&1 < /dev/null &
echo \$! > ../siglip.pid"
    ;;

  logs)
    if [ "${1:-}" = all ]; then
      on_every_host 'echo "== $(hostname)"; tail -n 5 siglip.log'
    else
      first=$(slices | head -n 1)
      run gcloud compute tpus tpu-vm ssh "$first" "${where[@]}" --worker=0 \
        --command='tail -n 100 -F siglip.log'
    fi
    ;;

  stop)
    # What was done since the last checkpoint is done again after the next start.
    on_every_host 'pid=$(cat siglip.pid 2> /dev/null) || exit 0
kill "$pid" 2> /dev/null || exit 0
for _ in $(seq 60); do kill -0 "$pid" 2> /dev/null || exit 0; sleep 1; done
kill -9 "$pid"'
    ;;

  delete)
    if [ "$QUEUED" = 1 ]; then
      run gcloud compute tpus queued-resources delete "$TPU" "${where[@]}" --force
    else
      run gcloud compute tpus tpu-vm delete "$TPU" "${where[@]}"
    fi
    ;;

  *) fail "unknown verb $verb; see --help" ;;
esac
