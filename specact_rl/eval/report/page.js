"use strict";

// What the page can do beyond being read: move a threshold, filter the mistakes, open folds.
// Everything is drawn from the JSON in the page; nothing is loaded and nothing is kept.

const MIN_ACCEPTED = 10; // a risk among fewer is mostly noise
const WIDTH = 380, HEIGHT = 250;
const MARGIN = { left: 44, right: 22, top: 10, bottom: 38 };
const ROWS = [
  ["accept_rate", "accepted", percent],
  ["selective_risk", "wrong among accepted", percent],
  ["acceptable", "acceptable", percent],
  ["relative_flops", "FLOPs, × A", ratio],
  ["assumed_cost", "assumed cost", ratio],
  ["strong_calls", "strong calls", percent],
];

const byId = (id) => document.getElementById(id);

function percent(value) {
  return value === null ? "–" : `${(100 * value).toFixed(1)} %`;
}

function ratio(value) {
  return value === null ? "–" : value.toFixed(2);
}

function threshold(value) {
  return value === null ? "none" : value.toFixed(3);
}

// ---------------------------------------------------------------- plots

function element(name, attributes, parent) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  parent.append(made);
  return made;
}

// Round numbers that divide [low, high] into about four parts.
function ticks(low, high) {
  const rough = (high - low) / 4 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((size) => size * power >= rough * 0.999);
  const found = [];
  for (let t = Math.ceil(low / step - 1e-9) * step; t <= high + 1e-9 * step; t += step) found.push(t);
  return found;
}

// lines: {points: [[x, y] or null], kind, label}; marks: {x, y, kind, label}; null leaves a gap.
function plot(svg, { x, y, lines, marks, guide }) {
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  const right = WIDTH - MARGIN.right, bottom = HEIGHT - MARGIN.bottom;
  const toX = (v) => MARGIN.left + ((v - x.low) / (x.high - x.low)) * (right - MARGIN.left);
  const toY = (v) => bottom - ((v - y.low) / (y.high - y.low)) * (bottom - MARGIN.top);
  for (const t of ticks(x.low, x.high)) {
    element("line", { class: "grid", x1: toX(t), x2: toX(t), y1: MARGIN.top, y2: bottom }, svg);
    const text = element("text", { class: "tick", x: toX(t), y: bottom + 15, "text-anchor": "middle" }, svg);
    text.textContent = x.show(t);
  }
  for (const t of ticks(y.low, y.high)) {
    element("line", { class: "grid", x1: MARGIN.left, x2: right, y1: toY(t), y2: toY(t) }, svg);
    const text = element("text", { class: "tick", x: MARGIN.left - 6, y: toY(t) + 4, "text-anchor": "end" }, svg);
    text.textContent = y.show(t);
  }
  element("path", { class: "frame line", d: `M${MARGIN.left} ${MARGIN.top}V${bottom}H${right}`, "stroke-width": 1 }, svg);
  const title = element("text", { x: (MARGIN.left + right) / 2, y: HEIGHT - 5, "text-anchor": "middle" }, svg);
  title.textContent = x.label;
  for (const { points, kind } of lines) {
    let path = "", open = false;
    for (const point of points) {
      if (point) path += `${open ? "L" : "M"}${toX(point[0]).toFixed(1)} ${toY(point[1]).toFixed(1)}`;
      open = Boolean(point);
    }
    element("path", { class: `line ${kind}`, d: path || "M0 0" }, svg);
  }
  if (guide !== null && guide !== undefined) {
    element("line", { class: "guide", x1: toX(guide), x2: toX(guide), y1: MARGIN.top, y2: bottom }, svg);
  }
  for (const { x: a, y: b, kind, label } of marks) {
    if (a === null || b === null) continue;
    const [cx, cy] = [toX(a), toY(b)];
    if (kind === "frozen") {
      element("path", { class: kind, d: `M${cx} ${cy - 7}l7 7l-7 7l-7 -7z` }, svg);
    } else {
      element("circle", { class: kind, cx, cy, r: kind === "here" ? 5 : 3 }, svg);
    }
    if (label) {
      const beside = cx > right - 50 ? [cx - 6, "end"] : [cx + 6, "start"];
      const text = element("text", { class: "tick", x: beside[0], y: cy - 5, "text-anchor": beside[1] }, svg);
      text.textContent = label;
    }
  }
  legend(svg.nextElementSibling, lines);
}

