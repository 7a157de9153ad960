// The life of every object: a row for each, a bar for each time that it was mapped. The axis is in event numbers.
// What is before the first constructor gets a quarter of it, unless that is asked for to scale; a part of the axis
// can be dragged over to be seen alone.
const X0 = 230,
  W = 880,
  ROW = 24,
  START_UP = 0.25;
const bars = svg("svg", { width: X0 + W + 20, height: D.objects.length * ROW + 28 }, $("bars"));
const whole = [0, Math.max(D.last, 1)];
let range = whole,
  scaled = false;
function x(seq) {
  const [a, b] = range,
    s = Math.min(Math.max(seq, a), b);
  if (scaled || range != whole || !D.started || D.started >= b || D.started / b <= START_UP)
    return X0 + (W * (s - a)) / (b - a);
  if (s <= D.started) return X0 + (W * START_UP * s) / D.started;
  return X0 + W * (START_UP + ((1 - START_UP) * (s - D.started)) / (b - D.started));
}
function seqAt(px) {
  let a = range[0],
    b = range[1];
  while (b - a > 0.5) {
    const m = (a + b) / 2;
    if (x(m) < px) a = m;
    else b = m;
  }
  return Math.round(a);
}
// Bars that would fall into one pixel become one.
function drawLives() {
  bars.replaceChildren();
  const kinds = { life: [], late: [] },
    put = (c, o, a, b, i) => (kinds[c][o] ??= []).push([a, b ?? D.last, i, b]);
  D.objects.forEach(([n, ns], o) =>
    svg("text", { x: 0, y: o * ROW + 18 }, bars, short(n).slice(0, 30) + (ns ? " [" + ns + "]" : "")),
  );
  L.forEach((l, i) => {
    put("life", l.object, l.from, l.to, i);
    l.deferred.forEach((d) => put("late", l.object, d[0], d[1], i));
  });
  for (let k = 0; k < D.spans.length; k += 3) put("life", D.spans[k], D.spans[k + 1], D.spans[k + 2], -1);
  for (const c in kinds) kinds[c].forEach((list, o) => drawRow(c, list, o));
  const y = D.objects.length * ROW + 18;
  for (const seq of [
    range[0],
    ...(D.started > range[0] && D.started < range[1] ? [D.started] : []),
    range[1],
  ])
    svg("text", { x: x(seq), y, "text-anchor": "middle", class: "tick" }, bars, "#" + seq);
  if (D.started > range[0] && D.started < range[1])
    tip(
      svg("line", { x1: x(D.started), x2: x(D.started), y1: 0, y2: y - 12, class: "edge dash" }, bars),
      "the first constructor",
    );
  root.dataset.axis = `${range[0]}-${range[1]}`;
  root.dataset.share = (((X0 + W - x(D.started)) / W) * 100).toFixed(0);
}
function drawRow(c, list, o) {
  let last = null;
  const n = D.objects[o][0];
  for (const [a, b, i, to] of list.sort((p, q) => p[0] - q[0])) {
    if (b < range[0] || a > range[1]) continue;
    if (last && x(a) < last.end && i != last.i) {
      last.end = Math.max(x(b), last.end);
      last.r.setAttribute("width", last.end - last.at);
      continue;
    }
    const width = Math.max(x(b) - x(a), 2),
      at = { x: x(a), y: o * ROW + 4, width, height: 18, rx: 3, class: c, "data-i": i };
    const r = svg("rect", at, bars);
    last = { r, at: x(a), end: x(a) + width, i };
    tip(r, `${n}: ${c == "late" ? "deferred " : ""}event ${a} to ${to ?? "the end"}`);
    if (i >= 0) r.onclick = () => why(i);
  }
}
function zoom(a, b) {
  range = b - a < 1 ? whole : [Math.max(a, 0), Math.min(b, whole[1])];
  if (range[0] <= whole[0] && range[1] >= whole[1]) range = whole;
  drawLives();
}
let from = null;
const pxOf = (e) => e.clientX - bars.getBoundingClientRect().left;
bars.onmousedown = (e) => {
  if (pxOf(e) >= X0) from = pxOf(e);
  e.preventDefault();
};
window.addEventListener("mouseup", (e) => {
  if (from != null && Math.abs(pxOf(e) - from) > 5)
    zoom(seqAt(Math.min(from, pxOf(e))), seqAt(Math.max(from, pxOf(e))) + 1);
  from = null;
});
bars.ondblclick = () => zoom(0, 0);
$("zoom-out").onclick = () => zoom(0, 0);
$("scale").onchange = () => {
  scaled = $("scale").checked;
  drawLives();
};
$("scale").parentNode.hidden = !D.started || D.started / whole[1] <= START_UP;
drawLives();
if (D.lives.left_out) $("spans").textContent = ` ${D.lives.left_out} later bars have no reasons.`;
root.dataset.deferred = [
  ...new Set(L.filter((l) => l.deferred.length).map((l) => short(D.objects[l.object][0]))),
].join(" ");
