# Two commands set up everything: `make demo` and `make test`. Nothing but the package registry is contacted.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# torch is installed by itself first: a later package must not swap its build.
TORCH := torch==2.13.0

.PHONY: demo test check install format bench bench-network bench-engines accept accept-network accept-ray accept-nvflare accept-engines clean

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "Ward Round needs Python 3.11 to 3.13, this is %d.%d: set PYTHON=python3.12, say" % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,network,demo,dev]'
	touch $@

install: $(VENV)/.ready ## set up .venv

demo: install ## four synthetic hospitals train one model; ends with a table and a report
	$(BIN)/wardround demo

test: install ## all tests but the slow ones (make accept-network)
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow and not engine"

check: install ## style, types, floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install ## speed, as ratios measured side by side in one run
	$(BIN)/python benchmarks/bench.py

bench-network: install ## the network beside TLS sockets and a numpy mean, in one run
	$(BIN)/python benchmarks/bench_network.py

bench-engines: install ## our engines beside stock Flower (in an environment of its own) and stock NVFlare
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ray,nvflare]'
	$(PYTHON) -m venv .venv-flower
	.venv-flower/bin/python -m pip install --quiet --disable-pip-version-check flwr==1.41.0 numpy
	BENCH_FLOWER_PYTHON=.venv-flower/bin/python $(BIN)/python benchmarks/bench_engines.py --out docs/results/engines.md

accept-network: install ## real processes: the same weights as on one machine; kill -9 at every moment
	$(BIN)/python benchmarks/accept_network.py
	$(BIN)/python benchmarks/kill_matrix.py
	$(BIN)/python -m pytest -m slow

accept-ray: install ## two Ray nodes on this machine, 40 sites, kills, speed; the conformance suite on Ray
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ray]'
	$(BIN)/python benchmarks/accept_ray.py --out docs/results/ray.md
	$(BIN)/python -m pytest -m engine

accept-nvflare: install ## a provisioned NVFlare federation on this machine: kills, consent, refused jobs
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[nvflare]'
	$(BIN)/python benchmarks/accept_nvflare.py --out docs/results/nvflare.md
	$(BIN)/python -m pytest tests/flare tests/journeys/test_nvflare.py

accept-engines: install ## the hippocampus plan on every engine (needs ../shared/data)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ray,nvflare]'
	$(BIN)/python benchmarks/accept_engines.py --out docs/results/engines-equal.md

accept: install ## slow proofs on real images (needs ../shared/data); writes docs/results
	$(BIN)/python benchmarks/accept.py

clean:
	rm -rf $(VENV) .venv-flower .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
