# make demo [SOURCE=synthetic|0|/dev/video0|video.mp4|folder|bag] [MODEL=nano|sensor|sharp]
#           [DURATION=30] [HFOV=degrees] [OUT=out/demo]
# make test
# make soak [MINUTES=30]
# make evidence [QUICK=1] [RECORDINGS=folder]
SOURCE ?= synthetic
MODEL ?= nano
DURATION ?= 30
OUT ?= out/demo
MINUTES ?= 30
SHELL := /bin/bash

.PHONY: help setup demo test lint format unit colcon soak bench evidence clean

help:
	@echo 'make demo   live: a camera source and the node over DDS; options SOURCE MODEL DURATION HFOV OUT'
	@echo 'make test   lint, unit and ROS tests, colcon build and test'
	@echo 'make soak   100,000 bad messages, 1,000 transitions, the table of hazards, then MINUTES=30 at full rate; out/soak'
	@echo 'make bench  measure every stage on this machine, JSON into out/bench.json'
	@echo 'make evidence  measure all that is claimed, on one page: out/evidence/index.html; options QUICK=1 RECORDINGS'

setup:
	@scripts/setup.sh

demo: setup
	@. scripts/env.sh && exec sharp-ros demo --source '$(SOURCE)' --model '$(MODEL)' \
	    --duration $(DURATION) --output '$(OUT)' $(if $(HFOV),--hfov $(HFOV))

test:
	@scripts/setup.sh --test
	@mkdir -p build && rm -f build/tally
	@$(MAKE) --no-print-directory lint unit colcon
	@. scripts/env.sh && python scripts/tally.py build/tally

lint:
	@scripts/lint.sh

format:
	@. scripts/env.sh && ruff check --fix . && ruff format .

# Nodes of ROS would hear each other and run one after the other; what needs none shares the cores.
unit:
	@. scripts/env.sh && export OMP_WAIT_POLICY=PASSIVE SHARP_TALLY=build/tally && mkdir -p build && \
	    { python -m pytest -n auto --maxprocesses 8 --dist loadfile --ignore test/ros --ignore test/faults; core=$$?; \
	    python -m pytest test/ros test/faults && exit $$core; }

colcon:
	@scripts/colcon_test.sh

# all parts run, whatever becomes of those before
soak:
	@scripts/setup.sh --test
	@. scripts/env.sh && { SHARP_SOAK=1 python -m pytest test/faults; faults=$$?; \
	    sharp-ros eval maps synthetic --hazards --json out/soak/hazards.json \
	    --pictures out/soak; hazards=$$?; \
	    python test/faults/soak.py --minutes $(MINUTES) --output out/soak && \
	    exit $$(( faults + hazards )); }

bench: setup
	@. scripts/env.sh && mkdir -p out && sharp-ros bench --json out/bench.json

evidence:
	@scripts/setup.sh --test
	@. scripts/env.sh && python bench/evidence.py $(if $(QUICK),--quick) \
	    $(if $(RECORDINGS),--recordings '$(RECORDINGS)') out/evidence

clean:
	rm -rf build install log out .pytest_cache .ruff_cache
