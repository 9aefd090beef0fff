#!/bin/bash
# Boot this machine's own systemd as PID 1 of fresh namespaces, over a throw-away overlay of /.
#
#   systemd_namespace.sh probe DIR             exit 0, or say why it cannot be done on this machine
#   systemd_namespace.sh boot DIR              boot; print "up: …"; power off when stdin ends
#   systemd_namespace.sh enter DIR COMMAND…    run a command inside; its exit status
#
# DIR/opt/ is /opt inside, readable only: put the programs there. Nothing is written to the host but DIR.
# Inside: no network but a loopback that is down, an empty /tmp, none of the host's units, cgroup v2 without the
# controllers that the host keeps for itself. Needs root, util-linux, overlay and a cgroup v2 mount (hybrid will do).
set -euo pipefail

readonly INSIDE_PATH=/usr/sbin:/usr/bin:/sbin:/bin
readonly SYSTEMD=/lib/systemd/systemd

main() {
  local verb=${1:-} dir=${2:-}
  [ -n "$dir" ] || fail "usage: $0 probe|boot|enter DIR [COMMAND…]"
  shift 2
  mkdir -p "$dir/opt"
  dir=$(realpath "$dir")
  case $verb in
    probe) probe "$dir" ;;
    boot) boot "$dir" ;;
    enter) enter "$dir" "$@" ;;
    as-init) as_init "$dir" ;;
    mount-root) mount_root "$dir" ;;
    *) fail "unknown verb: $verb" ;;
  esac
}

fail() {
  echo "$1" >&2
  exit 1
}

probe() {
  local tool
  [ "$(id -u)" = 0 ] || fail "root is needed"
  [ -x $SYSTEMD ] || fail "$SYSTEMD is not installed"
  for tool in unshare nsenter pivot_root findmnt; do
    type -P $tool >/dev/null || fail "$tool (util-linux) is not installed"
  done
  [ -n "$(cgroup_mount)" ] || fail "no cgroup v2 is mounted"
  mkdir "$(cgroup_mount)/perdure-probe.$$" 2>/dev/null || fail "cgroups cannot be made in $(cgroup_mount)"
  rmdir "$(cgroup_mount)/perdure-probe.$$"
  unshare --fork --pid --mount --uts --ipc --net --cgroup "$0" mount-root "$1" || fail "no namespaces or no overlay"
}

# --- outside

cgroup_mount() {
  findmnt --noheadings --types cgroup2 --output TARGET | head -n 1
}

boot() {
  local dir=$1
  CGROUP=$(cgroup_mount)/perdure-test.$$
  INIT=
  trap power_off EXIT
  trap 'exit 1' TERM INT HUP
  mkdir "$CGROUP"
  # A cgroup of its own, so that what is / for the systemd inside is empty. --kill-child: nothing survives unshare.
  (
    echo "$BASHPID" >"$CGROUP/cgroup.procs"
    exec unshare --fork --pid --mount --uts --ipc --net --cgroup --kill-child "$0" as-init "$dir"
  ) </dev/null >"$dir/boot.log" 2>&1 &
  UNSHARE=$!
  await 100 is_systemd "$dir" || fail "systemd did not start: $(cat "$dir/boot.log")"
  echo "$INIT" >"$dir/init.pid"
  await 400 is_up "$dir" || fail "systemd did not come up: $(enter "$dir" systemctl --failed --no-legend)"
  echo "up: $(enter "$dir" systemctl --version | head -n 1)"
  cat >/dev/null # until whoever booted us closes stdin, or dies
}

await() {
  local tries=$1
  shift
  for _ in $(seq "$tries"); do
    ! "$@" || return 0
    sleep 0.05
  done
  return 1
}

is_systemd() {
  kill -s 0 "$UNSHARE" 2>/dev/null || fail "systemd did not start: $(cat "$1/boot.log")"
  read -r INIT _ <"/proc/$UNSHARE/task/$UNSHARE/children" || true
  [ -n "$INIT" ] && [ "$(cat "/proc/$INIT/comm" 2>/dev/null)" = systemd ]
}

