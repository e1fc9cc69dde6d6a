# The everyday commands; CMake does the building. `make` alone lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help build try demo test test-mpi test-cuda fuzz sanitize soak web test-web format check deb install clean

JOBS ?= $(shell nproc)
PREFIX ?= /usr/local
FUZZ_SECONDS ?= 150
CPU_BUILD := build/cpu

# $(call configure,PRESET,FLAGS): quiet unless it fails.
configure = cmake --preset $(1) $(2) --log-level=WARNING $(if $(shell command -v ccache),-DCMAKE_CXX_COMPILER_LAUNCHER=ccache) >/dev/null
sources = find $(wildcard src tests fuzz bench) '(' -name '*.cc' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' ')'

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s%s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

build: ## build the program, build/cpu/sluice
	@tools/install-packages.sh build
	@$(call configure,cpu,-DBUILD_TESTING=OFF)
	cmake --build $(CPU_BUILD) --parallel $(JOBS) --target sluice

try: build ## write with the small model that comes with the program, which goes on with a text (nothing is trained)
	$(CPU_BUILD)/sluice generate --model models/mini --prompt "Anne could not help thinking that" --max-tokens 120 --temperature 0.7 --top-p 0.8
	$(CPU_BUILD)/sluice generate --model models/mini --prompt "春风" --max-tokens 60 --temperature 0.7 --top-p 0.8

demo: build ## train a small model on the bundled texts (about 3 minutes) and write with it
	runs/demo.sh

test: ## build everything and run the tests (at most 15 minutes)
	@tools/install-packages.sh test
	@$(call configure,cpu,-DBUILD_TESTING=ON)
	cmake --build $(CPU_BUILD) --parallel $(JOBS)
	ctest --test-dir $(CPU_BUILD) --parallel 2 --output-on-failure --no-tests=error

test-mpi: ## test runs of several ranks on this machine (Open MPI; at most 15 minutes)
	@tools/install-packages.sh test mpi
	@$(call configure,mpi,-DBUILD_TESTING=ON)
	cmake --build build/mpi --parallel $(JOBS) --target sluice parallel_test mpi_test model_time_test
	ctest --test-dir build/mpi -L mpi --output-on-failure --no-tests=error

test-cuda: ## compile the CUDA backend where nvcc of CUDA 13 is, and test it where a Hopper GPU is (at most 15 minutes)
	@tools/install-packages.sh test
	@tools/test-cuda $(JOBS)

fuzz: ## fuzz the readers of untrusted files, FUZZ_SECONDS=150 each (clang, at most 15 minutes on 2 cores)
	@tools/install-packages.sh fuzz
	@$(call configure,fuzz)
	cmake --build build/fuzz --parallel $(JOBS) --target fuzz/all
	tools/fuzz build/fuzz $(FUZZ_SECONDS) $(JOBS)

sanitize: ## run the tests under the address and undefined-behaviour sanitizers
	@tools/install-packages.sh test
	@$(call configure,sanitize)
	cmake --build build/sanitize --parallel $(JOBS)
	UBSAN_OPTIONS=print_stacktrace=1 ctest --test-dir build/sanitize --parallel 2 --output-on-failure --no-tests=error -LE emulate

soak: ## load on a server built with the thread sanitizer, SECONDS_OF_LOAD=90 (at most 15 minutes)
	@tools/install-packages.sh test
	@$(call configure,tsan)
	cmake --build build/tsan --parallel $(JOBS) --target sluice
	tests/web/soak.sh build/tsan/sluice

web: ## build the page in web/dist anew, byte for byte what is committed (npm)
	@tools/install-packages.sh web
	npm --prefix web ci --ignore-scripts --no-audit --no-fund --loglevel=error
	npm --prefix web run --silent build

test-web: build ## test the server with real clients and the page in Chromium (5 minutes)
	@tools/install-packages.sh web
	tests/web/api.sh $(CPU_BUILD)/sluice
	tests/web/page.sh
	tests/web/page_real.sh $(CPU_BUILD)/sluice

format: ## format the sources in place
	@tools/install-packages.sh lint
	$(sources) | xargs clang-format-14 -i

check: ## check format, who includes whom, and the size of files and functions
	@tools/install-packages.sh lint
	tools/check-includes
	tools/budgets
	$(sources) | xargs clang-format-14 --dry-run -Werror

deb: build ## make a Debian package in build/
	@tools/install-packages.sh deb
	cd build && cpack -G DEB --config cpu/CPackConfig.cmake

install: build ## install into PREFIX=/usr/local (DESTDIR is honoured)
	cmake --install $(CPU_BUILD) --prefix $(PREFIX)

clean: ## remove what was built
	rm -rf build
