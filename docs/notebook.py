"""The example notebook as a script in percent format. Rendered, with outputs, by

python -m tools.notebook docs/notebook.py -o docs/notebook.ipynb
"""

# %% [markdown]
# # decodelab in a notebook
#
# One decode step of a small trained model on both machines: what each cycle did, in tables, arrays and SQL. Everything
# comes from `decodelab.py`, the one public face.

# %%
import numpy as np

from decodelab import Window, assemble, compile_decode, load, load_chip, load_model, run

model = load_model("tiny_kjv")
lpu, gpu = load_chip("groq_tsp_v1"), load_chip("h100_sxm")

# %% [markdown]
# ## Two programs
#
# The same model becomes a static schedule for the LPU and a graph of kernels for the GPU. A program shows what it was
# made for.

# %%
programs = {chip.name: compile_decode(model, chip, batch=1, context=64) for chip in (lpu, gpu)}
programs["h100_sxm"]

# %% [markdown]
# ## Tokens
#
# The loop: feed a prompt, then let the machine continue. Both give the same tokens.

# %%
results = {name: run(program, prompt_ids=[[41, 78, 259]], tokens=4) for name, program in programs.items()}
results["groq_tsp_v1"]

# %%
{name: result.token_ids[0] for name, result in results.items()}

# %% [markdown]
# A result is also a table: NumPy columns with `arrays()`, a DuckDB relation with `relation()`.

# %%
results["h100_sxm"].relation().project("step, phase, cycles, l2_read_bytes, hbm_read_bytes").order("step")

# %% [markdown]
# ## Every event of a step
#
# `trace=Window()` records everything; `Window(first=0, end=2000)` only some cycles. The trace says what was recorded,
# when each class of units was at work, and what the units waited for.

# %%
traces = {name: load(program).step(token=41, trace=Window()).trace for name, program in programs.items()}
traces["groq_tsp_v1"]

# %%
traces["h100_sxm"]

# %% [markdown]
# ## Questions in SQL
#
# Which graph nodes of the GPU's step take the time, and what do their warps wait for most?

# %%
traces["h100_sxm"].query("""
    SELECT regexp_replace(node, '^layers.[0-9]+.', '') AS node, reason, sum("end" - start) AS unit_cycles
    FROM events WHERE kind = 'stall' AND reason NOT IN ('no_warp', 'launch')
    GROUP BY ALL ORDER BY unit_cycles DESC LIMIT 8
""")

# %% [markdown]
# When do the weights of the first layer's QKV product enter the LPU's matrix units?

# %%
traces["groq_tsp_v1"].query("""
    SELECT unit, min(start) AS first, max(start) AS last, count(*) AS loads, sum(bytes) AS bytes
    FROM events WHERE opcode = 'LW' AND node = 'layers.0.qkv' GROUP BY unit ORDER BY unit
""")

# %% [markdown]
# ## NumPy
#
# The columns are plain arrays: how many LPU instructions issue in a cycle, and in how many cycles does none?

# %%
trace = traces["groq_tsp_v1"]
issued = np.bincount(trace.start[trace.of_kind("issue")], minlength=trace.cycles)
print(f"{issued.mean():.1f} instructions a cycle on average, {issued.max()} at most, none in {(issued == 0).sum()} "
      f"of {trace.cycles:,} cycles")

# %% [markdown]
# ## A program of your own
#
# The same for a few lines of assembly: 32 numbers, doubled by one warp.

# %%
source = """
.chip   toy_gpu
.data   x f32 [1,32] 1.5
.data   y f32 [1,32]
.kernel double(x, y)
        S2R     R1, LANEID
        SHL     R1, R1, 2
        LDG.32  R2, [x + R1]
        ADD.f32 R2, R2, R2
        STG.32  [y + R1], R2
.launch double 1 32 0 (x, y)
"""
small = load(assemble(source)).step(trace=Window())
small.trace.query("SELECT start, wait, reason, asm FROM events WHERE kind = 'issue' ORDER BY start")
