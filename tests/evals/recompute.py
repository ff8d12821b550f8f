"""A run's figures straight from its rollouts.jsonl, sharing no code with the package: `recompute.py FILE`."""

import json
import sys
from itertools import combinations
from math import exp, log
from statistics import mean

tasks, tokens, seconds = {}, 0, 0.0
for row in map(json.loads, open(sys.argv[1])):
    tokens += row["usage"]["prompt_tokens"] + row["usage"]["completion_tokens"]
    seconds += row["seconds"]
    judged = row["evaluation"] or {"correct": False, "reward": 0, "verdict": "no_candidate"}
    if judged["verdict"] == "infra_error":
        continue
    if judged["correct"]:
        judged["own"] = judged["e2e"] if row["task"].startswith("L4/") else judged["ladder"][0]
        judged["solid"] = judged["verdict"] == "ok" and judged["stable"]
        for part in (judged["e2e"], judged["own"]):
            cap = 1e9 if judged["solid"] else 1.0
            part["low"], part["log"] = min(cap, part["ci95"][0]), log(min(cap, part["speedup"]))
    tasks.setdefault(row["task"], {}).setdefault(row["sample"], []).append(judged)
best = [[max(s, key=lambda e: (bool(e["correct"]), e["reward"])) for s in task.values()] for task in tasks.values()]
solved = [[e for e in task if e["correct"]] for task in best if any(e["correct"] for e in task)]


def fast(p, part="own", k=1):
    good = [[bool(e["correct"]) and (p == 0 or e[part]["low"] > p) for e in task] for task in best]
    return mean(mean(any(drawn) for drawn in combinations(task, k)) for task in good)


def reached(task):
    return [e["own"]["roofline_us"] / e["own"]["candidate_us"] for e in task if e["solid"] and e["ladder"]]


figures = {
    "fast_p": {p: fast(p) for p in (0.0, 1.0, 1.5, 2.0)},
    "fast_p_e2e": {p: fast(p, "e2e") for p in (1.0, 1.01, 1.05)},
    "fast_1_at": {k: fast(1.0, k=k) for k in (1, 2, 4) if k <= min(map(len, best))},
    "pass_at": {k: fast(0.0, k=k) for k in (1, 2, 4) if k <= min(map(len, best))},
    "op_speedup": exp(mean(mean(e["own"]["log"] for e in task) for task in solved)),
    "e2e_speedup_all": exp(mean(mean(e["e2e"]["log"] if e["correct"] else 0 for e in task) for task in best)),
    "roofline": mean(mean(reached(task)) for task in solved if reached(task)),
    "tokens": tokens / sum(map(len, solved)),
    "seconds": seconds / sum(map(len, solved)),
}
print(json.dumps(figures))
