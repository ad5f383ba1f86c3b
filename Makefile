# Both targets first set up what is missing, once: see tools/bootstrap.py, which is also the way in on Windows.

PYTHON ?= python3

# A prompt may hold quotes, dollars and backticks: it goes through the environment, unexpanded, and never through a shell.
# Only the command line counts: PROMPT in the environment is the shell's own.
unexport PROMPT MODEL
ifeq ($(origin PROMPT),command line)
export MAKE_CHAT_PROMPT := $(value PROMPT)
endif
ifeq ($(origin MODEL),command line)
export MAKE_CHAT_MODEL := $(value MODEL)
endif

.PHONY: help chat test setup
help:
	@echo 'make chat                 talk with the default model (MODEL=... for another, PROMPT="..." for one answer)'
	@echo 'make test                 every check and every test'
	@echo 'make setup                only the set-up of the two above'

chat test setup:
	@'$(PYTHON)' tools/bootstrap.py $@
