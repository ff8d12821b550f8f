
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const body = byId("attempts").tBodies[0];
  const rows = [...body.rows];
  const data = (id) => { const found = byId(id); return found && JSON.parse(found.textContent); };

  // Text only ever becomes a text node: nothing that a kernel or a server wrote is parsed as HTML.
  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };

  // Sorting: by value, then by the order that rows began in.
  const order = new Map(rows.map((row, index) => [row, index]));
  const heads = [...document.querySelectorAll("#attempts thead th")];
  const value = (row, column) => row.cells[column].dataset.value;
  const sortBy = (column) => {
    const numeric = rows.every((row) => value(row, column) !== "" && !isNaN(value(row, column)));
    const was = heads[column].getAttribute("aria-sort");
    const up = was === "none" ? !numeric : was === "descending";
    const compare = (a, b) => numeric ? value(a, column) - value(b, column) : value(a, column).localeCompare(value(b, column));
    rows.sort((a, b) => (up ? compare(a, b) : compare(b, a)) || order.get(a) - order.get(b));
    body.append(...rows);
    heads.forEach((head, index) => head.setAttribute("aria-sort", index !== column ? "none" : up ? "ascending" : "descending"));
  };
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => sortBy(column)));

  // Filtering.
  const choices = ["level", "model", "verdict"].map((name) => [name, byId(name)]);
  const filter = () => {
    const words = byId("find").value.toLowerCase().split(/\s+/);
    let count = 0;
    for (const row of rows) {
      const text = row.cells[0].dataset.value.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word))
        || choices.some(([name, chosen]) => chosen.value && chosen.value !== row.dataset[name]);
      count += !row.hidden;
    }
    byId("shown").textContent = `${count} of ${rows.length}`;
  };
  const form = document.querySelector(".filters");
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  filter();

  // Kernels.
  const code = (runs, text) => {
    const lines = [[]];
    let at = 0;
    for (let i = 0; i < runs.length; i += 2) {
      text.slice(at, at + runs[i + 1]).split("\n").forEach((part, index) => {
        if (index) lines.push([]);
        if (part) lines[lines.length - 1].push(runs[i] ? make("span", { class: runs[i] }, part) : part);
      });
      at += runs[i + 1];
    }
    return lines;
  };
  const numbered = (number, mark, content, kind = "") =>
    make("span", { class: kind }, make("span", { class: "number", "aria-hidden": "true" }, number), mark, ...content, "\n");
  const source = (kernel) =>
    make("pre", { tabindex: "0", "aria-label": "Source" },
      ...code(kernel.runs, kernel.text).map((line, index) => numbered(String(index + 1), "", line)));
  const changes = (groups, before, after) => {
    const old = code(before.runs, before.text), now = code(after.runs, after.text);
    const lines = [];
    for (const group of groups) {
      if (lines.length) lines.push(make("span", { class: "gap" }, "⋯\n"));
      for (const [tag, i1, i2, j1, j2] of group) {
        if (tag === "equal") for (let j = j1; j < j2; j++) lines.push(numbered(String(j + 1), "  ", now[j]));
        else {
          for (let i = i1; i < i2; i++) lines.push(numbered("", "- ", old[i], "minus"));
          for (let j = j1; j < j2; j++) lines.push(numbered(String(j + 1), "+ ", now[j], "plus"));
        }
      }
    }
    return make("pre", { tabindex: "0", "aria-label": "Changes" }, ...(lines.length ? lines : ["no change"]));
  };

  // Timings.
  const ratio = (found) => `${found.speedup.toFixed(3)}x [${found.ci95.map((end) => end.toFixed(3)).join(", ")}]`;
  const number = (found, unit) => found === null ? "-" : `${found.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 })} ${unit}`;
  const table = (names, lines) => make("div", { class: "scroll" }, make("table", {},
    make("thead", {}, make("tr", {}, ...names.map((name) => make("th", { scope: "col" }, name)))),
    make("tbody", {}, ...lines.map((line) => make("tr", {}, ...line.map((cell) => make("td", {}, cell)))))));
  const timings = (turn) => {
    const lines = [];
    for (const rung of turn.ladder) {
      lines.push([rung.operator, ratio(rung), number(rung.baseline_us, "µs"), number(rung.candidate_us, "µs"), number(rung.roofline_us, "µs")]);
      for (const found of rung.cases) lines.push([`· ${found.phase} ${found.shapes} × ${found.calls}`,
        `${(found.baseline_us / found.candidate_us).toFixed(3)}x`, number(found.baseline_us, "µs"), number(found.candidate_us, "µs"), ""]);
    }
    if (turn.e2e) {
      const depth = turn.e2e.depth[0] === turn.e2e.depth[1] ? "" : ` (from ${turn.e2e.depth.join(" of ")} layers)`;
      lines.push([`the model${depth}`, ratio(turn.e2e), number(turn.e2e.baseline_ms, "ms"), number(turn.e2e.candidate_ms, "ms"), ""]);
      for (const [name, found] of Object.entries(turn.e2e.phases)) lines.push([`· ${name} × ${found.n}`,
        `${(found.baseline_ms / found.candidate_ms).toFixed(3)}x`, number(found.baseline_ms, "ms"), number(found.candidate_ms, "ms"), ""]);
    }
    return table(["measured", "speedup", "baseline", "candidate", "roofline"], lines);
  };

  // One turn.
  const titled = (title, node) => [make("h3", {}, title), node];
  const note = (text) => make("pre", { class: "note", tabindex: "0" }, text);
  const facts = (turn) => {
    const tokens = turn.usage.prompt_tokens + turn.usage.completion_tokens;
    const parts = [turn.verdict, `${turn.seconds.toFixed(1)} s`, `${tokens.toLocaleString("en")} tokens`];
    if (turn.reward !== undefined) parts.splice(1, 0, `reward (${turn.reward_kind}) ${turn.reward.toFixed(4)}`);
    if (turn.stable === false) parts.push("unstable timing");
    if (turn.correctness) parts.push(`error against the baseline's: RMS ×${turn.correctness.rms_error_ratio.toFixed(2)}, `
      + `max ×${turn.correctness.max_error_ratio.toFixed(2)} in ${turn.correctness.rounds} rounds`);
    return make("p", {}, parts.join(" · "));
  };
  const showTurn = (attempt, index) => {
    const turn = attempt.turns[index];
    const parts = [facts(turn)];
    if (turn.note) parts.push(...titled("Error", note(turn.note)));
    if (turn.warnings && turn.warnings.length) parts.push(...titled("Warnings", note(turn.warnings.join("\n"))));
    if (turn.e2e || (turn.ladder && turn.ladder.length)) parts.push(...titled("Timings", timings(turn)));
    if (turn.feedback) parts.push(...titled("Feedback", note(turn.feedback)));
    const kernel = turn.kernel && data(`kernel-${turn.kernel}`);
    if (kernel && turn.since !== null) {
      const before = attempt.turns.find((other) => other.turn === turn.since);
      parts.push(...titled(`Changes since turn ${turn.since + 1}`, turn.changes === null
        ? make("p", { class: "dim" }, "Too long to compare.") : changes(turn.changes, data(`kernel-${before.kernel}`), kernel)));
    }
    if (kernel) parts.push(...titled("Source", source(kernel)));
    if (turn.reply) parts.push(...titled("Reply", note(turn.reply)));
    byId("turn").replaceChildren(...parts);
    [...byId("turns").children].forEach((tab, other) => {
      tab.setAttribute("aria-selected", String(other === index));
      tab.tabIndex = other === index ? 0 : -1;
    });
  };

  // One attempt.
  const dialog = byId("detail");
  let open = null;
  const showAttempt = (row) => {
    open = row;
    const attempt = data(`attempt-${row.querySelector(".open").dataset.attempt}`);
    byId("detail-title").textContent = `${attempt.task} · sample ${attempt.sample + 1}`;
    byId("turns").replaceChildren(...attempt.turns.map((turn, index) => {
      const kind = turn.verdict === "ok" ? "good" : "bad";
      const tab = make("button", { type: "button", role: "tab", "aria-controls": "turn", class: kind }, `turn ${turn.turn + 1}: ${turn.verdict}`);
      tab.addEventListener("click", () => showTurn(attempt, index));
      return tab;
    }));
    showTurn(attempt, Math.max(0, attempt.turns.findIndex((turn) => turn.turn === attempt.best)));
    const seen = rows.filter((row) => !row.hidden);
    const ends = [[byId("previous"), seen[0]], [byId("next"), seen[seen.length - 1]]];
    for (const [button, end] of ends) {
      if (end === row && document.activeElement === button) byId("close").focus();
      button.disabled = end === row;
    }
    if (!dialog.open) {
      dialog.showModal();
      byId("turns").querySelector("[aria-selected=true]").focus();
    }
    dialog.scrollTop = 0;
  };
  const step = (by) => {
    const seen = rows.filter((row) => !row.hidden);
    const next = seen[seen.indexOf(open) + by];
    if (next) showAttempt(next);
  };
  body.addEventListener("click", (event) => {
    const button = event.target.closest(".open");
    if (button) showAttempt(button.closest("tr"));
  });
  byId("turns").addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const tabs = [...byId("turns").children];
    const next = by && tabs[tabs.indexOf(document.activeElement) + by];
    if (next) { next.focus(); next.click(); }
  });
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => open && open.querySelector(".open").focus());

  byId("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
})();
