.PHONY: setup everything check test end-to-end coverage backends every-backbone \
	every-sibling every-format oracles servers shipped package docs site \
	tutorials demo evidence evidence-quick

PYTHON ?= python3
BIN = .venv/bin
# A file of tests at a time on each of three processes: some of them wait.
PYTEST = $(BIN)/python -m pytest
SPREAD = -n 3 --dist loadfile
# Files of tests that bear a mark; to read all of them takes a while.
MARKED = $(shell grep -lE "mark\.$(1)" tests/test_*.py tests/*/test_*.py)
# What has a target of its own.
ELSEWHERE = and not every_backbone and not every_sibling and not every_format \
	and not across_backends and not oracles and not servers and not package \
	and not site and not types
# What runs on every backend of Keras; on JAX what is compiled alone.
PORTABLE = $(addprefix tests/, test_layers.py test_functional.py test_attach.py \
	$(addprefix classifier/test_, classifier.py threads.py) \
	$(addprefix explainers/test_, ablation_cam.py attribution.py cam.py \
	class_evidence.py eigen_cam.py explainers.py gradient.py occlusion.py \
	refine_cam.py rise_and_lime.py) explanation evaluation metrics)

# What is asked of arrays, or of answers of a model, whose making is compiled by
# the other tests.
ARRAYS = $(addprefix tests/, explainers/test_rise_and_lime.py evaluation metrics)

# JAX compiles more than it computes here, and much of it more than once. At
# level 0 training gives NaN; emitters of fused loops take a quarter of the time.
QUICK = XLA_FLAGS="--xla_backend_optimization_level=1 \
	--xla_cpu_use_fusion_emitters=false" \
	JAX_COMPILATION_CACHE_DIR=$(CURDIR)/.cache/jax \
	JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0

setup: .venv/ready

.venv:
	$(PYTHON) -m venv $@

.venv/ready: pyproject.toml | .venv
	$(BIN)/pip install -q -e ".[dev]"
	touch $@

# An extra of pyproject.toml.
.venv/with-%: .venv/ready
	$(BIN)/pip install -q -e ".[$*]"
	touch $@

# One of them runs on PyTorch.
.venv/with-oracles: .venv/with-backends benchmarks/requirements.txt
	$(BIN)/pip install -q --no-deps -r benchmarks/requirements.txt
	touch $@

# At once, as every call of pip looks at all packages again.
everything: | .venv
	$(BIN)/pip install -q -e ".[dev,backends,docs,tutorials]"
	touch .venv/ready $(addprefix .venv/with-, backends docs tutorials)
	$(MAKE) .venv/with-oracles

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST) -m types $(call MARKED,types)
	$(BIN)/check-jsonschema -q --builtin-schema vendor.github-workflows \
		.github/workflows/*.yml

test: setup
	$(PYTEST) $(SPREAD)

end-to-end: setup
	$(PYTEST) $(SPREAD) -m "(end_to_end or slow) $(ELSEWHERE)" \
		$(call MARKED,(end_to_end|slow))

backends: .venv/with-backends
	$(QUICK) KERAS_BACKEND=jax $(PYTEST) $(SPREAD) \
		-m "not end_to_end $(ELSEWHERE)" $(filter-out $(ARRAYS),$(PORTABLE))
	KERAS_BACKEND=torch $(PYTEST) $(SPREAD) -m "not end_to_end $(ELSEWHERE)" \
		$(PORTABLE) tests/classifier/test_geometry.py
	$(QUICK) $(PYTEST) $(SPREAD) -m across_backends \
		$(call MARKED,across_backends)

every-backbone: setup
	$(PYTEST) -n 3 -m every_backbone $(call MARKED,every_backbone)

# Those between the smallest and the largest of their families, by night.
every-sibling: setup
	$(PYTEST) -n 3 -m every_sibling $(call MARKED,every_sibling)

every-format: setup
	$(PYTEST) -m every_format $(call MARKED,every_format)

# Lines and branches of the package that tests on TensorFlow run.
coverage: setup
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(SPREAD) -m "not across_backends \
		and not oracles and not servers and not package and not site \
		and not types"
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

oracles: .venv/with-backends .venv/with-oracles
	$(PYTEST) -m oracles $(call MARKED,oracles)

# Each in an environment of its own, which has neither Keras nor TensorFlow. The
# embedded Python of Triton reads no PYTHONPATH.
.cache/servers/%/ready: tests/environments/%.txt
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install -q --no-deps -r $<
	echo $(CURDIR) > $$(echo $(@D)/lib/python*/site-packages)/keras_lficam.pth
	touch $@

# Real servers, on 127.0.0.1.
servers: setup $(addprefix .cache/servers/, kserve/ready triton/ready)
	$(PYTEST) -m servers $(call MARKED,servers)

shipped: setup
	$(BIN)/python saved_models/export.py --check

# What a release uploads.
package: setup
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(PYTEST) -m package $(call MARKED,package)

docs: .venv/with-docs
	$(BIN)/python benchmarks/pages.py --check
	$(BIN)/mkdocs build --strict

site: docs
	$(PYTEST) -n 2 -m site $(call MARKED,site)

# As the command does: TensorFlow leaves it off on some processors.
tutorials: export TF_ENABLE_ONEDNN_OPTS = 1
# Of the solar cells; to train with all takes a quarter of an hour.
tutorials: export EVERY = 24
tutorials: .venv/with-tutorials
	$(PYTEST) $(SPREAD) --nbval tutorials \
		--nbval-kernel-startup-timeout 300 \
		--nbval-sanitize-with tutorials/sanitize.cfg

demo: setup
	$(BIN)/keras-lficam demo

EVIDENCE = $(addprefix benchmarks/evidence/, train.py stability.py quality.py)

# Many hours; `cost.py` wants a machine that does nothing else.
evidence: setup
	for script in $(EVIDENCE) benchmarks/evidence/picture.py; do \
		$(BIN)/python $$script || exit; \
	done
	$(BIN)/python benchmarks/evidence/cost.py

evidence-quick: setup
	rm -rf runs/quick
	for script in $(EVIDENCE); do \
		$(BIN)/python $$script \
			--protocol benchmarks/evidence/quick.toml || exit; \
	done