function legend(place, lines) {
  place.replaceChildren();
  for (const { kind, label } of lines.filter((line) => line.label)) {
    const entry = document.createElement("span");
    const key = element("svg", { class: `key ${kind}`, viewBox: "0 0 26 8", "aria-hidden": "true" }, entry);
    element("path", { d: "M0 4H26" }, key);
    entry.append(label);
    place.append(entry, " ");
  }
}

// An axis over all the numbers there are, with a little room at both ends.
function axis(numbers, label, show, { from, to } = {}) {
  const known = numbers.filter((value) => value !== null && value !== undefined);
  const low = Math.min(from ?? Infinity, ...known), high = Math.max(to ?? -Infinity, ...known);
  const start = Number.isFinite(low) ? low : 0;
  const end = high > start ? high : start + 1; // nothing known, or one number only
  const room = 0.04 * (end - start);
  return { label, show, low: from === undefined ? start - room : start, high: to === undefined ? end + room : end };
}

const shareTick = (value) => `${Math.round(100 * value)} %`;
const plainTick = (value) => String(Number(value.toFixed(2)));

// ---------------------------------------------------------------- explorer

function startExplorer() {
  const tool = byId("explorer");
  if (!tool) return;
  const data = JSON.parse(byId("explorer-data").textContent);
  const system = byId("explorer-system"), cost = byId("explorer-cost"), slider = byId("explorer-threshold");
  for (const { name, title } of data.systems) system.append(new Option(`${name} ${title}`, name));
  const costTitles = new Map(data.costs);
  for (const [key, title] of costTitles) cost.append(new Option(title, key));
  const current = () => data.systems.find(({ name }) => name === system.value);

  function choose(name, place) {
    system.value = name;
    const chosen = current();
    slider.max = chosen.threshold.length - 1;
    slider.value = place ?? chosen.frozen;
  }

  function draw() {
    const chosen = current(), i = Number(slider.value), frozen = chosen.frozen;
    const exploring = i !== frozen;
    slider.setAttribute(
      "aria-valuetext",
      `threshold ${threshold(chosen.threshold[i])}, ${percent(chosen.accept_rate[i])} accepted`,
    );
    const state = byId("explorer-state");
    state.classList.toggle("exploring", exploring);
    state.textContent = exploring
      ? `Exploration on test data, not a result: threshold ${threshold(chosen.threshold[i])} ` +
        `accepts ${percent(chosen.accept_rate[i])}, of which ${percent(chosen.selective_risk[i])} ` +
        `are wrong; ${percent(chosen.acceptable[i])} of steps acceptable.`
      : `Frozen threshold ${threshold(chosen.threshold[i])}, chosen on the calibration split: a result.`;
    byId("explorer-frozen").disabled = !exploring;
    numbers(chosen, i);
    drawRisk(chosen, i);
    drawFrontier(chosen, i);
    drawThreshold(chosen, i);
  }

  function numbers(chosen, i) {
    const body = byId("explorer-numbers").tBodies[0];
    body.replaceChildren();
    const add = (key, cells) => {
      const row = body.insertRow();
      row.dataset.key = key;
      cells.forEach((text, j) => {
        const cell = row.insertCell();
        cell.textContent = text;
        if (j === 0) cell.className = "word";
      });
    };
    add("threshold", ["threshold", threshold(chosen.threshold[chosen.frozen]), "", threshold(chosen.threshold[i])]);
    add("num_accepted", ["accepted steps", chosen.num_accepted[chosen.frozen], `of ${chosen.n}`, chosen.num_accepted[i]]);
    for (const [key, label, show] of ROWS) {
      const values = chosen[key];
      if (!values) continue;
      const ends = chosen.intervals[key];
      add(key, [label, show(values[chosen.frozen]), ends ? `${show(ends[0])} to ${show(ends[1])}` : "", show(values[i])]);
    }
  }

  const risks = (s) =>
    s.accept_rate.map((rate, i) =>
      s.num_accepted[i] < MIN_ACCEPTED || s.selective_risk[i] === null ? null : [rate, s.selective_risk[i]],
    );
  const pairs = (xs, ys) => (xs && ys ? xs.map((x, i) => (ys[i] === null ? null : [x, ys[i]])) : []);
  const marks = (xs, ys, { frozen }, i) => [
    { x: xs[frozen], y: ys[frozen], kind: "frozen" },
    { x: xs[i], y: ys[i], kind: "here" },
  ];

  function drawRisk(chosen, i) {
    const all = data.systems.flatMap((s) => risks(s).filter(Boolean).map(([, risk]) => risk));
    plot(byId("plot-risk"), {
      x: axis([], "accepted", shareTick, { from: 0, to: 1 }),
      y: axis([...all, chosen.selective_risk[i]], "", shareTick, { from: 0 }),
      lines: [
        ...data.systems
          .filter((s) => s !== chosen)
          .map((s, j) => ({ points: risks(s), kind: "other", label: j ? "" : "other systems" })),
        { points: risks(chosen), kind: "main", label: chosen.name },
      ],
      marks: marks(chosen.accept_rate, chosen.selective_risk, chosen, i),
    });
  }

  function drawFrontier(chosen, i) {
    const key = chosen[cost.value] ? cost.value : "strong_calls";
    const xs = chosen[key];
    const points = data.points.filter((p) => p[key] !== null && p.acceptable !== null && p.name !== chosen.name);
    const lines = [
      { points: pairs(xs, chosen.oracle_gate), kind: "oracle", label: "best possible gate" },
      { points: pairs(xs, chosen.random_gate), kind: "random", label: "random gate" },
      { points: pairs(xs, chosen.worst_gate), kind: "worst", label: "worst gate" },
      { points: pairs(xs, chosen.acceptable), kind: "main", label: chosen.name },
    ];
    const ys = [...lines.flatMap((line) => line.points.filter(Boolean).map(([, y]) => y))];
    plot(byId("plot-frontier"), {
      x: axis([...xs, ...points.map((p) => p[key])], costTitles.get(key), key === "strong_calls" ? shareTick : plainTick, { from: 0 }),
      y: axis([...ys, ...points.map((p) => p.acceptable)], "", shareTick),
      lines,
      marks: [
        ...points.map((p) => ({ x: p[key], y: p.acceptable, kind: "point", label: p.name.length < 3 ? p.name : "" })),
        ...marks(xs, chosen.acceptable, chosen, i),
      ],
    });
  }

  function drawThreshold(chosen, i) {
    const at = chosen.threshold.map((value) => Math.min(value ?? 1, 1));
    const shown = at.map((x, j) => (risks(chosen)[j] ? [x, chosen.selective_risk[j]] : null));
    plot(byId("plot-threshold"), {
      x: axis([], "threshold on the calibrated probability", plainTick, { from: 0, to: 1 }),
      y: axis([], "", shareTick, { from: 0, to: 1 }),
      lines: [
        { points: pairs(at, chosen.accept_rate), kind: "main", label: "accepted" },
        { points: pairs(at, chosen.acceptable), kind: "right", label: "acceptable" },
        { points: shown, kind: "risk", label: "wrong among accepted" },
      ],
      marks: ["accept_rate", "acceptable", "selective_risk"].flatMap((key) => marks(at, chosen[key], chosen, i)),
      guide: at[i],
    });
  }

  // The address keeps the threshold's value, not its place, so that it outlives another grid.
  function remember() {
    const chosen = current(), i = Number(slider.value);
    const state = new URLSearchParams({ system: system.value, cost: cost.value });
    if (i !== chosen.frozen) state.set("threshold", chosen.threshold[i] ?? "none");
    history.replaceState(null, "", `#explorer&${state}`);
  }

  function recall() {
    const state = new URLSearchParams(location.hash.replace(/^#explorer&?/, ""));
    if (!location.hash.startsWith("#explorer&")) return false;
    const chosen = data.systems.find(({ name }) => name === state.get("system")) ?? data.systems[0];
    choose(chosen.name, place(chosen, state.get("threshold")));
    if (costTitles.has(state.get("cost"))) cost.value = state.get("cost");
    return true;
  }

  function place(chosen, wanted) {
    if (wanted === null) return chosen.frozen;
    const value = Number(wanted);
    if (!Number.isFinite(value)) return 0;
    const far = chosen.threshold.map((t) => Math.abs((t ?? Infinity) - value));
    return far.indexOf(Math.min(...far));
  }

  const preferred = data.systems.find(({ name }) => name === "D") ?? data.systems[0];
  choose(preferred.name);
  const update = () => { draw(); remember(); };
  system.addEventListener("change", () => { choose(system.value); update(); });
  cost.addEventListener("change", update);
  slider.addEventListener("input", update);
  byId("explorer-frozen").addEventListener("click", () => { slider.value = current().frozen; update(); });
  const fromAddress = () => { const found = recall(); draw(); if (found) tool.scrollIntoView(); };
  tool.hidden = false;
  byId("explorer-tables").open = false;
  window.addEventListener("hashchange", fromAddress);
  fromAddress();
}

// ---------------------------------------------------------------- mistakes

function startMistakes() {
  const list = byId("mistakes");
  if (!list) return;
  const each = 20, items = [...list.children];
  const texts = items.map((item) => item.textContent.toLowerCase());
  let page = 0;

  function show() {
    const group = byId("mistakes-group").value, type = byId("mistakes-type").value;
    const wanted = byId("mistakes-search").value.trim().toLowerCase();
    const found = items.filter(
      (item, i) =>
        (!group || item.dataset.group === group) &&
        (!type || item.dataset.type === type) &&
        texts[i].includes(wanted),
    );
    const last = Math.max(0, Math.ceil(found.length / each) - 1);
    page = Math.min(page, last);
    const shown = new Set(found.slice(page * each, (page + 1) * each));
    for (const item of items) item.hidden = !shown.has(item);
    byId("mistakes-before").disabled = page === 0;
    byId("mistakes-after").disabled = page === last;
    byId("mistakes-count").textContent = found.length
      ? `${page * each + 1} to ${page * each + shown.size} of ${found.length}`
      : "none";
  }

  const restart = () => { page = 0; show(); };
  for (const id of ["mistakes-group", "mistakes-type", "mistakes-search"]) byId(id).addEventListener("input", restart);
  byId("mistakes-before").addEventListener("click", () => { page -= 1; show(); });
  byId("mistakes-after").addEventListener("click", () => { page += 1; show(); });
  byId("mistakes-controls").addEventListener("submit", (event) => event.preventDefault());
  byId("mistakes-controls").hidden = false;
  list.classList.add("paged");
  show();
}

// ---------------------------------------------------------------- folds

function openTarget() {
  const target = byId(decodeURIComponent(location.hash.slice(1)));
  const fold = target?.querySelector(":scope > details.fold");
  if (fold) fold.open = true;
}

startExplorer();
startMistakes();
window.addEventListener("hashchange", openTarget);
window.addEventListener("beforeprint", () => document.querySelectorAll("details.fold").forEach((fold) => { fold.open = true; }));
openTarget();
