# `make demo` and `make test` each work as the first command after a clone: what they need is installed into the
# checkout (.venv, node_modules) from the lock files.
.DEFAULT_GOAL := help
.PHONY: help install prerequisites demo test coverage test-browser check format soak rehearsal bench bench-full lock pages deb test-deb test-boot clean
BIN := .venv/bin
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 18

install: .venv/.installed node_modules/.package-lock.json ## set up .venv and node_modules, nothing else

prerequisites:
	@command -v python3 >/dev/null || { echo "missing: python3 (3.11 or later): apt-get install python3 python3-venv" >&2; exit 1; }
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "too old: $$(python3 --version), python3 3.11 or later is needed" >&2; exit 1; }
	@python3 -c 'import ensurepip, venv' 2>/dev/null || { echo "missing: python3 venv: apt-get install python3-venv" >&2; exit 1; }
	@command -v node >/dev/null || { echo "missing: node (18 or later): apt-get install nodejs npm" >&2; exit 1; }
	@node -e 'process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)' || { echo "too old: node $$(node --version), node 18 or later is needed" >&2; exit 1; }
	@command -v npm >/dev/null || { echo "missing: npm: apt-get install npm" >&2; exit 1; }

.venv/.installed: requirements.lock pyproject.toml | prerequisites
	test -x $(BIN)/python || python3 -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

node_modules/.package-lock.json: package.json package-lock.json | prerequisites
	npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	touch $@

demo: install ## the whole gateway on this machine, in a live table; ends by itself
	$(BIN)/python -m demo

# Most tests wait for another process: three at once take little more than half the time on two cores.
test: install ## the whole test suite
	$(BIN)/pytest --numprocesses 3 --dist worksteal

# Of the tests that run domain and jobs in their own process; a target of its own, because tracing makes it slower.
coverage: install ## branch coverage of domain and jobs, with its floor; see CONTRIBUTING.md
	$(BIN)/pytest --numprocesses 3 --dist worksteal --cov --cov-report=term tests/domain tests/jobs tests/scenarios

test-browser: install .venv/.browser ## the operator's page in a browser (Debian's chromium); skipped without one
	$(BIN)/pytest tests/browser

.venv/.browser: requirements-browser.lock .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-browser.lock
	touch $@

check: install ## format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install ## let ruff format, and fix what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

soak: install ## ten minutes of random faults; ARGS="--daemons 2 --repeated --coalesce always", --seed N, --minutes N
	$(BIN)/python -m tests.faults.soak $(ARGS)

rehearsal: install ## fifty moves from CHT's own gateway and back, with kills; ARGS="--moves N --seed N"
	$(BIN)/python -m tests.faults.rehearsal $(ARGS)

bench: install ## the benchmarks in small form, in under five minutes; bench/README.md
	$(BIN)/python -m bench.limits
	$(BIN)/python -m bench.outgoing
	$(BIN)/python -m bench.coalescing
	$(BIN)/python -m bench.incoming
	$(BIN)/python -m bench.delivery
	$(BIN)/python -m bench.memory --long 1000
	$(BIN)/python -m bench.start --starts 3 --minutes 1

bench-full: install ## the same at full size; takes about ten minutes
	$(BIN)/python -m bench.limits --docs 20000 --posts 5000
	$(BIN)/python -m bench.outgoing --messages 5000 --single 300
	$(BIN)/python -m bench.coalescing --recipients 5000 --messages 5000
	$(BIN)/python -m bench.coalescing --coalesce off
	$(BIN)/python -m bench.incoming --messages 20000
	$(BIN)/python -m bench.delivery --full
	$(BIN)/python -m bench.memory --long 20000
	$(BIN)/python -m bench.start
	$(BIN)/python -m bench.takeover

lock: install ## renew requirements.lock and package-lock.json
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
		--group dev pyproject.toml -o requirements.lock
	$(MAKE) requirements-runtime.lock
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
		--group browser -c requirements.lock -o requirements-browser.lock
	npm install --package-lock-only --ignore-scripts --no-audit --no-fund --omit-lockfile-registry-resolved

# What runs in production, in the very versions that are tested: for pip, the Debian package and the container alike.
requirements-runtime.lock: requirements.lock pyproject.toml | .venv/.installed
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		-c requirements.lock pyproject.toml -o $@

pages: install ## the man pages and the shells' completions, into build/pages
	rm -rf build/pages
	$(BIN)/python -m deploy.manpage build/pages "$(VERSION)"

deb: install ## the Debian package for this machine's Debian, into build/
	deploy/debian/build.sh "$(CURDIR)/build" "$(VERSION)"

# Debian as it comes, with what the package and a boot need.
build/root:
	mkdir -p build
	debootstrap --variant=minbase --include=python3,systemd,systemd-sysv,dbus,adduser,init-system-helpers \
		"$$(. /etc/os-release && echo $$VERSION_CODENAME)" build/root.part >build/debootstrap.log 2>&1 || { tail -3 build/debootstrap.log; exit 1; }
	mv build/root.part $@

test-deb: install ## the Debian package in a fresh Debian; needs root and debootstrap, skipped without
	@if [ "$$(id -u)" = 0 ] && command -v debootstrap >/dev/null; then \
		$(MAKE) deb build/root && $(BIN)/pytest tests/packaging; \
	else echo "skipped: test-deb needs root and debootstrap (apt-get install debootstrap lintian)"; fi

test-boot: install ## the Debian package under a real systemd, some six minutes; needs root, debootstrap and systemd-nspawn
	@if [ "$$(id -u)" = 0 ] && command -v debootstrap >/dev/null && command -v systemd-nspawn >/dev/null; then \
		$(MAKE) deb build/root && $(BIN)/pytest tests/systemd; \
	else echo "skipped: test-boot needs root, debootstrap and systemd-nspawn (apt-get install debootstrap systemd-container)"; fi

clean: ## remove what install made
	rm -rf .venv node_modules
