"""A run's figures straight from its rollouts.jsonl, sharing no code with the package: `recompute.py FILE`."""

import json
import sys
from itertools import combinations, product
from math import exp, inf, log
from statistics import mean

rows = [json.loads(line) for line in open(sys.argv[1])]
turns = {(r["task"], r["sample"], r["turn"]): r["evaluation"] for r in rows if r["evaluation"] or r["reply"]}
tasks, figures = {}, {}
for (task, sample, _), e in sorted(turns.items()):
    e = {"correct": False, "reward": 0, "e2e": None, "ladder": (), **(e or {})}
    e["op"] = e["e2e"] if task.startswith("L4/") else e["ladder"][0] if e["ladder"] else None
    e["cap"] = inf if e["correct"] and e["verdict"] == "ok" and e["stable"] else 1.0
    if e["correct"] is not None:
        tasks.setdefault(task, {}).setdefault(sample, []).append(e)
best = [[max(turns, key=lambda e: (e["correct"], e["reward"])) for turns in task.values()] for task in tasks.values()]
for part in [part for part in ("op", "e2e") if any(e[part] for task in best for e in task)]:
    low = [[min(e["cap"], e[part]["ci95"][0]) if e[part] else 0 for e in task] for task in best]
    for p, k in product((0.0, 1.0, 1.01, 1.05, 1.5, 2.0), (1, 2, 4)):
        figures[f"{part} fast_{p}@{k}"] = mean(mean(max(c) > p for c in combinations(t, min(k, len(t)))) for t in low)
    logs = [[log(min(e["cap"], e[part]["speedup"])) for e in task if e[part]] for task in best]
    figures[f"{part} all"] = exp(mean(sum(found) / len(task) for found, task in zip(logs, best, strict=True)))
    figures[f"{part} correct"] = exp(mean(mean(found) for found in logs if found))
near = [[e["op"]["roofline_us"] / e["op"]["candidate_us"] for e in t if e["ladder"] and e["cap"] > 1] for t in best]
right = sum(e["correct"] for task in best for e in task)
figures["tokens"] = sum(r["usage"]["prompt_tokens"] + r["usage"]["completion_tokens"] for r in rows) / right
figures["seconds"] = sum(r["seconds"] for r in rows) / right
print(json.dumps({**figures, "roofline": mean(map(mean, filter(None, near))) if any(near) else None}))
