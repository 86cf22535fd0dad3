#!/bin/sh
# Builds the Debian package of this checkout for the Debian of this machine: deploy/debian/build.sh FOLDER VERSION
#
# Plain dpkg-deb. The package has a private environment under /usr/lib/cht-rapidpro for Debian's own python3, with exactly
# the versions of requirements-runtime.lock (hashes checked). PYTHON: the interpreter of the target, /usr/bin/python3.
set -eu
folder=$1 version=$2
here=$(cd "$(dirname "$0")" && pwd)
source=$(cd "$here/../.." && pwd)
python=${PYTHON:-/usr/bin/python3}
maintainer=${MAINTAINER:-"cht-rapidpro <cht-rapidpro@example.org>"}
pip="$source/.venv/bin/python -m pip --disable-pip-version-check --quiet"
tree=$folder/tree lib=$folder/tree/usr/lib/cht-rapidpro doc=$folder/tree/usr/share/doc/cht-rapidpro
minor=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
next=$("$python" -c 'import sys; print("%d.%d" % (sys.version_info[0], sys.version_info[1] + 1))')
arch=$(dpkg --print-architecture)
site=$lib/lib/python$minor/site-packages
umask 022
rm -rf "$tree" "$folder/wheel"
mkdir -p "$site" "$lib/bin" "$tree/DEBIAN" "$tree/usr/bin" "$tree/etc/cht-rapidpro" "$tree/lib/systemd/system" "$doc/examples"

# The program, built by the checkout's own locked tools, then what it needs: wheels alone, so that nothing is compiled here.
(cd "$source" && $pip wheel --no-deps --no-build-isolation --wheel-dir "$folder/wheel" .)
$pip install --python-version "$minor" --implementation cp --only-binary :all: --no-compile --target "$site" \
	--no-deps --require-hashes -r "$source/requirements-runtime.lock"
$pip install --python-version "$minor" --only-binary :all: --no-compile --target "$site" --no-deps "$folder"/wheel/*.whl
rm -rf "$site/bin"
find "$tree" -name __pycache__ -prune -exec rm -rf {} +
find "$site" -name '*.so' -exec strip --strip-unneeded {} + -exec chmod 644 {} +
find "$site" \( -name tests -o -name SelfTest \) -prune -exec rm -rf {} +

ln -s ../../../bin/python3 "$lib/bin/python3"
printf 'home = /usr/bin\ninclude-system-site-packages = false\nversion = %s\n' "$minor" >"$lib/pyvenv.cfg"
# Isolated: neither PYTHONPATH nor a user's own packages reach the daemon.
printf '#!/bin/sh\nexec /usr/lib/cht-rapidpro/bin/python3 -I -m cht_rapidpro "$@"\n' >"$tree/usr/bin/cht-rapidpro"
chmod 755 "$tree/usr/bin/cht-rapidpro"

for unit in "$source"/systemd/cht-rapidpro.service "$source"/systemd/cht-rapidpro.socket; do
	sed 's#/opt/cht-rapidpro/bin/cht-rapidpro#/usr/bin/cht-rapidpro#' "$unit" >"$tree/lib/systemd/system/$(basename "$unit")"
done
install -m 640 "$here/config.toml" "$tree/etc/cht-rapidpro/config.toml"
install -m 644 "$source/config.example.toml" "$source/systemd/alerts.example.yml" "$doc/examples/"
test ! -e "$source/deploy/grafana.json" || install -m 644 "$source/deploy/grafana.json" "$doc/examples/"
cp -r "$source/docs/operations" "$doc/"
gzip -9nc "$source/CHANGELOG.md" >"$doc/CHANGELOG.md.gz"
printf 'cht-rapidpro (%s) stable; urgency=medium\n\n  * See CHANGELOG.md.gz.\n\n -- %s  %s\n' "$version" "$maintainer" \
	"$(date -uR)" | gzip -9n >"$doc/changelog.gz"
install -m 644 "$here/copyright" "$doc/copyright"

# From the same parser that the command has.
"$source/.venv/bin/python" -m deploy.manpage "$folder/pages" "$version"
mkdir -p "$tree/usr/share/man/man1" "$tree/usr/share/man/man5" "$tree/usr/share/bash-completion/completions" \
	"$tree/usr/share/zsh/vendor-completions" "$tree/usr/share/fish/vendor_completions.d"
gzip -9nc "$folder/pages/cht-rapidpro.1" >"$tree/usr/share/man/man1/cht-rapidpro.1.gz"
gzip -9nc "$folder/pages/cht-rapidpro.toml.5" >"$tree/usr/share/man/man5/cht-rapidpro.toml.5.gz"
install -m 644 "$folder/pages/bash/cht-rapidpro" "$tree/usr/share/bash-completion/completions/"
install -m 644 "$folder/pages/zsh/_cht-rapidpro" "$tree/usr/share/zsh/vendor-completions/"
install -m 644 "$folder/pages/fish/cht-rapidpro.fish" "$tree/usr/share/fish/vendor_completions.d/"

mkdir -p "$tree/usr/share/lintian/overrides"
install -m 644 "$here/lintian-overrides" "$tree/usr/share/lintian/overrides/cht-rapidpro"
install -m 755 "$here/postinst" "$here/prerm" "$here/postrm" "$tree/DEBIAN/"
echo /etc/cht-rapidpro/config.toml >"$tree/DEBIAN/conffiles"
(cd "$tree" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | sort -z | xargs -0 md5sum) >"$tree/DEBIAN/md5sums"
cat >"$tree/DEBIAN/control" <<END
Package: cht-rapidpro
Version: $version
Architecture: $arch
Maintainer: $maintainer
Installed-Size: $(du -sk --exclude=DEBIAN "$tree" | cut -f1)
Depends: python3 (>= $minor), python3 (<< $next), libc6 (>= 2.28), adduser
Recommends: systemd (>= 252), openssl
Section: net
Priority: optional
Description: SMS gateway between the Community Health Toolkit and RapidPro
 CHT keeps its messages as tasks inside CouchDB documents; RapidPro is the SMS
 platform. This daemon sends each message once, keeps its task up to date with
 what became of it, and makes what phones send into CHT's records.
 .
 The package starts nothing by itself: edit /etc/cht-rapidpro/config.toml, run
 "cht-rapidpro check", then enable cht-rapidpro.socket and .service.
END
dpkg-deb --root-owner-group -Zxz --build "$tree" "$folder/cht-rapidpro_${version}_$arch.deb" >/dev/null
echo "$folder/cht-rapidpro_${version}_$arch.deb"
