// Events: only the rows in sight are elements.
const H = 20,
  view = $("view"),
  space = $("space");
let shown = [],
  picked = 0;
D.categories.forEach((c) => el("option", c, { value: c }, $("category")));
const nth = [],
  seen = D.categories.map(() => 0);
for (let i = 0; i < N; i++) nth.push(++seen[E[i * 5 + 3]]);
const quoted = (w) => (/^[\w@%+=:,.\/-]+$/.test(w) ? w : "'" + w.replaceAll("'", "'\\''") + "'");
// What goes to an event under gdb: it is counted in its category, as long as none was left out.
function command(i) {
  if (D !== ALL) return "";
  if (D.first_left_out && E[i * 5] >= D.first_left_out) return "";
  const words = [D.program, ...D.arguments].map(quoted).join(" ");
  return `emu gdb --at ${D.categories[E[i * 5 + 3]]}:${nth[i]} ${words}`;
}
const lower = D.strings.map((s) => s.toLowerCase());
function apply() {
  const f = $("filter").value.toLowerCase(),
    c = D.categories.indexOf($("category").value),
    ok = lower.map((s) => s.includes(f));
  shown = [];
  for (let i = 0; i < N; i++) if (ok[E[i * 5 + 4]] && (c < 0 || E[i * 5 + 3] == c)) shown.push(i);
  space.style.height = shown.length * H + "px";
  $("count").textContent = `${shown.length} of ${N}`;
  root.dataset.rows = shown.length;
  draw();
}
function draw() {
  view.querySelectorAll(".row").forEach((r) => r.remove());
  const a = Math.max(0, Math.floor(view.scrollTop / H) - 5),
    b = Math.min(shown.length, a + 40);
  for (let j = a; j < b; j++) {
    const o = shown[j] * 5;
    el(
      "div",
      [
        String(E[o]).padStart(7),
        (E[o + 1] / 1e9).toFixed(9),
        String(E[o + 2]).padStart(5),
        D.categories[E[o + 3]].padEnd(9) + " " + D.strings[E[o + 4]],
        ...(E[o] == picked ? ["  " + command(shown[j])] : []),
      ].join("  "),
      { class: E[o] == picked ? "row pick" : "row", style: "top:" + j * H + "px", title: command(shown[j]) },
      view,
    );
  }
}
function go(seq) {
  $("filter").value = "";
  $("category").value = "";
  picked = seq;
  apply();
  const j = row(seq);
  root.dataset.command = j >= 0 ? command(j) : "";
  if (j >= 0) view.scrollTop = Math.max(0, j * H - 100);
  $("events").scrollIntoView();
  draw();
}
view.onscroll = draw;
$("filter").oninput = apply;
$("category").onchange = apply;
function hash() {
  const [k, v] = decodeURIComponent(location.hash.slice(1)).split("=");
  if (k == "event") go(+v);
  if (k == "filter") {
    if (D.categories.includes(v)) $("category").value = v;
    else $("filter").value = v || "";
    apply();
  } else if (k == "why") why(+v);
  else if (k == "zoom") zoom(...v.split("-").map(Number));
  else if (k == "node") {
    $("nodes").value = v;
    highlight();
  } else if (k == "thread") {
    $("thread").value = TLS.findIndex((t) => t.thread == +v);
    storage(+$("thread").value);
  }
}
apply();
hash();
window.onhashchange = hash;
root.dataset.dark = matchMedia("(prefers-color-scheme: dark)").matches;
root.dataset.back = getComputedStyle(document.body).backgroundColor;
root.dataset.ready = Math.round(performance.now());
