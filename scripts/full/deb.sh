#!/usr/bin/env bash
# The Debian package in a clean Debian without network, booted with its own systemd: installs, is set up by root, runs as
# user tram under the hardened unit, reloads, is restarted by the watchdog, survives an upgrade and a removal, and is not
# purged while documents or a CA key are there. Needs root; the first run fetches Debian and keeps it in target/.
set -euo pipefail
. "$(dirname "$0")/node.bash"

need_root
need debootstrap lintian dpkg-deb dpkg-shlibdeps strip unshare nsenter findmnt ip pgrep
need_programs

target=${CARGO_TARGET_DIR:-$root/target}
release=$(. /etc/os-release && echo "$VERSION_CODENAME")
clean=$target/clean-$release.tar
if [ ! -e "$clean" ]; then
    # The programs need a libc as new as this machine's, so the same release. In memory: it is unpacked with many fsyncs.
    mkdir "$scratch/first"
    say unshare --mount sh -ec '
        mount -t tmpfs -o mode=0755 tmpfs "$1"
        debootstrap --variant=minbase --include=systemd,systemd-sysv "$2" "$1"
        rm -rf "$1"/var/cache/apt/archives/*.deb
        tar -C "$1" -cf "$3.new" .' sh "$scratch/first" "$release" "$clean" >"$scratch/debootstrap.log" 2>&1 ||
        fail "debootstrap made no $release: $(tail -n 3 "$scratch/debootstrap.log")"
    mv "$clean.new" "$clean"
fi
machine=$scratch/machine
mkdir "$machine" && tar -C "$machine" -xf "$clean"

# The quickest compressor: this package goes nowhere.
say env DPKG_DEB_COMPRESSOR_TYPE=gzip "$root/packaging/deb.sh" "$bin" "$scratch"
deb=$(echo "$scratch"/*.deb)
# The project has no mail address. systemctl is called on purpose: what deb-systemd-helper does would start a unit that
# is not set up.
say lintian --allow-root --fail-on error,warning \
    --suppress-tags bogus-mail-host,bogus-mail-host-in-debian-changelog,maintainer-script-calls-systemctl "$deb"
cp "$deb" "$machine/tram.deb"

# A cgroup, a process table, mounts and a network of its own, in which nothing of this machine can be reached.
cgroup=$(findmnt -n -o TARGET -t cgroup2 | head -n 1)$(sed -n 's/^0:://p' /proc/self/cgroup)/tram-deb-$$
mkdir "$cgroup" || fail "this machine lets nobody make a cgroup (version 2)"
booted=
leave() {
    local status=$?
    [ "$status" -eq 0 ] || [ -z "${pid-}" ] || on journalctl -q --no-pager -n 60 >&2 || true
    # Its first process takes all others with it, and only then ends.
    [ -z "$booted" ] || { pkill -KILL -P "$booted"; wait "$booted"; } 2>/dev/null || true
    find "$cgroup" -depth -type d -exec rmdir {} \; || true
    (exit "$status")
    clean_up
}
trap leave EXIT
cat >"$scratch/boot" <<'END'
set -e
machine=$1
mount --bind "$machine" "$machine"
cd "$machine"
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
for dir in run tmp dev; do mount -t tmpfs -o mode=0755 tmpfs "$dir"; done
chmod 1777 tmp
mkdir dev/pts dev/shm
for device in null zero full random urandom tty; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
ln -s /proc/self/fd dev/fd
ln -s pts/ptmx dev/ptmx
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ip link set lo up
mkdir -p outside
pivot_root . outside
umount -l outside
exec env -i container=tram PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --log-target=console
END
(
    echo "$BASHPID" >"$cgroup/cgroup.procs"
    exec unshare --mount --pid --net --uts --ipc --cgroup --fork --kill-child bash "$scratch/boot" "$machine"
) >"$scratch/boot.log" 2>&1 </dev/null &
booted=$!

# until_ok SECONDS COMMAND...: runs it until it succeeds.
until_ok() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || fail "not in time: $*"
        sleep 0.2
    done
}
init_pid() { pid=$(pgrep -P "$booted") && [ "$(cat "/proc/$pid/comm")" = systemd ]; }
until_ok 20 init_pid
# on COMMAND...: runs it on that machine, as root.
on() {
    nsenter --target "$pid" --mount --uts --ipc --net --pid --cgroup --root --wd \
        env -i HOME=/root LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
}
until_ok 30 on systemctl is-system-running
runs() { [ "$(on systemctl is-active tramd)" = active ]; }
main_pid() { on systemctl show -P MainPID tramd; }

say on dpkg -i /tram.deb
for path in /usr/bin/tram /usr/sbin/tramd /lib/systemd/system/tramd.service /usr/lib/sysctl.d/60-tram.conf \
    /usr/share/man/man1/tram.1.gz /usr/share/man/man1/tramd-init.1.gz /usr/share/man/man5/tramd.toml.5.gz \
    /usr/share/bash-completion/completions/tramd /usr/share/doc/tram/admin/install.md; do
    [ -e "$machine$path" ] || fail "$path is not there"
done
[ "$(on stat -c '%U:%G %a' /var/lib/tram)" = "tram:tram 711" ] || fail "/var/lib/tram is not tram's"
[ "$(on systemctl is-enabled tramd || true)" = disabled ] || fail "a unit without a node is enabled"
say on systemd-analyze verify --man=no /lib/systemd/system/tramd.service
say on systemd-analyze security --offline=true --threshold=20 --no-pager /lib/systemd/system/tramd.service | tail -n 1
[ "${PIPESTATUS[0]}" -eq 0 ] || fail "the unit is exposed by more than 2.0"

say on tramd init --zone tram.test --name central --listen 127.0.0.1:7443 --join-listen 127.0.0.1:7444
runs || fail "init did not start the unit"
[ "$(on systemctl is-enabled tramd)" = enabled ] || fail "init did not enable the unit"
expect 0 on tram status
[ "$(on stat -c %U "/proc/$(main_pid)")" = tram ] || fail "the daemon is not tram's"
strange=$(on find /etc/tram /var/lib/tram /run/tram ! -user tram)
[ -z "$strange" ] || fail "not of user tram: $strange"
[ "$(on stat -c %a /var/lib/tram/pki /var/lib/tram/spool | sort -u)" = 700 ] || fail "others can look into pki or spool"
status_line() { on systemctl show -P StatusText tramd | grep 'links up'; }
until_ok 20 status_line
status_line

# A reload says whether it was one.
echo 'document' >"$machine/root/document"
say on tram send --to vanban@central /root/document
on install -d -o tram -m 0711 /etc/tram/conf.d
echo 'nonsense = 1' >"$machine/etc/tram/conf.d/wrong.toml"
on systemctl reload tramd 2>/dev/null && fail "a reload of a wrong config succeeded"
rm "$machine/etc/tram/conf.d/wrong.toml"
say on systemctl reload tramd
runs || fail "the reload ended the daemon"

# A daemon that answers nobody is replaced.
on mkdir -p /run/systemd/system/tramd.service.d
on sh -c 'printf "[Service]\nWatchdogSec=2\nRestartSec=0\n" >/run/systemd/system/tramd.service.d/quick.conf'
say on systemctl daemon-reload
say on systemctl restart tramd
before=$(main_pid)
sleep 5
[ "$(main_pid)" = "$before" ] || fail "the watchdog ended a daemon that lives"
say on sh -c "kill -STOP $before"
another() { runs && [ "$(main_pid)" != "$before" ]; }
until_ok 30 another

before=$(main_pid)
say on dpkg -i /tram.deb
another || fail "an upgrade did not restart the daemon"
expect 0 on tram status

# Data stay at a removal; a purge is refused for both reasons, and names them.
say on dpkg --remove tram
[ ! -e "$machine/usr/sbin/tramd" ] && [ -d "$machine/var/lib/tram/spool" ] || fail "a removal keeps data and nothing else"
refused() {
    on dpkg --purge tram >"$scratch/purge.log" 2>&1 && fail "it was purged"
    grep -e "not purged" "$scratch/purge.log"
    [ -e "$machine/var/lib/tram/pki/node.key" ] || fail "a refused purge deleted something"
}
refused
grep -q "ca.key" "$scratch/purge.log" && grep -q "1 messages" "$scratch/purge.log" || fail "$(cat "$scratch/purge.log")"
say on dpkg -i /tram.deb
say on systemctl enable --quiet --now tramd
expect 0 on tram recv --inbox vanban --count 1 --timeout 20s --out /root/out
[ "$(cat "$machine/root/out/document")" = document ] || fail "other bytes came back"
# The receipt has to come home as well.
settled() { on tram status --json | grep -q '"messages": *0'; }
until_ok 20 settled
say on dpkg --remove tram
refused
grep -q messages "$scratch/purge.log" && fail "what was delivered counts"
on rm /var/lib/tram/pki/ca.key /var/lib/tram/pki/root.key
say on dpkg --purge tram
[ ! -e "$machine/var/lib/tram" ] && [ ! -e "$machine/etc/tram" ] || fail "a purge leaves data"

# A machine that joins: the token is readable for root only, the node is tram's.
say on dpkg -i /tram.deb
on tramd --dir /srv/central init --zone tram.test --name central --listen 127.0.0.1:7443 --join-listen 127.0.0.1:7444
on sh -c 'printf "[Service]\nType=notify\nExecStart=/usr/sbin/tramd --dir /srv/central run\n" >/run/systemd/system/central.service'
on systemctl start central
on sh -c 'umask 077 && tram --dir /srv/central token new can-tho --role province >/root/token'
say on tramd join --token-file /root/token
runs || fail "join did not start the unit"
strange=$(on find /etc/tram /var/lib/tram /run/tram ! -user tram)
[ -z "$strange" ] || fail "not of user tram: $strange"
linked() { on tram link list --json | grep -q '"up"'; }
until_ok 30 linked
echo "the package installs, runs, upgrades, and deletes nothing that is needed"
