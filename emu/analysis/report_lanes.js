// The schedule: a lane for each thread, steps from left to right, a mark where a thread loses the CPU, and lines
// between what meets.
const S = D === ALL ? ALL.schedule : null;
root.dataset.lanes = 0;
if (S && S.rows.length) {
  const card = $("schedule"),
    R = S.rows,
    STEP = R.length > 400 ? 6 : 14,
    LANE = 64,
    LEFT = 150,
    tids = [...new Set(R.map((r) => r[0]))].sort((a, b) => a - b),
    X = (i) => LEFT + (i + 0.5) * STEP,
    Y = (tid) => 34 + tids.indexOf(tid) * LANE,
    named = new Map(D.threads),
    picture = svg("svg", { width: X(R.length) + 30, height: tids.length * LANE + 10 }, $("lanes")),
    told = $("told"),
    who = (i) => `thread ${R[i][0]}: ${R[i][1] || "goes on"}${R[i][2] ? " in " + R[i][2] : ""}`;
  document.querySelectorAll(".scheduled").forEach((e) => (e.hidden = false));
  const say = (lines, event) => {
    told.replaceChildren();
    lines.forEach((t) => folded(t, told));
    if (event) link(told, event);
  };
  for (const tid of tids) {
    svg("text", { x: 4, y: Y(tid) + 4 }, picture, `${tid} ${(named.get(tid) || "").slice(0, 12)}`);
    svg("line", { x1: LEFT, x2: X(R.length), y1: Y(tid), y2: Y(tid), class: "lane" }, picture);
  }
  for (let i = 0, from = 0; i < R.length; i++)
    if (i + 1 == R.length || R[i + 1][0] != R[i][0]) {
      const at = { x: X(from) - STEP / 2, y: Y(R[i][0]) - 6, width: (i - from + 1) * STEP, height: 12, class: "turn" };
      svg("rect", at, picture);
      from = i + 1;
    }
  // What a thread was about to do when it lost the CPU: it does that in its next turn.
  const near = new Set(S.preemptions.map((p) => R.findIndex((r, i) => i >= p.at && r[0] == p.thread && r[1])));
  const lines = S.conflicts.map((c) => {
    const [a, b] = c.rows,
      x = (X(a) + X(b)) / 2,
      style = c.race ? "race" : near.has(a) || near.has(b) ? "meets" : "meets weak",
      d = `M${X(a)} ${Y(R[a][0])}C${x} ${Y(R[a][0])} ${x} ${Y(R[b][0])} ${X(b)} ${Y(R[b][0])}`,
      path = svg("path", { d, class: style }, picture);
    tip(path, `${c.race ? "data race on" : "in this order:"} ${c.of}\n${c.first}\n${c.second}`);
    path.onclick = () => say([`${c.of}:`, `thread ${R[a][0]}: ${c.first}`, `thread ${R[b][0]}: ${c.second}`]);
    return path;
  });
  R.forEach((r, i) => {
    const dot = svg("circle", { cx: X(i), cy: Y(r[0]), r: r[1] ? Math.min(4, STEP / 3) : 1, class: "step" }, picture);
    tip(dot, `step ${i}: ${who(i)}`);
    dot.onclick = () => {
      say([`step ${i}: ${who(i)}`], r[3]);
      lines.forEach((l, n) => l.classList.toggle("picked", S.conflicts[n].rows.includes(i)));
    };
  });
  const list = $("preemptions");
  S.preemptions.forEach((p, n) => {
    const x = X(p.at) - STEP / 2,
      y = Y(p.thread),
      mark = svg("path", { d: `M${x} ${y - 8}l5 -11h-10zM${x} ${y}L${x} ${Y(p.next)}`, class: "preempted" }, picture),
      before = p.operation ? ", before " + p.operation : "",
      text = `thread ${p.thread} is preempted in ${p.place}${before}; thread ${p.next} runs`;
    tip(mark, text);
    mark.onclick = () => say([text]);
    el("li", text, {}, list);
  });
  const races = S.conflicts.filter((c) => c.race);
  for (const c of races) {
    const [first, second] = c.rows.map((row) => R[row][0]);
    const text = `data race on ${c.of}: thread ${first} ${c.first}; thread ${second} ${c.second}`;
    el("li", text, { class: "error" }, $("races"));
  }
  more(card, S.left_out, "steps");
  root.dataset.lanes = tids.length;
  root.dataset.preemptions = S.preemptions.length;
  root.dataset.conflicts = lines.length;
  root.dataset.races = races.length;
}
