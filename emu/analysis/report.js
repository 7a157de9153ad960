"use strict";
const root = document.documentElement;
window.onerror = (m) => {
  root.dataset.error = String(m);
};
const ALL = JSON.parse(document.getElementById("data").textContent),
  PROCESSES = [ALL, ...ALL.processes.rows],
  WHICH = Number(new URLSearchParams(location.search).get("process")) || 0,
  D = PROCESSES[WHICH] || ALL,
  $ = (i) => document.getElementById(i),
  NS = "http://www.w3.org/2000/svg";
const LONG = 240;
const short = (n) => n.split("/").pop() || n;
// Names come from the guest: they only ever become text nodes and attribute values.
function el(tag, text, at, parent) {
  const e = document.createElement(tag);
  if (text != null) e.textContent = text;
  for (const k in at || {}) e.setAttribute(k, at[k]);
  if (parent) parent.append(e);
  return e;
}
function svg(tag, at, parent, text) {
  const e = document.createElementNS(NS, tag);
  for (const k in at) e.setAttribute(k, at[k]);
  if (text != null) e.textContent = text;
  parent.append(e);
  return e;
}
function tip(e, text) {
  svg("title", {}, e, text);
}
function table(parent, heads, rows) {
  const t = el("table", null, {}, parent),
    h = el("tr", null, {}, t);
  heads.forEach((x) => el("th", x, {}, h));
  rows.forEach((r) => {
    const tr = el("tr", null, {}, t);
    r.forEach((c) => {
      const td = el("td", null, {}, tr);
      if (c && c.event) link(td, c.event);
      else td.textContent = c == null ? "–" : c;
    });
  });
}
const E = D.events,
  N = E.length / 5;
function row(seq) {
  let a = 0,
    b = N;
  while (a < b) {
    const m = (a + b) >> 1;
    if (E[m * 5] < seq) a = m + 1;
    else b = m;
  }
  return a < N && E[a * 5] == seq ? a : -1;
}
function link(parent, seq) {
  if (row(seq) < 0) el("span", "#" + seq, { title: "not listed", class: "dim" }, parent);
  else el("button", "#" + seq, {}, parent).onclick = () => go(seq);
}
function more(parent, n, what) {
  if (n) el("p", `${n} more ${what} are left out.`, {}, parent);
}
const ev = (n) => (n == null ? null : { event: n });
$("title").textContent = D.program;
$("ended").textContent = `${D.ended}; ${D.seen} events` + (N < D.seen ? `, of which ${N} are listed` : "");
$("made").textContent =
  `${[D.program, ...D.arguments].join(" ")} — emu ${D.version}` + (D.built ? `; built ${D.built}` : "");
if (PROCESSES.length > 1) {
  const s = $("process");
  s.parentNode.hidden = false;
  PROCESSES.forEach((p, i) => {
    const who = i ? `process ${p.process}, child of ${p.parent}` : "the first process",
      found = p.findings.rows.length + p.findings.left_out,
      e = el("option", `${who}: ${p.program} (${p.ended})${found ? `, findings: ${found}` : ""}`, { value: i }, s);
    e.selected = p === D;
  });
  s.onchange = () => (location.search = "?process=" + s.value);
  more(s.parentNode, ALL.processes.left_out, "processes");
}
root.dataset.process = D.process;
const BEYOND =
  "; from there on those of bindings, reloc, syscalls and sched are not, nor, when there was no more room, " +
  "the others. --max-events lists more; emu run --trace all --trace-output FILE writes all.";
if (N < D.seen)
  $("left").textContent = `Left out: ${Object.entries(D.left_out)
    .map(([c, n]) => n + " of " + c)
    .join(
      ", ",
    )}. All events before #${D.first_left_out} are listed${BEYOND}`;
root.dataset.left = D.seen - N;
// Findings.
const L = D.lives.rows;
function life(name, seq) {
  let at = -1;
  L.forEach((l, i) => {
    if (D.objects[l.object][0] == name && (at < 0 || l.from <= seq)) at = i;
  });
  return at;
}
{
  const s = $("findings"),
    F = D.findings.rows;
  root.dataset.findings = F.length;
  el(
    "p",
    F.length
      ? `${F.length + D.findings.left_out} finding${F.length > 1 ? "s" : ""} by the default rules of emu check.`
      : "No findings by the default rules of emu check.",
    {},
    s,
  );
  const P = D.failures.rows;
  root.dataset.failures = P.length;
  const list = (d, title, lines) => {
    if (!lines || !lines.length) return;
    el("div", title, { class: "dim" }, d);
    const u = el("ul", null, {}, d);
    lines.forEach((t) => folded(t, el("li", null, {}, u)));
  };
  for (const f of [...F, ...P]) {
    const d = el("div", null, { class: "finding " + f.severity }, s),
      h = el("div", null, {}, d);
    el("b", `${f.severity} [${f.rule}] `, {}, h);
    if (f.message.length > LONG) folded(f.message, h);
    else h.append(f.message + " ");
    link(h, f.event);
    if (f.objects.length) {
      const o = el("div", "about ", { class: "dim" }, d);
      f.objects.forEach((n) => {
        const i = life(n, f.event);
        if (i < 0) o.append(n);
        else
          el("button", n, {}, o).onclick = () => {
            why(i);
            $("lives").scrollIntoView();
          };
        o.append(" ");
      });
    }
    const frames = (t, n, e, l) => {
      if (!l.length) return;
      if (t) {
        const p = el("div", `${t} (thread ${n}) `, {}, d);
        if (e) link(p, e);
      } else el("div", `thread ${n}`, { class: "dim" }, d);
      el("pre", l.join("\n"), {}, d);
    };
    frames("", f.thread, 0, f.frames);
    f.related.forEach((r) => frames(r.title, r.thread, r.event, r.frames));
    list(d, "why", f.story);
    list(d, "what would help (not tried here)", f.remedies);
  }
  more(s, D.findings.left_out, "findings");
}
// A line that is longer than anybody reads at once is folded behind its beginning.
function folded(text, parent) {
  if (text.length <= LONG) return el("div", text, {}, parent);
  const d = el("details", null, {}, parent);
  el("summary", text.slice(0, LONG - 40) + "…", {}, d);
  el("div", text, {}, d);
  return d;
}
function why(i) {
  const l = L[i],
    w = $("why");
  w.hidden = false;
  w.replaceChildren();
  el("b", D.objects[l.object][0], {}, w);
  const line = (t) => folded(t, w),
    say = (k) => {
      k.reasons.forEach((r) => line("  • " + r));
      if (k.remedies.length) line("  would let it go: " + k.remedies.join("; "));
    };
  const at = line("mapped at " + l.start + " ");
  link(at, l.from);
  if (l.to) {
    at.append(", unmapped ");
    link(at, l.to);
  }
  l.kept.forEach(([s, k]) => {
    const d = line("kept at ");
    link(d, s);
    say(k);
  });
  if (l.kept_left_out) line(`and ${l.kept_left_out} times more`);
  if (l.end) {
    line("there at the end:");
    say(l.end);
  }
}
// Destructors.
const byThread = new Map(D.threads),
  T = D.destructors.rows;