is_up() {
  case $(enter "$1" systemctl is-system-running 2>/dev/null) in
    running | degraded) return 0 ;;
    *) return 1 ;;
  esac
}

enter() {
  local dir=$1
  shift
  nsenter --target "$(cat "$dir/init.pid")" --mount --pid --uts --ipc --net --cgroup --root --wd \
    env -i PATH=$INSIDE_PATH LANG=C.UTF-8 "$@"
}

power_off() {
  # RTMIN+14: power off now, without stopping units in order.
  if [ -n "$INIT" ] && kill -s RTMIN+14 "$INIT" 2>/dev/null; then
    timeout 10 tail --pid="$INIT" --follow /dev/null || kill -s KILL "$INIT" 2>/dev/null || true
  fi
  kill -s KILL "${UNSHARE:-}" 2>/dev/null || true
  wait 2>/dev/null || true
  await 40 remove_cgroup || echo "left behind: $CGROUP" >&2
}

remove_cgroup() {
  find "$CGROUP" -depth -type d -exec rmdir {} + 2>/dev/null
}

# --- inside the new namespaces, before systemd

as_init() {
  local dir=$1 root=$1/root
  mount_root "$dir"
  mount_kernel_files "$root"
  make_devices "$root/dev"
  leave_out_host_units "$root/etc"
  cd "$root"
  mkdir -p .old
  pivot_root . .old
  umount --lazy /.old
  mount --make-rshared /
  exec env -i container=perdure-test PATH=$INSIDE_PATH \
    $SYSTEMD --unit=multi-user.target --show-status=0 --log-target=journal
}

mount_root() {
  local dir=$1
  mkdir -p "$dir/root" "$dir/layer"
  mount --make-rprivate /
  mount -t tmpfs -o mode=755 layer "$dir/layer"
  mkdir "$dir/layer/upper" "$dir/layer/work"
  mount -t overlay -o "lowerdir=/,upperdir=$dir/layer/upper,workdir=$dir/layer/work" overlay "$dir/root"
  mkdir -p "$dir/root/opt"
  mount --bind "$dir/opt" "$dir/root/opt"
  mount -o remount,bind,ro "$dir/root/opt"
}

mount_kernel_files() {
  local root=$1
  mount -t proc proc "$root/proc"
  mount --bind "$root/proc/sys" "$root/proc/sys"
  mount -o remount,bind,ro "$root/proc/sys"
  mount -t sysfs -o ro sysfs "$root/sys"
  mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
  mount -t tmpfs -o mode=755 run "$root/run"
  mount -t tmpfs -o mode=1777 tmp "$root/tmp"
  mount -t tmpfs -o mode=755 dev "$root/dev"
}

make_devices() {
  local dev=$1 name major minor
  while read -r name major minor; do
    mknod --mode=666 "$dev/$name" c "$major" "$minor"
  done <<'DEVICES'
null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0
DEVICES
  mkdir "$dev/pts" "$dev/shm"
  mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts "$dev/pts"
  ln -s pts/ptmx "$dev/ptmx"
  ln -s /proc/self/fd "$dev/fd"
  ln -s fd/0 "$dev/stdin"
  ln -s fd/1 "$dev/stdout"
  ln -s fd/2 "$dev/stderr"
}

leave_out_host_units() {
  local etc=$1 unit
  rm -rf "$etc"/systemd/system/*.wants
  : >"$etc/machine-id"
  : >"$etc/fstab"
  for unit in getty.target systemd-{udevd,timesyncd,update-utmp,modules-load,logind}.service \
    sys-kernel-{debug,tracing}.mount sys-fs-fuse-connections.mount; do
    ln -sf /dev/null "$etc/systemd/system/$unit"
  done
}

main "$@"
