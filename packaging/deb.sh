#!/usr/bin/env bash
# Makes the Debian package of binaries that are built already, and prints its path. It needs dpkg-dev and binutils, no
# root and no network:
#
#   cargo build --profile dist --bins && packaging/deb.sh target/dist target
set -euo pipefail
[ $# -eq 2 ] || { echo "usage: packaging/deb.sh DIRECTORY-OF-BINARIES OUTPUT-DIRECTORY" >&2; exit 64; }
binaries=$(realpath "$1") out=$(realpath "$2")
cd "$(dirname "$0")/.."
for tool in dpkg-deb dpkg-shlibdeps strip gzip; do
    command -v "$tool" >/dev/null || { echo "$tool is missing: apt install dpkg-dev binutils" >&2; exit 66; }
done
for program in tram tramd; do
    [ -x "$binaries/$program" ] || { echo "$binaries/$program is missing: cargo build --profile dist --bins" >&2; exit 66; }
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
pkg=$work/pkg
umask 022

# file MODE PATH SOURCE...
file() {
    local mode=$1 path=$2
    shift 2
    case "$path" in
        */) install -D -m "$mode" -t "$pkg/$path" "$@" ;;
        *) install -D -m "$mode" "$1" "$pkg/$path" ;;
    esac
}

file 0755 usr/bin/tram "$binaries/tram"
file 0755 usr/sbin/tramd "$binaries/tramd"
strip --strip-unneeded "$pkg/usr/bin/tram" "$pkg/usr/sbin/tramd"
file 0644 lib/systemd/system/ packaging/tramd.service
file 0644 usr/lib/sysctl.d/ packaging/60-tram.conf
file 0644 usr/lib/sysusers.d/tram.conf packaging/sysusers.conf
file 0644 usr/lib/tmpfiles.d/tram.conf packaging/tmpfiles.conf

# Manual pages and completions are the programs' own.
man=$pkg/usr/share/man
mkdir -p "$man/man1"
"$binaries/tram" gen-man "$man/man1"
"$binaries/tramd" gen-man "$man/man1"
file 0644 usr/share/man/man5/ docs/man/*.5
file 0644 usr/share/man/man7/ docs/man/*.7
find "$man" -type f -exec gzip -9n {} +
completions=$pkg/usr/share
mkdir -p "$completions"/{bash-completion/completions,zsh/vendor-completions,fish/vendor_completions.d}
for program in tram tramd; do
    "$binaries/$program" completions bash >"$completions/bash-completion/completions/$program"
    "$binaries/$program" completions zsh >"$completions/zsh/vendor-completions/_$program"
    "$binaries/$program" completions fish >"$completions/fish/vendor_completions.d/$program.fish"
done

doc=usr/share/doc/tram
for folder in admin operator application vi; do
    file 0644 "$doc/$folder/" "docs/$folder"/*.md
done
file 0644 "$doc/" SECURITY.md packaging/copyright
file 0644 "$doc/examples/" daemon/tramd.example.toml
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml)
time=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
maintainer="Tram maintainers <tram@localhost>"
printf 'tram (%s) unstable; urgency=medium\n\n  * See CHANGELOG.md of the sources.\n\n -- %s  %s\n' \
    "$version" "$maintainer" "$(LC_ALL=C date -u -R -d "@$time")" | gzip -9n >"$pkg/$doc/changelog.gz"
chmod 0644 "$pkg/$doc/changelog.gz"

# The libraries that the programs really load, with the versions they need.
mkdir "$work/debian"
printf 'Source: tram\n\nPackage: tram\nArchitecture: any\nDescription: x\n' >"$work/debian/control"
depends=$(cd "$work" && dpkg-shlibdeps -O "$pkg/usr/bin/tram" "$pkg/usr/sbin/tramd" 2>/dev/null)
architecture=$(dpkg --print-architecture)
install -D -m 0755 -t "$pkg/DEBIAN" packaging/postinst packaging/prerm packaging/postrm
cat >"$pkg/DEBIAN/control" <<END
Package: tram
Version: $version
Architecture: $architecture
Maintainer: $maintainer
Section: net
Priority: optional
Depends: ${depends#shlibs:Depends=}, passwd
Recommends: systemd
Installed-Size: $(du -sk --apparent-size --exclude=DEBIAN "$pkg" | cut -f 1)
Description: carry documents between offices over bad lines
 Tram is an overlay of relay nodes. A node keeps a document on disk until the
 next one has it on disk, so a line that is cut delays it and loses nothing.
 Nodes know each other by certificates of an authority of their own.
END
(cd "$pkg" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | LC_ALL=C sort -z | xargs -0 md5sum >DEBIAN/md5sums)
find "$pkg" -exec touch --no-dereference --date="@$time" {} +
SOURCE_DATE_EPOCH=$time dpkg-deb --root-owner-group --build "$pkg" "$out/tram_${version}_$architecture.deb" >/dev/null
echo "$out/tram_${version}_$architecture.deb"