if (!T.length) el("p", "None was registered.", {}, $("dtors"));
for (const t of new Set(T.map((d) => d.thread))) {
  el("h3", `thread ${t} ${byThread.get(t) || ""}`, {}, $("dtors"));
  table(
    $("dtors"),
    ["registered", "run", "done", "function", "object", "owner"],
    T.filter((d) => d.thread == t).map((d) => [
      ev(d.registered),
      ev(d.run),
      ev(d.done),
      d.function,
      d.object,
      short(d.owner),
    ]),
  );
}
more($("dtors"), D.destructors.left_out, "destructors");
for (const k of ["init", "fini"]) {
  el("h3", k == "init" ? "Constructors" : "Finalizers", {}, $("order"));
  table(
    $("order"),
    ["event", "object", "kind", "function"],
    D.order[k].rows.map((r) => [ev(r[0]), short(r[1]), r[2], r[3]]),
  );
  more($("order"), D.order[k].left_out, "calls");
}
for (const k of ["before", "after"]) {
  const d = el("details", null, {}, $("memory")),
    o = new Set(D[k == "before" ? "after" : "before"].rows.map(String));
  el("summary", `${k}: ${D[k].rows.length + D[k].left_out} areas`, {}, d);
  table(
    d,
    ["start", "end", "", "name", ""],
    D[k].rows.map((r) => [
      ...r,
      o.has(String(r)) ? "" : k == "before" ? "gone or changed" : "new or changed",
    ]),
  );
  more(d, D[k].left_out, "areas");
}
// TLS of one thread, from low to high addresses: the blocks below the thread pointer, the TCB at it; then the
// blocks elsewhere.
const TLS = D.tls.threads,
  Y = D.tls.layout;
$("static").textContent = TLS.length
  ? `Static area: ${Y.used} of ${Y.size - Y.tcb} bytes below the thread pointer used ` +
    `(${Y.surplus} were set aside for later modules), TCB of ${Y.tcb} bytes, aligned to ${Y.align}. ` +
    `Newest generation: ${Y.generation}.`
  : "There is no dynamic linker, or no thread has a thread pointer.";
TLS.forEach((t, i) =>
  el(
    "option",
    `thread ${t.thread} ${t.name}` + (t.ended ? `, as it ended at #${t.ended}` : ", at the end of the run"),
    { value: i },
    $("thread"),
  ),
);
if (D.tls.left_out) more($("tls"), D.tls.left_out, "threads");
function storage(i) {
  const t = TLS[i],
    b = $("blocks");
  b.replaceChildren();
  root.dataset.storage = t ? t.thread : "";
  if (!t) return;
  $("storage").textContent =
    `thread pointer ${t.pointer}; DTV at ${t.dtv}, ${t.length} entries, generation ${t.generation}` +
    (t.generation < Y.generation ? " (out of date: brought up to date on the next access)" : "");
  const low = t.blocks.filter((m) => m[4] > 0).sort((p, q) => q[4] - p[4]);
  const heads = ["place", "module", "object", "size", "align", "block", "DTV entry", "allocated by"];
  table(
    b,
    heads,
    low
      .map((m) => ["fs-0x" + m[4].toString(16), m[0], short(m[1]), m[2], m[3], m[5], m[6], "with the thread"])
      .concat(
        [["fs+0", "", "TCB (struct pthread)", Y.tcb, Y.align, t.pointer, "", ""]],
        t.blocks
          .filter((m) => m[4] <= 0)
          .map((m) => [
            "dynamic",
            m[0],
            short(m[1]) || "(gone)",
            m[2] || "",
            m[3] || "",
            m[5] ?? "none yet",
            m[6],
            ev(m[7]),
          ]),
      ),
  );
}
$("thread").onchange = () => storage(+$("thread").value);
$("thread").hidden = !TLS.length;
storage(0);
