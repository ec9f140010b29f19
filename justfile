# What is installed in .venv comes first, where there is one.
export PATH := justfile_directory() / ".venv/bin:" + env("PATH")

# What must be green before anything is handed in
default: test lint

# The recipes there are
help:
    @just --list

# Train the emoji LoRA on this machine, from its spec to the contact sheet
demo:
    lorac run specs/quickstart.py

# Run the tests; ARGS go to pytest
test *ARGS:
    pytest {{ ARGS }}

# Check style and types
lint:
    ruff check .
    ruff format --check .
    mypy

# Make the golden plans and launch scripts in generated/ anew
generate:
    python docs/tree.py
    lorac plan specs/quickstart.py --card cpu --out generated/cpu
    lorac plan specs/cyberpunk.py --unlocked --card 12GB --out generated/12GB
    lorac plan specs/cyberpunk.py --unlocked --card 24GB --out generated/24GB

# Show what malformed specs and data folders end in
show-errors:
    python -m tests.lorac.show_errors
