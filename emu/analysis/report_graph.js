// The graph: a layer is the longest way from something that nobody needs; cycles are cut by the number of
// rounds. A layer that does not fit the card goes on in the next row.
const ACROSS = 7,
  DOWN = 64,
  GRAPH = 1100;
const names = [...new Set(D.objects.map((o) => o[0]).concat(D.edges.flatMap((e) => [e[0], e[1]])))];
function layers() {
  const layer = new Map(names.map((n) => [n, 0])),
    hard = D.edges.filter((e) => e[2] == "needed"),
    most = Math.min(names.length, 40);
  for (let k = 0; k < most; k++)
    for (const [by, needed] of hard)
      if (layer.get(needed) <= layer.get(by) && layer.get(by) < most - 1)
        layer.set(needed, layer.get(by) + 1);
  const rows = [];
  names.forEach((n) => (rows[layer.get(n)] ??= []).push(n));
  return rows
    .filter(Boolean)
    .flatMap((r) =>
      Array.from({ length: Math.ceil(r.length / ACROSS) }, (_, i) => r.slice(i * ACROSS, (i + 1) * ACROSS)),
    );
}
const place = new Map(),
  neighbours = new Map(names.map((n) => [n, new Set([n])])),
  nodes = new Map(),
  edges = [];
layers().forEach((row, j) =>
  row.forEach((n, i) => place.set(n, [(GRAPH * (i + 0.5)) / row.length, j * DOWN + 24])),
);
const graph = svg(
  "svg",
  { viewBox: `0 0 ${GRAPH} ${Math.max(...[...place.values()].map((p) => p[1]), 0) + 24}`, width: "100%" },
  $("graph"),
);
for (const [by, to, kind, count] of [...D.edges].reverse()) {
  const a = place.get(by),
    b = place.get(to),
    m = (a[1] + b[1]) / 2 + (a[1] == b[1] ? 40 : 0),
    d = `M${a[0]} ${a[1]}C${a[0]} ${m} ${b[0]} ${m} ${b[0]} ${b[1]}`,
    style = kind == "bound" ? " faint" : kind == "needed" ? "" : " dash";
  const p = svg("path", { d, class: "edge" + style }, graph);
  tip(p, `${by} → ${to}: ${kind}${count ? " " + count + " symbols" : ""}`);
  edges.push([p, by, to]);
  neighbours.get(by).add(to);
  neighbours.get(to).add(by);
}
names.forEach((n) => {
  const [a, b] = place.get(n),
    g = svg("g", { class: "node" }, graph);
  svg("rect", { x: a - 74, y: b - 13, width: 148, height: 26, rx: 6, class: "box" }, g);
  svg("text", { x: a, y: b + 4, "text-anchor": "middle" }, g, short(n).slice(0, 20));
  tip(g, n);
  nodes.set(n, g);
  g.onclick = () => {
    $("nodes").value = $("nodes").value == n ? "" : n;
    highlight();
  };
});
function highlight() {
  const f = $("nodes").value.toLowerCase(),
    picked = new Set(f ? names.filter((n) => n.toLowerCase().includes(f)) : []),
    near = new Set([...picked].flatMap((n) => [...neighbours.get(n)]));
  for (const [n, g] of nodes) {
    g.classList.toggle("away", f != "" && !near.has(n));
    g.classList.toggle("picked", picked.has(n));
  }
  for (const [p, by, to] of edges) p.classList.toggle("away", f != "" && !picked.has(by) && !picked.has(to));
  $("near").textContent = f
    ? `${picked.size} and ${near.size - picked.size} neighbours of ${names.length}`
    : "";
  root.dataset.near = near.size;
}
$("nodes").oninput = highlight;
root.dataset.graph = Math.round(
  graph.getBoundingClientRect().right - $("graph").getBoundingClientRect().right,
);
